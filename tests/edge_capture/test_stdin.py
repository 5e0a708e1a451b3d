from __future__ import annotations

import array
import asyncio
import fcntl
import os
import subprocess
import sys
import termios
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from bench.processes import cpu_seconds
from edge_capture.settings import StdinSettings
from edge_capture.sources.stdin import StdinSource
from natterjack.broker.connection import Broker
from natterjack.broker.streams import AUDIO
from natterjack.local.embedded import EmbeddedServer
from tests.edge_capture.conftest import RunEdge, StartEdge
from tests.edge_capture.program import (
    Recording,
    captured,
    loudest_hertz,
    nothing_published,
    only_recording,
    tone,
)
from tests.waiting import soon, until


async def captured_from(
    audio: bytes, *arguments: str, piece_bytes: int = 65536, **settings: Any
) -> dict[str, Recording]:
    """Return what the program makes of a pipe into which `audio` is written in pieces."""
    readable, writable = os.pipe()

    def write() -> None:
        with os.fdopen(writable, "wb", buffering=0) as pipe:
            for start in range(0, len(audio), piece_bytes):
                pipe.write(audio[start : start + piece_bytes])

    writing = asyncio.create_task(asyncio.to_thread(write))
    try:
        source = StdinSource(readable, StdinSettings(**settings), None, 80)
        await source.open()
        return await captured(source, *arguments)
    finally:
        await writing
        os.close(readable)


async def test_a_pipe_is_mixed_and_resampled() -> None:
    left, right = tone(440, 3, 48000, 0.4), np.zeros(3 * 48000)
    pcm = (np.stack([left, right], axis=1) * 32767).astype("<i2").tobytes()
    (recording,) = (await captured_from(pcm, sample_rate=48000, channels=2)).values()
    recording.check_whole()
    assert recording.seconds == pytest.approx(3)
    assert loudest_hertz(recording.samples, 16000) == pytest.approx(440, abs=1)


async def test_chunks_are_published_as_they_arrive(
    ready_broker: Broker, start_edge: StartEdge
) -> None:
    edge = start_edge("stdin", stdin=subprocess.PIPE)
    pipe = edge.process.stdin
    assert pipe is not None
    js = ready_broker.client.jetstream()

    async def stored() -> int:
        return (await js.stream_info(AUDIO)).state.messages

    for count in (1, 2, 3):
        pipe.write(b"\1\0" * 1280)
        pipe.flush()
        await until(lambda count=count: _equals(stored, count), f"{count} chunks are stored")
    pipe.close()
    assert await edge.exit_code() == 0
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert recording.payload == b"\1\0" * 3840


async def _equals(count: object, wanted: int) -> bool:
    return bool(await count() == wanted)  # type: ignore[operator]


async def test_an_incomplete_frame_at_the_end_is_ignored_with_a_warning(
    ready_broker: Broker, start_edge: StartEdge, tmp_path: Path
) -> None:
    audio = np.random.default_rng(1).bytes(40_003)
    (tmp_path / "raw").write_bytes(audio)
    with (tmp_path / "raw").open("rb") as file:
        edge = start_edge("stdin", stdin=file)
    assert await edge.exit_code() == 0
    ignored = "ignoring the last 1 bytes of standard input, which are not a whole frame of 2"
    assert ignored in edge.stderr
    assert (await only_recording(ready_broker)).payload == audio[:-1]


async def test_frames_may_arrive_in_odd_pieces() -> None:
    audio = np.random.default_rng(1).bytes(4 * 5000)
    found = await captured_from(audio, "--split-channels", "a,b", piece_bytes=997, channels=2)
    frames = np.frombuffer(audio, "<i2").reshape(-1, 2)
    assert (found["a"].samples == frames[:, 0]).all()
    assert (found["b"].samples == frames[:, 1]).all()


@pytest.mark.parametrize("encoding", ["mulaw", "alaw"])
async def test_telephone_audio_passes_unchanged(encoding: str) -> None:
    audio = np.random.default_rng(1).bytes(8001)
    (recording,) = (await captured_from(audio, encoding=encoding, sample_rate=8000)).values()
    recording.check_whole()
    assert recording.spec.audio_format == (encoding, 8000, 1)
    assert recording.payload == audio
    assert len(recording.payloads[0]) == 640


async def test_channels_of_telephone_audio_stay_together_or_are_split() -> None:
    audio = np.random.default_rng(1).bytes(4000)
    found: dict[str, Recording] = {}
    for extra in (["--speaker", "both"], ["--split-channels", "a,b"]):
        found |= await captured_from(audio, *extra, encoding="mulaw", sample_rate=8000, channels=2)
    assert found["both"].spec.channels == 2
    assert found["both"].payload == audio
    found["both"].check_whole()
    assert found["b"].spec.channels == 1
    assert found["b"].payload == audio[1::2]
    found["b"].check_whole()


@pytest.mark.parametrize(
    ("audio", "words"),
    [(b"", "standard input is empty"), (b"x", "empty: 1 bytes are not a whole frame")],
)
def test_without_audio_nothing_is_published(
    run_edge: RunEdge, monkeypatch: pytest.MonkeyPatch, audio: bytes, words: str
) -> None:
    readable, writable = os.pipe()
    os.write(writable, audio)
    os.close(writable)
    with os.fdopen(readable) as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        edge = run_edge("stdin")
    assert edge.code == 2
    assert words in edge.stderr
    assert edge.stderr.count("\n") == 1


async def test_stopped_before_any_audio(ready_broker: Broker, start_edge: StartEdge) -> None:
    edge = start_edge("stdin", stdin=subprocess.PIPE)
    await until(lambda: _catches_interrupts(edge.process.pid), "the edge has its handlers")
    edge.interrupt()
    assert await edge.exit_code() == 0
    assert "nothing was published" in edge.stderr
    assert await nothing_published(ready_broker)


def _catches_interrupts(pid: int) -> bool:
    """Return whether SIGTERM has a handler, which Python itself does not install."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> 14 & 1)


async def test_an_incomplete_chunk_is_published_after_a_signal(
    ready_broker: Broker, start_edge: StartEdge
) -> None:
    audio = np.random.default_rng(1).bytes(2560 + 1001)
    edge = start_edge("stdin", stdin=subprocess.PIPE)
    pipe = edge.process.stdin
    assert pipe is not None
    pipe.write(audio[:2560])
    pipe.flush()
    js = ready_broker.client.jetstream()

    async def stored() -> int:
        return (await js.stream_info(AUDIO)).state.messages

    await until(lambda: _equals(stored, 1), "a chunk is stored")
    pipe.write(audio[2560:])
    pipe.flush()
    await until(lambda: _unread_bytes(pipe) == 0, "the rest is read")
    edge.interrupt()
    assert await edge.exit_code() == 0, edge.stderr
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert recording.payload == audio[:-1]


def _unread_bytes(pipe: int | IO[bytes]) -> int:
    answer = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, answer)
    return answer[0]


async def test_the_pipe_stays_blocking_for_other_processes(
    ready_broker: Broker, start_edge: StartEdge
) -> None:
    ours, writable = os.pipe()
    try:
        edge = start_edge("stdin", stdin=ours)
        os.write(writable, b"\1\0" * 2000)
        await until(lambda: _unread_bytes(ours) == 0, "it is read")
        assert os.get_blocking(ours)
    finally:
        os.close(writable)
        os.close(ours)
    assert await edge.exit_code() == 0, edge.stderr
    (await only_recording(ready_broker)).check_whole()


async def test_a_writer_waits_while_the_broker_takes_nothing(
    ready_broker: Broker, nats_server: EmbeddedServer, start_edge: StartEdge
) -> None:
    nats_server.kill()
    audio = np.random.default_rng(1).bytes(1_000_000)
    edge = start_edge("stdin", stdin=subprocess.PIPE)
    pipe = edge.process.stdin
    assert pipe is not None
    writing = asyncio.create_task(asyncio.to_thread(edge.process.communicate, audio))
    await edge.says("no NATS at")
    await until(lambda: _unread_bytes(pipe) > 0, "the pipe is full")
    used = cpu_seconds(edge.process.pid)
    done, _ = await asyncio.wait({writing}, timeout=1)
    assert not done
    assert cpu_seconds(edge.process.pid) - used < 0.5  # it does not spin
    nats_server.start()
    await soon(writing, 20)
    assert await edge.exit_code() == 0, edge.stderr
    await until(lambda: ready_broker.connected, "the test is connected")
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert recording.payload == audio
