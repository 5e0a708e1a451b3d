"""One stream through the proxy: reads, decodes, hands over, writes. No policy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, NamedTuple

from ...errors import Dropped, RemoteProtocolError, Stalled
from ...provider import Notice, ProviderEvent, ProviderStream
from ..websocket import Closed, Socket
from . import protocol
from .protocol import BYTES_PER_SECOND, FRAME_MS, NAME
from .transcript import Texts

_GRACE_SECONDS: Final = 5.0
"""After an error that ends the session, what is still said is heard for so long."""
_LOOK_SECONDS: Final = 0.5
"""How often the audio is looked at for what it makes certain ..."""
_HOLDING_SECONDS: Final = 0.1
"""... and while a text waits for it."""
_FRAME_BYTES: Final = BYTES_PER_SECOND * FRAME_MS // 1000


class Ending(NamedTuple):
    """How the end of audio is said, and when all was said. In seconds."""

    extended: bool
    """The proxy takes `end`, and closes when it is done."""
    finalize: bool
    """It is known beforehand to take `finalize`."""
    silence: float
    settle: float
    wait: float


async def wait_ready(socket: Socket, auth: protocol.Auth, timeout_seconds: float) -> protocol.Ready:
    """Send the first frame and wait for `ready`.

    Raises: what the proxy's error or close means; RemoteProtocolError for any other first reply;
    Stalled (mute) when none comes in time.
    """
    failed: protocol.Error | None = None
    try:
        async with asyncio.timeout(timeout_seconds):
            await socket.send_text(protocol.encode_client(auth))
            while True:
                message = await socket.receive()
                if isinstance(message, Closed):
                    raise protocol.ready_error(failed, message)
                try:
                    reply = protocol.decode_server(message)
                except RemoteProtocolError:
                    continue  # 1: text that is no JSON is ignored
                if isinstance(reply, protocol.Ready):
                    return reply
                if not isinstance(reply, protocol.Error):
                    what = f"the first reply is {type(reply).__name__}"
                    raise RemoteProtocolError(NAME, what)
                failed = reply
                if protocol.is_fatal(reply):
                    raise protocol.ready_error(reply, None)
                # Without a code that is known the close that follows tells its kind.
    except TimeoutError:
        if failed is not None:
            raise protocol.ready_error(failed, None) from None
        raise Stalled(NAME, "mute", f"not ready within {timeout_seconds:g} s") from None


class ManagedStream(ProviderStream):
    """A session of the proxy that is ready."""

    def __init__(
        self, socket: Socket, texts: Texts, ending: Ending, session_id: str | None
    ) -> None:
        self.reference = session_id
        self._socket = socket
        self._texts = texts
        self._ending = ending
        self._loop = asyncio.get_running_loop()
        self._finished_at: float | None = None
        self._heard_at = 0.0
        """When the proxy last said something."""
        self._error: protocol.Error | None = None
        self._error_at = 0.0
        self._closed = False

    async def send(self, audio: bytes) -> None:
        if self._finished_at is not None:
            raise RuntimeError("send after finish")
        self._texts.hear(audio)
        await self._socket.send_bytes(audio)

    async def finish(self) -> None:
        if self._finished_at is not None:
            return
        self._finished_at = self._heard_at = self._loop.time()
        self._texts.finish()
        if self._ending.extended:
            await self._socket.send_text(protocol.encode_client(protocol.End()))
            return
        # 3.3: there is no message for it, and closing would lose what is still to be said. Silence
        # makes the upstream end the last utterance.
        left = round(self._ending.silence * BYTES_PER_SECOND / 2) * 2
        while left > 0:
            await self._socket.send_bytes(bytes(min(left, _FRAME_BYTES)))
            left -= _FRAME_BYTES

    async def finalize(self) -> None:
        """Only of a proxy that is known to take it (setting `extensions`)."""
        if not self._ending.finalize:
            raise NotImplementedError
        await self._socket.send_text(protocol.encode_client(protocol.Finalize()))

    async def configure(self, changes: Mapping[str, Any]) -> None:
        raise NotImplementedError

    async def __aiter__(self) -> AsyncIterator[ProviderEvent]:
        while True:
            message: str | bytes | Closed | None = None
            try:
                async with asyncio.timeout(
                    _HOLDING_SECONDS if self._texts.holding else _LOOK_SECONDS
                ):
                    message = await self._socket.receive()
            except TimeoutError:
                pass
            if isinstance(message, Closed):
                if not self._ended_well(message):
                    raise protocol.session_error(self._error, message)
                break
            if message is not None:
                for event in self._take(message):
                    yield event
            for event in self._texts.due():
                yield event
            if self._over():
                break
        for event in self._texts.end():
            yield event

    def _take(self, message: str | bytes) -> list[ProviderEvent]:
        try:
            decoded = protocol.decode_server(message)
        except RemoteProtocolError as error:
            return [Notice("malformed", str(error))]
        if isinstance(decoded, protocol.Error):
            self._error, self._error_at = decoded, self._loop.time()
        elif isinstance(decoded, protocol.Transcript) and decoded.text.strip():
            self._heard_at = self._loop.time()
        return self._texts.receive(decoded)

    def _ended_well(self, closed: Closed) -> bool:
        """Whether the proxy closed because all was said."""
        if self._error is not None and protocol.is_fatal(self._error):
            return False
        return closed.code == 1000 and self._finished_at is not None and self._ending.extended

    def _over(self) -> bool:
        """Whether to wait no longer. Raises what a fatal error means that no close followed."""
        now = self._loop.time()
        if self._error is not None and protocol.is_fatal(self._error):
            # 5: a close should follow; transcripts may come before it.
            if now - self._error_at >= _GRACE_SECONDS:
                raise protocol.session_error(self._error, None)
            return False
        if self._closed:
            raise Dropped(NAME, "the stream was closed here")
        if self._finished_at is None or self._ending.extended:
            return False
        quiet = now - self._heard_at
        settled = quiet >= self._ending.settle and self._texts.answered
        return settled or now - self._finished_at >= self._ending.wait

    async def close(self) -> None:
        self._closed = True
        await self._socket.close()
