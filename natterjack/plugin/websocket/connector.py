"""Opening WebSocket connections to a provider."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Final

import aiohttp

from ..errors import ProviderError, RemoteProtocolError, Unavailable, http_error
from ..proxy import proxy_for
from .connection import CLOSE_SECONDS, Socket

_MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""A longer message ends the connection. aiohttp's limit of 4 MiB is less than a long final with
words may have."""
HandshakeErrors = Callable[[int, Mapping[str, str]], ProviderError]
"""Makes an error from the HTTP status and the headers of a refused handshake."""


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """The URL and the headers of a handshake. Headers may hold a key and are not shown."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


_handshake: ContextVar[aiohttp.ClientResponse] = ContextVar("handshake")
"""The response to the handshake that the current task makes; `ws_connect` does not return it."""


async def _keep_response(
    _session: aiohttp.ClientSession,
    _context: SimpleNamespace,
    end: aiohttp.TraceRequestEndParams,
) -> None:
    _handshake.set(end.response)


async def _refuse_redirect(
    _session: aiohttp.ClientSession,
    _context: SimpleNamespace,
    redirect: aiohttp.TraceRequestRedirectParams,
) -> None:
    """Fail: aiohttp would follow a redirect, and send the key or at least the audio there."""
    response = redirect.response
    response.close()
    raise aiohttp.WSServerHandshakeError(
        response.request_info,
        response.history,
        message="it redirects to another address, which is not followed",
        status=response.status,
        headers=response.headers,
    )


class Connector:
    """Opens connections for one provider, all from one aiohttp session.

    It connects through the proxy that the environment names (`natterjack.plugin.proxy`), and trusts
    the certificates that OpenSSL does (SSL_CERT_FILE).
    """

    def __init__(
        self,
        provider: str,
        *,
        connect_timeout_seconds: float = 10,
        ping_seconds: float | None = 20,
        reads_always: bool = True,
    ) -> None:
        """`ping_seconds` is the interval of WebSocket pings; a peer that does not answer one within
        half of it has broken the connection. None sends no pings.

        Without `reads_always`, for streams that stop reading to hold the provider back, no answer
        is expected, since it would wait behind what is not read (`Socket.ping_every`).
        """
        self._provider = provider
        self._timeout = connect_timeout_seconds
        self._ping = ping_seconds
        self._reads_always = reads_always
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def connect(
        self, request: ConnectRequest, handshake_errors: HandshakeErrors | None = None
    ) -> Socket:
        """Open a connection, within the connect timeout. The caller closes the socket.

        Raises: the error that `handshake_errors` makes of an HTTP status of 400 or more (by default
        `natterjack.plugin.http_error`); RemoteProtocolError for any other answer that is not an
        upgrade, since redirects are not followed; Unavailable (`connect`) for everything else, and
        after `close`. A cancelled `connect` leaves no connection behind.
        """
        if self._closed:
            raise Unavailable(self._provider, "connect", "the provider was closed here")
        try:
            async with asyncio.timeout(self._timeout):
                return await self._open(request)
        except aiohttp.WSServerHandshakeError as error:
            # `from None` here and below: the representation of aiohttp's errors shows the headers
            # of the request, and with them the key.
            if error.status < 400:
                message = f"the handshake failed: {error.message}"
                raise RemoteProtocolError(self._provider, message, str(error.status)) from None
            if handshake_errors is not None:
                raise handshake_errors(error.status, error.headers or {}) from None
            message = "the handshake was refused"
            raise http_error(self._provider, error.status, message) from None
        except TimeoutError:
            message = f"no connection within {self._timeout:g} s"
            raise Unavailable(self._provider, "connect", message) from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(self._provider, "connect", f"no connection: {error}") from None

    @contextlib.asynccontextmanager
    async def opening(
        self, request: ConnectRequest, handshake_errors: HandshakeErrors | None = None
    ) -> AsyncIterator[Socket]:
        """Open a connection for the first exchange of messages on it.

        Closes the socket if the block raises or is cancelled, and leaves it open otherwise, so that
        the block can return a stream that owns it. Raises what `connect` does.
        """
        opened = await self.connect(request, handshake_errors)
        try:
            yield opened
        except BaseException:  # a cancelled task too leaves no connection behind
            await opened.close()
            raise

    async def _open(self, request: ConnectRequest) -> Socket:
        if self._session is None:
            tracing = aiohttp.TraceConfig()
            tracing.on_request_redirect.append(_refuse_redirect)
            tracing.on_request_end.append(_keep_response)
            self._session = aiohttp.ClientSession(
                # One connection per stream: aiohttp's limit of 100 would block the 101st.
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                trace_configs=[tracing],
            )
        connection = await self._session.ws_connect(
            request.url,
            headers=request.headers,
            heartbeat=self._ping if self._reads_always else None,
            autoclose=False,
            max_msg_size=_MAX_MESSAGE_BYTES,
            compress=0,  # audio does not compress, and results are short
            timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS),
            **proxy_for(request.url),
        )
        opened = Socket(self._provider, connection, _handshake.get())
        if self._ping is not None and not self._reads_always:
            opened.ping_every(self._ping)
        return opened

    async def close(self) -> None:
        """Close the shared session and refuse further connections. Idempotent."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()
