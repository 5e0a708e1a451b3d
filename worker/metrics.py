"""The worker's Prometheus metrics. Labels are bounded: never a session or speaker, and of tenants
only so many as a setting allows."""

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
"""Speech: an answer within 0.3 s feels live, within 1 s is usual, beyond 3 s is late."""
_CAPTURE_DELAY = (-1, -0.1, 0, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 30, 300)
"""Below zero: the capture machine's clock is ahead of ours. Minutes: sound that was held back."""
_WAITING = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30, 60, 300)
_DELAY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)

OTHER_TENANTS = "other"


class Metrics:
    """One object a process, with a registry of its own."""

    def __init__(self, slots: int, most_tenants: int = 50) -> None:
        """The first `most_tenants` tenants have labels of their own, the others share one."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._tenants: set[str] = set()
        self._most_tenants = most_tenants
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        Info("natterjack_build", "Version of natterjack", registry=self.registry).info(
            {"version": version("natterjack")}
        )
        self._sessions(slots)
        self._audio()
        self._latencies()
        self._providers()
        self._money()
        self._process()
        # A rate does not see the first event of a series that begins with it.
        for outcome in ("closed", "failed", "handed_over", "lost", "busy", "crashed", "rejected"):
            self.sessions_ended.labels(outcome)
        for cause in ("missing", "edge", "bad_chunk"):
            self.audio_gaps.labels(cause)
        for scope in ("session", "tenant"):
            self.budget_ended.labels(scope)

    def tenant(self, name: str) -> str:
        """The label value for a tenant."""
        if name not in self._tenants:
            if len(self._tenants) >= self._most_tenants:
                return OTHER_TENANTS
            self._tenants.add(name)
        return name

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"natterjack_{name}", what, labels, registry=self.registry)

    def _gauge(self, name: str, what: str, *labels: str) -> Gauge:
        return Gauge(f"natterjack_{name}", what, labels, registry=self.registry)

    def _histogram(
        self, name: str, what: str, *labels: str, buckets: tuple[float, ...] = _LATENCY
    ) -> Histogram:
        return Histogram(
            f"natterjack_{name}", what, labels, buckets=buckets, registry=self.registry
        )

    def _sessions(self, slots: int) -> None:
        self.sessions_active = self._gauge("sessions_active", "Sessions held by this worker")
        self._gauge("session_slots", "Sessions this worker may hold at once").set(slots)
        self.sessions_claimed = self._counter(
            "sessions_claimed_total", "Leases taken from the queue"
        )
        self.sessions_started = self._counter(
            "sessions_started_total", "Sessions taken for the first time"
        )
        self.sessions_ended = self._counter(
            "sessions_ended_total", "Leases given up, by outcome", "outcome"
        )
        self.claim_delay = self._histogram(
            "session_claim_delay_seconds",
            "From the request of a session to its first lease",
            buckets=_WAITING,
        )
        self.queue = self._gauge(
            "queue_sessions",
            "Sessions in the queue, of all workers: waiting for a worker, or leased to one",
            "state",
        )
        self.leases_lost = self._counter(
            "leases_lost_total", "Sessions that another worker had taken over"
        )
        self.fenced = self._counter(
            "fenced_publishes_total", "Durable events that the broker refused from this worker"
        )
        self.lag = self._gauge(
            "session_lag_seconds",
            "Audio known and not yet sent to the provider: the most over all sessions",
        )

    def _audio(self) -> None:
        self.audio_received = self._counter(
            "audio_received_seconds_total", "Audio taken from the broker, replays included"
        )
        self.audio_sent = self._counter(
            "audio_sent_seconds_total", "Audio sent to the provider, replays included", "provider"
        )
        self.audio_replayed = self._counter(
            "audio_replayed_seconds_total",
            "Audio sent to a provider that had been sent before: what faults cost",
            "provider",
        )
        self.audio_billed = self._counter(
            "audio_billed_seconds_total", "Seconds billed by the provider's rule", "provider"
        )
        self.audio_gaps = self._counter(
            "audio_gap_seconds_total", "Audio that could not be had, by cause", "cause"
        )
        self.bad_chunks = self._counter("bad_chunks_total", "Chunks left out, by cause", "cause")

    def _latencies(self) -> None:
        self.latency = self._histogram(
            "transcript_latency_seconds",
            "From the arrival of the last sample covered to publishing",
            "kind",
            "provider",
        )
        self.final_delay = self._histogram(
            "final_after_speech_seconds",
            "From the arrival of the end of a turn's last word to publishing its last final",
            "provider",
        )
        self.first_interim = self._histogram(
            "first_interim_seconds",
            "From the first speech sent on a provider stream to its first transcript",
            "provider",
        )
        self.capture_delay = self._histogram(
            "capture_delay_seconds",
            "From capture at the edge to arrival of live audio, sampled each second; includes the "
            "difference of the two clocks",
            "tenant",
            buckets=_CAPTURE_DELAY,
        )
        self.connect = self._histogram(
            "provider_connect_seconds", "Time to open a provider stream", "provider"
        )
        self.recovery_time = self._histogram(
            "recovery_seconds",
            "From a provider stream's failure to the next one, by the failure's cause",
            "cause",
            buckets=_WAITING,
        )

    def _providers(self) -> None:
        self.recoveries = self._counter(
            "recoveries_total", "Provider streams opened again, by cause", "cause"
        )
        self.provider_errors = self._counter(
            "provider_errors_total", "Faults of providers, by cause", "provider", "cause"
        )
        self.breaker_open = self._gauge(
            "provider_breaker_open",
            "1 while a provider is left alone after failures in a row",
            "provider",
        )
        self.provider_notices = self._counter(
            "provider_notices_total",
            "What providers said beside transcripts, by code; `malformed` could not be decoded",
            "provider",
            "code",
        )
        self.slots_held = self._gauge(
            "provider_slots_held",
            "Connections that this worker holds of an account whose number is limited",
            "account",
        )
        self.slots_waited_for = self._gauge(
            "provider_slots_waited_for",
            "Sessions of this worker that wait for a connection of an account",
            "account",
        )
        self.slot_wait = self._histogram(
            "provider_slot_wait_seconds",
            "How long a session waited for a connection of an account",
            "account",
            buckets=_WAITING,
        )

    def _money(self) -> None:
        self.credits_used = self._counter(
            "credits_used_total",
            "Cost of billed seconds by the price table, in the currency",
            "provider",
            "tenant",
            "currency",
        )
        self.recovery_cost = self._counter(
            "recovery_cost_total",
            "Part of the cost that was for audio sent before, in the currency",
            "provider",
            "currency",
        )
        self.credits_remaining = self._gauge(
            "credits_remaining",
            "Credit left at a provider, as it last said, in the unit (seconds, or a currency)",
            "provider",
            "unit",
        )
        self.budget_remaining = self._gauge(
            "budget_remaining",
            "What is left today of a tenant's budget, in the unit (seconds, or a currency)",
            "tenant",
            "unit",
        )
        self.budget_ended = self._counter(
            "budget_ended_sessions_total", "Sessions ended because a budget was used up", "scope"
        )

    def _process(self) -> None:
        self.loop_delay = self._histogram(
            "event_loop_delay_seconds", "How late the event loop ran a timer", buckets=_DELAY
        )
        self.nats_connected = self._gauge("nats_connected", "1 while connected to the broker")
        self.draining = self._gauge("draining", "1 from SIGTERM on")
