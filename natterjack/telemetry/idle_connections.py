"""HTTP connections without a request: how many there are, and for how long, is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

_BETWEEN_S = 75.0
"""How long a connection may wait for its next request, and an answer for its last reader."""


class IdleConnections:
    """Makes the protocols of an HTTP server, and closes connections that ask for nothing.

    aiohttp waits for a first request without a limit, so any program that connects, or sends a head
    one byte a minute, would take a file descriptor for good. Here its time is limited; and if more
    than `most` connections ask for nothing, the one that does so for the longest is closed, since a
    client that wants something says so at once.
    """

    def __init__(self, most: int = 1000, first_seconds: float = 10.0) -> None:
        """`first_seconds`: how long the head of a first request may take."""
        self._most, self._first_s = most, first_seconds
        self._server: web.Server | None = None
        self._idle: dict[web.RequestHandler, asyncio.TimerHandle] = {}
        """With the time when each is closed; the longest idle first."""

    def __len__(self) -> int:
        return len(self._idle)

    def serve(self, server: web.Server) -> None:
        """Set the server whose protocols are made."""
        self._server = server

    def __call__(self) -> web.RequestHandler:
        """The protocol of a new connection."""
        assert self._server is not None
        handler = self._server()
        self._wait(handler, self._first_s)
        return handler

    @property
    def middleware(self) -> Callable[..., Awaitable[web.StreamResponse]]:
        """The middleware that notices requests. It must be the first one of the application."""

        @web.middleware
        async def noticing(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            self._forget(request.protocol)
            try:
                return await handler(request)
            finally:
                self._wait(request.protocol, _BETWEEN_S)

        return noticing

    def stop(self) -> None:
        """Forget all connections, which the server closes by itself."""
        for handler in list(self._idle):
            self._forget(handler)

    def _wait(self, handler: web.RequestHandler, seconds: float) -> None:
        self._forget(handler)
        loop = asyncio.get_running_loop()
        self._idle[handler] = loop.call_later(seconds, self._close, handler)
        if len(self._idle) > self._most:
            self._close(next(iter(self._idle)))

    def _forget(self, handler: web.RequestHandler) -> None:
        timer = self._idle.pop(handler, None)
        if timer is not None:
            timer.cancel()

    def _close(self, handler: web.RequestHandler) -> None:
        self._forget(handler)
        handler.force_close()
