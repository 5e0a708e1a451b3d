"""An emulator in its own process, for tests of complete programs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.forking import ended, launch, read
from tests.ports import free_port
from tests.waiting import within


class RemoteEmulator:
    """An emulator's control endpoint: the methods of Emulator over HTTP."""

    def __init__(self, url: str, control_url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.control_url = control_url
        self._session = session

    async def set(self, **changes: Any) -> None:
        """Set switches. Raises aiohttp.ClientResponseError for an unknown switch."""
        await self._call("POST", "faults", changes)

    async def clear(self) -> None:
        await self._call("DELETE", "faults")

    async def drop(self) -> int:
        """Abort every open connection and return their number."""
        return int((await self._call("POST", "drop"))["dropped"])

    async def affected(self) -> tuple[dict[str, int], int]:
        """Return the number of connections that each fault affected, and of open connections."""
        counts = await self._call("GET", "affected")
        return counts["faults"], counts["open"]

    async def log(self) -> list[dict[str, Any]]:
        """Return the log entries in the form of ConnectionLog.as_json, oldest first."""
        return list((await self._call("GET", "log"))["connections"])

    async def _call(self, method: str, what: str, content: Any = None) -> Any:
        url = f"{self.control_url}/_emulator/{what}"
        async with self._session.request(method, url, json=content) as response:
            response.raise_for_status()
            return await response.json()


@asynccontextmanager
async def emulator_process(provider: str, *arguments: str) -> AsyncIterator[RemoteEmulator]:
    """Run `natterjack emulate <provider> --words tones <arguments>` as a subprocess."""
    process = launch(
        ("-m", "natterjack", "emulate", provider, "--words", "tones",
         "--port", str(free_port()), *arguments),
        env=os.environ, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        async with read(process.stdout) as output:
            async with within(20):
                url = (await output.readline()).decode().split()[-1]
                control_url = (await output.readline()).decode().split()[-1]
            async with aiohttp.ClientSession() as session:
                yield RemoteEmulator(url, control_url, session)
    finally:
        process.terminate()
        await ended(process)
