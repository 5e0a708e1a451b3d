"""Deepgram's SDKs for Node as processes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from natterjack.emulators import tones
from tests.clients.npm import program
from tests.waiting import until

from ...node import FOLDER


class NodeListener:
    """One client. What it has said is in `said`."""

    def __init__(self, release: int, base: str, key: str = "none", **query: Any) -> None:
        self._arguments = (str(release), base, key, json.dumps(query))
        self.said: list[dict[str, Any]] = []
        self.errors = ""

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            program("node"), "listen.mjs", *self._arguments,
            cwd=FOLDER,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=2**20,
        )  # fmt: skip
        self._reading = [
            asyncio.create_task(self._read_said()), asyncio.create_task(self._read_errors())
        ]  # fmt: skip

    async def _read_said(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.said.append(json.loads(line))

    async def _read_errors(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self.errors += line.decode()

    async def opened(self, times: int = 1) -> None:
        def opened_or_ended() -> bool:
            return self.count("open") >= times or self._process.returncode is not None

        problem = "the client has ended"
        try:
            await until(opened_or_ended, f"connected {times} times", 30)
        except AssertionError as error:
            problem = str(error)
        others = [one for one in self.said if one["on"] not in ("message", "sent")]
        assert self.count("open") >= times, f"{problem}: {others[-8:]} {self.errors[-900:]}"

    async def send(self, audio: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(audio)
        await self._process.stdin.drain()

    async def end(self) -> int:
        """Send CloseStream, and wait for the program's end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await until(lambda: self._process.returncode is not None, "the client has ended", 60)
        await asyncio.gather(*self._reading)
        return self._process.returncode or 0

    async def kill(self) -> None:
        """End the program. Idempotent."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await asyncio.gather(*self._reading)

    def count(self, kind: str) -> int:
        return sum(one["on"] == kind for one in self.said)

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [one["message"] for one in self.said if one["on"] == "message"]

    @property
    def words(self) -> list[str]:
        return [
            tones.plain(word["word"])
            for message in self.messages
            if message.get("is_final")
            for word in message["channel"]["alternatives"][0]["words"]
        ]

    @property
    def closes(self) -> list[int]:
        """The codes with which its connections were closed."""
        return [one["code"] for one in self.said if one["on"] == "close"]
