"""`natterjack sessions` with real workers, a real broker and a real terminal."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from natterjack.broker import streams
from natterjack.broker.connection import Broker, connected
from natterjack.emulators import tones
from natterjack.events import FinalEvent
from natterjack.fleet.roster import SessionRecord, WorkerPage
from natterjack.settings import KINDS, BrokerSettings, StreamSettings
from natterjack.spec import SessionSpec
from natterjack.subjects import (
    SessionKey,
    session_subject,
    transcript_subject,
    voice_session_subject,
)
from natterjack.values import ProviderUsage
from natterjack.voice.spec import VoiceSpec
from tests.nats_server import NatsServer
from tests.natterjack.speaking.by_hand import Hand
from tests.waiting import bound, until
from tests.worker.programs import Speaker, StartWorker, closed

from .commands import Command, run, run_async

NOW = datetime.now(UTC)


class Sessions:
    """Runs `natterjack sessions` on one broker."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.errors = ""

    async def __call__(self, *arguments: str, status: int = 0) -> str:
        """Run the command and return its output."""
        command = await run_async("sessions", *arguments, NATS_URL=self.url)
        assert command.status == status, command.out + command.errors
        self.errors = command.errors
        return command.out

    async def rows(self, *arguments: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(await self("--json", *arguments))
        return rows


@pytest.fixture
def sessions(nats_server: NatsServer) -> Sessions:
    return Sessions(nats_server.url)


@contextlib.asynccontextmanager
async def speaking(speaker: Speaker) -> AsyncIterator[None]:
    task = asyncio.create_task(speaker.speak())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def record(key: str, session_id: str, **changes: Any) -> dict[str, Any]:
    usage = {"deepgram": ProviderUsage(sent_seconds=10, cost=changes.pop("cost", 0.5))}
    values = {"epoch": 1, "holder": "h", "state": "streaming", "opened_at": NOW, "providers": usage}
    made = SessionRecord(key=key, session_id=session_id, **{**values, **changes})
    return made.model_dump(mode="json")


def page(worker: str, *sessions: dict[str, Any], slots: int = 8, **more: Any) -> bytes:
    made = WorkerPage(instance=f"{worker}-1", worker=worker, at=NOW, started_at=NOW, slots=slots)
    return json.dumps({**made.model_dump(mode="json"), "sessions": sessions, **more}).encode()


@contextlib.asynccontextmanager
async def reporting(broker: Broker, **pages: bytes) -> AsyncIterator[None]:
    """Store these records repeatedly, as workers do."""
    js = broker.client.jetstream()

    async def report() -> None:
        for worker, payload in pages.items():
            await js.publish(
                streams.bucket_subject(streams.WORKERS_BUCKET, f"{worker}-1.0"), payload
            )

    async def keep_reporting() -> None:
        while True:
            await asyncio.sleep(0.5)  # workers report each second
            await report()

    await report()
    task = asyncio.create_task(keep_reporting())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def publish_final(broker: Broker, key: str, session_id: str, text: str) -> None:
    place = SessionKey.parse(key)
    final = FinalEvent(
        session_id=session_id, **place._asdict(), epoch=1, published_at=NOW, sequence=0, segment=0,
        text=text, start=0, end=1,
    )  # fmt: skip
    js = broker.client.jetstream(timeout=bound(5))
    await js.publish(transcript_subject(place, "final"), final.encode())


async def request(broker: Broker, **spec: Any) -> SessionSpec:
    made = SessionSpec(tenant="t", conversation="c", **spec)
    await broker.client.jetstream(timeout=bound(5)).publish(
        session_subject(made.key), made.model_dump_json().encode()
    )
    return made


# ---- real workers -------------------------------------------------------------------------------


async def test_a_running_session_and_a_waiting_one(
    sessions: Sessions,
    broker: Broker,
    broker_settings: BrokerSettings,
    start_worker: StartWorker,
) -> None:
    await start_worker(WORKER_NAME="one", WORKER_MAX_SESSIONS="1")
    first = Speaker(broker_settings, 200, speed=2, speaker="first")
    async with speaking(first):

        async def transcribed() -> dict[str, Any] | None:
            rows = await sessions.rows()
            ready = rows and rows[0]["last_words"] and rows[0]["cost"] and rows[0]["final_seconds"]
            return rows[0] if ready else None

        row = await until(transcribed, "the first session has words", 30)
        late = await request(broker, speaker="late")

        both = await sessions.rows()
        shown = await sessions()
        assert (row["key"], row["session_id"]) == ("t.c.first", first.spec.session_id)
        assert (row["state"], row["worker"], row["provider"]) == ("streaming", "one", "deepgram")
        assert 0 < row["final_seconds"] <= row["captured_seconds"] <= first.seconds
        assert row["cost"]["USD"] > 0
        assert row["lag_seconds"] >= 0
        assert {tones.plain(word) for word in row["last_words"].split()} <= set(first.words)
        assert [r["state"] for r in both] == ["streaming", "waiting"]
        assert both[1]["session_id"] == late.session_id
        assert both[1]["worker"] is both[1]["lag_seconds"] is None
        assert 0 <= both[1]["waiting_seconds"] < 60
        assert re.search(
            r"^t\.c\.first +transcribe +streaming +one +deepgram +\d", shown, re.MULTILINE
        )
        assert re.search(r"^t\.c\.late +transcribe +waiting +- +- +\d", shown, re.MULTILINE)
        assert re.search(
            r"^sessions 1 \(streaming 1\), waiting 1, workers 1, slots 1/1, cost 0\.\d{4} USD$",
            shown, re.MULTILINE,
        )  # fmt: skip
        assert sessions.errors == ""


async def test_another_worker_takes_over_the_session_of_a_killed_one(
    sessions: Sessions,
    broker: Broker,
    broker_settings: BrokerSettings,
    start_worker: StartWorker,
) -> None:
    worker = await start_worker(WORKER_NAME="one")
    async with speaking(Speaker(broker_settings, 400, speed=2)):

        async def row_of(state: str, name: str) -> dict[str, Any] | None:
            rows = await sessions.rows()
            assert len(rows) < 2, "a session is shown once"
            seen = [(row["state"], row["worker"]) for row in rows]
            return rows[0] if seen == [(state, name)] else None

        await until(lambda: row_of("streaming", "one"), "it streams", 30)
        worker.signal(signal.SIGKILL)
        await worker.wait()
        row = await until(lambda: row_of("gone?", "one"), "it is seen to be gone", 30)
        assert row["told_seconds_ago"] >= 5  # rounded
        assert "sessions 1 (gone? 1), waiting 0, workers 1 (gone? 1), slots 0/0" in await sessions()
        assert await sessions.rows("--state", "gone")
        await start_worker(WORKER_NAME="two")
        row = await until(lambda: row_of("streaming", "two"), "another has it", 30)
        assert row["epoch"] > 1


async def test_watch_follows_a_session_from_its_start_to_its_end(
    sessions: Sessions,
    broker: Broker,
    broker_settings: BrokerSettings,
    start_worker: StartWorker,
) -> None:
    await start_worker()
    speaker = Speaker(broker_settings, 400, speed=4)

    def seen() -> list[Any]:
        whole = watch.out[: watch.out.rfind("\n") + 1]
        return [json.loads(line) for line in whole.splitlines()]

    def states() -> set[str]:
        return {row["state"] for rows in seen() for row in rows}

    arguments = ("sessions", "--json", "--watch", "0.2")
    async with Command(*arguments, NATS_URL=sessions.url) as watch:
        await until(lambda: [] in seen(), "nothing yet", 30)
        async with speaking(speaker):
            await until(lambda: "streaming" in states(), "it is seen streaming")
            speaker.end_soon()
            await closed(broker, speaker.spec)
        so_far = len(seen())
        await until(lambda: [] in seen()[so_far:], "it has ended")
        watch.signal(signal.SIGINT)
        assert await watch.status() == 130
    assert watch.errors == ""


# ---- made-up records ----------------------------------------------------------------------------


async def test_filters_and_sorting(sessions: Sessions, ready_broker: Broker) -> None:
    one = page(
        "one",
        record("a.x.p", "session-1", lag_seconds=1, captured_seconds=30, cost=3),
        record("a.y.p", "session-2", lag_seconds=3, captured_seconds=10, cost=2),
    )
    two = page("two", record("b.x.q", "session-3", state="recovering", lag_seconds=2))
    await request(ready_broker, speaker="s")

    async def keys(*arguments: str) -> str:
        return " ".join(row["key"] for row in await sessions.rows("--no-words", *arguments))

    async with reporting(ready_broker, one=one, two=two):
        assert await keys() == "a.x.p a.y.p b.x.q t.c.s"
        assert await keys("--tenant", "a") == "a.x.p a.y.p"
        assert await keys("--conversation", "x", "--speaker", "q") == "b.x.q"
        assert await keys("--worker", "two") == await keys("--worker", "two-1") == "b.x.q"
        assert await keys("--state", "waiting", "--tenant", "t") == "t.c.s"
        assert await keys("--tenant", "t", "--speaker", "nobody") == ""
        assert (await keys("--sort", "lag", "--state", "streaming")) == "a.y.p a.x.p"
        assert (await keys("--sort", "cost")).startswith("a.x.p a.y.p b.x.q")
        assert (await keys("--sort", "seconds")).startswith("a.x.p a.y.p")
        shown = await sessions("--worker", "one")
    assert "sessions 2 (streaming 2), waiting 0, workers 1, slots 2/8, cost 5.0000 USD" in shown


async def test_last_words_are_the_sessions_own(sessions: Sessions, ready_broker: Broker) -> None:
    records = page("one", record("t.c.a", "session-1"), record("t.c.b", "session-2"))
    await publish_final(ready_broker, "t.c.a", "session-1", "before")
    await publish_final(ready_broker, "t.c.a", "session-1", "red\x1b[31m\n\u202ewords")
    await publish_final(ready_broker, "t.c.b", "an-older-session", "of another session")
    async with reporting(ready_broker, one=records):
        words = {row["key"]: row["last_words"] for row in await sessions.rows()}
        assert words == {"t.c.a": "red\x1b[31m\n\u202ewords", "t.c.b": None}
        shown = await sessions()
        assert "red [31m words\n" in shown
        assert "another" not in shown
        assert "words" not in await sessions("--no-words")
        assert "last_words" not in (await sessions.rows("--no-words"))[0]


async def test_voice_sessions_are_shown_with_what_was_heard(
    sessions: Sessions, broker: Broker
) -> None:
    await streams.ensure(broker, StreamSettings(kinds=KINDS))
    js = broker.client.jetstream()
    spec = VoiceSpec(tenant="t", conversation="c", speaker="bot")
    hand = Hand(broker, spec)
    await hand.utterance(0, "interrupted", text_spoken="I can", text_remaining=" help.")
    waiting = VoiceSpec(tenant="t", conversation="c", speaker="late")
    await js.publish(voice_session_subject(waiting.key), waiting.encode())
    records = page(
        "one",
        record("t.c.bot", spec.session_id, kind="speak", state="waiting", final_seconds=2.5),
        record("t.c.bot", "session-1", captured_seconds=9),
    )
    async with reporting(broker, one=records):
        rows = await sessions.rows()
        shown = await sessions()
        assert {row["kind"] for row in await sessions.rows("--kind", "transcribe")} == {
            "transcribe"
        }
        speak = await sessions.rows("--kind", "speak", "--sort", "seconds")
    assert [(r["key"], r["kind"], r["state"]) for r in rows] == [
        ("t.c.bot", "transcribe", "streaming"),
        ("t.c.bot", "speak", "no text"),
        ("t.c.late", "speak", "waiting"),
    ]
    assert [row["key"] for row in speak] == ["t.c.bot", "t.c.late"]
    assert [row["last_words"] for row in rows] == [None, "I can", None]
    assert re.search(r"^t\.c\.bot +speak +no text .* 2\.5 .*I can$", shown, re.MULTILINE)
    assert re.search(r"^t\.c\.bot +transcribe +streaming .* 9\.0 ", shown, re.MULTILINE)
    assert sessions.errors == ""


async def test_workers_that_only_speak_are_shown(sessions: Sessions, broker: Broker) -> None:
    await streams.ensure(broker, StreamSettings(kinds=("speak",)))
    assert await sessions.rows() == []
    assert sessions.errors == ""


async def test_voice_that_is_not_switched_on_is_said(sessions: Sessions, broker: Broker) -> None:
    await streams.ensure(broker, StreamSettings(kinds=("transcribe",)))
    assert await sessions.rows() == []
    assert sessions.errors == ""
    await sessions("--kind", "speak", status=2)
    assert "start a worker whose WORKER_KINDS has `speak`" in sessions.errors


async def test_invalid_records_are_skipped(sessions: Sessions, ready_broker: Broker) -> None:
    js = ready_broker.client.jetstream()
    bad_numbers = record("t.c.s", "session-1", cost=0.5) | {"lag_seconds": 1e300}
    invalid = {
        "valid": page("go\x1b[2Jod", bad_numbers, record("no key", "session-2"), pages=1),
        "text": b"this is no JSON",
        "list": b"[]",
        "half": b'{"instance": "half"}',
        "negative": page("negative", record("t.c.z", "session-3") | {"captured_seconds": -1}),
        "empty": b"",
        "binary": bytes(range(256)),
    }
    deleted = streams.bucket_subject(streams.WORKERS_BUCKET, "left.0")
    await js.publish(deleted, b"", headers={"KV-Operation": "DEL"})
    await js.publish("stt.session.t.c.broken", b"{}")
    await js.publish("stt.session.nokey", b"{}")
    await js.publish("stt.transcript.t.c.s.final", b"this is no event")
    async with reporting(ready_broker, **invalid):
        shown = await sessions()
        complaint = sessions.errors
        rows = await sessions.rows()
    assert [(row["key"], row["state"], row["session_id"]) for row in rows] == [
        ("t.c.broken", "waiting", None),
        ("t.c.s", "streaming", "session-1"),
    ]
    assert "\x1b" not in shown
    assert "go [2Jod" in shown
    assert complaint == "natterjack sessions: skipped invalid data: 5 records and 1 sessions\n"


async def test_requests_with_the_same_key_are_distinguished(
    sessions: Sessions, ready_broker: Broker
) -> None:
    first, second, third = [await request(ready_broker, speaker="s") for _ in range(3)]
    async with reporting(ready_broker, one=page("one", record("t.c.s", second.session_id))):
        rows = await sessions.rows()
    states = {row["session_id"]: row["state"] for row in rows}
    assert states == {
        first.session_id: "waiting",
        second.session_id: "streaming",
        third.session_id: "waiting",
    }


async def test_hundreds_are_all_shown(sessions: Sessions, ready_broker: Broker) -> None:
    ids = {f"t.c.s{n}": f"session-{n}" for n in range(600)}
    await asyncio.gather(
        *(publish_final(ready_broker, key, i, f"words of {i}") for key, i in ids.items())
    )
    await asyncio.gather(*(request(ready_broker, speaker=f"w{n}") for n in range(250)))
    records = [record(key, session_id) for key, session_id in ids.items()]
    pages = {"one": page("one", *records[:300]), "two": page("two", *records[300:])}

    async def all_rows() -> list[dict[str, Any]] | None:
        """On a busy machine, the queue may not be read in time; a note says so."""
        rows = await sessions.rows()
        return rows if len(rows) == 850 else None

    async def all_lines() -> bool:
        return (await sessions()).count("\n") == 852

    async with reporting(ready_broker, **pages):
        rows = await until(all_rows, "all sessions are listed")
        await until(all_lines, "all sessions are shown")
    words = {row["session_id"]: row["last_words"] for row in rows if row["state"] != "waiting"}
    assert words == {session_id: f"words of {session_id}" for session_id in ids.values()}


# ---- a terminal ---------------------------------------------------------------------------------


async def test_watch_redraws_within_the_terminal(sessions: Sessions, ready_broker: Broker) -> None:
    records = [record(f"t.{'long-' * 9}{n:02}.s", f"session-{n}") for n in range(50)]
    await publish_final(
        ready_broker, records[0]["key"], "session-0", "said at first " * 20 + "and last"
    )
    arguments = ("sessions", "--watch", "0.2")
    async with (
        reporting(ready_broker, one=page("one", *records)),
        Command(
            *arguments, terminal=True, NATS_URL=sessions.url, COLUMNS="100", LINES="20"
        ) as watch,
    ):
        await until(lambda: watch.out.count("\x1b[H") >= 3, "it is drawn again", 30)
        await request(ready_broker, speaker="late")
        await until(lambda: "waiting 1," in watch.out, "what is new is shown")
        await until(lambda: "\x1b[H" in watch.out.partition("waiting 1,")[2], "once more")
        watch.signal(signal.SIGINT)
        assert await watch.status() == 130
    assert watch.errors == ""
    frames = watch.out.split("\x1b[H")[1:-1]
    assert len(set(frames)) > 1
    for frame in frames:
        lines = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", frame).split("\r\n")
        assert len(lines) <= 20
        assert max(map(len, lines)) <= 100
        assert lines[0].split()[0] == "SESSION"
        assert any(line.endswith("and last") for line in lines)
        assert re.match(r"… and \d\d more", lines[-3])
        assert re.match(r"\d\d:\d\d:\d\d  sessions 50 ", lines[-2])


async def test_watch_appends_when_the_output_is_not_a_terminal(
    sessions: Sessions, ready_broker: Broker
) -> None:
    async with (
        reporting(ready_broker, one=page("one", record("t.c.s", "session-1"))),
        Command("sessions", "--watch", "0.2", NATS_URL=sessions.url) as watch,
    ):
        await until(lambda: watch.out.count("workers 1, slots 1/8") >= 3, "three times", 30)
    assert "\x1b" not in watch.out
    assert watch.out.count("SESSION ") >= 3


async def test_watch_outlives_the_broker(
    sessions: Sessions, ready_broker: Broker, nats_server: NatsServer
) -> None:
    def views() -> int:
        return watch.out.count("workers 0, slots 0/0")

    async with Command("sessions", "--watch", "0.2", NATS_URL=sessions.url) as watch:
        await until(views, "a first view", 30)
        nats_server.kill()
        await until(lambda: "natterjack sessions: " in watch.errors, "it says so", 30)
        before = views()
        nats_server.start()
        await until(lambda: views() > before, "another view", 30)
        watch.signal(signal.SIGINT)
        assert await watch.status() == 130
    assert "Traceback" not in watch.errors


# ---- permissions and mistakes -------------------------------------------------------------------

_USERS = """
accounts {{ A {{ jetstream: enabled, users: [
  {{ user: admin, password: x }}
  {{ user: reader, password: x, permissions: {{ subscribe: "_INBOX.>", publish: [{rights}] }} }}
] }} }}
"""
_BUCKET = "$JS.API.DIRECT.GET.KV_stt_workers"
_QUEUE = [
    *(f"$JS.API.STREAM.INFO.{queue}" for queue in streams.QUEUES.values()),
    "$JS.API.STREAM.MSG.GET.STT_SESSIONS",
]
_WORDS = "$JS.API.DIRECT.GET.STT_TRANSCRIPTS"


async def as_reader(directory: Path, *permissions: str, status: int = 0) -> tuple[str, str]:
    """Run the command as a user with permission to publish to these subjects."""
    config = directory / "nats.conf"
    config.write_text(
        _USERS.format(rights=", ".join(f'"{permission}"' for permission in permissions))
    )
    server = NatsServer(directory / "restricted", extra_arguments=("-c", str(config)))
    server.start()
    try:
        admin = BrokerSettings.model_validate({"url": server.url, "user": "admin", "password": "x"})
        async with connected(admin, name="admin", once=True) as broker:
            await streams.ensure(broker, StreamSettings())
            await request(broker, speaker="late")
            await publish_final(broker, "t.c.s", "session-1", "the last words")
            async with (
                reporting(broker, one=page("one", record("t.c.s", "session-1"))),
            ):
                command = await run_async(
                    "sessions", NATS_URL=server.url, NATS_USER="reader", NATS_PASSWORD="x"
                )
                assert command.status == status, command.out + command.errors
    finally:
        server.stop()
    return command.out, command.errors


@pytest.mark.process
async def test_permissions_for_reading_are_enough(tmp_path: Path) -> None:
    shown, errors = await as_reader(tmp_path, _BUCKET, *_QUEUE, _WORDS)
    assert "the last words" in shown
    assert "waiting 1," in shown
    assert errors == ""


@pytest.mark.process
@pytest.mark.parametrize("rights", [(), _QUEUE[:2]], ids=["the bucket", "and the queue's state"])
async def test_fewer_permissions_show_less(
    tmp_path: Path, rights: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without permission for a request, the command waits for the timeout.
    monkeypatch.setattr("natterjack.fleet.reader._REQUEST_TIMEOUT_S", 0.3)
    shown, errors = await as_reader(tmp_path, _BUCKET, *rights)
    assert re.search(r"^t\.c\.s +transcribe +streaming +one", shown, re.MULTILINE)
    assert "the last words" not in shown
    assert "waiting sessions are not shown" in errors
    assert "last words cannot be read" in errors


@pytest.mark.process
async def test_the_missing_permission_for_the_bucket_is_named(tmp_path: Path) -> None:
    _, errors = await as_reader(tmp_path, *_QUEUE, _WORDS, status=2)
    assert f"need the permission to publish to {_BUCKET}" in errors


async def test_missing_buckets_are_reported(sessions: Sessions, broker: Broker) -> None:
    await sessions(status=2)
    assert "start a worker once" in sessions.errors
    assert sessions.errors.count("\n") == 1


async def test_an_idle_fleet(sessions: Sessions, ready_broker: Broker) -> None:
    assert await sessions() == "sessions 0, waiting 0, workers 0, slots 0/0, cost 0\n"
    assert await sessions.rows() == []
    assert sessions.errors == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--nats-url", "nats://127.0.0.1:9"), "no NATS at nats://127.0.0.1:9: connection"),
        (("--tenant", "a.b"), "tenant 'a.b' is not valid"),
        (("--watch", "0"), "--watch 0: give 0.2 s or more"),
        (("--watch", "nan"), "--watch nan: give 0.2 s or more"),
        (("--sort", "name"), "--sort"),
    ],
)
def test_mistakes_are_status_2(arguments: tuple[str, ...], says: str) -> None:
    command = run("sessions", *arguments)
    assert command.status == 2
    assert says in command.errors
    assert "Traceback" not in command.errors
