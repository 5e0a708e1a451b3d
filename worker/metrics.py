"""The worker's Prometheus metrics.

The number of series is bounded: no label has a session or a speaker, and a setting limits how many
tenants have labels of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
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

from natterjack.broker.login.attempts import REASONS
from natterjack.notices import CODES, GAP_CAUSES, OTHER, UNNAMED_GAP
from natterjack.subjects import DURABLE_KINDS, VOICE_EVENT_KINDS

_LATENCY = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10)
"""Transcript latency: within 0.3 s feels live, within 1 s is usual, and beyond 3 s is late."""
_CAPTURE_DELAY = (-1, -0.1, 0, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 30, 300)
"""Negative if the capture machine's clock is ahead; minutes if an edge held audio back."""
_WAITING = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30, 60, 300)
_DELAY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)

OTHER_TENANTS = "other"
VOICE_INTERRUPTIONS = (
    *("request", "turn", "no_player", "failed"),
    *("end of text", "closed", "idle", "superseded", "budget"),  # the session has ended
)
"""Why an utterance is interrupted."""


class Metrics:
    """All metrics of one process, in a registry of their own."""

    def __init__(self, slots: int, most_tenants: int = 50, final_goal_seconds: float = 5.0) -> None:
        """Give the first `most_tenants` tenants labels of their own; all others share one. Speech
        that is final later than `final_goal_seconds` after its capture counts as late."""
        self.final_goal_seconds = final_goal_seconds
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
        self._voice()
        self._edges()
        self._process()
        # Create these series at zero, because `rate` misses an event that creates its series.
        for outcome in ("closed", "failed", "handed_over", "lost", "busy", "crashed", "rejected"):
            self.sessions_ended.labels(outcome)
        for cause in ("missing", UNNAMED_GAP, *GAP_CAUSES, "bad_chunk", "unreadable"):
            self.audio_gaps.labels(cause)
        for code in (*CODES, OTHER):
            self.notices.labels(code)
        for complete in ("true", "false"):
            self.session_accounts.labels(complete)
        for scope in ("session", "tenant"):
            self.budget_ended.labels(scope)
        for kind in dict.fromkeys(("interim", *DURABLE_KINDS, *VOICE_EVENT_KINDS)):
            self.oversized.labels(kind)
        for outcome in ("finished", *VOICE_INTERRUPTIONS):
            self.voice_utterances.labels(outcome)

    def tenant(self, name: str) -> str:
        """Return the label value for a tenant."""
        if name not in self._tenants:
            if len(self._tenants) >= self._most_tenants:
                return OTHER_TENANTS
            self._tenants.add(name)
        return name

    def credentials_expire(self, expiries: Iterable[tuple[str, float]]) -> None:
        """Export when credentials expire. Those that do not, or no longer do, have no series."""
        self.credentials_expiry.clear()
        for credential, expiry in expiries:
            self.credentials_expiry.labels(credential).set(expiry)

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
        self.sessions_active = self._gauge(
            "sessions_active", "Sessions in the slots of this worker"
        )
        self.sessions_held = self._gauge(
            "sessions_held",
            "Sessions of this worker that wait, without a slot, for a provider to serve them again",
        )
        self._gauge("session_slots", "Slots of this worker for sessions").set(slots)
        self.sessions_claimed = self._counter(
            "sessions_claimed_total", "Sessions claimed from the queue, resumed ones included"
        )
        self.sessions_started = self._counter(
            "sessions_started_total", "Sessions claimed for the first time"
        )
        self.sessions_ended = self._counter(
            "sessions_ended_total", "Leases that ended, by outcome", "outcome"
        )
        self.session_accounts = self._counter(
            "session_accounts_total",
            "Sessions that ended, by whether all their audio was transcribed without a gap",
            "complete",
        )
        self.claim_delay = self._histogram(
            "session_claim_delay_seconds",
            "Time from the request of a session to its first claim",
            buckets=_WAITING,
        )
        self.queue = self._gauge(
            "queue_sessions",
            "Sessions in the whole queue, waiting for a worker or leased to one",
            "state",
        )
        self.leases_lost = self._counter(
            "leases_lost_total", "Sessions of this worker that another worker took over"
        )
        self.fenced = self._counter(
            "fenced_publishes_total", "Durable events of this worker that the broker refused"
        )
        self.oversized = self._counter(
            "oversized_events_total",
            "Events larger than the broker's max_payload: finals are divided, others shortened",
            "kind",
        )
        self.lag = self._gauge(
            "session_lag_seconds",
            "Maximum, over all sessions, of stored audio not yet sent to the provider",
        )

    def _audio(self) -> None:
        self.audio_received = self._counter(
            "audio_received_seconds_total", "Audio received from the broker, replays included"
        )
        self.audio_sent = self._counter(
            "audio_sent_seconds_total", "Audio sent to providers, replays included", "provider"
        )
        self.audio_replayed = self._counter(
            "audio_replayed_seconds_total",
            "Audio sent to a provider more than once because of faults",
            "provider",
        )
        self.audio_billed = self._counter(
            "audio_billed_seconds_total", "Seconds billed, by the provider's own rule", "provider"
        )
        self.audio_gaps = self._counter(
            "audio_gap_seconds_total", "Audio missing from sessions, by cause", "cause"
        )
        self.bad_chunks = self._counter("bad_chunks_total", "Unusable chunks, by cause", "cause")

    def _latencies(self) -> None:
        self.latency = self._histogram(
            "transcript_latency_seconds",
            "Time from arrival of the last frame that a transcript covers to its publication",
            "kind",
            "provider",
        )
        self.final_delay = self._histogram(
            "final_after_speech_seconds",
            "Time from arrival of the end of a turn's last word to publication of its last final",
            "provider",
        )
        self.speech_seconds = self._counter(
            "speech_seconds_total", "Seconds of speech whose final was published", "provider"
        )
        self.speech_late_seconds = self._counter(
            "speech_late_seconds_total",
            "Seconds of speech whose final came later than WORKER_FINAL_GOAL_SECONDS after its "
            "capture",
            "provider",
        )
        self.first_interim = self._histogram(
            "first_interim_seconds",
            "Time from the first speech sent on a provider stream to its first transcript",
            "provider",
        )
        self.capture_delay = self._histogram(
            "capture_delay_seconds",
            "Time from capture at the edge to arrival of live audio, sampled once a second; "
            "includes the difference between the two clocks",
            "tenant",
            buckets=_CAPTURE_DELAY,
        )
        self.connect = self._histogram(
            "provider_connect_seconds", "Time to open a provider stream", "provider"
        )
        self.recovery_time = self._histogram(
            "recovery_seconds",
            "Time from the failure of a provider stream to the next stream, by cause",
            "cause",
            buckets=_WAITING,
        )

    def _providers(self) -> None:
        self.notices = self._counter(
            "notices_total",
            "Notices of edges about their audio, that a condition begins or ends, by its code; "
            "`other` for codes that this release does not know",
            "code",
        )
        self.recoveries = self._counter(
            "recoveries_total", "Provider streams reopened after a failure, by cause", "cause"
        )
        self.provider_errors = self._counter(
            "provider_errors_total", "Failures of providers, by cause", "provider", "cause"
        )
        self.breaker_open = self._gauge(
            "provider_breaker_open",
            "1 while the provider is not dialed after consecutive failures",
            "provider",
        )
        self.provider_notices = self._counter(
            "provider_notices_total",
            "Provider messages other than transcripts, by code; `malformed` could not be decoded",
            "provider",
            "code",
        )
        self.slots_held = self._gauge(
            "provider_slots_held",
            "Permits of a limited provider account that this worker holds",
            "account",
        )
        self.slots_waited_for = self._gauge(
            "provider_slots_waited_for",
            "Sessions of this worker that wait for a permit of a provider account",
            "account",
        )
        self.slot_wait = self._histogram(
            "provider_slot_wait_seconds",
            "Time that sessions waited for a permit of a provider account",
            "account",
            buckets=_WAITING,
        )

    def _money(self) -> None:
        self.credits_used = self._counter(
            "credits_used_total",
            "Cost of billed seconds by the price table, in the label's currency",
            "provider",
            "tenant",
            "currency",
        )
        self.recovery_cost = self._counter(
            "recovery_cost_total",
            "Part of the cost that was for audio sent more than once, in the label's currency",
            "provider",
            "currency",
        )
        self.credits_remaining = self._gauge(
            "credits_remaining",
            "Remaining credit that the provider last reported, in the label's unit",
            "provider",
            "unit",
        )
        self.budget_remaining = self._gauge(
            "budget_remaining",
            "Remainder of a tenant's budget for today, in the label's unit",
            "tenant",
            "unit",
        )
        self.budget_ended = self._counter(
            "budget_ended_sessions_total", "Sessions that an exhausted budget ended", "scope"
        )

    def _voice(self) -> None:
        self.voice_characters = self._counter(
            "voice_characters_total",
            "Characters sent to voices, repeated ones included",
            "provider",
        )
        self.voice_repeated = self._counter(
            "voice_repeated_characters_total",
            "Characters sent to a voice more than once because of faults",
            "provider",
        )
        self.voice_audio = self._counter(
            "voice_audio_seconds_total", "Speech that was published", "provider"
        )
        self.voice_played = self._counter(
            "voice_played_seconds_total", "Speech that players have played, as they report it"
        )
        self.voice_first_audio = self._histogram(
            "voice_first_audio_seconds",
            "Time from the arrival of an utterance's first text to its first audio",
            "provider",
        )
        self.voice_utterances = self._counter(
            "voice_utterances_total",
            "Utterances that ended: played to the end (`finished`), or why they were interrupted",
            "outcome",
        )
        self.voice_republished = self._counter(
            "voice_republished_chunks_total", "Chunks published again because a player lacked them"
        )

    def _edges(self) -> None:
        edge = ("tenant", "agent")
        self.edges = self._gauge(
            "edges", "Edges that are known, the same for every worker, by state", "state"
        )
        self.edge_seen = self._gauge(
            "edge_seen_seconds", "Seconds since an edge has last reported", *edge
        )
        self.edge_absent = self._gauge(
            "edge_absent",
            "1 while an edge does not report, although it has not said that it stopped",
            *edge,
        )
        self.edge_findings = self._gauge(
            "edge_input_findings",
            "Sources of an edge whose input has this finding now, by the code of its notice",
            *edge,
            "code",
        )
        self.edge_spool = self._gauge(
            "edge_spool_ratio", "Share of the spool of an edge that is used", *edge
        )
        self.edge_clock = self._gauge(
            "edge_clock_offset_seconds",
            "How far the clock of an edge is ahead of the broker's",
            *edge,
        )

    def _process(self) -> None:
        self.loop_delay = self._histogram(
            "event_loop_delay_seconds", "Delay of timers of the event loop", buckets=_DELAY
        )
        self.nats_connected = self._gauge("nats_connected", "1 while connected to the broker")
        self.connect_failures = self._counter(
            "nats_connect_failures_total",
            "Failed attempts to connect to NATS, by reason",
            "reason",
        )
        for reason in REASONS:
            self.connect_failures.labels(reason)
        self.credentials_expiry = self._gauge(
            "nats_credentials_expiry_timestamp_seconds",
            "When what was last read from a file expires, in seconds since 1970: the JWT of "
            "NATS_CREDS (creds), NATS_CERT (cert), the last CA of NATS_CA (ca)",
            "credential",
        )
        self.draining = self._gauge("draining", "1 after SIGTERM")
        self.stream_missing = self._gauge(
            "stream_missing", "1 while the broker does not have the JetStream stream", "stream"
        )
        self.stream_used = self._gauge(
            "stream_used_ratio", "Share of a JetStream stream's size limit that is used", "stream"
        )
        self.queue_consumer_missing = self._gauge(
            "queue_consumer_missing", "1 while the consumer of a queue is missing or paused"
        )
        self.worker_ready = self._gauge(
            "worker_ready",
            "1 while /readyz answers 200; 0 from the start of the process until then",
        )
