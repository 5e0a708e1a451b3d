"""The worker's HTTP port: /startupz, /livez, /readyz, /healthz, /metrics, /sessions.

The port is open before the worker is connected to NATS: a worker that waits for NATS is alive, and
restarting it would not help. Its metrics show that it waits.
"""

from __future__ import annotations

import time

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from natterjack.broker.login.attempts import Attempts
from natterjack.errors import UsageError
from worker.services import Services

from .claim import Claimer
from .metrics import Metrics
from .settings import WorkerSettings
from .stream_watch import StreamWatch


class Health:
    """Answers probes and scrapes. `port` is the port in use once the server has started."""

    def __init__(
        self,
        settings: WorkerSettings,
        metrics: Metrics,
        watch: StreamWatch,
        attempts: Attempts,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._watch = watch
        self._attempts = attempts
        metrics.worker_ready.set_function(lambda: self._unready() is None)
        self._services: Services | None = None
        self._claimer: Claimer | None = None
        self._runner: web.AppRunner | None = None
        self.draining = False
        self.port = 0

    @property
    def address(self) -> str:
        return f"http://{self._settings.http_host}:{self.port}"

    async def start(self) -> None:
        """Start to listen. Raises UsageError if the port is in use."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/startupz", self._alive),
                web.get("/livez", self._alive),
                web.get("/healthz", self._alive),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._scrape),
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
                "(set WORKER_HTTP_PORT; 0 picks a free port)"
            ) from None
        self.port = self._runner.addresses[0][1]

    def serve(self, services: Services, claimer: Claimer) -> None:
        """Report the worker as ready: it claims sessions from now on."""
        self._services, self._claimer = services, claimer

    async def stop(self) -> None:
        """Stop listening. Idempotent."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _alive(self, request: web.Request) -> web.Response:
        # The event loop runs, which is all that a restart could fix. A restart because of the
        # broker or a provider would cure nothing and interrupt every session of this worker.
        return web.Response(text="ok\n")

    def _unready(self) -> str | None:
        """Why the worker is not ready, or None if it is."""
        if self.draining:
            return "draining"
        if self._services is not None and self._services.broker.connected:
            return self._watch.problem
        trouble = self._attempts.trouble
        no_nats = f"no NATS: {trouble}" if trouble else "no NATS"
        return no_nats if self._services is not None else self._watch.problem or no_nats

    async def _readyz(self, request: web.Request) -> web.Response:
        reason = self._unready()
        return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)

    async def _scrape(self, request: web.Request) -> web.Response:
        body = generate_latest(self._metrics.registry)
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
                    "reason": session.progress.held_reason,
                    "seconds_held": round(now - session.since, 1),
                    "final_seconds": round(session.progress.final_seconds, 2),
                    "lag_seconds": round(session.progress.lag_seconds, 2),
                }
                for session in list(self._claimer.sessions if self._claimer else ())
            ]
        )
