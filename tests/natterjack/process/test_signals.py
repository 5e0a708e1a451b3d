"""Signals, in programs whose event loop has no handlers for them. That is how it is on Windows,
where none of this has ever run: the stand-in lacks what an event loop and Python lack there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import soundfile

from natterjack.broker.connection import Broker
from natterjack.local.embedded import EmbeddedServer
from tests.edge_capture.program import tone
from tests.waiting import until

pytestmark = pytest.mark.process

_WINDOWS = """
import asyncio, os, subprocess, sys

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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
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


async def test_an_edge_says_what_it_cannot_do_there(start: Start, tmp_path: Path) -> None:
    edge = start("edge_capture.start", "stdin")
    assert await edge.exit_code() == 2
    assert edge.output == (
        "natterjack-edge: standard input cannot be read on this system: its event loop does not "
        "watch pipes. Write the audio to a file: natterjack-edge file PATH\n"
    )
    edge = start("edge_capture.start", "send", "--spool", tmp_path / "spool")
    assert await edge.exit_code() == 2
    assert edge.output == (
        "natterjack-edge: EDGE_SPOOL: a spool needs file locks, which Windows lacks\n"
    )
