"""The worker's HTTP port: /startupz, /livez, /readyz, /healthz, /metrics, /sessions.

The port is open before the worker is connected to NATS: a worker that waits for NATS is alive, and
restarting it would not help. Its metrics show that it waits.
"""

from __future__ import annotations

import time

from aiohttp import web

from natterjack.broker.login.attempts import Attempts
from natterjack.telemetry.http_port import HttpPort, alive, readiness, scrape
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
        self._metrics = metrics
        self._watch = watch
        self._attempts = attempts
        metrics.worker_ready.set_function(lambda: self._unready() is None)
        self._services: Services | None = None
        self._claimer: Claimer | None = None
        self._http = HttpPort(settings.http_host, settings.http_port, "WORKER_HTTP_PORT")
        self.draining = False

    @property
    def address(self) -> str:
        return self._http.address

    @property
    def port(self) -> int:
        return self._http.port

    async def start(self) -> None:
        """Start to listen. Raises UsageError if the port is in use."""
        await self._http.start(
            [
                # A restart because of the broker or a provider would cure nothing and interrupt
                # every session of this worker.
                web.get("/startupz", alive),
                web.get("/livez", alive),
                web.get("/healthz", alive),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._scrape),
                web.get("/sessions", self._sessions),
            ]
        )

    def serve(self, services: Services, claimer: Claimer) -> None:
        """Report the worker as ready: it claims sessions from now on."""
        self._services, self._claimer = services, claimer

    async def stop(self) -> None:
        """Stop listening. Idempotent."""
        await self._http.stop()

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
        return readiness(self._unready())

    async def _scrape(self, request: web.Request) -> web.Response:
        return scrape(self._metrics.registry)

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
