"""The processes of a measurement, and what they use: read from the system, not asked of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
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
    """Processor time of a process so far, user and system, of all its threads that live."""
    nanoseconds = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            nanoseconds += int((task / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def progress(message: str) -> None:
    """Progress, for whoever waits: not part of the results."""
    print(message, file=sys.stderr, flush=True)


class Program:
    """A Python program that says things on its standard output."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def line(self, timeout: float = _START_S) -> str:
        """The next line that it says."""
        assert self._process.stdout is not None
        async with asyncio.timeout(timeout):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process ended with {await self._process.wait()}")
        return line.decode().strip()

    async def read_json(self, timeout: float = _START_S) -> dict[str, Any]:
        """The next line, as JSON."""
        reply: dict[str, Any] = json.loads(await self.line(timeout))
        return reply

    async def ask(self, what: str) -> dict[str, Any]:
        """Write a line, and read one."""
        assert self._process.stdin is not None
        self._process.stdin.write(what.encode() + b"\n")
        return await self.read_json()

    async def end(self, timeout: float = 30) -> None:
        """SIGTERM, and SIGKILL if that takes too long. Idempotent."""
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
    """`python <arguments>`, running. `quiet`: what it logs is not shown."""
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
    """bench.emulator, running."""

    def __init__(self, process: Program, port: int, http: aiohttp.ClientSession) -> None:
        self.process = process
        self.address = f"127.0.0.1:{port}"
        self._http = http

    async def stats(self, *, reset: bool = False) -> dict[str, Any]:
        """What it has seen since the last reset."""
        path = "reset" if reset else "stats"
        async with self._http.get(f"http://{self.address}/{path}") as response:
            reply: dict[str, Any] = await response.json(content_type=None)
            return reply


@contextlib.asynccontextmanager
async def emulator() -> AsyncIterator[Emulator]:
    async with program("-m", "bench.emulator") as process, aiohttp.ClientSession() as http:
        yield Emulator(process, int(await process.line()), http)


@contextlib.asynccontextmanager
async def broker(*arguments: str) -> AsyncIterator[EmbeddedServer]:
    with tempfile.TemporaryDirectory() as directory:
        server = EmbeddedServer(Path(directory), extra_arguments=arguments)
        await asyncio.to_thread(server.start)
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
    """A worker that is ready, and the seconds that it took from its start to that. `arguments`: of
    Python."""
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
        "DEEPGRAM_CATCH_UP_RATE": "4",  # what waits at the start is soon sent
        **settings,
    }
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
                if "worker ready" in log[-1]:
                    break
            else:
                raise RuntimeError(f"the worker ended: {''.join(log)}")
        took = time.monotonic() - began
        reading = asyncio.create_task(_discard(process.stderr))
        yield Program(process), took
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
            await process.wait()
        if reading is not None:
            await reading


async def _discard(stream: asyncio.StreamReader) -> None:
    """Read what it logs: a full pipe would stop it."""
    while await stream.read(2**16):
        pass
