"""One stream to speak v1: reads and decodes messages, writes text at the pace that is allowed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from natterjack.plugin.errors import Dropped, ProviderError, Stalled
from natterjack.plugin.provider import Notice
from natterjack.plugin.voice import VoiceStream, VoiceStreamEvent
from natterjack.plugin.websocket import Closed, Socket
from worker.providers import wire
from worker.providers.waiting import Waiting

from . import protocol
from .options import NAME
from .pace import Window
from .phrases import Phrases

_LEAST_PIECE: Final = 100
"""Characters for which text waits that is over the limit, so that it is not sent in crumbs."""


class DeepgramAuraStream(VoiceStream):
    """An open connection to speak v1."""

    def __init__(
        self,
        socket: Socket,
        phrases: Phrases,
        characters: Window,
        flushes: Window,
        *,
        clear_seconds: float,
        close_seconds: float,
    ) -> None:
        self.reference = socket.headers.get("dg-request-id")
        self._socket = socket
        self._phrases = phrases
        self._characters = characters
        self._flushes = flushes
        self._clear_seconds = clear_seconds
        self._close_seconds = close_seconds
        self._time = asyncio.get_running_loop().time
        self._dropped = asyncio.Event()
        """Set when the text that is sent now is dropped: replaced at each interrupt."""
        self._finishing = False
        self._over = False
        """No message may follow: the stream is ending."""
        self._failure: ProviderError | None = None
        self._waiting = Waiting(socket)
        self._deadline: float | None = None
        """When an interrupt must be answered. It begins when the iterator waits: while nobody
        reads, the answer cannot be seen."""

    async def speak(self, text: str) -> None:
        """Append text. Waits while Deepgram accepts no more characters in this minute."""
        if self._finishing:
            raise RuntimeError("speak after finish")
        dropped, text = self._dropped, self._phrases.add(text)
        while text:
            now = self._time()
            size = min(self._characters.room(now), protocol.MAX_TEXT_CHARACTERS)
            wanted = min(len(text), _LEAST_PIECE)
            if size < wanted:
                if not await self._waits(dropped, self._characters.when(now, wanted)):
                    return
                continue
            piece, text = text[:size], text[size:]
            self._characters.take(now, len(piece))
            self._phrases.sent(len(piece))
            await self._socket.send(protocol.encode_speak(piece))
            if dropped.is_set():
                return

    async def flush(self) -> None:
        """End the phrase. Waits while Deepgram accepts no more flushes in this minute."""
        if self._finishing:
            raise RuntimeError("flush after finish")
        await self._flush()

    async def _flush(self) -> None:
        if not self._phrases.unflushed:
            self._phrases.flush()
            self._waiting.wake()
            return
        dropped = self._dropped
        while not self._flushes.room(now := self._time()):
            if not await self._waits(dropped, self._flushes.when(now)):
                return
        self._flushes.take(now)
        self._phrases.flush()
        await self._socket.send(protocol.FLUSH)

    async def interrupt(self, played_seconds: float | None = None) -> None:
        if self._over:
            return  # everything was spoken, or the stream was closed
        self._phrases.interrupt()
        self._dropped.set()
        self._dropped = asyncio.Event()
        await self._socket.send(protocol.CLEAR)
        self._waiting.wake()

    async def finish(self) -> None:
        if self._finishing:
            return
        self._finishing = True
        if self._phrases.has_text:
            await self._flush()
        self._waiting.wake()

    async def __aiter__(self) -> AsyncIterator[VoiceStreamEvent]:
        try:
            while True:
                for event in self._phrases.due():
                    yield event
                if self._finishing and self._phrases.complete:
                    break
                for event in self._events(await self._next()):
                    yield event
                    del event  # keep no audio alive while waiting for the next
        except ProviderError as error:
            self._failure = self._failure or error
            raise
        await self._end()

    async def close(self) -> None:
        if self._failure is None:
            self._failure = Dropped(NAME, "the stream was closed here")
        self._dropped.set()
        if not self._over:
            self._over = True
            # Other clients report that a stream without Close counts as open for a while.
            with contextlib.suppress(ProviderError):
                if not self._phrases.complete:
                    self._socket.send_nowait(protocol.CLEAR)
                self._socket.send_nowait(protocol.CLOSE)
        await self._socket.close()

    # ---- waiting ----------------------------------------------------------------------------

    async def _waits(self, dropped: asyncio.Event, until: float) -> bool:
        """Wait until a time. Return False if the text that waits is dropped. Raises ProviderError
        if the stream has failed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await dropped.wait()
        if self._failure is not None:
            raise self._failure
        return not dropped.is_set()

    async def _next(self) -> str | bytes | Closed | None:
        """Wait for the next message. None if something else may be due."""
        if not self._phrases.clearing:
            self._deadline = None
        elif self._deadline is None:
            self._deadline = self._time() + self._clear_seconds
        received = await self._waiting.receive(self._deadline)
        if received is None and self._deadline is not None and self._time() >= self._deadline:
            raise Stalled(NAME, "mute", "an interrupt was not answered")
        return received

    def _events(self, received: str | bytes | Closed | None) -> list[VoiceStreamEvent]:
        if received is None:
            return []
        if isinstance(received, bytes):
            return self._phrases.audio(received)
        if isinstance(received, Closed):
            raise self._failure or protocol.close_error(received)
        try:
            message = protocol.decode(received)
        except wire.Harmless as error:
            return [Notice("malformed", str(error), harmless=True)]
        events = self._phrases.receive(message)
        self.reference = self._phrases.reference or self.reference
        return events

    async def _end(self) -> None:
        """End a stream on which nothing is due."""
        self._over = True
        with contextlib.suppress(TimeoutError, ProviderError):  # everything was spoken
            await self._socket.send(protocol.CLOSE)
            async with asyncio.timeout(self._close_seconds):
                while not isinstance(await self._socket.receive(), Closed):
                    pass  # a summary
