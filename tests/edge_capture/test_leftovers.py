"""Sessions that earlier runs have left in the spool are sent by a later run."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import soundfile

from edge_capture.chunks import Chunk
from natterjack.audio import SESSION_ID
from natterjack.broker.connection import Broker, connected
from natterjack.broker.streams import AUDIO, ensure
from natterjack.settings import BrokerSettings, StreamSettings
from natterjack.spec import SessionSpec
from tests.edge_capture.conftest import RunEdge, StartEdge
from tests.edge_capture.program import (
    only_recording,
    recordings,
    requests,
    stored,
)
from tests.edge_capture.samples import chunk
from tests.edge_capture.test_resume import gone, speech, spool, spooled, spooled_more
from tests.edge_capture.test_spool import ORIGIN, opened, spec
from tests.nats_server import NatsServer
from tests.waiting import until

__all__ = ["speech", "spool"]  # fixtures


async def left_in(
    spool: Path, start_edge: StartEdge, nats_server: NatsServer, speech: Path, speaker: str
) -> None:
    """Leave a session without an end in the spool. Afterwards the broker is down."""
    nats_server.kill()
    edge = start_edge("file", speech, "--speed", "max", "--spool", spool, "--speaker", speaker)
    before = spooled(spool)
    await spooled_more(spool, before + 10)
    edge.kill()


async def test_leftovers_are_sent_while_a_new_session_runs(
    ready_broker: Broker,
    nats_server: NatsServer,
    start_edge: StartEdge,
    speech: Path,
    spool: Path,
) -> None:
    for speaker in ("a", "b"):
        await left_in(spool, start_edge, nats_server, speech, speaker)
    nats_server.start()
    edge = start_edge("file", speech, "--speed", "max", "--spool", spool, "--speaker", "c")
    assert await edge.exit_code() == 0, edge.stderr
    message = "an earlier session in the spool is published and acknowledged"
    assert edge.stderr.count(message) == 2
    await until(lambda: ready_broker.connected, "the test is connected")
    found = await recordings(ready_broker)
    assert sorted(found) == ["a", "b", "c"]
    audio = soundfile.read(speech, dtype="int16")[0]
    for recording in found.values():
        recording.check_whole()
        assert (recording.samples == audio[: len(recording.samples)]).all()
    assert len(found["c"].samples) == len(audio)
    assert gone(spool)


async def test_a_leftover_is_sent_before_a_new_session_with_its_key(
    ready_broker: Broker,
    nats_server: NatsServer,
    start_edge: StartEdge,
    speech: Path,
    spool: Path,
) -> None:
    """A worker must not have two sessions of one key at a time."""
    arguments = ("file", speech, "--speed", "max", "--spool", spool, "--conversation", "same")
    nats_server.kill()
    edge = start_edge(*arguments)
    await spooled_more(spool, 10)
    edge.kill()
    nats_server.start()
    edge = start_edge(*arguments)
    assert await edge.exit_code() == 0, edge.stderr
    await until(lambda: ready_broker.connected, "the test is connected")
    ids = [message.headers[SESSION_ID] for message in await stored(ready_broker, AUDIO)]  # type: ignore[index]
    older, newer = (spec.session_id for spec in await requests(ready_broker))
    assert ids == [older] * ids.count(older) + [newer] * 376
    assert ids.count(older) > 10


async def test_send_sends_what_is_left(
    ready_broker: Broker,
    nats_server: NatsServer,
    start_edge: StartEdge,
    speech: Path,
    spool: Path,
) -> None:
    nats_server.kill()
    edge = start_edge("file", speech, "--speed", "max", "--spool", spool, "--finish-seconds", "0.2")
    await spooled_more(spool, 10)
    edge.interrupt()
    assert await edge.exit_code() == 1
    assert f"the spool keeps them; to send them: natterjack-edge send --spool {spool}" in (
        edge.stderr
    )
    edge = start_edge("send", "--spool", spool, "--once")
    assert await edge.exit_code() == 2
    assert edge.stderr.count("\n") == 1
    nats_server.start()
    edge = start_edge("send", "--spool", spool)
    assert await edge.exit_code() == 0, edge.stderr
    await until(lambda: ready_broker.connected, "the test is connected")
    (await only_recording(ready_broker)).check_whole()
    assert gone(spool)
    edge = start_edge("send", environment={"EDGE_SPOOL": str(spool)})
    assert await edge.exit_code() == 0
    assert "the spool has nothing to send" in edge.stderr


def test_sending_needs_a_spool(run_edge: RunEdge) -> None:
    assert run_edge("send").code == 2


async def test_a_session_that_the_broker_never_accepts_delays_nothing_else(
    ready_broker: Broker, start_edge: StartEdge, speech: Path, spool: Path
) -> None:
    keeper = opened(spool)
    too_large = SessionSpec(tenant="t", conversation="large", speaker="s", sample_rate=16000)
    for one, payload in ((too_large, bytes(200_000)), (spec(), bytes(3200))):
        keeper.create(one, ORIGIN, "run").put(Chunk(0, 1, payload, False))
    await keeper.close()
    (tmp := spool.parent / "nats.conf").write_text("max_payload: 100000\n")
    server = NatsServer(spool.parent / "small", extra_arguments=("-c", str(tmp)))
    server.start()
    try:
        async with connected(
            BrokerSettings(url=server.url), name="makes the streams", once=True
        ) as broker:
            await ensure(broker, StreamSettings())
        edge = start_edge(
            "file", speech, "--speed", "max", "--spool", spool, "--nats-url", server.url,
            "--finish-seconds", "0.3",
        )  # fmt: skip
        assert await edge.exit_code() == 1, edge.stderr
        assert "an earlier session in the spool is published and acknowledged" in edge.stderr
        assert "everything is published and acknowledged" in edge.stderr
        assert "2 chunks of an earlier session are unacknowledged; the spool keeps" in edge.stderr
    finally:
        server.stop()


async def test_send_sends_more_sessions_than_are_adopted_at_a_time(
    ready_broker: Broker, start_edge: StartEdge, spool: Path
) -> None:
    for number in range(70):
        keeper = opened(spool)
        one = spec().model_copy(update={"conversation": f"c{number}", "session_id": str(uuid4())})
        keeper.create(one, ORIGIN, "run").put(chunk(0))
        await keeper.close()
    edge = start_edge("send", "--spool", spool)
    assert await edge.exit_code() == 0, edge.stderr
    assert gone(spool)
    assert len(await requests(ready_broker)) == 70
    assert len(await stored(ready_broker, AUDIO)) == 140


async def test_sessions_of_another_agent_are_reported(
    nats_server: NatsServer, start_edge: StartEdge, spool: Path
) -> None:
    keeper = opened(spool)
    keeper.create(spec(), ORIGIN, "run").put(chunk(0))
    edge = start_edge("send", "--spool", spool, "--finish-seconds", "0.1")
    assert await edge.exit_code() == 0
    assert '"held_by_other_agents": 1' in edge.stderr
    await keeper.close()
