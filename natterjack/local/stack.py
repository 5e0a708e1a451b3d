"""A whole stack on this machine for the demo and for development: broker, workers, edge.

The parts are the real programs in processes of their own; they meet only on NATS.
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

_START_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 20


class PartFailed(NatterjackError):
    """A program of the stack ended or did not start; the message has its last words."""


class Part:
    """One program of the stack. Its log goes to a file, and its JSON lines are looked at."""

    def __init__(self, name: str, module: str, arguments: list[str], log_path: Path) -> None:
        self.name = name
        self.log_path = log_path
        self._arguments = [sys.executable, "-m", module, *arguments]
        self._process: Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._last_words: deque[str] = deque(maxlen=5)
        self._seen: dict[str, dict[str, object]] = {}
        self._changed = asyncio.Event()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self, environment: dict[str, str]) -> None:
        # A session of its own: Ctrl-C on the terminal is for us, who then end the parts in order.
        self._process = await asyncio.create_subprocess_exec(
            *self._arguments,
            env={**os.environ, "NATTERJACK_LOG_FORMAT": "json", **environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=PIPE,
            start_new_session=True,
        )
        self._reading = asyncio.create_task(self._read(), name=f"log of {self.name}")

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        with self.log_path.open("wb") as log:
            async for line in self._process.stderr:
                log.write(line)
                log.flush()
                try:
                    entry = json.loads(line)
                    self._seen[entry["message"]] = entry
                    self._last_words.append(entry["message"])
                except (ValueError, KeyError, TypeError):
                    self._last_words.append(line.decode(errors="replace").strip())
                self._changed.set()
        self._changed.set()

    async def said(self, message: str) -> dict[str, object]:
        """The log line with this message, once it has been written.

        Raises: PartFailed, or UsageError if the program says that it was used wrongly.
        """
        assert self._reading is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_TIMEOUT_S):
                while message not in self._seen and not self._reading.done():
                    self._changed.clear()
                    await self._changed.wait()
        if message not in self._seen:
            wrong_use = self._reading.done() and await self.wait() == 2
            raise (UsageError if wrong_use else PartFailed)(self.last_words())
        return self._seen[message]

    async def wait(self) -> int:
        """Its exit status, when it has ended."""
        assert self._process is not None
        return await self._process.wait()

    def last_words(self) -> str:
        """The end of its log."""
        return " | ".join(self._last_words) or f"{self.name} said nothing"

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL if it takes long. Idempotent."""
        if self._process is None:
            return
        self.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), _STOP_TIMEOUT_S)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self._process.wait()
        if self._reading is not None:
            await self._reading


class Stack:
    """An embedded broker and workers. Use as an async context manager."""

    def __init__(
        self, directory: Path, *, workers: int = 1, provider: str | None = None, port: int = -1
    ) -> None:
        self.directory = directory
        self.server = EmbeddedServer(directory / "nats")
        self.server.port = port
        self._provider = {"WORKER_PROVIDER": provider} if provider else {}
        self.workers = [
            Part(f"worker {n + 1}", "worker", [], directory / f"worker-{n + 1}.log")
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
                self.http_urls.append(str((await part.said("worker ready"))["http"]))
        except BaseException:  # cancelled too: no process may be left behind
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for part in [*self._edges, *self.workers]:
            await part.stop()
        await asyncio.to_thread(self.server.stop)

    async def edge(self, arguments: list[str]) -> Part:
        """An edge process with these arguments, started."""
        name = f"edge {len(self._edges) + 1}"
        log_path = self.directory / f"{name.replace(' ', '-')}.log"
        part = Part(name, "edge_capture", arguments, log_path)
        self._edges.append(part)
        await part.start(self.environment)
        return part
