"""A person who speaks to a Deepgram client in real time, and what the client shows as final.

The client is the Deepgram SDK for Python, which does not connect again by itself. `again` puts a
loop around it as its users write it: a stream that ends is opened again, with the same client
object, and audio that the SDK would not take is kept and sent first. What the SDK has taken is
gone: it says nothing about what has arrived.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

import httpx

from natterjack.emulators import tones

from .client import OPTIONS, ApiError, ListenV1Results, sdk

CHUNK_S = 0.08
_CHUNK_BYTES = round(CHUNK_S * OPTIONS["sample_rate"]) * 2
_PAUSE_S = 0.5
"""Between two attempts to connect."""
_PATIENCE_S = 60.0
"""How long attempts go on, and how long the rest of the transcript may take at the end."""


def _name(error: Exception) -> str:
    """Return a short name of an error, as a user sees it."""
    if isinstance(error, ApiError):
        return f"ApiError {error.status_code}"
    return type(error).__name__


class Speaker:
    """One person, whose speech begins with `speak`."""

    def __init__(self, url: str, http: httpx.AsyncClient, audio: bytes, *, again: bool) -> None:
        self._client = sdk(url, http)
        self._audio = audio
        self._again = again
        self._unsent: deque[bytes] = deque()
        self._said = asyncio.Event()
        """Set when there is something to send, or nothing follows."""
        self._silent = False
        """Whether everything has been said."""
        self.spoken_s = 0.0
        self.words: list[str] = []
        """The words of all finals, in order of arrival."""
        self.streams = 0
        """Streams that were opened."""
        self.errors: list[str] = []
        """How streams ended that ended too early, and why none could be opened."""
        self.complete = False
        """Whether the last stream ended as it should."""

    async def speak(self) -> None:
        """Speak to the end, and return when the client has received what it is going to."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._say())
            failing_since = time.monotonic()
            while not self.complete:
                streams = self.streams
                try:
                    await self._stream()
                except Exception as error:  # noqa: BLE001 - whatever the SDK raises is a result
                    self.errors.append(_name(error))
                now = time.monotonic()
                if self.streams > streams:
                    failing_since = now
                if not self._again or now - failing_since > _PATIENCE_S:
                    return
                if self._silent and not self._unsent:
                    return  # there is nothing that another stream could transcribe
                if not self.complete:
                    await asyncio.sleep(_PAUSE_S)

    async def _say(self) -> None:
        began = time.monotonic()
        for number, at in enumerate(range(0, len(self._audio), _CHUNK_BYTES), 1):
            await asyncio.sleep(began + number * CHUNK_S - time.monotonic())
            self._unsent.append(self._audio[at : at + _CHUNK_BYTES])
            self.spoken_s = number * CHUNK_S
            self._said.set()
        self._silent = True
        self._said.set()

    async def _stream(self) -> None:
        async with self._client.listen.v1.connect(**OPTIONS) as connection:
            self.streams += 1
            ended = False
            async with asyncio.timeout(None) as limit:
                sending = asyncio.create_task(self._send(connection, limit))
                try:
                    async for message in connection:
                        if isinstance(message, ListenV1Results) and message.is_final:
                            self.words += tones.words_of(message.channel.alternatives[0].transcript)
                finally:
                    sending.cancel()
                    ended = (await asyncio.gather(sending, return_exceptions=True))[0] is True
        self.complete = ended
        if not ended:
            self.errors.append("the stream ended")

    async def _send(self, connection: Any, limit: asyncio.Timeout) -> bool:
        """Send what is said. Returns True once everything was sent; the rest of the transcript has
        to come within the `limit`, which is set then."""
        while True:
            while self._unsent:
                await connection.send_media(self._unsent[0])
                self._unsent.popleft()
            if self._silent:
                await connection.send_close_stream()
                limit.reschedule(asyncio.get_running_loop().time() + _PATIENCE_S)
                return True
            self._said.clear()
            await self._said.wait()
