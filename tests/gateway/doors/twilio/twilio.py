"""Twilio's side of a media stream, as the fact sheet describes it: it dials, sends what callers say
every 20 ms, plays what it is sent, and echoes marks."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import Mapping
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from natterjack.emulators.pcm import from_linear16, to_linear16, to_samples

FRAME_BYTES = 160
FRAME_MS = 20
SILENCE = b"\xff" * FRAME_BYTES
CALL, STREAM, ACCOUNT = "CA" + "2" * 32, "MZ" + "0" * 32, "AC" + "1" * 32


def mulaw(audio: bytes) -> bytes:
    """Linear audio at 8 kHz as it is on the telephone network."""
    return from_linear16(audio, "mulaw")


class Twilio:
    """One stream of one call."""

    def __init__(
        self,
        url: str,
        *,
        tracks: tuple[str, ...] = ("inbound",),
        parameters: Mapping[str, str] | None = None,
        **more: str,
    ) -> None:
        """`parameters` and `more` are the children of the TwiML."""
        self._url = url
        self._tracks, self._parameters = tracks, {**(parameters or {}), **more}
        self._sequence = 0
        self._chunk = 0
        self.sent_ms = 0
        self.socket: ClientConnection
        self.played = bytearray()
        """The audio that the caller has heard, as mu-law, without silence."""
        self.waiting = bytearray()
        self._marks: list[tuple[int, str]] = []
        """Marks, by the number of bytes of `received` before them."""
        self._received = 0
        self.marks: list[str] = []
        """Marks that were echoed."""
        self.clears = 0
        self.silence_ms = 0
        """How long the caller heard nothing after the first audio and before the first clear."""
        self.invalid: list[Any] = []
        self.close_code: int | None = None
        self.close_reason = ""
        self._tasks: list[asyncio.Task[None]] = []

    async def dial(self, **headers: str) -> None:
        self.socket = await connect(self._url, additional_headers=headers, ping_interval=None)
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._play())]

    async def start(self, **start: Any) -> None:
        """Send the first messages."""
        await self.send({"event": "connected", "protocol": "Call", "version": "1.0.0"})
        await self.message("start", start={
            "accountSid": ACCOUNT, "streamSid": STREAM, "callSid": CALL,
            "tracks": list(self._tracks),
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": self._parameters, **start,
        })  # fmt: skip

    async def send(self, content: Any) -> None:
        await self.socket.send(json.dumps(content))

    async def message(self, event: str, **members: Any) -> None:
        """Send a message with its number; a lost one has a number, too."""
        self._sequence += 1
        await self.send(
            {"event": event, "sequenceNumber": str(self._sequence), "streamSid": STREAM, **members}
        )

    def lose(self) -> None:
        """A message is lost."""
        self._sequence += 1

    async def media(self, payload: bytes, at_ms: int, track: str = "inbound") -> None:
        self._chunk += 1
        await self.message("media", media={
            "track": track, "chunk": str(self._chunk), "timestamp": str(at_ms),
            "payload": base64.b64encode(payload).decode(),
        })  # fmt: skip

    async def talk(
        self, audio: dict[str, bytes], speed: float = 4.0, lost_ms: range = range(0)
    ) -> None:
        """Send the mu-law audio of each track; frames that begin within `lost_ms` are lost."""
        started, start_ms = time.monotonic(), self.sent_ms
        length = max(map(len, audio.values()))
        for at in range(0, length, FRAME_BYTES):
            at_ms = start_ms + at // 8
            await asyncio.sleep(started + (at / 8000) / speed - time.monotonic())
            for track, payload in audio.items():
                if at_ms in lost_ms:
                    self.lose()
                    continue
                with contextlib.suppress(ConnectionClosed):
                    await self.media(payload[at : at + FRAME_BYTES] or SILENCE, at_ms, track)
            self.sent_ms = at_ms + FRAME_MS

    async def stop(self) -> int | None:
        """The call ends. Returns the close code of the server."""
        await self.message("stop", stop={"accountSid": ACCOUNT, "callSid": CALL})
        return await self.ended()

    async def ended(self) -> int | None:
        await self._tasks[0]
        self._tasks[1].cancel()
        return self.close_code

    def cut(self) -> None:
        self.socket.transport.abort()

    async def _read(self) -> None:
        try:
            async for text in self.socket:
                await self._receive(json.loads(text))
        except ConnectionClosed:
            pass
        self.close_code, self.close_reason = self.socket.close_code, self.socket.close_reason or ""

    async def _receive(self, content: dict[str, Any]) -> None:
        event = content.get("event")
        members = {"media": {"payload"}, "mark": {"name"}, "clear": None}.get(str(event), set())
        valid = content.get("streamSid") == STREAM and set(content) <= {
            "event", "streamSid", str(event),
        }  # fmt: skip
        if not valid or (members is not None and set(content.get(str(event), {})) != members):
            self.invalid.append(content)  # warning 31951
            return
        if event == "media":
            payload = base64.b64decode(content["media"]["payload"])
            self.waiting += payload
            self._received += len(payload)
        elif event == "mark":
            self._marks.append((self._received, content["mark"]["name"]))
        else:
            self.clears += 1
            self._received -= len(self.waiting)
            self.waiting.clear()
            self._marks = [(self._received, name) for _, name in self._marks]
        await self._echo()

    async def _play(self) -> None:
        """Play 20 ms every 20 ms."""
        started, ticks = time.monotonic(), 0
        while True:
            ticks += 1
            await asyncio.sleep(started + ticks * FRAME_MS / 1000 - time.monotonic())
            if self.played and not self.waiting and not self.clears:
                self.silence_ms += FRAME_MS
            self.played += self.waiting[:FRAME_BYTES]
            del self.waiting[:FRAME_BYTES]
            await self._echo()

    async def _echo(self) -> None:
        while self._marks and self._marks[0][0] <= len(self.played):
            _, name = self._marks.pop(0)
            self.marks.append(name)
            with contextlib.suppress(ConnectionClosed):
                await self.message("mark", mark={"name": name})

    @property
    def heard(self) -> bytes:
        """The audio that was played, as linear audio at 8 kHz."""
        return to_linear16(to_samples(bytes(self.played), "mulaw"))
