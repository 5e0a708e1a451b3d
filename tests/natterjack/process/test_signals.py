"""Signals, in programs whose event loop has no handlers for them. That is how it is on Windows,
where none of this has ever run: the stand-in lacks what an event loop and Python lack there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from natterjack.broker.connection import Broker
from natterjack.local.embedded import EmbeddedServer
from tests.edge_capture.program import only_recording, tone
from tests.waiting import until

pytestmark = pytest.mark.process

_WINDOWS = """
import asyncio, fcntl, os, signal, subprocess, sys, types

def locking(descriptor, mode, count):
    try:
        lock(descriptor, exclusive)
    except BlockingIOError:
        raise PermissionError(13, "Permission denied") from None

lock, exclusive = fcntl.flock, fcntl.LOCK_EX | fcntl.LOCK_NB
msvcrt = types.ModuleType("msvcrt")
msvcrt.LK_NBLCK, msvcrt.locking, msvcrt.setmode = 2, locking, lambda *_: 0
sys.modules["msvcrt"] = msvcrt
os.O_BINARY = 0
signal.SIGBREAK = signal.SIGUSR1
del signal.SIGHUP

class Loop(asyncio.SelectorEventLoop):
    def missing(self, *_):
        raise NotImplementedError
    add_signal_handler = remove_signal_handler = add_reader = remove_reader = missing

class Policy(asyncio.DefaultEventLoopPolicy):
    _loop_factory = Loop

asyncio.set_event_loop_policy(Policy())
for name in ("fcntl", "grp", "pwd", "resource", "termios", "uvloop"):
    sys.modules[name] = None
for name in ("fdatasync", "fork", "geteuid", "get_blocking", "getuid", "set_blocking"):
    delattr(os, name)
"""
_RUN = "import sys; from {module} import main; sys.exit(main())"


class Program:
    """A program of ours in an interpreter of its own, with its output in a file."""

    def __init__(self, module: str, arguments: tuple[object, ...], output: Path, url: str) -> None:
        self._output = output
        ours = ("EDGE_", "WORKER_", "NATS_", "NATTERJACK_")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _WINDOWS + _RUN.format(module=module), *map(str, arguments)],
                env=clean | {"NATS_URL": url, "DEEPGRAM_API_KEY": "key"},
                stdin=subprocess.PIPE, stdout=file, stderr=file,
            )  # fmt: skip

    @property
    def output(self) -> str:
        return self._output.read_text()

    async def prints(self, words: str) -> None:
        try:
            await until(lambda: words in self.output or self.ended, f"it prints {words!r}", 30)
            assert words in self.output
        except AssertionError:
            raise AssertionError(f"no {words!r} in: {self.output}") from None

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    async def exit_code(self) -> int:
        await until(lambda: self.ended, "it has ended", 30)
        return self.process.wait()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()


Start = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path, nats_server: EmbeddedServer) -> Iterator[Start]:
    started: list[Program] = []

    def start(module: str, *arguments: object) -> Program:
        output = tmp_path / f"output{len(started)}"
        started.append(Program(module, arguments, output, nats_server.url))
        return started[-1]

    yield start
    for program in started:
        program.end()


@pytest.fixture
def minute(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "a.wav", tone(440, 60, 8000), 8000)
    return tmp_path / "a.wav"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
async def test_an_edge_ends_its_session(
    ready_broker: Broker, start: Start, minute: Path, number: signal.Signals
) -> None:
    edge = start("edge_capture.start", "file", minute)
    await edge.prints("default.")
    edge.process.send_signal(number)
    assert await edge.exit_code() == 0, edge.output
    assert "stopping; signal again to abort" in edge.output
    assert "everything is published and acknowledged" in edge.output
    assert "Traceback" not in edge.output


async def test_a_second_signal_aborts_an_edge(
    nats_server: EmbeddedServer, start: Start, minute: Path
) -> None:
    nats_server.kill()
    edge = start("edge_capture.start", "file", minute)
    await edge.prints("default.")
    edge.process.send_signal(signal.SIGINT)
    await edge.prints("stopping; signal again to abort")
    edge.process.send_signal(signal.SIGINT)
    assert await edge.exit_code() == 130, edge.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_worker_drains(ready_broker: Broker, start: Start, number: signal.Signals) -> None:
    worker = start("worker.start", "--provider", "deepgram", "--http-port", "0")
    await worker.prints("worker ready")
    worker.process.send_signal(number)
    assert await worker.exit_code() == 0, worker.output
    assert "draining" in worker.output
    assert "worker ended" in worker.output
    assert "Traceback" not in worker.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_local_stack_stops(start: Start, number: signal.Signals) -> None:
    stack = start("natterjack.cli.main", "up", "--workers", "0", "--port", "-1")
    await stack.prints("Ctrl-C stops everything")
    stack.process.send_signal(number)
    assert await stack.exit_code() == 0, stack.output
    assert "Traceback" not in stack.output


async def test_an_edge_reads_standard_input_and_keeps_it_in_a_spool(
    ready_broker: Broker, nats_server: EmbeddedServer, start: Start, tmp_path: Path
) -> None:
    """With the broker away, a thread reads the pipe; `send` sends what is left."""
    audio = np.random.default_rng(1).integers(-9000, 9000, 16000 * 10, np.int16).tobytes()
    nats_server.kill()
    spool = tmp_path / "spool"
    edge = start("edge_capture.start", "stdin", "--spool", spool, "--finish-seconds", "0.2")
    source = edge.process.stdin
    assert source is not None
    source.write(audio)
    source.flush()

    def spooled() -> bool:
        return sum(path.stat().st_size for path in spool.glob("*/*.se*")) > len(audio) * 0.9

    await until(spooled, "the audio is in the spool", 30)
    edge.process.send_signal(signal.SIGINT)
    assert await edge.exit_code() == 1, edge.output
    assert "natterjack-edge send --spool" in edge.output
    nats_server.start()
    edge = start("edge_capture.start", "send", "--spool", spool)
    assert await edge.exit_code() == 0, edge.output
    assert "Traceback" not in edge.output
    await until(lambda: ready_broker.connected, "the test is connected")
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert audio.startswith(recording.payload)
    assert len(recording.payload) > len(audio) * 0.9
    assert list(spool.iterdir()) == []
