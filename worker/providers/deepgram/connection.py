"""One stream to Deepgram: reads, decodes, hands over, writes. No policy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from natterjack.plugin.errors import Dropped, ProviderError, RemoteProtocolError
from natterjack.plugin.provider import Notice, ProviderEvent, ProviderStream
from natterjack.plugin.websocket import Closed, Socket

from . import protocol
from .configure import ANSWER_SECONDS, Configuring
from .options import NAME
from .transcript import Transcript


class DeepgramStream(ProviderStream):
    """A listen v1 connection that stands."""

    def __init__(self, socket: Socket, transcript: Transcript, keepalive_seconds: float) -> None:
        self.reference = socket.headers.get("dg-request-id")
        self._socket = socket
        self._transcript = transcript
        self._loop = loop = asyncio.get_running_loop()
        self._time = loop.time
        self._keepalive = protocol.Keepalive(keepalive_seconds, loop.time())
        self._timer = loop.call_at(self._keepalive.deadline, self._keep_alive)
        """Until `close` or `finish`. What a keepalive fails with, the iterator raises."""
        self._configuring = Configuring(socket.send_text, ANSWER_SECONDS)
        self._finishing = False
        self._closing = False
        """CloseStream is on the wire, and the server had not closed before."""
        self._over = False
        """The server has said all, or closed."""
        self._summary: list[ProviderEvent] = []
        self._failure: ProviderError | None = None

    async def send(self, audio: bytes) -> None:
        # Deepgram docs, "Close Stream": an empty binary frame would end the stream.
        if not audio:
            return
        if self._finishing:
            raise RuntimeError("send after finish")
        self._keepalive.sent_at = self._time()
        await self._socket.send_bytes(audio)

    def send_nowait(self, audio: bytes) -> bool:
        if not audio or self._finishing or not self._socket.send_nowait(audio):
            return False
        self._keepalive.sent_at = self._time()
        return True

    async def finish(self) -> None:
        if self._finishing:
            return
        self._finishing = True
        # Deepgram docs, "Close Stream": nothing may follow it.
        self._timer.cancel()
        self._configuring.finish()
        await self._socket.send_text(protocol.encode_close_stream())
        # A close that is here by now nobody asked for: it says nothing of what was transcribed.
        self._closing = not self._socket.close_received

    async def finalize(self) -> None:
        """A word that is being spoken is cut by it: this is for the end of a turn."""
        await self._socket.send_text(protocol.encode_finalize())

    async def configure(self, changes: Mapping[str, Any]) -> None:
        """Returns when the provider has taken the changes; those asked for meanwhile go out
        together, behind it. An answer that never comes is a success (older servers), and a Notice
        `configure_unanswered`. Raises: RequestRefused with the provider's reason (the stream goes
        on as it was)."""
        await self._configuring.ask(changes)

    async def __aiter__(self) -> AsyncIterator[ProviderEvent]:
        try:
            while not self._over:
                for event in self._received(await self._socket.receive()):
                    yield event
                    del event  # nothing of a message is held while the next is awaited
            if (until := self._transcript.unsaid_until) is not None:
                for event in self._summary:
                    yield event
                raise Dropped(NAME, f"what it showed up to {until:.1f} s never became final")
        except ProviderError as error:
            self._configuring.fail(error)
            raise
        self._configuring.end()
        for event in (*self._transcript.end(), *self._configuring.notices(), *self._summary):
            yield event

    def _received(self, message: str | bytes | Closed) -> list[ProviderEvent]:
        if isinstance(message, Closed):
            error = self._failure or protocol.close_error(message, finishing=self._closing)
            if error is not None:
                raise error
            self._over = True
            return []
        events: list[ProviderEvent] = []
        for item in self._decode(message):
            if isinstance(item, protocol.ConfigureAnswer):
                self._configuring.answered(item)
            said = self._transcript.receive(item)
            if self._closing and isinstance(item, protocol.Summary):
                self._over, self._summary = True, said
            else:
                events += said
        events += self._configuring.notices()
        return events

    def _decode(self, message: str | bytes) -> tuple[protocol.Message, ...]:
        """What the server said. Raises: RemoteProtocolError for a final that cannot be read: those
        after it would go over its audio, which has to be sent again instead."""
        try:
            return protocol.decode(message)
        except RemoteProtocolError as error:
            if protocol.is_lost_final(message, interims=self._transcript.interims):
                raise
            return (Notice("malformed", str(error)),)

    async def close(self) -> None:
        if self._failure is None:
            self._failure = Dropped(NAME, "the stream was closed here")
        self._configuring.fail(self._failure)
        self._timer.cancel()
        await self._socket.close()

    def _keep_alive(self) -> None:
        """The timer: send a keepalive, unless something was sent."""
        now = self._time()
        if now >= self._keepalive.deadline:
            self._keepalive.sent_at = now
            try:
                # If it is not sent, audio waits to be: that serves as well.
                self._socket.send_nowait(protocol.encode_keepalive())
            except ProviderError as error:
                self._failure = self._failure or error
                self._socket.abort()
                return
        self._timer = self._loop.call_at(self._keepalive.deadline, self._keep_alive)
