"""The worker's HTTP port: /startupz, /livez, /readyz, /healthz, /metrics, /sessions.

It is open before NATS is there, so that a worker that waits for NATS is known to be alive: nobody
is to restart it, which would help nothing.
"""

from __future__ import annotations

import time

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from natterjack.errors import UsageError
from worker.session.session import Services

from .claim import Claimer
from .settings import WorkerSettings


class Health:
    """Answers probes and scrapes. `port` is the one in use, once started."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._services: Services | None = None
        self._claimer: Claimer | None = None
        self._runner: web.AppRunner | None = None
        self.draining = False
        self.port = 0

    @property
    def address(self) -> str:
        return f"http://{self._settings.http_host}:{self.port}"

    async def start(self) -> None:
        """Listen. Raises UsageError when the port is taken."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/startupz", self._alive),
                web.get("/livez", self._alive),
                web.get("/healthz", self._alive),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.get("/sessions", self._sessions),
            ]
        )
        settings = self._settings
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, settings.http_host, settings.http_port)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise UsageError(
                f"cannot listen on {settings.http_host}:{settings.http_port}: {error.strerror} "
                "(WORKER_HTTP_PORT, 0 takes a free one)"
            ) from None
        self.port = self._runner.addresses[0][1]

    def serve(self, services: Services, claimer: Claimer) -> None:
        """From now on sessions are taken."""
        self._services, self._claimer = services, claimer

    async def stop(self) -> None:
        """Idempotent."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _alive(self, request: web.Request) -> web.Response:
        # That the event loop got here is the answer. The health of the broker and of providers is
        # not the worker's: a restart would cure neither, and costs every session it holds.
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        if self.draining:
            return web.Response(text="draining\n", status=503)
        if self._services is None or not self._services.broker.connected:
            return web.Response(text="no NATS\n", status=503)
        return web.Response(text="ok\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        if self._services is None:
            return web.Response(text="no NATS yet\n", status=503)
        body = generate_latest(self._services.metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _sessions(self, request: web.Request) -> web.Response:
        now = time.monotonic()
        return web.json_response(
            [
                {
                    "session": str(session.key),
                    "session_id": session.id,
                    "epoch": session.epoch,
                    "state": session.state.value,
                    "seconds_held": round(now - session.since, 1),
                    "final_seconds": round(session.position / session.spec.sample_rate, 2),
                    "lag_seconds": round(session.lag_seconds, 2),
                }
                for session in list(self._claimer.sessions if self._claimer else ())
            ]
        )
