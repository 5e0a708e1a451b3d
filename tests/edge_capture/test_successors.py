"""A session that ends while its edge still captures is continued by another one. The test is the
worker: it publishes the closing events."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nats.aio.msg import Msg
from nats.js.errors import APIError

from edge_capture.succession import AT_ONCE
from natterjack.audio import decode_chunk_headers
from natterjack.broker.connection import Broker, connected
from natterjack.broker.streams import AUDIO, ensure
from natterjack.control import stop_reason
from natterjack.events import StatusEvent, StatusState
from natterjack.hold import Hold
from natterjack.settings import BrokerSettings, StreamSettings
from natterjack.spec import SessionSpec
from natterjack.subjects import hold_subject, transcript_subject
from natterjack.values import Account
from tests.edge_capture.conftest import StartEdge
from tests.edge_capture.program import Edge, Recording, requests, stored
from tests.edge_capture.test_faults import say, speech, status_event
from tests.edge_capture.test_resume import gone
from tests.faults.proxy import NatsProxy
from tests.nats_server import NatsServer
from tests.waiting import until

pytestmark = pytest.mark.process

__all__ = ["speech"]  # a fixture

RATE = 16_000
FRAMES = 1280
SPEED = 4


class Pipe:
    """Writes noise into an edge's standard input, faster than real time."""

    def __init__(self, edge: Edge, channels: int) -> None:
        assert edge.process.stdin is not None
        self._pipe = edge.process.stdin
        self._channels = channels
        self._dice = np.random.default_rng(1)
        self.written: list[bytes] = []

    @property
    def seconds(self) -> float:
        return len(self.written) * FRAMES / RATE

    async def write(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # the edge has ended
            while True:
                self.written.append(self._dice.bytes(FRAMES * 2 * self._channels))
                self._pipe.write(self.written[-1])
                self._pipe.flush()
                await asyncio.sleep(FRAMES / RATE / SPEED)

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._pipe.close()


@asynccontextmanager
async def speaking(edge: Edge, channels: int = 1) -> AsyncIterator[Pipe]:
    """Write into the edge during the block, and end its standard input after it."""
    pipe = Pipe(edge, channels)
    writing = asyncio.create_task(pipe.write())
    try:
        yield pipe
    finally:
        writing.cancel()
        await asyncio.wait([writing])
        pipe.close()


async def captured(broker: Broker, seconds: float) -> None:
    """Wait until so much audio of all sessions is stored."""
    js = broker.client.jetstream()

    async def enough() -> bool:
        return (await js.stream_info(AUDIO)).state.messages * FRAMES / RATE >= seconds

    await until(enough, f"{seconds} s are stored")


async def opened(broker: Broker, count: int, timeout: float = 30) -> list[SessionSpec]:
    """Wait until so many requests are stored, and return them all."""

    async def enough() -> list[SessionSpec] | None:
        found = await requests(broker)
        return found if len(found) >= count else None

    found: list[SessionSpec] = await until(enough, f"{count} requests are stored", timeout)
    assert len(found) == count
    return found


def ended(
    spec: SessionSpec, position: float | None, state: StatusState = "failed", **changes: Any
) -> StatusEvent:
    """Return the closing event of a session. `position` is in seconds."""
    frames = None if position is None else round(position * spec.sample_rate)
    update = {"audio_position": frames, "continued_by": spec.successor, "sequence": 7, **changes}
    return status_event(spec, 7, state).model_copy(update=update)


async def stored_audio(broker: Broker, first: SessionSpec) -> Recording:
    """Return the audio of all sessions of a key, which has the ID of the first one."""
    found = Recording(first, [], [])
    for message in await stored(broker, AUDIO):
        if message.subject.endswith(f".{first.key}"):
            found.headers.append(
                decode_chunk_headers(message.headers, len(message.data), first.audio_format)
            )
            found.payloads.append(message.data)
    return found


def check_chain(specs: list[SessionSpec], positions: list[float]) -> None:
    """Assert that each session continues the one before, from `positions` (in seconds) on."""
    first = specs[0]
    for before, spec, position in zip(specs[:-1], specs[1:], positions, strict=True):
        assert spec.session_id == before.successor
        assert spec.continues == before.session_id
        assert spec.audio_of == first.session_id
        assert spec.start_position == round(position * RATE)
        same = {"session_id", "continues", "audio_of", "start_position", "successor", "opened_at"}
        assert spec.model_dump(exclude=same) == first.model_dump(exclude=same)
    assert len({spec.successor for spec in specs} | {None}) == len(specs) + 1


async def test_a_session_that_ends_while_its_edge_captures_is_continued(
    ready_broker: Broker, start_edge: StartEdge
) -> None:
    edge = start_edge("stdin", "--live", "--wait", "--max-seconds", "9", stdin=subprocess.PIPE)
    async with speaking(edge) as pipe:
        await captured(ready_broker, 3)
        (first,) = await opened(ready_broker, 1)
        account = Account(transcribed_seconds=2.0, gap_seconds={"edge": 0.5})
        await say(ready_broker, ended(first, 2.5, "closed", reason="idle", account=account))
        _, second = await opened(ready_broker, 2)
        await captured(ready_broker, pipe.seconds + 1)
    specs = await opened(ready_broker, 2)
    check_chain(specs, [2.5])
    await edge.says("waiting for a worker")  # beside what is said of the input
    account = Account(transcribed_seconds=pipe.seconds - 2.5)
    await say(
        ready_broker, ended(second, pipe.seconds, "closed", reason="end of audio", account=account)
    )
    assert await edge.exit_code() == 0, edge.stderr
    said = (
        f"session {first.session_id} ended (idle); its audio continues in session "
        f"{second.session_id} from 0:02.5"
    )
    assert edge.stderr.count(said) == 1
    assert edge.stdout == "".join(f"{spec.key} {spec.session_id}\n" for spec in specs)
    assert "everything is published and acknowledged; all of it is transcribed" in edge.stderr
    assert f'"seconds": {round(pipe.seconds, 2)}' in edge.stderr
    assert f'"published_seconds": {round(pipe.seconds, 2)}' in edge.stderr
    assert f'"transcribed_seconds": {round(pipe.seconds - 0.5, 2)}' in edge.stderr
    assert '"untranscribed_seconds": {"edge": 0.5}' in edge.stderr
    recording = await stored_audio(ready_broker, first)
    recording.check_whole()
    assert recording.payload == b"".join(pipe.written)


async def test_a_session_ends_at_the_latest_where_the_captured_audio_does(
    ready_broker: Broker, start_edge: StartEdge
) -> None:
    """A position beyond it would leave the audio up to there to nobody."""
    edge = start_edge("stdin", "--live", stdin=subprocess.PIPE)
    async with speaking(edge) as pipe:
        await captured(ready_broker, 2)
        (first,) = await opened(ready_broker, 1)
        await say(ready_broker, ended(first, 1000))
        _, second = await opened(ready_broker, 2)
        assert 2 * RATE <= second.start_position <= pipe.seconds * RATE
        await captured(ready_broker, pipe.seconds + 1)
    assert await edge.exit_code() == 0, edge.stderr
    assert "is said to be transcribed up to 16:40.0, but only 0:0" in edge.stderr


async def test_each_channel_has_a_chain_of_its_own(
    ready_broker: Broker, start_edge: StartEdge
) -> None:
    edge = start_edge(
        "stdin", "--live", "--channels", "2", "--split-channels", "a,b", stdin=subprocess.PIPE
    )
    async with speaking(edge, 2):
        await captured(ready_broker, 2 * 3)
        a, b = await opened(ready_broker, 2)
        await say(ready_broker, ended(b, 1.0))
        await say(ready_broker, ended((await opened(ready_broker, 3))[2], 2.5))
        specs = await opened(ready_broker, 4)
    assert await edge.exit_code() == 0, edge.stderr
    check_chain([b, *specs[2:]], [1.0, 2.5])
    for first in (a, b):
        (await stored_audio(ready_broker, first)).check_whole()


async def test_the_rest_of_audio_that_has_ended_is_continued(
    ready_broker: Broker, start_edge: StartEdge
) -> None:
    edge = start_edge("stdin", "--live", "--wait", stdin=subprocess.PIPE)
    async with speaking(edge) as pipe:
        await captured(ready_broker, 2)
    (first,) = await opened(ready_broker, 1)
    await captured(ready_broker, pipe.seconds)
    await say(ready_broker, ended(first, 1.0))
    _, second = await opened(ready_broker, 2)
    check_chain([first, second], [1.0])
    await say(ready_broker, ended(second, pipe.seconds, "closed", reason="end of audio"))
    assert await edge.exit_code() == 0, edge.stderr


@pytest.mark.parametrize("wait", [False, True])
async def test_a_file_whose_session_fails_is_an_error(
    wait: bool, ready_broker: Broker, start_edge: StartEdge, speech: Path
) -> None:
    edge = start_edge("file", speech, "--speed", "3", *["--wait"] * wait)
    await captured(ready_broker, 3)
    (spec,) = await opened(ready_broker, 1)
    assert spec.successor is None, "a file can be sent again"
    await say(ready_broker, ended(spec, 2.5, reason="no credit"))
    assert await edge.exit_code() == 1, edge.stderr
    assert (
        f"session {spec.session_id} ended (no credit) before its audio: from 0:02.5 on it is not "
        "transcribed"
    ) in edge.stderr
    assert "7.5 seconds from 0:02.5 are not transcribed: no credit" in edge.stderr
    await opened(ready_broker, 1)


async def test_a_worker_of_the_previous_release_gives_no_position(
    ready_broker: Broker, start_edge: StartEdge
) -> None:
    edge = start_edge("stdin", "--live", stdin=subprocess.PIPE)
    async with speaking(edge):
        await captured(ready_broker, 2)
        (spec,) = await opened(ready_broker, 1)
        await say(ready_broker, ended(spec, None, reason="idle"))
        await edge.says("without a position where another one could continue")
    assert await edge.exit_code() == 1, edge.stderr
    assert "without a position up to which it is transcribed" in edge.stderr
    await opened(ready_broker, 1)


async def test_sessions_that_make_no_progress_are_opened_less_and_less_often(
    ready_broker: Broker, start_edge: StartEdge
) -> None:
    edge = start_edge("stdin", "--live", "--provider", "no-such", stdin=subprocess.PIPE)
    async with speaking(edge) as pipe:
        await captured(ready_broker, 2)
        for count in range(1, AT_ONCE + 2):
            spec = (await opened(ready_broker, count))[-1]
            await say(ready_broker, ended(spec, 0, reason="unknown provider"))
        paused = f"{AT_ONCE + 1} sessions in a row have made no progress (unknown provider); "
        await edge.says(paused)
        before = pipe.seconds
        await captured(ready_broker, before + 1)
        specs = await opened(ready_broker, AT_ONCE + 2)
        await say(ready_broker, ended(specs[-1], 0, reason="unknown provider"))
        state = rf'"state": "([^"]*; )?{AT_ONCE + 2} sessions in a row'
        await until(lambda: re.search(state, edge.stderr), "the state is logged", 20)
    # The end of the audio ends the pause: this session is the last chance.
    specs = await opened(ready_broker, AT_ONCE + 3)
    assert await edge.exit_code() == 1, edge.stderr
    check_chain(specs, [0] * (AT_ONCE + 2))
    assert (
        f"{pipe.seconds:.1f} seconds from 0:00.0 are not transcribed: unknown provider; session "
        f"{specs[-1].session_id} continues there"
    ) in edge.stderr
    recording = await stored_audio(ready_broker, specs[0])
    recording.check_whole()
    assert recording.payload == b"".join(pipe.written)


async def test_a_request_stops_a_successor(ready_broker: Broker, start_edge: StartEdge) -> None:
    edge = start_edge("stdin", "--live", stdin=subprocess.PIPE)
    async with speaking(edge):
        await captured(ready_broker, 2)
        await say(ready_broker, ended((await opened(ready_broker, 1))[0], 1.5))
        _, second = await opened(ready_broker, 2)
        stop = ended(second, 1.7, "closed", reason=stop_reason("erased"), continued_by=None)
        await say(ready_broker, stop)
        assert await edge.exit_code() == 1, edge.stderr
    assert "the session was ended by a request: nothing more of it is published" in edge.stderr
    await opened(ready_broker, 2)


async def test_an_end_during_an_outage_is_noticed_after_it(
    ready_broker: Broker, nats_server: NatsServer, start_edge: StartEdge
) -> None:
    async with NatsProxy(nats_server.port) as proxy:
        edge = start_edge("stdin", "--live", "--nats-url", proxy.url, stdin=subprocess.PIPE)
        async with speaking(edge) as pipe:
            await captured(ready_broker, 2)
            (first,) = await opened(ready_broker, 1)
            proxy.cut()
            await edge.says("NATS connection lost")
            await say(ready_broker, ended(first, 1.5))
            proxy.heal()
            specs = await opened(ready_broker, 2)
            await captured(ready_broker, pipe.seconds + 1)
        assert await edge.exit_code() == 0, edge.stderr
    check_chain(specs, [1.5])
    (await stored_audio(ready_broker, first)).check_whole()


async def test_an_end_that_belongs_to_an_older_session_than_the_newest_of_the_key(
    ready_broker: Broker, nats_server: NatsServer, start_edge: StartEdge
) -> None:
    """Another session has used the key while the edge was cut off, so its user cannot read how its
    own session has ended. The audio has a reader all the same, and the edge says what it does not
    know."""
    async with NatsProxy(nats_server.port) as proxy:
        edge = start_edge("stdin", "--live", "--nats-url", proxy.url, stdin=subprocess.PIPE)
        async with speaking(edge) as pipe:
            await captured(ready_broker, 2)
            (first,) = await opened(ready_broker, 1)
            await say(ready_broker, status_event(first, 0, "streaming"))
            await edge.says("session streaming")
            proxy.cut()
            await edge.says("NATS connection lost")
            await say(ready_broker, ended(first, 1.5))
            other = first.model_copy(update={"session_id": "another-session"})
            await say(ready_broker, status_event(other, 0, "streaming"))
            proxy.heal()
            _, second = await opened(ready_broker, 2)
            await captured(ready_broker, pipe.seconds + 1)
            await say(ready_broker, status_event(second, 0, "streaming"))
            await edge.says(f'"session_id": "{second.session_id}"')
        assert await edge.exit_code() == 1, edge.stderr
    check_chain([first, second], [0])
    unread = "a newer session uses the key, so its closing event cannot be read"
    assert edge.stderr.count(
        f"session {first.session_id} ended ({unread}); its audio continues in session "
        f"{second.session_id} from 0:00.0 or where its transcript ends, if that is later"
    ) == 1, edge.stderr  # fmt: skip
    assert (
        "everything is published and acknowledged, but it is not known what was transcribed by "
        f"session {first.session_id} from 0:00.0 on: {unread}"
    ) in edge.stderr
    recording = (await stored_audio(ready_broker, first)).once_each()
    recording.check_whole()
    assert recording.payload == b"".join(pipe.written)


async def test_the_broker_dies_between_the_end_and_the_successor(
    ready_broker: Broker, nats_server: NatsServer, start_edge: StartEdge
) -> None:
    async with NatsProxy(nats_server.port) as proxy:
        trigger = proxy.before("stt.session.>", nats_server.kill, n=2)
        edge = start_edge("stdin", "--live", "--nats-url", proxy.url, stdin=subprocess.PIPE)
        async with speaking(edge) as pipe:
            await captured(ready_broker, 2)
            (first,) = await opened(ready_broker, 1)
            await say(ready_broker, ended(first, 1.5))
            reconnects = ready_broker.reconnects
            await until(trigger.fired.is_set, "the successor is on its way")
            nats_server.start()
            await until(lambda: ready_broker.reconnects > reconnects, "the test is connected")
            specs = await opened(ready_broker, 2)
            await captured(ready_broker, pipe.seconds + 1)
        assert await edge.exit_code() == 0, edge.stderr
    check_chain(specs, [1.5])
    recording = (await stored_audio(ready_broker, first)).once_each()
    recording.check_whole()
    assert recording.payload == b"".join(pipe.written)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_an_edge_is_killed_when_it_opens_a_successor(
    after: bool,
    ready_broker: Broker,
    nats_server: NatsServer,
    start_edge: StartEdge,
    tmp_path: Path,
) -> None:
    """The next run goes on with the same successor, and continues that one, too."""
    arguments = ("stdin", "--live", "--spool", tmp_path / "spool", "--resume")
    async with NatsProxy(nats_server.port) as proxy:
        trigger = (proxy.after if after else proxy.before)(
            "stt.session.>", lambda: edge.kill(), n=2
        )
        edge = start_edge(*arguments, "--nats-url", proxy.url, stdin=subprocess.PIPE)
        async with speaking(edge):
            await captured(ready_broker, 2)
            (first,) = await opened(ready_broker, 1)
            await say(ready_broker, ended(first, 1.5))
            await until(trigger.fired.is_set, "the edge is killed")
    announced = edge.stdout.splitlines()[-1]
    edge = start_edge(*arguments, stdin=subprocess.PIPE)
    async with speaking(edge):
        await edge.says("resuming the session where it stopped")
        specs = await opened(ready_broker, 2)
        assert f"{first.key} {specs[1].session_id}" == announced
        await until(lambda: edge.stdout.endswith("\n"), "it announces the session")
        assert edge.stdout.splitlines() == [announced]
        await captured(ready_broker, 3)
        await say(ready_broker, ended(specs[1], 2.7))
        specs = await opened(ready_broker, 3)
    assert await edge.exit_code() == 0, edge.stderr
    check_chain(specs, [1.5, 2.7])
    recording = (await stored_audio(ready_broker, first)).once_each()
    assert [header.seq for header in recording.headers] == list(range(len(recording.headers)))
    assert {header.session_id for header in recording.headers} == {first.session_id}
    assert gone(tmp_path / "spool")


async def test_a_session_ended_while_its_edge_was_down(
    ready_broker: Broker, start_edge: StartEdge, tmp_path: Path
) -> None:
    arguments = ("stdin", "--live", "--spool", tmp_path / "spool", "--resume")
    edge = start_edge(*arguments, stdin=subprocess.PIPE)
    async with speaking(edge):
        await captured(ready_broker, 2)
        (first,) = await opened(ready_broker, 1)
        edge.kill()
    await say(ready_broker, ended(first, 1.5, "closed", reason="idle"))
    edge = start_edge(*arguments, stdin=subprocess.PIPE)
    async with speaking(edge):
        specs = await opened(ready_broker, 2)
    assert await edge.exit_code() == 0, edge.stderr
    check_chain(specs, [1.5])


@pytest.mark.parametrize("command", ["stdin", "send"])
async def test_another_session_has_used_the_key_while_the_edge_was_down(
    command: str, ready_broker: Broker, start_edge: StartEdge, tmp_path: Path
) -> None:
    """A request that is sent again would be taken for one that has been served."""
    spool = tmp_path / "spool"
    arguments = ("stdin", "--live", "--spool", spool, "--resume")
    edge = start_edge(*arguments, stdin=subprocess.PIPE)
    async with speaking(edge):
        await captured(ready_broker, 2)
        (first,) = await opened(ready_broker, 1)
        edge.kill()
    await say(ready_broker, ended(first, 1.5, "closed", reason="superseded"))
    update = {"session_id": "another-session", "opened_at": datetime.now(UTC)}
    other = first.model_copy(update=update)
    await say(ready_broker, ended(other, 9, "closed", request=other.stored()))
    if command == "send":
        edge = start_edge("send", "--spool", spool)
    else:
        edge = start_edge(*arguments, stdin=subprocess.PIPE)
        async with speaking(edge):
            await opened(ready_broker, 2)
    assert await edge.exit_code() == 1, edge.stderr
    check_chain(await opened(ready_broker, 2), [0])
    assert "it is not known what was transcribed by session" in edge.stderr
    assert gone(spool)


async def test_what_is_left_of_a_session_that_has_ended_is_continued(
    ready_broker: Broker, nats_server: NatsServer, start_edge: StartEdge, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    async with NatsProxy(nats_server.port) as proxy:
        edge = start_edge(
            "stdin", "--live", "--spool", spool, "--nats-url", proxy.url, stdin=subprocess.PIPE
        )
        async with speaking(edge) as pipe:
            await captured(ready_broker, 2)
            (first,) = await opened(ready_broker, 1)
            proxy.cut()
            before = pipe.seconds
            await until(lambda: pipe.seconds > before + 1, "more audio is in the spool")
            edge.kill()
    await say(ready_broker, ended(first, 1.5, "closed", reason="idle"))
    edge = start_edge("send", "--spool", spool)
    assert await edge.exit_code() == 0, edge.stderr
    specs = await opened(ready_broker, 2)
    check_chain(specs, [1.5])
    assert edge.stdout == f"{first.key} {specs[1].session_id}\n"
    (await stored_audio(ready_broker, first)).once_each().check_whole()
    assert gone(spool)


async def test_what_is_left_of_a_file_whose_session_failed_is_an_error(
    ready_broker: Broker,
    nats_server: NatsServer,
    start_edge: StartEdge,
    tmp_path: Path,
    speech: Path,
) -> None:
    spool = tmp_path / "spool"
    edge = start_edge("file", speech, "--speed", "2", "--spool", spool)
    await captured(ready_broker, 2)
    (spec,) = await opened(ready_broker, 1)
    edge.kill()
    await say(ready_broker, ended(spec, 1.5, reason="no credit"))
    edge = start_edge("send", "--spool", spool)
    assert await edge.exit_code() == 1, edge.stderr
    assert "an earlier session is published, but " in edge.stderr
    assert " seconds from 0:01.5 are not transcribed: no credit" in edge.stderr
    await opened(ready_broker, 1)


RESTRICTED = """
authorization {
  users = [
    {user: admin, password: x}
    {user: edge, password: x, permissions: {
      publish: {deny: %s}, subscribe: {deny: %s}
    }}
  ]
}
"""


@pytest.mark.parametrize("refused", ["stream", "events"])
async def test_a_user_without_all_rights(
    refused: str, nats_server: NatsServer, start_edge: StartEdge, tmp_path: Path
) -> None:
    """Without the stream, live events count. Without those, the stream is read regularly."""
    deny = (
        ('["$JS.API.DIRECT.GET.>"]', '["unused"]')
        if refused == "stream"
        else ('["unused"]', '["stt.transcript.>"]')
    )
    (tmp_path / "users.conf").write_text(RESTRICTED % deny)
    server = NatsServer(tmp_path / "small", extra_arguments=("-c", str(tmp_path / "users.conf")))
    server.start()
    try:
        admin = BrokerSettings(url=server.url, user="admin", password="x")
        async with connected(admin, name="admin", once=True) as broker:
            await ensure(broker, StreamSettings())
            environment = {"NATS_URL": server.url, "NATS_USER": "edge", "NATS_PASSWORD": "x"}
            edge = start_edge("stdin", "--live", environment=environment, stdin=subprocess.PIPE)
            async with speaking(edge):
                await captured(broker, 2)
                (first,) = await opened(broker, 1)
                await say(broker, ended(first, 1.5))
                specs = await opened(broker, 2)
            assert await edge.exit_code() == 0, edge.stderr
            check_chain(specs, [1.5])
            assert (
                "the edge reads the session's status from the stream every 5 s" in edge.stderr
            ) == (refused == "events")
    finally:
        server.stop()


async def test_no_successor_opens_while_another_agent_has_the_key(
    ready_broker: Broker, start_edge: StartEdge
) -> None:
    """As after a suspension: another agent has taken over, and the first learns of the end of its
    session before it learns of the other one."""
    edge = start_edge("stdin", "--live", stdin=subprocess.PIPE)
    async with speaking(edge):
        await captured(ready_broker, 2)
        (first,) = await opened(ready_broker, 1)
        other = Hold(
            session_id="another-session", agent="pi-7", since=datetime.now(UTC), publishing=True,
            request_sequence=10**6,
        )  # fmt: skip
        asked, over = 0, False

        async def answer(message: Msg) -> None:
            nonlocal asked
            asked += 1
            if over:
                await message.respond(other.encode())

        await ready_broker.client.subscribe(hold_subject(first.key), cb=answer)
        await until(lambda: asked, "it has asked again, and next asks half a minute later")
        over = True
        await say(ready_broker, ended(first, 1.0))
        assert await edge.exit_code() == 1, edge.stderr
    assert "is being captured by agent pi-7" in edge.stderr
    await opened(ready_broker, 1)


async def test_an_event_that_the_stream_refuses_opens_nothing(
    ready_broker: Broker, start_edge: StartEdge
) -> None:
    """As that of a worker that has lost its lease unknowingly."""
    edge = start_edge("stdin", "--live", stdin=subprocess.PIPE)
    async with speaking(edge) as pipe:
        await captured(ready_broker, 2)
        (first,) = await opened(ready_broker, 1)
        await say(ready_broker, status_event(first, 0, "streaming"))
        js = ready_broker.client.jetstream()
        with pytest.raises(APIError):
            await js.publish(
                transcript_subject(first.key, "status"), ended(first, 1.5).encode(),
                headers={"Nats-Expected-Last-Subject-Sequence": "999"},
            )  # fmt: skip
        await edge.says("session failed")
        later = ended(first, 1.9, epoch=2, sequence=8)
        await captured(ready_broker, pipe.seconds + 2)
        await opened(ready_broker, 1)
        await say(ready_broker, later)
        specs = await opened(ready_broker, 2)
    assert await edge.exit_code() == 0, edge.stderr
    check_chain(specs, [1.9])
