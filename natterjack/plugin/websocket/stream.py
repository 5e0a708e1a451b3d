"""A provider stream over one WebSocket."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterable
from typing import Final

from ..errors import Dropped, ProviderError, RemoteProtocolError
from ..provider import Notice, ProviderEvent, ProviderStream
from .connection import Closed, Socket

_UNREADABLE: Final = (ValueError, LookupError, TypeError, AttributeError)
"""Errors that reading a message of an unexpected shape raises."""


RECEIVED: Final = Notice("received")
"""Takes the place of a message without events, and shows that the provider is not mute."""


class WebSocketStream(ProviderStream):
    """A stream over one WebSocket.

    A subclass implements `decode` and `encode_finish`, and overrides other methods where its
    protocol differs: `encode_audio`, `encode_keepalive`, `on_audio`, `on_close`.
    """

    def __init__(self, socket: Socket, *, keepalive_seconds: float | None = None) -> None:
        """Take over `socket`, which `close` closes.

        With `keepalive_seconds`, the message of `encode_keepalive` is sent whenever nothing else
        was sent for that long.
        """
        self.socket = socket
        self.finishing = False
        """`finish` was called."""
        self.finish_sent = False
        """The message of `encode_finish` was sent, and the peer had not closed before."""
        self.sent_bytes = 0
        """Size of the audio that was passed to `send`, in bytes."""
        self.failure: ProviderError | None = None
        """The error that ended the stream on this side; iteration raises it."""
        # Overridable methods are called per chunk only if overridden: calls are most of its cost.
        kind = type(self)
        self._calls_encode_audio = kind.encode_audio is not WebSocketStream.encode_audio
        self._calls_on_audio = kind.on_audio is not WebSocketStream.on_audio
        self._loop = asyncio.get_running_loop()
        self._sent_at = self._loop.time()
        self._keepalive_seconds = keepalive_seconds
        self._timer: asyncio.TimerHandle | None = None
        if keepalive_seconds is not None:
            self._timer = self._loop.call_at(self._sent_at + keepalive_seconds, self._keep_alive)

    # ---- what a protocol defines ----------------------------------------------------------------

    @abstractmethod
    def encode_finish(self) -> bytes | str:
        """Return the message that tells the provider that no audio follows."""

    @abstractmethod
    def decode(self, message: str | bytes) -> Iterable[ProviderEvent]:
        """Return the events of a message; without any, the notice `received` takes their place.

        A ValueError, LookupError, TypeError or AttributeError that it raises becomes a
        RemoteProtocolError, so that a message of another shape needs no checks.
        """

    def encode_audio(self, audio: bytes) -> bytes | str:
        """Return the message that carries `audio`; by default, a binary frame of it. It may be
        called twice for the same audio."""
        return audio

    def encode_keepalive(self) -> bytes | str:
        """Return the message that keeps an idle connection open."""
        raise NotImplementedError

    def on_audio(self, audio: bytes) -> None:
        """Note that `audio` is sent. Called once per call of `send`, in order, and before the
        provider's answer to the audio can arrive."""

    def on_close(self, closed: Closed) -> None:
        """Raise the error for the end of the connection, or return if the stream is complete.
        By default a close of code 1000 or 1005 after `finish` completes the stream, and
        every other end raises Dropped."""
        if self.finish_sent and closed.code in (1000, 1005):
            return
        message = closed.reason or "the connection ended before the stream was complete"
        code = None if closed.code is None else str(closed.code)
        raise Dropped(self.socket.provider, message, code)

    # ---- ProviderStream -------------------------------------------------------------------------

    async def send(self, audio: bytes) -> None:
        if not audio:
            return
        if self.finishing:
            raise RuntimeError("send after finish")
        message = self.encode_audio(audio)
        self._sent_at = self._loop.time()
        self.sent_bytes += len(audio)
        self.on_audio(audio)
        await self.socket.send(message)

    def send_nowait(self, audio: bytes) -> bool:
        if not audio or self.finishing:
            return False
        message = self.encode_audio(audio) if self._calls_encode_audio else audio
        if not self.socket.send_nowait(message):
            return False
        self._sent_at = self._loop.time()
        self.sent_bytes += len(audio)
        if self._calls_on_audio:
            self.on_audio(audio)
        return True

    async def finish(self) -> None:
        if self.finishing:
            return
        self.finishing = True
        self._stop_keepalive()
        await self.socket.send(self.encode_finish())
        self.finish_sent = not self.socket.close_received

    async def __aiter__(self) -> AsyncIterator[ProviderEvent]:
        while not isinstance(message := await self.socket.receive(), Closed):
            try:
                events = tuple(self.decode(message))
            except _UNREADABLE as error:
                what = f"a message that cannot be decoded: {type(error).__name__}: {error}"
                raise RemoteProtocolError(self.socket.provider, what) from error
            for event in events or (RECEIVED,):
                yield event
        if self.failure is not None:
            raise self.failure
        self.on_close(message)

    async def close(self) -> None:
        if self.failure is None:
            self.failure = Dropped(self.socket.provider, "the stream was closed here")
        self._stop_keepalive()
        await self.socket.close()

    def _keep_alive(self) -> None:
        """Send a keepalive if nothing was sent for long enough, and set the timer again."""
        assert self._keepalive_seconds is not None
        now = self._loop.time()
        if now >= self._sent_at + self._keepalive_seconds:
            self._sent_at = now
            try:
                # If it is not sent, audio waits to be written, which serves as well.
                self.socket.send_nowait(self.encode_keepalive())
            except ProviderError as error:
                self.failure = self.failure or error
                self.socket.abort()
                return
        self._timer = self._loop.call_at(self._sent_at + self._keepalive_seconds, self._keep_alive)

    def _stop_keepalive(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
