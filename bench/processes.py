"""The processes of a measurement, and their resource usage as reported by the system."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from natterjack.local.embedded import EmbeddedServer

_START_S = 60.0


def cpu_seconds(pid: int) -> float:
    """Return the user and system CPU time of all live threads of a process so far."""
    nanoseconds = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has just exited
            nanoseconds += int((task / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def busy_seconds() -> float:
    """Return the CPU time that all processes of the machine have used so far."""
    user, nice, system, _idle, _wait, irq, soft, *_ = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")


def progress(message: str) -> None:
    """Print progress to standard error; it is not part of the results."""
    print(message, file=sys.stderr, flush=True)


def commit() -> str:
    """Return the commit that is measured, with a plus if files differ from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True).stdout.strip()

    found = git("rev-parse", "--short", "HEAD")
    return found + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


class Program:
    """A Python program that writes lines to its standard output."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def line(self, timeout: float = _START_S) -> str:
        """Return the next line of output.

        Raises: RuntimeError if the program has exited, TimeoutError.
        """
        assert self._process.stdout is not None
        async with asyncio.timeout(timeout):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process exited with status {await self._process.wait()}")
        return line.decode().strip()

    async def read_json(self, timeout: float = _START_S) -> dict[str, Any]:
        """Return the next line of output, parsed as JSON."""
        reply: dict[str, Any] = json.loads(await self.line(timeout))
        return reply

    async def ask(self, command: str) -> dict[str, Any]:
        """Write a command line and return the reply."""
        assert self._process.stdin is not None
        self._process.stdin.write(command.encode() + b"\n")
        return await self.read_json()

    async def end(self, timeout: float = 30) -> None:
        """Send SIGTERM, and SIGKILL if the program does not exit in time. Idempotent."""
        if not self.running:
            return
        self._process.terminate()
        try:
            async with asyncio.timeout(timeout):
                await self._process.communicate()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@contextlib.asynccontextmanager
async def program(
    *arguments: str, python: str = sys.executable, quiet: bool = False, **environment: str
) -> AsyncIterator[Program]:
    """Run `python <arguments>`; `quiet` hides its standard error."""
    process = await asyncio.create_subprocess_exec(
        python, *arguments, env={**os.environ, **environment}, limit=2**20,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL if quiet else None,
    )  # fmt: skip
    started = Program(process)
    try:
        yield started
    finally:
        await started.end()


class Emulator:
    """A running bench.emulator."""

    def __init__(self, process: Program, port: int, http: aiohttp.ClientSession) -> None:
        self.process = process
        self.address = f"127.0.0.1:{port}"
        self._http = http

    async def stats(self, *, reset: bool = False) -> dict[str, Any]:
        """Return the statistics since the last reset."""
        reply: dict[str, Any] = await self._get("reset" if reset else "stats")
        return reply

    async def events(self) -> list[tuple[int, str, int, int]]:
        """Return what a bench.voice.emulator has noted since the last call."""
        return [(*event,) for event in await self._get("events")]

    async def _get(self, path: str) -> Any:
        async with self._http.get(f"http://{self.address}/{path}") as response:
            return await response.json(content_type=None)


@contextlib.asynccontextmanager
async def emulator(*arguments: str, module: str = "bench.emulator") -> AsyncIterator[Emulator]:
    """Run an emulator with these arguments."""
    async with program("-m", module, *arguments) as process, aiohttp.ClientSession() as http:
        yield Emulator(process, int(await process.line()), http)


def _as_important(pid: int) -> None:
    """Give a process that leads a session of its own the weight of this one's session, if Linux
    shares processors between sessions ("autogroup")."""
    with contextlib.suppress(OSError):
        group = Path("/proc/self/autogroup").read_text().split()  # empty where it is switched off
        if group:
            Path(f"/proc/{pid}/autogroup").write_text(group[-1])


@contextlib.asynccontextmanager
async def broker(*arguments: str) -> AsyncIterator[EmbeddedServer]:
    with tempfile.TemporaryDirectory() as directory:
        server = EmbeddedServer(Path(directory), extra_arguments=arguments, tied=True)
        server.start()  # in the main thread, as it is tied
        _as_important(server.pid)
        try:
            yield server
        finally:
            await asyncio.to_thread(server.stop)


@contextlib.asynccontextmanager
async def worker(
    nats_url: str,
    emulator_address: str,
    sessions: int,
    *,
    arguments: tuple[str, ...] = ("-m", "worker"),
    **settings: str,
) -> AsyncIterator[tuple[Program, float]]:
    """Run a worker and yield it, once it is ready, with the seconds that its start took.

    `arguments` are those of Python.

    Raises: RuntimeError if the worker exits, TimeoutError.
    """
    environment = {
        "NATS_URL": nats_url,
        "NATTERJACK_LOG_LEVEL": "info",
        "NATTERJACK_LOG_FORMAT": "json",
        "WORKER_HTTP_PORT": "0",
        "WORKER_PROVIDER": "deepgram",
        "WORKER_MAX_SESSIONS": str(sessions),
        "WORKER_DRAIN_SECONDS": "0",
        "DEEPGRAM_API_KEY": "a-bench-key",
        "DEEPGRAM_URL": f"ws://{emulator_address}",
        "DEEPGRAM_CATCH_UP_RATE": "4",  # sends audio that waits at the start quickly
        **settings,
    }
    async with _ready(arguments, "worker ready", environment) as (started, took, _):
        yield started, took


@contextlib.asynccontextmanager
async def gateway(
    nats_url: str, *, arguments: tuple[str, ...] = ("-m", "gateway"), **settings: str
) -> AsyncIterator[tuple[Program, str]]:
    """Run a gateway and yield it, once it is ready, with its address, without keys.

    `arguments` are those of Python.

    Raises: RuntimeError if it exits, TimeoutError.
    """
    environment = {
        "NATS_URL": nats_url,
        "NATTERJACK_LOG_LEVEL": "info",
        "NATTERJACK_LOG_FORMAT": "json",
        "GATEWAY_HTTP_PORT": "0",
        **settings,
    }
    async with _ready(arguments, "gateway ready", environment) as (started, _, line):
        yield started, str(json.loads(line)["http"]).removeprefix("http://")


@contextlib.asynccontextmanager
async def _ready(
    arguments: tuple[str, ...], words: str, environment: dict[str, str]
) -> AsyncIterator[tuple[Program, float, str]]:
    """Run `python <arguments>`; yield it once a line of its log has these words, with the seconds
    that this took, and the line. It is killed in the end."""
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env={**os.environ, **environment}, limit=2**20,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    log: list[str] = []
    reading: asyncio.Task[None] | None = None
    try:
        async with asyncio.timeout(_START_S):
            async for line in process.stderr:
                log.append(line.decode())
                if words in log[-1]:
                    break
            else:
                raise RuntimeError(f"a process exited: {''.join(log)}")
        took = time.monotonic() - began
        reading = asyncio.create_task(_discard(process.stderr))
        yield Program(process), took, log[-1]
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
            await process.wait()
        if reading is not None:
            await reading


async def _discard(stream: asyncio.StreamReader) -> None:
    """Read and discard the log, because a full pipe would block the worker."""
    while await stream.read(2**16):
        pass
