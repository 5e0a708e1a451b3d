"""The program with a spool: without network, at its limits, and when the disk fails."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_capture.spool.disk import RECORD_BYTES
from natterjack.broker.connection import Broker
from natterjack.local.embedded import EmbeddedServer
from tests.edge_capture.conftest import RunEdge, StartEdge
from tests.edge_capture.program import (
    Edge,
    Recording,
    only_recording,
)
from tests.edge_capture.test_faults import some_chunks
from tests.edge_capture.test_resume import gone, speech, spool, spooled
from tests.waiting import until

__all__ = ["speech", "spool"]  # fixtures


async def test_a_file_whose_name_is_not_text(
    ready_broker: Broker, start_edge: StartEdge, speech: Path, spool: Path
) -> None:
    strange = speech.with_name("speech\udcff.wav")
    speech.rename(strange)
    edge = start_edge("file", strange, "--speed", "max", "--spool", spool)
    assert await edge.exit_code() == 0, edge.stderr


def test_an_empty_variable_is_no_spool(run_edge: RunEdge) -> None:
    edge = run_edge("file", "a.wav", "--resume", environment={"EDGE_SPOOL": ""})
    assert edge.code == 2
    assert "--resume needs a spool" in edge.stderr


def test_a_spool_that_cannot_be_created(run_edge: RunEdge, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    for directory, words in ((tmp_path / "taken", "is not a directory"), ("/proc/no", "No such")):
        edge = run_edge("file", "a.wav", "--spool", directory)
        assert edge.code == 2
        assert edge.stderr.startswith(f"natterjack-edge: EDGE_SPOOL: {directory}")
        assert words in edge.stderr
        assert edge.stderr.count("\n") == 1


def spooled_bytes(spool: Path) -> int:
    """Size of the segments, which is cheaper to poll than their records."""
    return sum(path.stat().st_size for path in spool.glob("*/*.se*"))


def resident_bytes(edge: Edge) -> int:
    pages = Path(f"/proc/{edge.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
async def test_half_an_hour_without_network_is_kept_on_disk_only(
    ready_broker: Broker, nats_server: EmbeddedServer, start_edge: StartEdge, spool: Path
) -> None:
    audio = np.random.default_rng(1).integers(-9000, 9000, 16000 * 1800, np.int16).tobytes()
    nats_server.kill()
    edge = start_edge(
        "stdin", "--live", "--spool", spool, "--catch-up-rate", "0", stdin=subprocess.PIPE
    )
    assert edge.process.stdin is not None
    minute = 16000 * 2 * 60
    await asyncio.to_thread(edge.process.stdin.write, audio[: 2 * minute])
    await until(
        lambda: spooled_bytes(spool) > 1400 * (2560 + RECORD_BYTES),
        "two minutes are in the spool",
        20,
    )
    before = resident_bytes(edge)
    await asyncio.to_thread(edge.process.stdin.write, audio[2 * minute :])
    edge.process.stdin.close()
    await until(
        lambda: spooled_bytes(spool) > len(audio) + 22_501 * RECORD_BYTES, "all is in the spool", 60
    )
    assert resident_bytes(edge) - before < 8 * 2**20
    nats_server.start()
    assert await edge.exit_code(60) == 0, edge.stderr
    await until(lambda: ready_broker.connected, "the test is connected")
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert recording.payload == audio
    assert gone(spool)


async def test_half_an_hour_without_network_is_kept_in_memory(
    ready_broker: Broker, nats_server: EmbeddedServer, start_edge: StartEdge
) -> None:
    audio = np.random.default_rng(1).integers(-9000, 9000, 16000 * 1800, np.int16).tobytes()
    nats_server.kill()
    edge = start_edge("stdin", "--live", "--catch-up-rate", "0", stdin=subprocess.PIPE)
    assert edge.process.stdin is not None
    await asyncio.to_thread(edge.process.stdin.write, audio)
    edge.process.stdin.close()
    nats_server.start()
    assert await edge.exit_code(60) == 0, edge.stderr
    await until(lambda: ready_broker.connected, "the test is connected")
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert recording.payload == audio


@pytest.mark.parametrize("killed", [False, True])
async def test_beyond_the_limit_there_is_a_gap(
    ready_broker: Broker,
    nats_server: EmbeddedServer,
    start_edge: StartEdge,
    spool: Path,
    killed: bool,
) -> None:
    seconds = 120
    audio = np.random.default_rng(1).integers(-9000, 9000, 16000 * seconds, np.int16).tobytes()
    arguments = (
        "stdin", "--live", "--speed", "20", "--spool", spool, "--spool-seconds", "30",
    )  # fmt: skip
    edge = start_edge(*arguments, "--window-chunks", "10", stdin=subprocess.PIPE)
    assert edge.process.stdin is not None
    writing = asyncio.create_task(asyncio.to_thread(edge.process.stdin.write, audio))
    await some_chunks(ready_broker)
    nats_server.kill()
    await edge.says("the spool is full: the oldest audio is dropped")
    await writing
    edge.process.stdin.close()

    def over() -> bool:
        return max(int(path.stem) for path in spool.glob("*/*.se*")) > 1400

    await until(over, "all is captured", 30)
    if killed:
        edge.kill()
    nats_server.start()
    if killed:
        edge = start_edge("send", "--spool", spool)
    assert await edge.exit_code() == 0, edge.stderr
    await until(lambda: ready_broker.connected, "the test is connected")
    recording = (await only_recording(ready_broker)).once_each()
    check_gap(recording, audio, to_its_end=not killed)
    if not killed:
        lost = json.loads(edge.stderr.splitlines()[-1])["dropped_seconds"]
        assert lost == pytest.approx(seconds - recording.seconds)
    assert gone(spool)


def check_gap(recording: Recording, audio: bytes, *, to_its_end: bool) -> None:
    """Assert that numbers are continuous, audio is at its position, and there is a gap."""
    assert [header.seq for header in recording.headers] == list(range(len(recording.headers)))
    for header, payload in zip(recording.headers, recording.payloads, strict=True):
        assert audio[header.pos * 2 : header.pos * 2 + len(payload)] == payload
    assert recording.headers[-1].end
    if to_its_end:
        assert recording.headers[-1].pos * 2 + len(recording.payloads[-1]) == len(audio)
    assert len(recording.payload) < len(audio) / 2


async def test_a_writer_waits_while_the_spool_is_full(
    ready_broker: Broker, nats_server: EmbeddedServer, start_edge: StartEdge, spool: Path
) -> None:
    audio = np.random.default_rng(1).integers(-9000, 9000, 16000 * 60, np.int16).tobytes()
    nats_server.kill()
    edge = start_edge("stdin", "--spool", spool, "--spool-seconds", "20", stdin=subprocess.PIPE)
    writing = asyncio.create_task(asyncio.to_thread(edge.process.communicate, audio))
    await until(lambda: spooled(spool) >= 225, "the spool is full", 20)
    nats_server.start()
    await writing
    assert edge.process.returncode == 0, edge.stderr
    await until(lambda: ready_broker.connected, "the test is connected")
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert recording.payload == audio


async def test_a_full_disk_in_mid_session(
    ready_broker: Broker,
    nats_server: EmbeddedServer,
    start_edge: StartEdge,
    tmp_path: Path,
    spool: Path,
) -> None:
    """A file cannot grow beyond 100 kB, which fails like a full disk."""
    (tmp_path / "sitecustomize.py").write_text(
        "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    )
    audio = np.random.default_rng(1).integers(-9000, 9000, 16000 * 10, np.int16).tobytes()
    nats_server.kill()
    edge = start_edge(
        "stdin", "--live", "--spool", spool, "--finish-seconds", "0.2", stdin=subprocess.PIPE,
        environment={"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert edge.process.stdin is not None
    edge.process.stdin.write(audio)
    edge.process.stdin.close()
    await edge.says("the spool failed (File too large): the session continues in memory only")
    nats_server.start()
    assert await edge.exit_code() == 0, edge.stderr
    assert "Traceback" not in edge.stderr
    await until(lambda: ready_broker.connected, "the test is connected")
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert recording.payload == audio
    assert gone(spool)


async def test_after_a_disk_failure_a_new_session_begins(
    ready_broker: Broker, start_edge: StartEdge, tmp_path: Path, spool: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
    )
    edge = start_edge(
        "stdin", "--spool", spool, stdin=subprocess.PIPE,
        environment={"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert edge.process.stdin is not None
    edge.process.stdin.write(b"\1\0" * 1280 * 20)
    edge.process.stdin.flush()
    await edge.says("the spool failed")
    await some_chunks(ready_broker)
    edge.kill()
    edge = start_edge("stdin", "--spool", spool, "--resume", stdin=subprocess.PIPE)
    edge.process.communicate(b"\2\0" * 1280 * 20)
    assert await edge.exit_code() == 0, edge.stderr
    assert "starting a new one" in edge.stderr
    assert gone(spool)


async def test_a_spool_that_is_deleted_during_a_session(
    ready_broker: Broker, start_edge: StartEdge, speech: Path, spool: Path
) -> None:
    edge = start_edge("file", speech, "--speed", "10", "--spool", spool)
    await some_chunks(ready_broker)

    def delete() -> bool:  # a file that is written meanwhile may need another try
        return subprocess.run(["rm", "-rf", str(spool)], check=False).returncode == 0

    await until(delete, "the spool is deleted")
    assert await edge.exit_code() == 0, edge.stderr
    assert "the spool failed (No such file or directory)" in edge.stderr
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert (recording.samples == soundfile.read(speech, dtype="int16")[0]).all()


async def test_an_error_before_any_audio_leaves_nothing_in_the_spool(
    nats_server: EmbeddedServer, start_edge: StartEdge, speech: Path, spool: Path
) -> None:
    nats_server.kill()
    edge = start_edge("file", speech, "--once", "--spool", spool)
    assert await edge.exit_code() == 2
    assert gone(spool)
