"""Faults of a three-node broker cluster, and long broker outages for edges and workers."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import soundfile
from nats.js.api import StreamConfig

from natterjack.broker import streams
from natterjack.broker.connection import Broker, connected
from natterjack.broker.streams import ensure
from natterjack.emulators import pcm, tones
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.events import Event, StatusEvent
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings, StreamSettings
from natterjack.spec import SessionSpec
from natterjack.subjects import SessionKey

from ..edge_capture.conftest import StartEdge
from ..freezing import freeze
from ..waiting import soon, until
from ..worker.programs import Speaker, StartWorker, WorkerProcess, closed, queue_empty, spoken
from .audit import audit
from .cluster import Cluster
from .proxy import NatsProxy

pytestmark = pytest.mark.process


@pytest.fixture
def cluster(tmp_path: Path, processes: None) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path / "cluster")
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture
async def cluster_worker(
    cluster: Cluster, emulator: DeepgramEmulator
) -> AsyncIterator[WorkerProcess]:
    worker = WorkerProcess(cluster.url, emulator.url, NATTERJACK_STREAM_REPLICAS="3")
    await worker.start()
    yield worker
    await worker.stop()
    assert not worker.stray_lines


async def test_a_worker_waits_until_its_cluster_has_enough_servers(
    processes: None, tmp_path: Path, emulator: DeepgramEmulator
) -> None:
    cluster = Cluster(tmp_path / "cluster", known=2)
    worker = WorkerProcess(cluster.url, emulator.url, NATTERJACK_STREAM_REPLICAS="3")
    try:
        for node in cluster.nodes[:2]:
            node.start()
        await worker.launch()
        await until(lambda: worker.find("the stream needs 3 servers"), "it says why it waits", 60)
        cluster.nodes[2].start()
        await until(lambda: worker.find("worker ready"), "worker ready", 60)
    finally:
        await worker.stop()
        cluster.stop()
    assert not worker.stray_lines


@pytest.mark.parametrize("stream", [streams.AUDIO, streams.TRANSCRIPTS, streams.SESSIONS])
async def test_the_leader_of_a_stream_dies(
    stream: str, cluster: Cluster, cluster_worker: WorkerProcess
) -> None:
    settings = BrokerSettings(url=cluster.url)
    async with connected(settings, name="test") as broker:
        speaker = Speaker(settings, 60, speed=2)
        speaking = asyncio.create_task(speaker.speak())
        await spoken(speaker, 5)
        leader = await until(lambda: cluster.leader(broker, stream), "the stream has a leader")
        leader.kill()
        await spoken(speaker, 12)
        leader.start()
        await speaking
        (await closed(broker, speaker.spec, 60)).audit(speaker)
        await queue_empty(broker)


async def test_the_whole_cluster_dies_and_comes_back(
    cluster: Cluster, cluster_worker: WorkerProcess
) -> None:
    settings = BrokerSettings(url=cluster.url)
    speaker = Speaker(settings, 60, speed=2)
    speaking = asyncio.create_task(speaker.speak())
    await spoken(speaker, 5)
    for node in cluster.nodes:
        node.kill()
    for node in cluster.nodes:
        node.start()
    await speaking
    async with connected(settings, name="test") as broker:
        (await closed(broker, speaker.spec, 60)).audit(speaker)


async def test_a_frozen_node(cluster: Cluster, cluster_worker: WorkerProcess) -> None:
    settings = BrokerSettings(url=cluster.url)
    async with connected(settings, name="test") as broker:
        speaker = Speaker(settings, 60, speed=2)
        speaking = asyncio.create_task(speaker.speak())
        await spoken(speaker, 5)
        leader = await until(lambda: cluster.leader(broker, streams.TRANSCRIPTS), "a leader")
        freeze(leader.pid)

        async def another() -> bool:
            async with connected(settings, name="look") as elsewhere:
                now = await cluster.leader(elsewhere, streams.TRANSCRIPTS)
            return now is not None and now is not leader

        try:
            await until(another, "another node leads", 30)
        finally:
            os.kill(leader.pid, signal.SIGCONT)
        await speaking
        (await closed(broker, speaker.spec, 60)).audit(speaker)


async def test_an_edge_cut_off_for_longer_than_the_duplicate_window(
    broker: Broker,
    nats_server: EmbeddedServer,
    start_worker: StartWorker,
    start_edge: StartEdge,
    tmp_path: Path,
) -> None:
    """The edge resends unacknowledged chunks after the duplicate window, so the stream stores them
    twice. The test shortens the window."""
    await ensure(broker, StreamSettings())
    js = broker.client.jetstream()
    config: StreamConfig = (await js.stream_info(streams.AUDIO)).config
    config.duplicate_window = 0.2
    await js.update_stream(config)
    await start_worker()
    words = tones.sequence(60)
    how = {"phrase_words": 8, "pause_seconds": 0.8}
    audio = tones.encode(words, 16_000, tail_seconds=0.5, **how)  # type: ignore[arg-type]
    soundfile.write(tmp_path / "words.wav", pcm.to_samples(audio, "linear16"), 16_000)
    async with NatsProxy(nats_server.port) as line:
        # Only the acknowledgements of some chunks are lost.
        lost = line.after("stt.audio.>", line.cut, n=100)
        edge = start_edge("file", tmp_path / "words.wav", "--speed", "2", "--nats-url", line.url)
        await soon(lost.fired.wait(), 30)
        before = (await js.stream_info(streams.AUDIO)).state.messages
        await asyncio.sleep(0.5)  # longer than the stream's duplicate window
        line.heal()
        assert await edge.exit_code(60) == 0, edge.stderr
    stored = (await js.stream_info(streams.AUDIO)).state.messages
    key, session_id = edge.stdout.split()
    spec = SessionSpec(session_id=session_id, **SessionKey(*key.split("."))._asdict())
    transcript = await closed(broker, spec, 60)
    found = audit(
        transcript.events, words, tones.places(words, **how),  # type: ignore[arg-type]
        captured_seconds=len(audio) / 32_000,
    )  # fmt: skip
    assert found.clean, f"{found}\n{transcript.describe()}"
    assert before >= 100
    assert stored > -(-len(audio) // 2560), "nothing was stored twice"


async def test_a_broker_that_dies_while_sessions_are_claimed(
    nats_server: EmbeddedServer, emulator: DeepgramEmulator, broker: Broker
) -> None:
    """The broker forgets the deliveries and delivers requests again with the same count. Of two
    holders of one session, only one may write its checkpoint and publish."""
    await ensure(broker, StreamSettings())
    settings = BrokerSettings(url=nats_server.url)

    def restart() -> None:
        nats_server.kill()
        nats_server.start()

    async with NatsProxy(nats_server.port) as line:
        worker = WorkerProcess(line.url, emulator.url)
        trigger = line.before(f"$KV.{streams.CHECKPOINTS_BUCKET}.>", restart, n=6)
        await worker.start()
        try:
            speakers = [Speaker(settings, 20, speed=2, conversation=f"c{n}") for n in range(6)]
            speaking = asyncio.gather(*(speaker.speak() for speaker in speakers))
            await soon(trigger.fired.wait(), 30)
            await speaking
            for speaker in speakers:
                transcript = await closed(broker, speaker.spec, 60)
                transcript.audit(speaker)
                epochs = [event.epoch for event in transcript.events if _is(event, "assigned")]
                assert len(epochs) == len(set(epochs)), transcript.describe()
            await queue_empty(broker)
        finally:
            await worker.stop()
        assert not worker.stray_lines


def _is(event: Event, state: str) -> bool:
    return isinstance(event, StatusEvent) and event.state == state


async def test_a_worker_stopped_while_nats_is_stalled_exits_cleanly(
    nats_server: EmbeddedServer, emulator: DeepgramEmulator
) -> None:
    """Unanswered requests may be logged, but cause no traceback."""
    async with NatsProxy(nats_server.port) as line:
        worker = WorkerProcess(
            line.url, emulator.url, WORKER_DRAIN_SECONDS="0", WORKER_HANDOVER_SECONDS="0"
        )
        await worker.start()
        try:
            line.stall()
            await asyncio.sleep(2)  # covers two of the worker's liveness checks, one per second
            worker.signal(signal.SIGTERM)
            assert await worker.wait(60) == 0
            assert not worker.stray_lines
        finally:
            await worker.stop()
