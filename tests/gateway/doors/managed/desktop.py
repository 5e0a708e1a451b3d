"""The desktop client of the managed protocol, as the fact sheet describes it ([C]): it reconnects
never, has no message for the end, and shows what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from natterjack.emulators import tones

BLOCK_BYTES = 2048
"""3.2: 1024 frames, 64 ms."""
_START_SECONDS = 15.0


class StartFailed(Exception):
    """The recording cannot start, with the text that the user sees."""


def address(server: str) -> str:
    """1: the URL for a configured server."""
    server = server.rstrip("/")
    if not server.startswith(("ws://", "wss://")):
        server = f"wss://{server}"
    return f"{server}/ws/transcribe"


class Desktop:
    """One recording."""

    def __init__(self, server: str, token: str, **config: Any) -> None:
        self._url = address(server)
        self._auth = {
            "type": "auth",
            "token": token,
            "config": {
                "model": "nova-2", "language": "en-US", "sample_rate": 16000, "channels": 1,
                "encoding": "linear16", "interim_results": True, **config,
            },
        }  # fmt: skip
        self.messages: list[dict[str, Any]] = []
        """Everything that the server has sent after its first reply."""
        self.lines: list[str] = []
        """The finals."""
        self.interim = ""
        self.interims: list[str] = []
        self.errors: list[str] = []
        self.first: dict[str, Any] = {}
        self.close_code: int | None = None
        self.sent_seconds = 0.0
        self.socket: ClientConnection
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises StartFailed, as the user sees it."""
        try:
            async with asyncio.timeout(_START_SECONDS):
                self.socket = await connect(self._url, ping_interval=20, ping_timeout=10)
                await self.socket.send(json.dumps(self._auth))
                self.first = json.loads(await self.socket.recv())
        except TimeoutError:
            raise StartFailed("timeout") from None
        if self.first["type"] == "error":
            await self.socket.close()
            self.close_code = self.socket.close_code
            raise StartFailed(f"Proxy auth error: {self.first.get('message')}")
        if self.first["type"] != "ready":
            await self.socket.close()
            raise StartFailed(f"unexpected {self.first['type']}")
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for frame in self.socket:
                try:
                    message = json.loads(frame)
                except ValueError:
                    continue
                self._show(message)
        except ConnectionClosed:
            pass
        self.close_code = self.socket.close_code

    def _show(self, message: Any) -> None:
        kind = message.get("type")  # 1: an array would end the loop here
        self.messages.append(message)
        if kind == "transcript":
            text = message.get("text", "")
            if not text.strip():
                return
            if message.get("is_final", False):
                self.lines.append(text)
                self.interim = ""
            else:
                self.interim = text
                self.interims.append(text)
        elif kind == "credits_low":
            f"{message['seconds_remaining']:.0f}"
        elif kind == "session_end":
            f"{message['seconds_used']:.0f}"
        elif kind == "error":
            code = message.get("code")
            self.errors.append(f"[{code}] {message.get('message')}" if code else message["message"])

    async def record(self, audio: bytes, speed: float = 4.0, *, until: float = 1e9) -> None:
        """Send audio at `speed` times real time, up to `until` seconds of it."""
        started = time.monotonic()
        for number, at in enumerate(range(0, len(audio), BLOCK_BYTES)):
            if number * 0.064 >= until:
                break
            await asyncio.sleep(started + number * 0.064 / speed - time.monotonic())
            with contextlib.suppress(ConnectionClosed):
                await self.socket.send(audio[at : at + BLOCK_BYTES])
            self.sent_seconds = (number + 1) * 0.064

    async def stop(self) -> None:
        """3.3: the socket is closed, and nothing more is read."""
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading
        await self.socket.close()

    async def ended(self) -> int | None:
        """Wait until the server has closed, and return the code."""
        assert self._reading is not None
        await self._reading
        return self.close_code

    def cut(self) -> None:
        """The network is gone: no close frame."""
        self.socket.transport.abort()

    @property
    def words(self) -> list[str]:
        return [tones.plain(word) for line in self.lines for word in line.split()]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message.get("type") == kind]
