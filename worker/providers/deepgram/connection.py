"""One stream to Deepgram: reads, decodes, hands over, writes. No policy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from ...errors import Dropped, ProviderError, RemoteProtocolError
from ...provider import Notice, ProviderEvent, ProviderStream
from ..websocket import Closed, Socket
from . import protocol
from .options import NAME
from .transcript import Transcript


class DeepgramStream(ProviderStream):
    """A listen v1 connection that stands."""

    def __init__(self, socket: Socket, transcript: Transcript, keepalive_seconds: float) -> None:
        self.reference = socket.headers.get("dg-request-id")
        self._socket = socket
        self._transcript = transcript
        self._loop = asyncio.get_running_loop()
        self._keepalive = protocol.Keepalive(keepalive_seconds, self._loop.time())
        self._finishing = False
        self._failure: ProviderError | None = None
        # Lives from here to `close` or `finish`; what it fails with, the iterator raises.
        self._keeper = asyncio.create_task(self._keep_alive(), name=f"keepalive {self.reference}")

    async def send(self, audio: bytes) -> None:
        # Deepgram docs, "Close Stream": an empty binary frame would end the stream.
        if not audio:
            return
        if self._finishing:
            raise RuntimeError("send after finish")
        self._keepalive.sent(self._loop.time())
        await self._socket.send_bytes(audio)

    async def finish(self) -> None:
        if self._finishing:
            return
        self._finishing = True
        # Deepgram docs, "Close Stream": nothing may follow it.
        self._keeper.cancel()
        await self._socket.send_text(protocol.encode_close_stream())

    async def finalize(self) -> None:
        """A word that is being spoken is cut by it: this is for the end of a turn."""
        await self._socket.send_text(protocol.encode_finalize())

    async def configure(self, changes: Mapping[str, Any]) -> None:
        """The answer is a Notice: `configured` or `configure_failed`."""
        await self._socket.send_text(protocol.encode_configure(changes))

    async def __aiter__(self) -> AsyncIterator[ProviderEvent]:
        while True:
            message = await self._socket.receive()
            if isinstance(message, Closed):
                error = self._failure or protocol.close_error(message, finishing=self._finishing)
                if error is not None:
                    raise error
                break
            try:
                decoded = protocol.decode(message)
            except RemoteProtocolError as error:
                yield Notice("malformed", str(error))
                continue
            for item in decoded:
                for event in self._transcript.receive(item):
                    yield event
            if self._finishing and any(isinstance(item, protocol.Summary) for item in decoded):
                break
        for event in self._transcript.end():
            yield event

    async def close(self) -> None:
        if self._failure is None:
            self._failure = Dropped(NAME, "the stream was closed here")
        self._keeper.cancel()
        await self._socket.close()
        await asyncio.wait([self._keeper])

    async def _keep_alive(self) -> None:
        """Send keepalives while nothing else is sent."""
        while True:
            wait = self._keepalive.deadline - self._loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
                continue
            self._keepalive.sent(self._loop.time())
            try:
                await self._socket.send_text(protocol.encode_keepalive())
            except ProviderError as error:
                self._failure = self._failure or error
                self._socket.abort()
                return
