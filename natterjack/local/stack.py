"""A complete stack on one machine for the demo and for development: broker, workers, edge.

The parts are the real programs in processes of their own, and they meet only on NATS.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque
from pathlib import Path

from natterjack.errors import NatterjackError, UsageError

from .embedded import EmbeddedServer
from .scripts import find_script

_START_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 20


class PartFailed(NatterjackError):
    """A program of the stack ended or did not start; the message ends with its last log lines."""


def program_command(script: str) -> list[str]:
    """The command line that starts an installed program of this package.

    `-P` keeps the current folder off the import path, where a user's own `worker.py` would be run
    in place of ours. Raises UsageError.
    """
    path = find_script(script)
    if path is None:
        raise UsageError(f"{script} is not installed beside this command, nor is it on PATH")
    return [sys.executable, "-P", str(path)]


class Part:
    """One program of the stack. Its log is written to a file, and its JSON lines are parsed."""

    def __init__(self, name: str, script: str, arguments: list[str], log_path: Path) -> None:
        self.name = name
        self.log_path = log_path
        self._script = script
        self._arguments = arguments
        self._process: Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._tail: deque[str] = deque(maxlen=5)
        self._entries: dict[str, dict[str, object]] = {}
        """The latest log entry of each message."""
        self._changed = asyncio.Event()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self, environment: dict[str, str]) -> None:
        """Start the program. Raises UsageError if it is not installed."""
        self._process = await asyncio.create_subprocess_exec(
            *program_command(self._script),
            *self._arguments,
            env={**os.environ, "NATTERJACK_LOG_FORMAT": "json", **environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=PIPE,
            # Ctrl-C on the terminal must reach only the parent, which ends the parts in order.
            start_new_session=True,
        )
        self._reader = asyncio.create_task(self._read(), name=f"log of {self.name}")

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        with self.log_path.open("wb") as log:
            async for line in self._process.stderr:
                log.write(line)
                log.flush()
                try:
                    entry = json.loads(line)
                    self._entries[entry["message"]] = entry
                    self._tail.append(entry["message"])
                except (ValueError, KeyError, TypeError):
                    self._tail.append(line.decode(errors="replace").strip())
                self._changed.set()
        self._changed.set()

    async def logged(self, message: str) -> dict[str, object]:
        """Wait for a log line with this message and return its fields.

        Raises: PartFailed when the program ends or 60 s pass first; UsageError when it ends with
        the exit status for wrong usage.
        """
        assert self._reader is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_TIMEOUT_S):
                while message not in self._entries and not self._reader.done():
                    self._changed.clear()
                    await self._changed.wait()
        if message not in self._entries:
            wrong_usage = self._reader.done() and await self.wait() == 2
            raise (UsageError if wrong_usage else PartFailed)(self.log_tail())
        return self._entries[message]

    async def wait(self) -> int:
        """Wait for the program to end and return its exit status."""
        assert self._process is not None
        return await self._process.wait()

    def log_tail(self) -> str:
        """The last messages of the program's log, in one line."""
        return " | ".join(self._tail) or f"{self.name} wrote no log"

    def signal(self, number: int) -> None:
        """Send a signal if the program is still running."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def stop(self) -> None:
        """Send SIGTERM, and SIGKILL after 20 s. Idempotent."""
        if self._process is None:
            return
        self.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), _STOP_TIMEOUT_S)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self._process.wait()
        if self._reader is not None:
            await self._reader


class Stack:
    """An embedded broker and workers. Use it as an async context manager."""

    def __init__(
        self, directory: Path, *, workers: int = 1, provider: str | None = None, port: int = -1
    ) -> None:
        self.directory = directory
        self.server = EmbeddedServer(directory / "nats")
        self.server.port = port
        self._provider = {"WORKER_PROVIDER": provider} if provider else {}
        self.workers = [
            Part(f"worker {n + 1}", "natterjack-worker", [], directory / f"worker-{n + 1}.log")
            for n in range(workers)
        ]
        self.http_urls: list[str] = []
        self._edges: list[Part] = []

    @property
    def environment(self) -> dict[str, str]:
        return {"NATS_URL": self.server.url}

    async def __aenter__(self) -> Stack:
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            await asyncio.to_thread(self.server.start)
            for part in self.workers:
                await part.start({**self.environment, **self._provider, "WORKER_HTTP_PORT": "0"})
            for part in self.workers:
                self.http_urls.append(str((await part.logged("worker ready"))["http"]))
        except BaseException:  # a cancellation too: no process may be left running
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for part in [*self._edges, *self.workers]:
            await part.stop()
        await asyncio.to_thread(self.server.stop)

    async def edge(self, arguments: list[str]) -> Part:
        """Start an edge with these arguments."""
        name = f"edge {len(self._edges) + 1}"
        log_path = self.directory / f"{name.replace(' ', '-')}.log"
        part = Part(name, "natterjack-edge", arguments, log_path)
        self._edges.append(part)
        await part.start(self.environment)
        return part
