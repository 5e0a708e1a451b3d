"""`natterjack sessions retry`: sessions are transcribed again from their stored audio."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.cli import retry
from natterjack.cli.arguments import parse_time
from natterjack.cli.retry import History, Problem
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.errors import UsageError
from natterjack.events import StatusEvent, parse_durable
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings
from natterjack.spec import MAX_STORED_BYTES, SessionSpec
from natterjack.values import Account
from tests.worker.programs import Speaker, StartWorker, Transcript, closed, queue_empty, spoken
from tests.worker.successors import following, new_id, request

from .commands import Result, run, run_async

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
SPEC = SessionSpec(session_id="session-1", tenant="t", conversation="c", speaker="s", model="m")


# ---- what is decided without a broker -----------------------------------------------------------


def ended(session_id: str = "session-1", state: Any = "failed", **fields: Any) -> StatusEvent:
    event = {
        "session_id": session_id, "tenant": "t", "conversation": "c", "speaker": "s", "epoch": 1,
        "sequence": 2, "worker": "w", "published_at": NOW, "state": state,
        "request": SPEC.stored(), **fields,
    }  # fmt: skip
    return StatusEvent.model_validate(event)


def history(*events: StatusEvent) -> History:
    found = History()
    for event in events:
        found.add(event)
    return found


def test_a_repetition_is_the_same_request_for_the_audio_of_the_first_session() -> None:
    spec = history(ended()).request(ended(), NOW)
    assert (spec.repeats, spec.audio_session_id, spec.model) == ("session-1", "session-1", "m")
    assert spec.session_id != "session-1"
    assert spec.key == SPEC.key
    assert spec.opened_at == NOW


def test_two_commands_at_once_make_one_session_and_later_ones_another() -> None:
    once = history(ended())
    first = once.request(ended(), NOW)
    assert once.request(ended(), NOW).session_id == first.session_id
    repeated = ended(first.session_id, "closed", repeats="session-1", request=first.stored())
    later = history(ended(), repeated)
    second = later.request(later.last(None), NOW)
    assert second.repeats == "session-1", "not the repetition: it has no audio of its own"
    assert second.session_id not in ("session-1", first.session_id)


def test_only_failed_sessions_that_nobody_repeated_are_repeated_for_a_tenant() -> None:
    found = history(
        ended("session-1"),
        ended("session-2", "closed"),
        ended("session-3", published_at=NOW - timedelta(hours=2)),
        ended("session-4"),
        ended("session-5", "closed", repeats="session-4"),
        ended("session-6"),
        ended("session-7", repeats="session-6"),
        ended("session-8", "streaming"),
    )
    failed = [event.session_id for event in found.failed(NOW - timedelta(hours=1))]
    assert failed == ["session-1", "session-6"]


def in_chain(number: int, **fields: Any) -> StatusEvent:
    """The closing event of a session of a chain, each of which has 2 s of the audio."""
    links: dict[str, Any] = {} if number == 1 else {
        "continues": f"session-{number - 1}", "audio_of": "session-1",
        "start_position": (number - 1) * 32_000,
    }  # fmt: skip
    spec = SPEC.model_copy(
        update={"session_id": f"session-{number}", "successor": f"session-{number + 1}", **links}
    )
    return ended(
        spec.session_id, continues=spec.continues, request=spec.stored(),
        **{"position": number * 32_000, "continued_by": spec.successor, **fields},
    )  # fmt: skip


def test_of_a_chain_of_failed_sessions_the_last_one_is_repeated() -> None:
    """The others have all of their audio up to where the next one starts."""
    chain = [in_chain(number) for number in (1, 2, 3)]
    found = history(*chain)
    assert [event.session_id for event in found.failed(NOW)] == ["session-3"]
    again = found.request(found.last(None), NOW)
    assert (again.repeats, again.audio_session_id) == ("session-3", "session-1")
    assert (again.start_position, again.max_seconds) == (64_000, None)
    assert (again.continues, again.successor) == (None, None), "it reads stored audio only"
    repeated = ended(again.session_id, "closed", repeats="session-3", request=again.stored())
    found = history(*chain, repeated)
    assert found.failed(NOW) == []
    once_more = found.request(found.last(None), NOW)
    assert (once_more.repeats, once_more.audio_session_id) == ("session-3", "session-1")
    assert once_more.session_id != again.session_id


def test_a_session_that_another_continues_is_repeated_up_to_there() -> None:
    found = history(in_chain(1), in_chain(2), in_chain(3))
    first, second = (found.request(found.last(f"session-{n}"), NOW) for n in (1, 2))
    assert (first.start_position, first.max_seconds) == (0, 2.0)
    assert (second.start_position, second.max_seconds) == (32_000, 2.0)
    partly = ended(second.session_id, repeats="session-2", request=second.stored(), position=40_000)
    found = history(in_chain(1), in_chain(2), in_chain(3), partly)
    assert found.request(partly, NOW).max_seconds == 2.0
    found = history(in_chain(1, position=0), in_chain(2))
    with pytest.raises(Problem, match="session session-2 has all of its audio"):
        found.request(found.last("session-1"), NOW)


def test_the_session_that_ended_last_is_meant_unless_one_is_named() -> None:
    found = history(ended("session-1"), ended("session-2"), ended("session-3", "streaming"))
    assert found.last(None).session_id == "session-2"
    assert found.last("session-1").session_id == "session-1"
    with pytest.raises(Problem, match="no session session-3 of this key has ended"):
        found.last("session-3")
    with pytest.raises(Problem, match="no session of this key has ended"):
        history().last(None)


@pytest.mark.parametrize(
    ("request_", "why"), [(None, "has no request"), ({"tenant": "t"}, "cannot be read")]
)
def test_a_request_that_is_not_stored(request_: Any, why: str) -> None:
    event = ended(request=request_)
    with pytest.raises(Problem, match=why):
        history(event).request(event, NOW)


def test_a_closing_event_keeps_a_request_of_bounded_size() -> None:
    stored = SPEC.stored()
    assert stored is not None
    assert SessionSpec.model_validate(stored) == SPEC
    assert SPEC.model_copy(update={"labels": {"a": "x" * MAX_STORED_BYTES}}).stored() is None


def test_a_closing_event_can_be_read_however_deeply_its_request_is_nested() -> None:
    kept = set()
    for depth in range(150, 250):
        payload = SPEC.model_dump_json()[:-1] + f',"options":{{"x":{"[" * depth}{"]" * depth}}}}}'
        try:
            spec = SessionSpec.model_validate_json(payload)
        except ValidationError:
            continue
        request = spec.stored()
        kept.add(request is not None)
        assert parse_durable(ended(request=request).encode()) is not None
    assert kept == {True, False}


def test_times_and_durations() -> None:
    assert parse_time("90m", NOW) == NOW - timedelta(minutes=90)
    assert parse_time("2026-11-29T10:00Z", NOW) == NOW - timedelta(hours=2)
    assert parse_time("2026-11-29T10:00", NOW).tzinfo is not None
    assert parse_time("999999999999d", NOW).year == 1
    for wrong in ("", "yesterday", "5", "h"):
        with pytest.raises(UsageError, match="give a time such as"):
            parse_time(wrong, NOW)


def test_why_there_is_no_audio() -> None:
    heard = ended(account=Account(received_seconds=3))
    assert "no audio of it was ever received" in retry.no_audio(ended(account=Account()), 900, NOW)
    later = NOW + timedelta(minutes=20)
    gone = retry.no_audio(heard, 900, later)
    assert f"{(NOW + timedelta(minutes=15)).astimezone():%Y-%m-%d %H:%M:%S} at the latest" in gone
    assert "keeps audio for 900 s" in gone
    assert "it was erased" in retry.no_audio(heard, 900, NOW + timedelta(minutes=5))
    assert "it was erased" in retry.no_audio(heard, 0, later)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either a KEY or --tenant"),
        (["t.c.s", "--tenant", "t"], "give either a KEY or --tenant"),
        (["t.c"], "t.c"),
        (["t.c.s", "--since", "2h"], "--since is for --tenant"),
        (["--tenant", "t"], "--tenant needs --since"),
        (["--tenant", "t", "--since", "soon"], "give a time such as"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str) -> None:
    result = run("sessions", "retry", *arguments)
    assert result.status == 2
    assert message in result.errors


# ---- with a broker and a worker -----------------------------------------------------------------


async def repeat(server: EmbeddedServer, *arguments: str) -> Result:
    return await run_async("sessions", "retry", *arguments, NATS_URL=server.url)


async def repetition(broker: Broker, speaker: Speaker, result: Result) -> Transcript:
    """The transcript of the session that the command requested, when it has ended."""
    assert result.status == 0, result
    found = re.search(r"session ([0-9a-f-]{36})", result.out)
    assert found is not None, result
    spec = speaker.spec.model_copy(update={"session_id": found[1]})
    return await closed(broker, spec, 60)


async def test_a_failed_session_and_then_a_closed_one_are_repeated(
    nats_server: EmbeddedServer,
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    worker = await start_worker(WORKER_RECOVERY_SECONDS="0.2", WORKER_BREAKER_SECONDS="0.1")
    await emulator.set(handshake_status=402)
    speaker = Speaker(broker_settings, 16, speed=20, keyterms=["toad"], labels={"call": "7"})
    await speaker.speak()
    assert (await closed(broker, speaker.spec)).closing[0].state == "failed"
    await queue_empty(broker)
    await emulator.set(handshake_status=None)
    key, since = str(speaker.spec.key), ("--tenant", "t", "--since", "1h")
    for arguments in ((key, "--dry-run"), (*since, "--dry-run")):
        planned = await repeat(nats_server, *arguments)
        assert planned.status == 0
        assert "can be repeated" in planned.out
        assert speaker.spec.session_id in planned.out
    dialed = len(emulator.log)
    first = await repetition(broker, speaker, await repeat(nats_server, *since))
    first.audit(speaker)
    assert {event.repeats for event in first.events} == {speaker.spec.session_id}
    assert emulator.log[dialed].query["keyterm"] == ["toad"]
    closing = first.closing[0]
    assert closing.request is not None
    assert closing.request["labels"] == {"call": "7"}
    await queue_empty(broker)
    again = await repeat(nats_server, *since)
    assert (again.status, again.out.split()[:2]) == (0, ["no", "session"]), "it is repeated"
    second = await repetition(broker, speaker, await repeat(nats_server, key))
    second.audit(speaker)
    assert {event.repeats for event in second.events} == {speaker.spec.session_id}
    assert second.events[0].session_id != first.events[0].session_id
    metrics = (await worker.get("/metrics"))[1]
    for complete, count in (("true", 0), ("false", 1)):
        assert f'session_accounts_total{{complete="{complete}"}} {count}.0' in metrics


async def test_audio_without_an_end_is_repeated_up_to_its_end(
    nats_server: EmbeddedServer,
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    """The edge died; no edge is needed now."""
    await start_worker(WORKER_RECOVERY_SECONDS="0.2", WORKER_BREAKER_SECONDS="0.1")
    await emulator.set(handshake_status=400)
    speaker = Speaker(broker_settings, 8, speed=20)
    await speaker.speak(end=False)
    assert (await closed(broker, speaker.spec)).closing[0].state == "failed"
    await queue_empty(broker)
    await emulator.set(handshake_status=None)
    transcript = await repetition(broker, speaker, await repeat(nats_server, str(speaker.spec.key)))
    transcript.audit(speaker)
    assert transcript.closing[0].reason == "end of the stored audio"


async def test_what_cannot_be_repeated(
    nats_server: EmbeddedServer,
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await start_worker()
    speaker = Speaker(broker_settings, 8, speed=20)
    await speaker.speak()
    await closed(broker, speaker.spec)
    await queue_empty(broker)
    key = str(speaker.spec.key)
    wrong = await repeat(nats_server, "t.c.other")
    assert (wrong.status, "t.c.other: no session" in wrong.errors) == (2, True)
    js = broker.client.jetstream()
    later = Speaker(broker_settings, 40, speed=2)
    async with asyncio.TaskGroup() as speaking:
        speaking.create_task(later.speak())
        await spoken(later, 1)
        busy = await repeat(nats_server, key)
        assert (busy.status, "a session uses the key now" in busy.out) == (1, True)
        later.end_soon()
    await closed(broker, later.spec, 60)
    await queue_empty(broker)
    await js.purge_stream(streams.AUDIO)
    gone = await repeat(nats_server, key, "--session", speaker.spec.session_id)
    assert (gone.status, "its audio is gone, although the session ended" in gone.out) == (1, True)
    assert (await js.stream_info(streams.SESSIONS)).state.messages == 0


async def test_the_sessions_of_a_chain_are_repeated_each_for_its_part(
    nats_server: EmbeddedServer,
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await start_worker(WORKER_RECOVERY_SECONDS="0.2", WORKER_BREAKER_SECONDS="0.1")
    speaker = Speaker(broker_settings, 30, successor=new_id())
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 4.0)
    await emulator.set(handshake_status=503)
    emulator.drop()
    first = await closed(broker, speaker.spec)
    second = following(speaker.spec, first.closing[0])
    await request(broker, second)
    await closed(broker, second)
    await speaking
    await queue_empty(broker)
    await emulator.set(handshake_status=None)
    last = await repetition(
        broker, speaker, await repeat(nats_server, "--tenant", "t", "--since", "1h")
    )
    assert {event.repeats for event in last.events} == {second.session_id}
    assert first.words + last.words == speaker.words
    await queue_empty(broker)
    named = ("--session", speaker.spec.session_id)
    again = await repetition(
        broker, speaker, await repeat(nats_server, str(speaker.spec.key), *named)
    )
    assert again.words == first.words, "the rest is in the session that continues it"
    assert {event.repeats for event in again.events} == {speaker.spec.session_id}
