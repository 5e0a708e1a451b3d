"""Running the `natterjack` command in tests: in this process, or as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import pty
import signal
import subprocess
import sys
from typing import NamedTuple, Self
from unittest import mock

from natterjack.cli.main import main
from tests.forking import Process, launch
from tests.waiting import soon, until


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
    """A process of the `natterjack` command with its output, on a pipe or on a terminal."""

    stdin = subprocess.DEVNULL

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
        self._environment = {**os.environ, **environment}
        self._terminal = terminal
        self.out = ""
        self.errors = ""
        self._reading: list[asyncio.Future[None]] = []
        self._process: Process | None = None

    async def __aenter__(self) -> Self:
        out, its_out = pty.openpty() if self._terminal else os.pipe()
        errors, its_errors = os.pipe()
        try:
            self._process = launch(
                ("-m", "natterjack", *self._arguments), env=self._environment,
                folder=self._folder or None, stdin=self.stdin, stdout=its_out, stderr=its_errors,
            )  # fmt: skip
        finally:
            os.close(its_out)
            os.close(its_errors)
        self._reading = [self._read(out, "out"), self._read(errors, "errors")]
        return self

    def _read(self, stream: int, where: str) -> asyncio.Future[None]:
        """Read a stream whenever there is something. The result is done at its end."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def read() -> None:
            try:
                data = os.read(stream, 4096)
            except OSError:  # EIO: the last process on the terminal has ended
                data = b""
            setattr(self, where, getattr(self, where) + data.decode(errors="replace"))
            if not data:
                loop.remove_reader(stream)
                os.close(stream)
                ended.set_result(None)

        loop.add_reader(stream, read)
        return ended

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.terminate()
        await self.status()
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def status(self, timeout: float = 60) -> int:
        process = self._process
        assert process is not None
        await until(lambda: process.poll() is not None, "the command has ended", timeout)
        await asyncio.gather(*self._reading)
        return process.wait()


class ReadingCommand(Command):
    """A command whose standard input is a pipe."""

    stdin = subprocess.PIPE

    def write(self, line: bytes | None) -> None:
        """Write to the command's standard input; None ends it."""
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            if line is None:
                self._process.stdin.close()
            else:
                self._process.stdin.write(line)
                self._process.stdin.flush()
