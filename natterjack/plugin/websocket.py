"""The socket under every provider that speaks WebSocket: aiohttp's, with its errors translated.

No policy here: a Connector dials, a Socket moves frames. What a refused handshake or a close code
means is the provider's to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import aiohttp

from .errors import Dropped, ProviderError, RemoteProtocolError, Unavailable
from .proxy import through

_CLOSE_SECONDS: Final = 0.5
"""How long a closing handshake may take before the connection is aborted."""
_UNSENT_BYTES: Final = 32 * 1024
"""Held for a peer that does not read before `send_bytes` waits (aiohttp adds up to 64 kB). The
less, the sooner a blocked connection is noticed, and the less audio is lost in it."""

RefusedHandshake = Callable[[int, Mapping[str, str]], ProviderError]
"""From HTTP status and response headers to the error to raise."""


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """Where to connect, and how to say who asks. The headers hold a secret: they are not shown."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class Closed(NamedTuple):
    """The connection is over. `code` None: without a closing frame (RFC 6455, 7.1.5: 1006)."""

    code: int | None
    reason: str = ""


class _WebSocket(aiohttp.ClientWebSocketResponse):
    """Shows what aiohttp keeps to itself: the handshake's headers, and the transport."""

    @property
    def handshake_headers(self) -> Mapping[str, str]:
        return self._response.headers

    @property
    def transport(self) -> asyncio.Transport | None:
        connection = self._response.connection
        # uvloop's transports are asyncio's by their methods, not by their class.
        return None if connection is None else connection.transport

    @property
    def unread(self) -> Iterable[Any]:
        """Messages that are here, and were not received yet."""
        # A deque of messages; before aiohttp 3.11 of pairs of a message and its size.
        return tuple(getattr(self._reader, "_buffer", ()))


async def _refuse_redirect(
    _session: aiohttp.ClientSession,
    _context: SimpleNamespace,
    redirect: aiohttp.TraceRequestRedirectParams,
) -> None:
    """aiohttp would follow, with the headers or at least the audio, wherever it is told to."""
    response = redirect.response
    response.close()
    raise aiohttp.WSServerHandshakeError(
        response.request_info,
        response.history,
        message="it redirects to another address, which is not followed",
        status=response.status,
        headers=response.headers,
    )


class Socket:
    """A WebSocket to a provider. One task receives; several may send."""

    def __init__(self, provider: str, connection: _WebSocket) -> None:
        self.headers = connection.handshake_headers
        """Of the handshake's response."""
        self._provider = provider
        self._connection = connection
        self._transport = connection.transport
        self._closed = False
        self._over = False
        """The peer's closing frame was given."""
        if self._transport is not None:
            self._transport.set_write_buffer_limits(high=_UNSENT_BYTES)
            raw = self._transport.get_extra_info("socket")
            if raw is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
                with contextlib.suppress(OSError, NotImplementedError):
                    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)

    async def send_bytes(self, data: bytes) -> None:
        """Send a binary frame; waits while the peer takes no more. Raises Dropped."""
        try:
            await self._connection.send_bytes(data)
        except (aiohttp.ClientError, OSError) as error:
            raise Dropped(self._provider, f"the connection broke: {error}") from error

    def send_nowait(self, data: bytes | str) -> bool:
        """Send a binary or a text frame, unless earlier ones still wait to be written; whether it
        was sent. Raises Dropped."""
        if self._transport is None or self._transport.get_write_buffer_size():
            return False
        connection = self._connection
        sending = (
            connection.send_str(data) if isinstance(data, str) else connection.send_bytes(data)
        )
        try:
            sending.send(None)
        except StopIteration:
            return True
        except (aiohttp.ClientError, OSError) as error:
            raise Dropped(self._provider, f"the connection broke: {error}") from error
        # The frame is written, and aiohttp would wait until there is room for more: whoever sends
        # next does.
        sending.close()
        return True

    async def send_text(self, data: str) -> None:
        """Send a text frame; waits while the peer takes no more. Raises Dropped."""
        try:
            await self._connection.send_str(data)
        except (aiohttp.ClientError, OSError) as error:
            raise Dropped(self._provider, f"the connection broke: {error}") from error

    async def receive(self) -> str | bytes | Closed:
        """The next message, or how the connection ended. Cancelling loses nothing."""
        message = await self._connection.receive()
        if message.type is aiohttp.WSMsgType.TEXT or message.type is aiohttp.WSMsgType.BINARY:
            data: str | bytes = message.data
            return data
        if message.type is aiohttp.WSMsgType.CLOSE:
            # aiohttp says 0 where the frame had no status, which is 1005 (RFC 6455, 7.4.1).
            self._over = True
            return Closed(message.data or 1005, message.extra or "")
        # Not `close_code`: aiohttp calls the end of TCP without a closing frame 1000.
        error = message.data if message.type is aiohttp.WSMsgType.ERROR else None
        error = error or self._connection.exception()
        return Closed(None, "" if error is None else str(error))

    @property
    def close_received(self) -> bool:
        """Whether the peer's closing frame is here, even if `receive` has not given it yet."""
        if self._over or self._connection.closed:
            return True
        messages = (item if hasattr(item, "type") else item[0] for item in self._connection.unread)
        return any(message.type is aiohttp.WSMsgType.CLOSE for message in messages)

    def abort(self) -> None:
        """Cut the connection; `receive` then says so."""
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """Say goodbye if the peer takes it, within half a second, and let go. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._connection.close()
        finally:
            # A transport with unsent data would linger for as long as the peer does not read.
            self.abort()


class Connector:
    """Dials for one provider; all its connections share one aiohttp session."""

    def __init__(
        self, provider: str, *, connect_timeout_seconds: float, ping_seconds: float | None
    ) -> None:
        """`ping_seconds`: a peer that answers no WebSocket ping for 1.5 times as long is gone."""
        self._provider = provider
        self._timeout = connect_timeout_seconds
        self._ping = ping_seconds
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def connect(self, request: ConnectRequest, refused: RefusedHandshake) -> Socket:
        """A connection that stands. Bounded by the connect timeout.

        Raises: what `refused` makes of an HTTP error; RemoteProtocolError for an upgrade that is
        none (a redirect is not followed); Unavailable (connect) for everything else, and after
        `close`.
        """
        if self._closed:
            raise Unavailable(self._provider, "connect", "the provider was closed here")
        try:
            async with asyncio.timeout(self._timeout):
                connection = await self._dial(request)
        except aiohttp.WSServerHandshakeError as error:
            # `from None` here and below: aiohttp's errors show the request's headers in their
            # representation, and with them the key.
            if error.status < 400:
                message = f"the handshake failed: {error.message}"
                raise RemoteProtocolError(self._provider, message, str(error.status)) from None
            raise refused(error.status, error.headers or {}) from None
        except TimeoutError:
            message = f"no connection within {self._timeout:g} s"
            raise Unavailable(self._provider, "connect", message) from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(self._provider, "connect", f"no connection: {error}") from None
        return Socket(self._provider, connection)

    async def _dial(self, request: ConnectRequest) -> _WebSocket:
        if self._session is None:
            tracing = aiohttp.TraceConfig()
            tracing.on_request_redirect.append(_refuse_redirect)
            self._session = aiohttp.ClientSession(
                # A connection a stream: aiohttp's default limit of 100 would block the 101st.
                connector=aiohttp.TCPConnector(limit=0),
                ws_response_class=_WebSocket,
                cookie_jar=aiohttp.DummyCookieJar(),
                trace_configs=[tracing],
            )
        connection: Any = await self._session.ws_connect(
            request.url,
            headers=request.headers,
            heartbeat=self._ping,
            autoclose=False,
            compress=0,  # audio does not compress, and results are short
            timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_SECONDS),
            **through(request.url),
        )
        assert isinstance(connection, _WebSocket)
        return connection

    async def close(self) -> None:
        """Let go of the shared session, for good. Idempotent."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()
