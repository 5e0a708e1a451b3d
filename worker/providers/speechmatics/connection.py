"""One stream to Speechmatics: reads and decodes messages, writes audio. No policy."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from natterjack.plugin.errors import Dropped, ProviderError, RemoteProtocolError, Unavailable
from natterjack.plugin.provider import Notice, ProviderEvent, ProviderStream
from natterjack.plugin.websocket import Closed, Socket

from .. import wire
from ..auto_reset import AutoResetEvent
from . import failures, messages
from .exchange import Exchange

_MAX_EVENTS = 1000
"""Limit of events that wait for the iterator; at the limit, the socket is not read."""
_MAX_EARLY = 100
"""Limit of messages before RecognitionStarted."""
_ERROR_WAIT_SECONDS = 0.5
"""How long to wait for the server's error after sending has failed."""


async def start(
    socket: Socket, exchange: Exchange[Any], timeout_seconds: float
) -> SpeechmaticsStream:
    """Start recognition. Speechmatics docs, "StartRecognition": audio before RecognitionStarted is
    an error, so this waits for it.

    Raises: ProviderError; the caller closes the socket.
    """
    provider, early = exchange.provider, list[ProviderEvent]()
    try:
        async with asyncio.timeout(timeout_seconds):
            # "Error handling": the server may have refused already, so its messages are read even
            # if sending fails.
            with contextlib.suppress(Dropped):
                await socket.send(exchange.start())
            while len(early) < _MAX_EARLY:
                received = await socket.receive()
                if isinstance(received, Closed):
                    raise failures.close_error(provider, received)
                try:
                    message = exchange.decode(received)
                except RemoteProtocolError as error:
                    early.append(Notice("malformed", str(error), harmless=True))
                    continue
                if isinstance(message, messages.RecognitionStarted):
                    exchange.begin(message)
                    return SpeechmaticsStream(socket, exchange, message.id, early)
                if isinstance(message, messages.Error):
                    raise failures.error_of(provider, message)
                if isinstance(message, Notice):
                    early.append(message)
                else:
                    what = f"{message!r:.100} before RecognitionStarted"
                    early.append(Notice("malformed", what, harmless=True))
    except TimeoutError:
        reason = f"no RecognitionStarted within {timeout_seconds:g} s"
        raise Unavailable(provider, "server_error", reason) from None
    raise RemoteProtocolError(provider, f"no RecognitionStarted in {_MAX_EARLY} messages")


class SpeechmaticsStream(ProviderStream):
    """A stream whose recognition has started.

    A task reads the socket, since acknowledgements must be handled even while nobody iterates.
    """

    def __init__(
        self,
        socket: Socket,
        exchange: Exchange[Any],
        reference: str | None,
        early: list[ProviderEvent],
    ) -> None:
        self.reference = reference
        self.on_failure: Callable[[ProviderError], None] = lambda error: None
        """Called with the error of the stream, unless it was closed by `close`."""
        self._socket = socket
        self._exchange = exchange
        self._finishing = False
        self._failure: ProviderError | None = None
        self._progress = AutoResetEvent()
        """Set when a message has been read, or the stream has ended: `send` may continue."""
        self._arrived = AutoResetEvent()
        """Set when there is an event for the iterator, or the stream has ended."""
        self._taken = AutoResetEvent()
        """Set when the iterator has taken an event."""
        self._events = early
        """Events for the iterator; `_read` bounds their number."""
        self._reader = asyncio.create_task(self._read(), name=f"read {reference}")
        self._reader.add_done_callback(lambda _: self._end())

    async def send(self, audio: bytes) -> None:
        if not audio:
            return
        if self._finishing:
            raise RuntimeError("send after finish")
        while not self._exchange.ready and not self._reader.done():
            await self._progress.wait()
        self._check()
        # Counted first, since the acknowledgement may arrive before `send` returns.
        self._exchange.sent(audio)
        await self._write(self._socket.send(audio))

    def send_nowait(self, audio: bytes) -> bool:
        if not audio or self._finishing or not self._exchange.ready:
            return False
        self._check()
        if not self._socket.send_nowait(audio):
            return False
        self._exchange.sent(audio)
        return True

    async def finish(self) -> None:
        if self._finishing:
            return
        self._finishing = True
        await self._write(self._socket.send(self._exchange.finish()))

    async def finalize(self) -> None:
        """Request finals for all audio sent so far; this also ends the turn."""
        message = self._exchange.finalize()
        if message is not None:
            await self._write(self._socket.send(message))

    async def configure(self, changes: Mapping[str, Any]) -> None:
        """Send changes of the configuration. No response is documented; an invalid change ends the
        stream."""
        await self._write(self._socket.send(self._exchange.configure(changes)))

    async def __aiter__(self) -> AsyncIterator[ProviderEvent]:
        while True:
            while self._events:
                self._taken.set()
                yield self._events.pop(0)
            if self._reader.done():
                break
            await self._arrived.wait()
        self._check()

    async def close(self) -> None:
        if self._failure is None:
            self._failure = Dropped(self._exchange.provider, "the stream was closed")
        self._reader.cancel()
        await self._socket.close()
        await asyncio.wait([self._reader])

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._reader.done():
            self._reader.result()

    async def _write(self, sending: Awaitable[None]) -> None:
        try:
            await sending
        except Dropped as error:
            await asyncio.wait([self._reader], timeout=_ERROR_WAIT_SECONDS)
            raise (self._failure or error) from None

    async def _read(self) -> None:
        """Read messages until EndOfTranscript or the end of the connection."""
        try:
            while not self._exchange.over:
                for event in self._received(await self._socket.receive()):
                    while len(self._events) >= _MAX_EVENTS:
                        await self._taken.wait()
                    self._events.append(event)
                    self._arrived.set()
                    del event  # keep no message alive while waiting for the next
                self._progress.set()
        except ProviderError as error:
            if self._failure is None:
                self._failure = error
                self.on_failure(error)

    def _received(self, received: str | bytes | Closed) -> list[ProviderEvent]:
        if isinstance(received, Closed):
            raise self._exchange.closed(received)
        try:
            message = self._exchange.decode(received)
        except wire.Harmless as error:
            return [Notice("malformed", str(error), harmless=True)]
        return self._exchange.receive(message)

    def _end(self) -> None:
        """Wake all waiters: the stream has ended."""
        self._progress.set()
        self._arrived.set()
