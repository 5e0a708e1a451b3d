"""The gateway's Prometheus metrics, in a registry of their own."""

from __future__ import annotations

from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)


class GatewayMetrics:
    """All metrics of one process. Their only labels are `door`, one of a few, and `reason`."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        # A name of its own, because alerts recognize workers by theirs.
        Info("natterjack_gateway_build", "Version of the gateway", registry=self.registry).info(
            {"version": version("natterjack")}
        )
        self.ready = self._gauge("ready", "1 if clients may connect")
        self.draining = self._gauge("draining", "1 after SIGTERM, while connections are closed")
        self.nats_connected = self._gauge("nats_connected", "1 while there is a connection to NATS")
        self.connections = self._gauge("connections", "Open connections of clients", "door")
        self.connections_limit = self._gauge(
            "connections_limit", "Connections that are accepted at once, of all doors together"
        )
        self.accepted = self._counter(
            "connections_accepted_total", "Connections that were accepted", "door"
        )
        self.refused = self._counter(
            "connections_refused_total",
            "Connections that were refused, by reason",
            "door",
            "reason",
        )
        self.slow = self._counter(
            "slow_clients_total", "Clients that were disconnected because they read nothing", "door"
        )
        self.sessions = self._gauge("sessions", "Sessions whose audio is not all published")
        self.unacknowledged = self._gauge(
            "unacknowledged_chunks",
            "Chunks of clients that the broker is not known to have stored, of all sessions",
        )
        self.rejoined = self._counter(
            "sessions_rejoined_total", "Sessions that a client which came back has continued"
        )
        self.audio_seconds = self._counter(
            "audio_seconds_total", "Audio received from clients, in seconds"
        )
        self.refused_events = self._counter(
            "refused_events_total",
            "Events that were received live and are not in the stream, which has refused them",
        )

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"natterjack_gateway_{name}", what, labels, registry=self.registry)

    def _gauge(self, name: str, what: str, *labels: str) -> Gauge:
        return Gauge(f"natterjack_gateway_{name}", what, labels, registry=self.registry)
