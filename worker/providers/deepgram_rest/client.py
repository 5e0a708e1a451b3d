"""The HTTP client of all streams: aiohttp's, with its errors translated. No policy."""

from __future__ import annotations

import aiohttp

from natterjack.plugin.errors import Dropped, Stalled, Unavailable
from natterjack.plugin.proxy import proxy_for

from . import protocol
from .options import NAME

_IDLE_SECONDS = 10
"""A connection is kept for the next recording for so long: less than servers keep it, for a request
on one that is being closed is lost."""


class Client:
    """Posts recordings. Connections are shared by all streams."""

    def __init__(self, *, connect_timeout_seconds: float, answer_timeout_seconds: float) -> None:
        self._timeout = aiohttp.ClientTimeout(
            total=answer_timeout_seconds, sock_connect=connect_timeout_seconds
        )
        self._seconds = answer_timeout_seconds
        self._session: aiohttp.ClientSession | None = None

    async def post(self, request: protocol.Post, recording: bytes) -> protocol.Result:
        """What `recording` (a WAV file) says. Bounded in time.

        Raises: RequestRefused or Unavailable as the status says; Unavailable (connect); Dropped
        when the connection broke; Stalled (mute) when no answer came in time; RemoteProtocolError
        for an answer that makes no sense.
        """
        # `from None`: aiohttp's errors show the request's headers, and with them the key.
        try:
            async with self._open().post(
                request.url,
                data=recording,
                headers=request.headers,
                allow_redirects=False,
                **proxy_for(request.url),
            ) as response:
                status, headers = response.status, response.headers
                body = await response.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Unavailable(NAME, "connect", f"no connection: {error}") from None
        except TimeoutError:
            raise Stalled(NAME, "mute", f"no answer within {self._seconds:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Dropped(NAME, f"the connection broke: {error}") from None
        if status != 200:
            raise protocol.status_error(status, headers, body)
        return protocol.decode(body)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # Each stream has its own limit: aiohttp's would let streams wait for each other.
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=self._timeout,
            )
        return self._session

    async def close(self) -> None:
        """Let go of the connections. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
