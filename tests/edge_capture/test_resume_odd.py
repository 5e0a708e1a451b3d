"""Resuming sessions that have ended, lost a speaker, or whose channels differ in length."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_capture.session import resume_sessions
from edge_capture.settings import EdgeSettings, PublishSettings
from edge_capture.sources import Block
from edge_capture.spool import Origin
from natterjack.broker.connection import Broker
from natterjack.local.embedded import EmbeddedServer
from natterjack.spec import SessionSpec
from tests.edge_capture.conftest import StartEdge
from tests.edge_capture.program import Edge, only_recording, recordings, requests
from tests.edge_capture.samples import FRAMES, chunk
from tests.edge_capture.test_faults import chunks, say, some_chunks, status_event
from tests.edge_capture.test_resume import feed, gone, speech, spool, spooled_more
from tests.edge_capture.test_spool import FORMAT, ORIGIN, opened, spec
from tests.waiting import until

__all__ = ["speech", "spool"]  # fixtures


async def killed_after(
    broker: Broker, start_edge: StartEdge, spool: Path, *arguments: object
) -> SessionSpec:
    """Leave a session of standard input whose first audio is stored."""
    edge = start_edge("stdin", "--spool", spool, *arguments, stdin=subprocess.PIPE)
    await feed(edge, 1, 30)
    await some_chunks(broker)
    edge.kill()
    (left,) = await requests(broker)
    return left


async def went_on(broker: Broker, edge: Edge) -> None:
    """Wait until audio of this run is stored."""
    before = await chunks(broker)
    await feed(edge, 2, 10)

    async def more() -> bool:
        return await chunks(broker) > before

    await until(more, "more is stored", 20)


@pytest.mark.parametrize("state", ["closed", "failed"])
async def test_a_session_that_its_worker_has_ended_is_not_resumed(
    ready_broker: Broker, start_edge: StartEdge, spool: Path, state: str
) -> None:
    """The next start begins a new one, so that a service that restarts loses little."""
    left = await killed_after(ready_broker, start_edge, spool)
    await say(ready_broker, status_event(left, 0, state))  # type: ignore[arg-type]
    arguments = ("stdin", "--spool", spool, "--resume")
    edge = start_edge(*arguments, stdin=subprocess.PIPE)
    await feed(edge, 2, 10)
    assert await edge.exit_code() == 1, edge.stderr
    assert "the session cannot be resumed; the next start begins a new one" in edge.stderr
    assert gone(spool)
    edge = start_edge(*arguments, stdin=subprocess.PIPE)
    await feed(edge, 3, 10)
    edge.process.stdin.close()  # type: ignore[union-attr]
    assert await edge.exit_code() == 0, edge.stderr
    assert "starting a new one" in edge.stderr
    assert len({request.session_id for request in await requests(ready_broker)}) == 2


async def test_a_session_whose_worker_is_active_is_resumed(
    ready_broker: Broker, start_edge: StartEdge, spool: Path
) -> None:
    left = await killed_after(ready_broker, start_edge, spool)
    stranger = left.model_copy(update={"session_id": "another-session"})
    await say(ready_broker, status_event(left, 0, "streaming"))
    edge = start_edge("stdin", "--spool", spool, "--resume", stdin=subprocess.PIPE)
    await went_on(ready_broker, edge)
    await say(ready_broker, status_event(stranger, 1, "closed"))
    edge.process.stdin.close()  # type: ignore[union-attr]
    assert await edge.exit_code() == 0, edge.stderr
    assert "session streaming" in edge.stderr


async def left_ended(
    nats_server: EmbeddedServer, start_edge: StartEdge, spool: Path, *arguments: object
) -> None:
    """Leave a session of a file in the spool, with an end mark where it was interrupted."""
    nats_server.kill()
    edge = start_edge(*arguments, "--spool", spool, "--finish-seconds", "0.1")
    await spooled_more(spool, 5)
    edge.interrupt()
    assert await edge.exit_code() == 1
    nats_server.start()


async def test_a_file_whose_session_had_ended_is_not_read_again(
    ready_broker: Broker,
    nats_server: EmbeddedServer,
    start_edge: StartEdge,
    speech: Path,
    spool: Path,
) -> None:
    await left_ended(nats_server, start_edge, spool, "file", speech)
    edge = start_edge("file", speech, "--speed", "0.001", "--resume", "--spool", spool)
    assert await edge.exit_code() == 0, edge.stderr  # and not after 8 hours


async def test_one_session_of_a_split_file_may_be_stored_already(
    ready_broker: Broker,
    nats_server: EmbeddedServer,
    start_edge: StartEdge,
    tmp_path: Path,
    spool: Path,
) -> None:
    noise = np.random.default_rng(1).integers(-9000, 9000, (160_000, 2), np.int16)
    soundfile.write(tmp_path / "two.wav", noise, 16000)
    arguments = ("file", tmp_path / "two.wav", "--split-channels", "a,b")
    await left_ended(nats_server, start_edge, spool, *arguments)
    for description in spool.glob("*/session.json"):
        if json.loads(description.read_text())["spec"]["speaker"] == "a":
            shutil.rmtree(description.parent)
    edge = start_edge(*arguments, "--resume", "--spool", spool)
    assert await edge.exit_code() == 0, edge.stderr
    assert "the session has ended; sending its remaining audio" in edge.stderr
    await until(lambda: ready_broker.connected, "the test is connected")
    assert list(await recordings(ready_broker)) == ["b"]
    assert gone(spool)


def silence(time_ns: int, channels: int = 1, lost_frames: int = 0) -> Block:
    return Block(np.zeros((FRAMES, channels), np.int16), time_ns, lost_frames)


@pytest.mark.parametrize(("passed_s", "lost_s", "gap_s"), [(20, 10, 20), (-600, 10, 10)])
async def test_frames_that_a_microphone_lost_are_part_of_the_gap(
    spool: Path, passed_s: int, lost_s: int, gap_s: int
) -> None:
    keeper = opened(spool)
    keeper.create(spec(), ORIGIN, "run").put(chunk(0))
    await keeper.close()
    keeper = opened(spool)
    found = keeper.adopt()
    publish = PublishSettings(chunk_ms=100)
    (session,) = resume_sessions(found, FORMAT, False, EdgeSettings(), publish, None)
    end_time_ns = found[0].end_time_ns
    session.feed(silence(end_time_ns + passed_s * 10**9, lost_frames=lost_s * 16000))
    assert found[0].head.pos == FRAMES + gap_s * 16000 + FRAMES
    await keeper.close()


async def test_channels_with_different_ends_resume_together(spool: Path) -> None:
    origin = Origin(
        command="stdin", format=FORMAT._replace(channels=2), speakers=("a", "b"), chunk_ms=100
    )
    keeper = opened(spool)
    for count, speaker in enumerate(origin.speakers, 1):
        backlog = keeper.create(spec().model_copy(update={"speaker": speaker}), origin, "run")
        for index in range(count):
            backlog.put(chunk(index))
        backlog.close()
    keeper = opened(spool)
    found = sorted(keeper.adopt(), key=lambda backlog: backlog.spec.speaker)
    edge, publish = EdgeSettings(split_channels="a,b"), PublishSettings(chunk_ms=100)
    for session in resume_sessions(found, origin.format, False, edge, publish, None):
        session.feed(silence(0, channels=2))  # the clock was set back
    assert [backlog.head.pos for backlog in found] == [3 * FRAMES, 3 * FRAMES]
    await keeper.close()


async def test_a_spool_limit_smaller_than_a_chunk(
    ready_broker: Broker, start_edge: StartEdge, spool: Path
) -> None:
    audio = np.random.default_rng(1).integers(-9000, 9000, 48000 * 5, np.int16).tobytes()
    edge = start_edge(
        "stdin", "--spool", spool, "--spool-bytes", "65536", "--sample-rate", "48000",
        "--publish-sample-rate", "0", "--publish-chunk-ms", "1000", stdin=subprocess.PIPE,
    )  # fmt: skip
    writing = asyncio.create_task(asyncio.to_thread(edge.process.communicate, audio))
    assert await edge.exit_code() == 0, edge.stderr
    await writing
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert recording.payload == audio
