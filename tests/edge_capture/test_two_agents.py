"""Two agents on one key: one of them captures it, and the other one is refused by name."""

from __future__ import annotations

import re
import signal
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from nats.errors import Error as NatsError

from edge_capture.hold.exchange import machine_name
from natterjack.audio import AUDIO_SEQ, SESSION_ID, decode_chunk_headers
from natterjack.broker.connection import Broker, connected
from natterjack.broker.streams import AUDIO, ensure
from natterjack.errors import BrokerUnreachable
from natterjack.events import StatusEvent
from natterjack.settings import BrokerSettings, StreamSettings
from natterjack.subjects import SessionKey, hold_subject, transcript_subject
from tests.edge_capture.conftest import StartEdge
from tests.edge_capture.program import Edge, Recording, requests, stored
from tests.faults.cluster import Cluster
from tests.freezing import freeze
from tests.nats_server import NatsServer
from tests.searching import tried
from tests.waiting import until

pytestmark = pytest.mark.process

KEY = SessionKey("acme", "room", "speaker")
ROOM = ("--tenant", "acme", "--conversation", "room")


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """10 s of noise, in which all chunks differ."""
    path = tmp_path / "speech.wav"
    noise = np.random.default_rng(1).integers(-9000, 9000, 160_000, np.int16)
    soundfile.write(path, noise, 16000)
    return path


async def session_id(edge: Edge) -> str:
    """The ID of the agent's first session, from standard output."""
    await until(lambda: "\n" in edge.stdout, "the agent names its session")
    return edge.stdout.split()[1]


async def by_session(broker: Broker) -> dict[str, Recording]:
    """Return every session in the streams by its ID."""
    chunks = await stored(broker, AUDIO)
    found = {spec.session_id: Recording(spec, [], []) for spec in await requests(broker)}
    for message in chunks:
        recording = found[(message.headers or {})[SESSION_ID]]
        recording.headers.append(
            decode_chunk_headers(message.headers, len(message.data), recording.spec.audio_format)
        )
        recording.payloads.append(message.data)
    return found


async def publishes(broker: Broker, edge: Edge, chunks: int = 3) -> None:
    """Wait until some of the agent's chunks are stored."""
    identity = await session_id(edge)
    subject, js = f"stt.audio.{edge.stdout.split()[0]}", broker.client.jetstream()

    async def look() -> bool:
        try:
            last = await js.get_last_msg(AUDIO, subject, direct=True)
        except (NatsError, TimeoutError):
            return False
        headers = last.headers or {}
        return headers[SESSION_ID] == identity and int(headers[AUDIO_SEQ]) >= chunks

    try:
        await until(look, "the agent publishes")
    except AssertionError as error:
        raise AssertionError(f"{error}: {edge.stderr}") from None


async def check_whole(broker: Broker, edge: Edge, speech: Path) -> None:
    """Assert that the agent's session has the whole file once."""
    recording = (await by_session(broker))[await session_id(edge)]
    recording.check_whole()
    assert (recording.samples == soundfile.read(speech, dtype="int16")[0]).all()


async def refused(edge: Edge, *others: Edge, speaker: str = "speaker") -> str:
    """Assert that the agent has ended with a line that names one of the others; return the rest."""
    assert await edge.exit_code() == 3, edge.stderr
    last = edge.stderr.splitlines()[-1]
    found = re.fullmatch(
        rf"natterjack-edge: acme\.room\.{speaker} is being captured by agent (.+) since "
        r"(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d \(session (.+)\); stop it, or choose another speaker "
        "or conversation(.*)",
        last,
    )
    assert found is not None, edge.stderr
    assert found[1] == machine_name()
    assert any(found[3] in other.stdout for other in others)
    assert "Traceback" not in edge.stderr
    return found[4]


async def test_the_second_agent_is_refused_by_name_at_once(
    ready_broker: Broker, start_edge: StartEdge, speech: Path, tmp_path: Path
) -> None:
    first = start_edge("file", speech, *ROOM)
    await publishes(ready_broker, first)
    second = start_edge("file", speech, *ROOM, "--spool", tmp_path / "spool")
    assert await refused(second, first) == ""
    assert second.stderr.count("\n") == 1
    assert not [path for path in (tmp_path / "spool").iterdir() if path.is_dir()]
    assert await first.exit_code() == 0, first.stderr
    assert list(await by_session(ready_broker)) == [await session_id(first)]
    await check_whole(ready_broker, first, speech)


async def test_other_keys_are_free(
    ready_broker: Broker, start_edge: StartEdge, speech: Path
) -> None:
    first = start_edge("file", speech, *ROOM)
    await publishes(ready_broker, first)
    others = [
        start_edge("file", speech, "--speed", "max", "--tenant", tenant, "--conversation", "room",
                   "--speaker", speaker)
        for tenant, speaker in (("acme", "guest"), ("other", "speaker"))
    ]  # fmt: skip
    for other in others:
        assert await other.exit_code() == 0, other.stderr
    assert first.process.poll() is None
    assert await first.exit_code() == 0, first.stderr


async def one_left(edges: list[Edge]) -> Edge:
    """Wait until all agents but one have ended, and return that one."""

    def running() -> list[Edge]:
        return [edge for edge in edges if edge.process.poll() is None]

    await until(lambda: len(running()) == 1, "one agent is left")
    (winner,) = running()
    return winner


@pytest.mark.slow
async def test_of_agents_that_start_together_exactly_one_captures(
    ready_broker: Broker, start_edge: StartEdge, speech: Path
) -> None:
    rounds = tried(20)
    for number in range(rounds):
        room = ("--tenant", "acme", "--conversation", "room", "--speaker", f"s{number}")
        edges = [start_edge("file", speech, *room) for _ in range(2 + number % 2)]
        winner = await one_left(edges)
        for loser in edges:
            if loser is not winner:
                # If there are three, one may have refused another before it was refused itself.
                others = [edge for edge in edges if edge is not loser]
                await refused(loser, *others, speaker=f"s{number}")
        await publishes(ready_broker, winner)
        winner.interrupt()
        assert await winner.exit_code() == 0, winner.stderr
        recording = (await by_session(ready_broker))[await session_id(winner)]
        recording.check_whole()
        file = soundfile.read(speech, dtype="int16")[0]
        assert (recording.samples == file[: len(recording.samples)]).all()
    assert len(await requests(ready_broker)) == rounds


@pytest.mark.parametrize("resume", [False, True])
async def test_a_killed_agent_does_not_keep_its_key(
    ready_broker: Broker, start_edge: StartEdge, speech: Path, tmp_path: Path, resume: bool
) -> None:
    more = ("--spool", tmp_path / "spool", "--resume") if resume else ()
    first = start_edge("file", speech, *ROOM, *more)
    await publishes(ready_broker, first)
    first.kill()
    second = start_edge("file", speech, *ROOM, *more, "--speed", "max")
    assert await second.exit_code() == 0, second.stderr
    if resume:
        assert first.stdout == second.stdout
        recording = (await by_session(ready_broker))[await session_id(second)].once_each()
        assert (recording.samples == soundfile.read(speech, dtype="int16")[0]).all()
    else:
        await check_whole(ready_broker, second, speech)


async def test_a_frozen_agent_that_wakes_up_lets_the_other_one_capture(
    ready_broker: Broker, start_edge: StartEdge, speech: Path, tmp_path: Path
) -> None:
    first = start_edge("file", speech, *ROOM, "--spool", tmp_path / "spool")
    await publishes(ready_broker, first)
    freeze(first.process.pid)
    second = start_edge("file", speech, *ROOM)
    await publishes(ready_broker, second)
    first.process.send_signal(signal.SIGCONT)
    assert await first.exit_code() == 1, first.stderr
    identity = await session_id(second)
    assert f"(session {identity}), which took over when this agent did not answer" in first.stderr
    assert "the spool keeps them" in first.stderr
    assert "Traceback" not in first.stderr
    assert await second.exit_code() == 0, second.stderr
    await check_whole(ready_broker, second, speech)


async def test_an_agent_that_starts_during_an_outage_does_not_get_ahead(
    ready_broker: Broker,
    nats_server: NatsServer,
    start_edge: StartEdge,
    speech: Path,
    tmp_path: Path,
) -> None:
    """The first agent may come back to the broker later than the second one finds it."""
    first = start_edge("file", speech, *ROOM)
    await publishes(ready_broker, first)
    nats_server.kill()
    second = start_edge("file", speech, *ROOM, "--spool", tmp_path / "spool")
    await second.says("no NATS at")
    freeze(first.process.pid)
    nats_server.start()
    await until(lambda: ready_broker.connected, "the test is connected")
    await until(lambda: _hears(ready_broker), "the second agent is connected")
    first.process.send_signal(signal.SIGCONT)
    rest = await refused(second, first)
    assert re.match(r"; it captured \d+\.\d s before it reached NATS; the spool keeps them;", rest)
    assert await first.exit_code() == 0, first.stderr
    await check_whole(ready_broker, first, speech)
    # The audio that it captured can be sent when the key is free.
    sending = start_edge("send", "--spool", tmp_path / "spool")
    assert await sending.exit_code() == 0, sending.stderr
    assert set(await by_session(ready_broker)) == {
        await session_id(first),
        await session_id(second),
    }


async def _hears(broker: Broker) -> bool:
    """Whether an agent answers for the key."""
    try:
        await broker.client.request(hold_subject(KEY), b"", timeout=1)
    except (NatsError, TimeoutError):  # nobody yet, or no connection
        return False
    return True


async def test_agents_that_wait_for_the_broker_together(
    ready_broker: Broker, nats_server: NatsServer, start_edge: StartEdge, speech: Path
) -> None:
    nats_server.kill()
    edges = [start_edge("file", speech, *ROOM) for _ in range(2)]
    for edge in edges:
        await edge.says("no NATS at")
    nats_server.start()
    winner = await one_left(edges)
    (loser,) = (edge for edge in edges if edge is not winner)
    await refused(loser, winner)
    assert await winner.exit_code() == 0, winner.stderr
    await until(lambda: ready_broker.connected, "the test is connected")
    await check_whole(ready_broker, winner, speech)
    assert list(await by_session(ready_broker)) == [await session_id(winner)]


async def test_an_agent_that_starts_after_a_restart_of_the_broker_does_not_get_ahead(
    ready_broker: Broker, nats_server: NatsServer, start_edge: StartEdge, speech: Path
) -> None:
    """The first agent is not back yet, but a worker has its session."""
    first = start_edge("file", speech, *ROOM)
    await publishes(ready_broker, first)
    await ready_broker.client.jetstream().publish(
        transcript_subject(KEY, "status"),
        StatusEvent(
            session_id=await session_id(first), **KEY._asdict(), epoch=1, sequence=0,
            state="streaming", worker="w", published_at=datetime.now(UTC),
        ).encode(),
    )  # fmt: skip
    nats_server.kill()
    await first.says("NATS connection lost")
    freeze(first.process.pid)
    nats_server.start()
    await until(lambda: ready_broker.connected, "the test is connected")
    second = start_edge("file", speech, *ROOM)
    await until(lambda: _hears(ready_broker), "the second agent is connected")
    first.process.send_signal(signal.SIGCONT)
    await refused(second, first)
    assert await first.exit_code() == 0, first.stderr
    await check_whole(ready_broker, first, speech)


async def test_one_key_of_several_is_enough(
    ready_broker: Broker, start_edge: StartEdge, tmp_path: Path
) -> None:
    stereo = tmp_path / "stereo.wav"
    noise = np.random.default_rng(1).integers(-9000, 9000, (80_000, 2), np.int16)
    soundfile.write(stereo, noise, 16000)
    first = start_edge("file", stereo, *ROOM, "--split-channels", "a,b")
    await publishes(ready_broker, first)
    second = start_edge("file", stereo, *ROOM, "--split-channels", "b,c")
    await refused(second, first, speaker="b")
    assert await first.exit_code() == 0, first.stderr
    recordings = {each.spec.speaker: each for each in (await by_session(ready_broker)).values()}
    assert set(recordings) == {"a", "b"}
    for channel, speaker in enumerate("ab"):
        recordings[speaker].check_whole()
        assert (recordings[speaker].samples == noise[:, channel]).all()


@pytest.mark.slow
async def test_of_agents_that_share_keys_exactly_one_captures(
    ready_broker: Broker, start_edge: StartEdge, tmp_path: Path
) -> None:
    stereo = tmp_path / "stereo.wav"
    soundfile.write(stereo, np.zeros((160_000, 2), np.int16), 16000)
    for number in range(5):
        room = ("--tenant", "acme", "--conversation", f"room{number}")
        edges = [
            start_edge("file", stereo, *room, "--split-channels", speakers)
            for speakers in ("a,b", "b,c", "c,a")
        ]
        winner = await one_left(edges)
        await publishes(ready_broker, winner)
        winner.interrupt()
        assert sorted([await edge.exit_code() for edge in edges]) == [0, 3, 3]


async def test_a_key_is_free_once_everything_is_published(
    ready_broker: Broker, start_edge: StartEdge, speech: Path
) -> None:
    first = start_edge("file", speech, *ROOM, "--speed", "max", "--wait")
    await until(lambda: _ended(ready_broker, first), "the first agent has published everything")
    second = start_edge("file", speech, *ROOM, "--speed", "max")
    assert await second.exit_code() == 0, second.stderr
    assert first.process.poll() is None


async def _ended(broker: Broker, edge: Edge) -> bool:
    recording = (await by_session(broker)).get(await session_id(edge))
    return recording is not None and bool(recording.headers) and recording.headers[-1].end


async def test_a_stranger_that_answers_nonsense_delays_a_start_only(
    ready_broker: Broker, start_edge: StartEdge, speech: Path
) -> None:
    async def answer(message: Any) -> None:
        for nonsense in (b"", b"{}", b"\xff" * 5000, b'{"publishing": true}'):
            await message.respond(nonsense)

    await ready_broker.client.subscribe("stt.hold.>", cb=answer)
    edge = start_edge("file", speech, *ROOM, "--speed", "max")
    assert await edge.exit_code() == 0, edge.stderr
    await check_whole(ready_broker, edge, speech)


# ---- users of an earlier release -----------------------------------------------------------------

_EARLIER = """
authorization {
  users = [
    {user: admin, password: admin}
    {user: edge, password: edge, permissions: {
      publish: {allow: ["stt.session.acme.*.*", "stt.audio.acme.*.*",
        "$JS.API.DIRECT.GET.STT_TRANSCRIPTS.stt.transcript.acme.*.*.status"]}
      subscribe: {allow: ["_INBOX_edge.>", "stt.transcript.acme.*.*.status"]}
    }}
  ]
}
"""


@pytest.fixture
def earlier_server(tmp_path: Path, processes: None) -> Iterator[NatsServer]:
    """A server whose edges may not use `stt.hold`, nor report to a center."""
    configuration = tmp_path / "earlier.conf"
    configuration.write_text(_EARLIER)
    server = NatsServer(tmp_path / "earlier", extra_arguments=("-c", str(configuration)))
    server.start()
    yield server
    server.stop()


async def test_without_permission_an_agent_works_as_before(
    earlier_server: NatsServer, start_edge: StartEdge, speech: Path
) -> None:
    settings = BrokerSettings(url=earlier_server.url, user="admin", password="admin")
    environment = {
        "NATS_URL": earlier_server.url, "NATS_USER": "edge", "NATS_PASSWORD": "edge",
        "NATS_INBOX_PREFIX": "_INBOX_edge",
    }  # fmt: skip
    async with connected(settings, name="test") as broker:
        await ensure(broker, StreamSettings())
        edges = []
        for _ in range(2):
            edges.append(start_edge("file", speech, *ROOM, environment=environment))
            await publishes(broker, edges[-1])
        earlier_server.kill()
        earlier_server.start()
        for edge in edges:
            assert await edge.exit_code() == 0, edge.stderr
            await until(lambda: broker.connected, "the test is connected")
            await check_whole(broker, edge, speech)
            told = [line for line in edge.stderr.splitlines() if "may not" in line]
            assert len(told) == 2, edge.stderr
            for subject in ("stt.hold", "stt.edge"):
                (line,) = (line for line in told if subject in line)
                assert '"level": "info"' in line
                assert "natterjack users config" in line


# ---- a cluster -----------------------------------------------------------------------------------


@pytest.fixture
async def cluster(tmp_path: Path, processes: None) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path / "cluster")
    cluster.start()
    yield cluster
    cluster.stop()


async def _ensured(broker: Broker) -> bool:
    try:
        await ensure(broker, StreamSettings())
    except BrokerUnreachable:
        return False
    return True


@pytest.mark.slow
async def test_agents_on_different_servers_of_a_cluster(
    cluster: Cluster, start_edge: StartEdge, speech: Path
) -> None:
    def start(node: int, speaker: str = "speaker") -> Edge:
        environment = {"NATS_URL": cluster.nodes[node].url}
        return start_edge("file", speech, *ROOM, "--speaker", speaker, environment=environment)

    async with connected(BrokerSettings(url=cluster.url), name="test") as broker:
        await until(lambda: _ensured(broker), "the cluster has a leader")
        first = start(0)
        await publishes(broker, first)
        await refused(start(1), first)
        first.kill()
        second = start(2)
        await publishes(broker, second)
        await refused(start(0), second)
        assert await second.exit_code() == 0, second.stderr
        winners = [await session_id(second)]
        for number in range(5):
            edges = [start(node, f"s{number}") for node in range(3)]
            winner = await one_left(edges)
            await publishes(broker, winner)
            winner.interrupt()
            codes = [await edge.exit_code() for edge in edges if edge is not winner]
            # Both may have found nobody, before the servers knew of each other's agents.
            assert set(codes) <= {1, 3}, [edge.stderr for edge in edges]
            assert await winner.exit_code() == 0, winner.stderr
            winners.append(await session_id(winner))
        recordings = await until(lambda: _readable(broker), "the cluster answers")
        for identity in winners:
            recordings[identity].check_whole()


async def _readable(broker: Broker) -> dict[str, Recording] | None:
    try:
        return await by_session(broker)
    except NatsError:  # on a busy machine, a leader may just change
        return None
