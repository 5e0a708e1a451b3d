"""The worker's HTTP port: /healthz, /readyz, /metrics, /sessions."""

from __future__ import annotations

import time

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from natterjack.errors import UsageError

from .claim import Claimer
from .session import Services


class Health:
    """Answers probes and scrapes. `port` is the one in use, once started."""

    def __init__(self, services: Services, claimer: Claimer) -> None:
        self._services = services
        self._claimer = claimer
        self._runner: web.AppRunner | None = None
        self.draining = False
        self.port = 0

    async def start(self) -> None:
        """Listen. Raises UsageError when the port is taken."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.get("/sessions", self._sessions),
            ]
        )
        settings = self._services.settings
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

    async def stop(self) -> None:
        """Idempotent."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        # That the event loop got here is the answer; the broker's health is not the worker's.
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        if self.draining:
            return web.Response(text="draining\n", status=503)
        if not self._services.broker.connected:
            return web.Response(text="no NATS\n", status=503)
        return web.Response(text="ok\n")

    async def _metrics(self, request: web.Request) -> web.Response:
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
                for session in list(self._claimer.sessions)
            ]
        )
