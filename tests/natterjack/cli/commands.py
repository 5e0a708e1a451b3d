"""Running the `natterjack` command in tests: in this process, or as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import pty
import signal
import sys
from pathlib import Path
from typing import NamedTuple, Self
from unittest import mock

import natterjack
from natterjack.cli.main import main
from tests.waiting import soon

_ROOT = Path(natterjack.__file__).parents[1]


class Result(NamedTuple):
    """The exit status and the output of a command."""

    status: int
    out: str
    errors: str


def run(*arguments: str, **environment: str) -> Result:
    """Run a command in this process, without the cost of starting one.

    It runs an event loop of its own, so async tests call `run_async`.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    out, errors = io.StringIO(), io.StringIO()
    status = 0
    try:
        with (
            mock.patch.dict(os.environ, environment),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(errors),
            mock.patch.object(sys, "stdin", io.StringIO()),
        ):
            main(arguments)
    except SystemExit as error:
        status = int(error.code or 0)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    return Result(status, out.getvalue(), errors.getvalue())


async def run_async(*arguments: str, **environment: str) -> Result:
    """Run a command in a thread of this process. Commands must not overlap."""
    return await soon(asyncio.to_thread(run, *arguments, **environment), 120)


class Command:
    """A process `python -m natterjack ...` with its output, on a pipe or on a terminal."""

    stdin = asyncio.subprocess.DEVNULL

    def __init__(
        self,
        *arguments: str,
        terminal: bool = False,
        folder: str = "",
        **environment: str,
    ) -> None:
        """`folder` is the current folder of the process."""
        self._arguments = arguments
        self._folder = folder
        path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._environment = {**os.environ, "PYTHONPATH": path, **environment}
        self._terminal = terminal
        self.out = ""
        self.errors = ""
        self._reading: list[asyncio.Task[None]] = []
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        pipe = asyncio.subprocess.PIPE
        ours, theirs = pty.openpty() if self._terminal else (-1, pipe)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "natterjack", *self._arguments, cwd=self._folder or None,
            env=self._environment, stdin=self.stdin,
            stdout=theirs, stderr=pipe,
        )  # fmt: skip
        if self._terminal:
            os.close(theirs)
            self._reading.append(asyncio.create_task(asyncio.to_thread(self._read_terminal, ours)))
        else:
            assert self._process.stdout is not None
            self._reading.append(asyncio.create_task(self._read(self._process.stdout, "out")))
        assert self._process.stderr is not None
        self._reading.append(asyncio.create_task(self._read(self._process.stderr, "errors")))
        return self

    async def _read(self, stream: asyncio.StreamReader, where: str) -> None:
        while data := await stream.read(4096):
            setattr(self, where, getattr(self, where) + data.decode(errors="replace"))

    def _read_terminal(self, terminal: int) -> None:
        # Reading fails with EIO when the last process on the terminal has ended.
        with contextlib.suppress(OSError):
            while data := os.read(terminal, 4096):
                self.out += data.decode(errors="replace")
        os.close(terminal)

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.terminate()
            await self.status()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def status(self, timeout: float = 60) -> int:
        assert self._process is not None
        status = await soon(self._process.wait(), timeout)
        await asyncio.gather(*self._reading)
        return status


class ReadingCommand(Command):
    """A command whose standard input is a pipe."""

    stdin = asyncio.subprocess.PIPE

    def write(self, line: bytes | None) -> None:
        """Write to the command's standard input; None ends it."""
        assert self._process is not None
        assert self._process.stdin is not None
        if line is None:
            self._process.stdin.close()
        else:
            self._process.stdin.write(line)
