"""The worker's Prometheus metrics. Labels are bounded: never a session, tenant or speaker."""

from __future__ import annotations

from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

_LATENCY = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10)
_DELAY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Metrics:
    """One object a process, with a registry of its own."""

    def __init__(self, slots: int) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        Info("natterjack_build", "Version of natterjack", registry=registry).info(
            {"version": version("natterjack")}
        )
        self.sessions_active = Gauge(
            "natterjack_sessions_active", "Sessions held by this worker", registry=registry
        )
        Gauge(
            "natterjack_session_slots", "Sessions this worker may hold at once", registry=registry
        ).set(slots)
        self.sessions_claimed = Counter(
            "natterjack_sessions_claimed_total", "Leases taken from the queue", registry=registry
        )
        self.sessions_ended = Counter(
            "natterjack_sessions_ended_total",
            "Leases given up, by outcome",
            ["outcome"],
            registry=registry,
        )
        self.audio_received = Counter(
            "natterjack_audio_received_seconds_total",
            "Audio taken from the broker, replays included",
            registry=registry,
        )
        self.audio_sent = Counter(
            "natterjack_audio_sent_seconds_total",
            "Audio sent to the provider, replays included",
            ["provider"],
            registry=registry,
        )
        self.audio_gaps = Counter(
            "natterjack_audio_gap_seconds_total",
            "Audio that could not be had, by cause",
            ["cause"],
            registry=registry,
        )
        self.bad_chunks = Counter(
            "natterjack_bad_chunks_total", "Chunks left out, by cause", ["cause"], registry=registry
        )
        self.latency = Histogram(
            "natterjack_transcript_latency_seconds",
            "From the arrival of the last sample covered to publishing",
            ["kind", "provider"],
            buckets=_LATENCY,
            registry=registry,
        )
        self.connect = Histogram(
            "natterjack_provider_connect_seconds",
            "Time to open a provider stream",
            ["provider"],
            buckets=_LATENCY,
            registry=registry,
        )
        self.recoveries = Counter(
            "natterjack_recoveries_total",
            "Provider streams opened again, by cause",
            ["cause"],
            registry=registry,
        )
        self.provider_errors = Counter(
            "natterjack_provider_errors_total",
            "Faults of providers, by cause",
            ["provider", "cause"],
            registry=registry,
        )
        self.breaker_open = Gauge(
            "natterjack_provider_breaker_open",
            "1 while a provider is left alone after failures in a row",
            ["provider"],
            registry=registry,
        )
        self.provider_notices = Counter(
            "natterjack_provider_notices_total",
            "What providers said beside transcripts, by code; `malformed` could not be decoded",
            ["provider", "code"],
            registry=registry,
        )
        self.leases_lost = Counter(
            "natterjack_leases_lost_total",
            "Sessions that another worker had taken over",
            registry=registry,
        )
        self.fenced = Counter(
            "natterjack_fenced_publishes_total",
            "Durable events that the broker refused from this worker",
            registry=registry,
        )
        self.lag = Gauge(
            "natterjack_session_lag_seconds",
            "Audio known and not yet sent to the provider: the most over all sessions",
            registry=registry,
        )
        self.loop_delay = Histogram(
            "natterjack_event_loop_delay_seconds",
            "How late the event loop ran a timer",
            buckets=_DELAY,
            registry=registry,
        )
        self.nats_connected = Gauge(
            "natterjack_nats_connected", "1 while connected to the broker", registry=registry
        )
        self.draining = Gauge("natterjack_draining", "1 from SIGTERM on", registry=registry)
