"""The HTTP port of a program, for probes and Prometheus."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from natterjack.errors import UsageError

from .idle_connections import IdleConnections

_BACKLOG = 1024
"""Connections that wait to be accepted."""


class HttpPort:
    """A server with some routes. `port` is the port in use once it has started."""

    def __init__(
        self, host: str, port: int, variable: str, idle: IdleConnections | None = None
    ) -> None:
        """A port of 0 takes a free one. `variable` is the setting that chooses it, `idle` the limit
        of connections without a request."""
        self._host, self._variable = host, variable
        self.port = port
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Server | None = None
        self._idle = idle or IdleConnections()

    @property
    def address(self) -> str:
        return f"http://{self._host}:{self.port}"

    async def start(self, routes: Sequence[web.RouteDef]) -> None:
        """Start to listen. Raises UsageError if the port is in use."""
        app = web.Application()
        app.add_routes(routes)
        await self.serve(app)

    async def serve(self, app: web.Application, **limits: Any) -> None:
        """Start to listen with an application; `limits` are those of aiohttp's server. Raises
        UsageError if the port is in use.

        Bodies are not decompressed: no client compresses its own, and a small one may become large.
        """
        app.middlewares.insert(0, self._idle.middleware)
        self._runner = web.AppRunner(app, access_log=None, auto_decompress=False, **limits)
        await self._runner.setup()
        assert self._runner.server is not None
        self._idle.serve(self._runner.server)
        try:
            self._listening = await asyncio.get_running_loop().create_server(
                self._idle, self._host, self.port, backlog=_BACKLOG
            )
        except OSError as error:
            await self._runner.cleanup()
            raise UsageError(
                f"cannot listen on {self._host}:{self.port}: {error.strerror} "
                f"(set {self._variable}; 0 picks a free port)"
            ) from None
        self.port = self._listening.sockets[0].getsockname()[1]

    @contextlib.asynccontextmanager
    async def probed(
        self, problem: Callable[[], str | None], registry: CollectorRegistry
    ) -> AsyncIterator[None]:
        """Answer probes and Prometheus in the block; the program is ready without a `problem`.
        Raises UsageError if the port is in use."""

        async def readyz(_: web.Request) -> web.Response:
            return readiness(problem())

        async def metrics(_: web.Request) -> web.Response:
            return scrape(registry)

        try:
            await self.start(
                [
                    web.get("/livez", alive),
                    web.get("/readyz", readyz),
                    web.get("/metrics", metrics),
                ]
            )
            yield
        finally:
            await self.stop()

    async def stop(self) -> None:
        """Stop listening. Idempotent."""
        if self._listening is not None:
            self._listening.close()
        self._idle.stop()
        if self._runner is not None:
            await self._runner.cleanup()


async def alive(request: web.Request) -> web.Response:
    """Answer a liveness probe: the event loop runs, which is all that a restart could fix."""
    return web.Response(text="ok\n")


def readiness(problem: str | None) -> web.Response:
    """The answer to a readiness probe."""
    return web.Response(text=f"{problem or 'ok'}\n", status=503 if problem else 200)


def scrape(registry: CollectorRegistry) -> web.Response:
    """The answer to Prometheus."""
    body = generate_latest(registry)
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})
