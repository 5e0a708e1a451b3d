"""Starts our programs as processes of their own, forked from one that has imported them already.

An interpreter spends half a second of CPU time on imports, most of what a short-lived worker costs.
A forked process has its own memory, environment and streams; it is signaled, killed and waited for
as any other. Tests of the start itself have the mark `interpreter`. With the variable TEST_FORK=0,
and outside of pytest, every program runs in an interpreter of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from functools import cache
from pathlib import Path
from typing import IO

from tests.waiting import Countdown

Stream = int | IO[bytes]
AVAILABLE = sys.platform == "linux" and os.environ.get("TEST_FORK") != "0"
enabled = False
"""Whether programs are forked; tests/conftest.py sets it for each test."""


class ForkedProcess:
    """A forked process, with the part of subprocess.Popen's interface that tests use."""

    def __init__(
        self, module: str, arguments: tuple[str, ...], env: Mapping[str, str], folder: str,
        stdin: Stream, stdout: Stream, stderr: Stream, *, session: bool = False,
    ) -> None:  # fmt: skip
        """`session`: in a session of its own, whose terminal is standard input if that is one."""
        sys.audit("subprocess.Popen", sys.executable, [module, *arguments], None, env)
        self.args = [module, *arguments]
        self.returncode: int | None = None
        self.stdin: IO[bytes] | None = None
        self.stdout: IO[bytes] | None = None
        self.stderr: IO[bytes] | None = None
        closing: list[int] = []
        descriptors = []
        for number, (name, given) in enumerate(
            (("stdin", stdin), ("stdout", stdout), ("stderr", stderr))
        ):
            if given == subprocess.PIPE:
                reading, writing = os.pipe()
                ours, theirs = (writing, reading) if name == "stdin" else (reading, writing)
                setattr(self, name, open(ours, "wb" if name == "stdin" else "rb"))  # noqa: SIM115
                closing.append(theirs)
            elif given == subprocess.DEVNULL:
                theirs = os.open(os.devnull, os.O_RDWR)
                closing.append(theirs)
            elif given == _INHERITED:
                theirs = number
            else:
                theirs = given if isinstance(given, int) else given.fileno()
            descriptors.append(theirs)
        self._status = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._status.connect(_server())
        request = {
            "module": module, "arguments": arguments, "env": dict(env), "folder": folder,
            "session": session,
        }  # fmt: skip
        socket.send_fds(self._status, [json.dumps(request).encode()], descriptors)
        self.pid = int(self._status.recv(100))
        self._status.setblocking(False)
        for descriptor in closing:
            os.close(descriptor)

    def poll(self) -> int | None:
        if self.returncode is None:
            with contextlib.suppress(BlockingIOError):
                self.returncode = int(self._status.recv(100))
                self._status.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        countdown = Countdown(60 if timeout is None else timeout)
        while self.poll() is None:
            if countdown.expired():
                raise subprocess.TimeoutExpired(self.args, timeout or 60)
            time.sleep(0.005)  # between two looks
        assert self.returncode is not None
        return self.returncode

    def communicate(self, data: bytes) -> None:
        """Write all of standard input and wait for the end."""
        assert self.stdin is not None
        with self.stdin:
            self.stdin.write(data)
        self.wait()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


Process = ForkedProcess | subprocess.Popen[bytes]
_INHERITED = -4
"""A stream of this process, as None is for Popen."""


def launch(
    arguments: tuple[str, ...],
    *,
    env: Mapping[str, str],
    folder: str | None = None,
    stdin: Stream | None = None,
    stdout: Stream | None = None,
    stderr: Stream | None = None,
) -> Process:
    """Start `python <arguments>` in a folder, by default the current one; streams are as for
    subprocess.Popen.

    Only `-m module` is forked, and only with the early variables of this process.
    """
    if arguments[0] == "-m" and possible(env):
        streams = (_INHERITED if given is None else given for given in (stdin, stdout, stderr))
        return ForkedProcess(
            arguments[1], arguments[2:], env, str(Path(folder or ".").absolute()), *streams
        )
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=env, cwd=folder, stdin=stdin, stdout=stdout, stderr=stderr,
    )  # fmt: skip


def possible(env: Mapping[str, str]) -> bool:
    """Whether the current test may fork a program that gets these variables."""
    return enabled and early_variables(env) == early_variables(os.environ)


@contextlib.asynccontextmanager
async def read(stream: IO[bytes] | None) -> AsyncIterator[asyncio.StreamReader]:
    """Read a piped output of a process during the block, which closes it."""
    assert stream is not None
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), stream
    )
    with contextlib.closing(transport):
        yield reader


async def ended(process: Process) -> int:
    """Wait for the end of a process without a limit and return its exit status."""
    while (status := process.poll()) is None:
        await asyncio.sleep(0.05)  # how often to look: the end of a forked process wakes nobody
    return status


def early_variables(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that an interpreter or a library reads at its start: aiohttp makes its
    TLS context when it is imported."""
    prefixes = ("PYTHON", "SSL_CERT_")
    return {name: value for name, value in env.items() if name.startswith(prefixes)}


@cache
def _server() -> str:
    """Start the process that forks, and return its address."""
    folder = tempfile.TemporaryDirectory(prefix="natterjack-tests-")
    address = str(Path(folder.name) / "socket")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fork_server", address],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # no threads, which do not survive a fork
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == b"listening\n"
    _ending.callback(folder.cleanup)
    _ending.callback(process.communicate)
    return address


_ending = contextlib.ExitStack()


def end_server() -> None:
    """End the process that forks, if there is one. No program may be started after that."""
    _ending.close()
