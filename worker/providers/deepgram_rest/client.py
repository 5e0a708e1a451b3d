"""The HTTP client of all streams; translates aiohttp's errors. No policy."""

from __future__ import annotations

import aiohttp

from natterjack.plugin.errors import Dropped, Stalled, Unavailable
from natterjack.plugin.proxy import proxy_for

from . import protocol
from .options import NAME

_IDLE_SECONDS = 10
"""How long an idle connection is kept. It is shorter than on the server, since a request on a
connection that is being closed is lost."""


class Client:
    """Posts recordings over connections that all streams share."""

    def __init__(self, *, connect_timeout_seconds: float, answer_timeout_seconds: float) -> None:
        self._timeout = aiohttp.ClientTimeout(
            total=answer_timeout_seconds, sock_connect=connect_timeout_seconds
        )
        self._seconds = answer_timeout_seconds
        self._session: aiohttp.ClientSession | None = None

    async def post(self, request: protocol.Post, recording: bytes) -> protocol.Result:
        """Post a WAV file and return its transcript. Bounded by the timeout.

        Raises: RequestRefused or Unavailable, depending on the status; Unavailable (connect);
        Dropped if the connection is lost; Stalled (mute) if no response arrives in time;
        RemoteProtocolError for a malformed response.
        """
        # `from None`: aiohttp's errors show the request's headers, which hold the key.
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
            raise Unavailable(NAME, "connect", f"cannot connect: {error}") from None
        except TimeoutError:
            raise Stalled(NAME, "mute", f"no response within {self._seconds:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Dropped(NAME, f"connection lost: {error}") from None
        if status != 200:
            raise protocol.status_error(status, headers, body)
        return protocol.decode(body)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # Each stream limits its own requests; aiohttp's limit would make streams wait for
                # each other.
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=self._timeout,
            )
        return self._session

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
