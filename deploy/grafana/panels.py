"""The panels of the dashboard.

Counters are shown as rates. Gauges of several workers are summed, or the worst one is shown. The
variables `$job` and `$instance` select the workers.
"""

from __future__ import annotations

from dataclasses import dataclass

_CHOSEN = 'job=~"$job",instance=~"$instance"'
_AUDIO_RATE = "suffix: s/s"
_COST_RATE = "suffix: /h"


@dataclass(frozen=True)
class Panel:
    title: str
    description: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    """Pairs of an expression and its legend."""
    kind: str = "timeseries"
    width: int = 8
    limit: float | None = None
    """Threshold of an alert, drawn as a line."""
    stacked: bool = False


def _series(name: str, extra: str = "") -> str:
    return f"{name if name.startswith('process_') else f'natterjack_{name}'}{{{_CHOSEN}{extra}}}"


def _rate(name: str, by: str = "", extra: str = "") -> str:
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({_series(name, extra)}[$__rate_interval]))"


def _gauge(how: str, name: str, by: str = "", extra: str = "") -> str:
    grouping = f" by ({by})" if by else ""
    return f"{how}{grouping} ({_series(name, extra)})"


def _quantiles(
    name: str, by: str = "", extra: str = "", shares: tuple[int, ...] = (50, 95, 99)
) -> tuple[tuple[str, str], ...]:
    """Queries for quantiles of a histogram, grouped by at most one label."""
    legend = f"{{{{{by}}}}} " if by else ""
    grouping = f"le, {by}" if by else "le"
    return tuple(
        (
            f"histogram_quantile({share / 100:g}, {_rate(f'{name}_bucket', grouping, extra)})",
            f"{legend}p{share}",
        )
        for share in shares
    )


_READY = f"sum ({_series('nats_connected')} * (1 - {_series('draining')}))"
_FREE = (
    f"sum (clamp_min({_series('session_slots')} - {_series('sessions_active')}, 0)"
    f" * {_series('nats_connected')} * (1 - {_series('draining')}))"
)
_WAITING = "sum (max by (job) ({} and on (job, instance) {} == 1))".format(
    _series("queue_sessions", ',state="waiting"'), _series("nats_connected")
)
_FAILED = "{} / {}".format(
    _rate("sessions_ended_total", extra=',outcome="failed"'),
    _rate("sessions_ended_total", extra=',outcome=~"closed|failed"'),
)

_COMPLETE = "{} / {}".format(
    _rate("session_accounts_total", extra=',complete="true"'), _rate("session_accounts_total")
)

ROWS: dict[str, tuple[Panel, ...]] = {
    "Overview": (
        Panel(
            "Workers ready", "Workers that are connected to NATS and not draining.", "short",
            ((_READY, "ready"),), "stat", 4,
        ),
        Panel(
            "Sessions", "Sessions that workers hold.", "short",
            ((_gauge("sum", "sessions_active"), "sessions"),), "stat", 4,
        ),
        Panel(
            "Free slots", "Number of further sessions that ready workers can claim.", "short",
            ((_FREE, "free"),), "stat", 4,
        ),
        Panel(
            "Waiting",
            "Sessions in the queue that no worker has claimed. It should be 0. The stream keeps "
            "the audio of waiting sessions.",
            "short", ((_WAITING, "waiting"),), "stat", 4,
        ),
        Panel(
            "Most lag", "Maximum, over all sessions, of stored audio not yet sent to the provider.",
            "s", ((_gauge("max", "session_lag_seconds"), "lag"),), "stat", 4,
        ),
        Panel(
            "Cost an hour", "Current cost of all providers by the price table, in each currency.",
            _COST_RATE,
            ((f"3600 * {_rate('credits_used_total', 'currency')}", "{{currency}}"),), "stat", 4,
        ),
        Panel(
            "Sessions and capacity", "Sessions in slots, slots of all workers, and sessions that "
            "wait without a slot because no provider serves them now.",
            "short",
            (
                (_gauge("sum", "sessions_active"), "sessions"),
                (_gauge("sum", "sessions_held"), "held"),
                (_gauge("sum", "session_slots"), "slots"),
            ),
        ),
        Panel(
            "Queue", "Requests in the queue that wait for a worker or are leased to one. Each "
            "worker reports the whole queue.", "short",
            ((f"sum by (state) ({_gauge('max', 'queue_sessions', 'job, state')})", "{{state}}"),),
        ),
        Panel(
            "Sessions ended, by outcome",
            "Leases that ended per second. `closed` and `failed` end a session. After "
            "`handed_over`, `lost`, `busy` and `crashed` it returns to the queue. `rejected` "
            "requests were invalid.",
            "ops", ((_rate("sessions_ended_total", "outcome"), "{{outcome}}"),), stacked=True,
        ),
        Panel(
            "Sessions claimed", "Claims per second, and those among them that were the first of "
            "their session. The difference is sessions that moved between workers.", "ops",
            (
                (_rate("sessions_claimed_total"), "claimed"),
                (_rate("sessions_started_total"), "started"),
            ),
        ),
        Panel(
            "Speech in time", "Share of speech whose final was published within "
            "WORKER_FINAL_GOAL_SECONDS of its capture. The objective is 99%.", "percentunit",
            ((f"1 - {_rate('speech_late_seconds_total')} / {_rate('speech_seconds_total')}",
              "in time"),), limit=0.99,
        ),
        Panel(
            "Complete sessions", "Share of the sessions that ended whose audio was transcribed "
            "without a gap. The objective is 99.5%.", "percentunit",
            ((_COMPLETE, "complete"),), limit=0.995,
        ),
        Panel(
            "Sessions failed", "Share of failed sessions among those that ended.",
            "percentunit", ((_FAILED, "failed"),), limit=0.05,
        ),
        Panel(
            "Leases lost, events refused",
            "Sessions per second that another worker took over, and events that the broker then "
            "refused from the previous worker. Single ones are harmless; many mean that workers "
            "stall.",
            "ops",
            (
                (_rate("leases_lost_total", "instance"), "{{instance}} lost"),
                (_rate("fenced_publishes_total", "instance"), "{{instance}} refused"),
            ),
        ),
        Panel(
            "Events too large for the broker",
            "Events per second that exceed the broker's max_payload, by kind. Finals are published "
            "in parts, others are shortened; raise max_payload if there are many.",
            "ops",
            ((_rate("oversized_events_total", "kind"), "{{kind}}"),),
        ),
    ),
    "Latency": (
        Panel(
            "Interim latency",
            "Time from arrival of the last frame that an interim covers to its publication.", "s",
            _quantiles("transcript_latency_seconds", "provider", ',kind="interim"'), limit=1,
        ),
        Panel(
            "Final latency",
            "Time from arrival of the last frame that a final covers to its publication. It "
            "includes the silence that the provider's endpointing needs.", "s",
            _quantiles("transcript_latency_seconds", "provider", ',kind="final"'), limit=3,
        ),
        Panel(
            "End of speech to final",
            "Time from arrival of the end of a turn's last word to publication of its last final, "
            "for which an answer has to wait.", "s",
            _quantiles("final_after_speech_seconds", "provider"), limit=3,
        ),
        Panel(
            "First interim", "Time from the first speech sent on a provider stream to its first "
            "transcript.", "s", _quantiles("first_interim_seconds", "provider"),
        ),
        Panel(
            "Capture delay, by tenant",
            "Time from capture at the edge to arrival of live audio. It includes the difference "
            "between the clocks: if it is negative, the capture machine's clock is ahead.", "s",
            _quantiles("capture_delay_seconds", "tenant", shares=(50, 95)), limit=1,
        ),
        Panel(
            "Claim delay", "Time from the request of a session to its first claim.", "s",
            _quantiles("session_claim_delay_seconds"), limit=3,
        ),
    ),
    "Providers": (
        Panel(
            "Connect time", "Time to open a provider stream.", "s",
            _quantiles("provider_connect_seconds", "provider"), limit=2,
        ),
        Panel(
            "Errors, by cause",
            "Errors per second. connect, rate_limit, server_error: a dial failed. auth, credit, "
            "request: the provider refused permanently. Others: an open stream failed.", "ops",
            ((_rate("provider_errors_total", "provider, cause"), "{{provider}} {{cause}}"),),
        ),
        Panel(
            "Recoveries, by cause", "Provider streams reopened per second.", "ops",
            ((_rate("recoveries_total", "cause"), "{{cause}}"),), stacked=True,
        ),
        Panel(
            "Time to recover", "Time from the failure of a provider stream to the next stream. "
            "Audio waits meanwhile.", "s",
            _quantiles("recovery_seconds", "cause", shares=(50, 95)), limit=10,
        ),
        Panel(
            "Breaker", "Workers that do not dial a provider after consecutive failures.", "short",
            ((_gauge("sum", "provider_breaker_open", "provider"), "{{provider}}"),), limit=1,
        ),
        Panel(
            "Connections of limited accounts",
            "Permits of limited provider accounts that workers hold, and sessions that wait for "
            "one.", "short",
            (
                (_gauge("sum", "provider_slots_held", "account"), "{{account}} held"),
                (_gauge("sum", "provider_slots_waited_for", "account"), "{{account}} waited for"),
            ),
        ),
        Panel(
            "Wait for a connection", "Time that sessions waited for a permit of an account.",
            "s", _quantiles("provider_slot_wait_seconds", "account", shares=(50, 95)),
        ),
        Panel(
            "Notices, by code", "Provider messages other than transcripts per second. `malformed` "
            "ones could not be decoded and were skipped.", "ops",
            ((_rate("provider_notices_total", "provider, code"), "{{provider}} {{code}}"),),
        ),
    ),
    "Audio": (
        Panel(
            "Audio",
            "Seconds of audio per second; for live audio, the number of sending sessions. "
            "Replayed audio was sent more than once. Billed audio follows the provider's rule.",
            _AUDIO_RATE,
            (
                (_rate("audio_received_seconds_total"), "received"),
                (_rate("audio_sent_seconds_total", "provider"), "{{provider}} sent"),
                (_rate("audio_billed_seconds_total", "provider"), "{{provider}} billed"),
                (_rate("audio_replayed_seconds_total", "provider"), "{{provider}} replayed"),
            ), width=12,
        ),
        Panel(
            "Lag", "Maximum, over a worker's sessions, of stored audio not yet sent to the "
            "provider.", "s", ((_gauge("max", "session_lag_seconds", "instance"), "{{instance}}"),),
            width=12, limit=5,
        ),
        Panel(
            "Gaps, by cause",
            "Seconds of missing audio per second. missing: the broker does not have it; busy, "
            "suspended, device_lost, dropped, resumed, edge: the edge lost it; bad_chunk: its "
            "chunk was unusable; unreadable: no provider could transcribe it.",
            _AUDIO_RATE, ((_rate("audio_gap_seconds_total", "cause"), "{{cause}}"),), width=12,
        ),
        Panel(
            "Bad chunks, by cause",
            "Unusable chunks per second, counted when a session's feed ends.", "ops",
            ((_rate("bad_chunks_total", "cause"), "{{cause}}"),), width=12,
        ),
    ),
    "Money": (
        Panel(
            "Cost an hour, by provider", "Cost of billed seconds by the price table.", _COST_RATE,
            ((f"3600 * {_rate('credits_used_total', 'provider, currency')}",
              "{{provider}} {{currency}}"),), stacked=True,
        ),
        Panel(
            "Cost an hour, by tenant",
            "Cost of billed seconds by the price table. Tenants beyond WORKER_METRICS_TENANTS "
            "share `other`.", _COST_RATE,
            ((f"3600 * {_rate('credits_used_total', 'tenant, currency')}",
              "{{tenant}} {{currency}}"),), stacked=True,
        ),
        Panel(
            "Recovery share", "Share of the cost that was for audio sent more than once.",
            "percentunit",
            ((f"{_rate('recovery_cost_total', 'provider, currency')}"
              f" / {_rate('credits_used_total', 'provider, currency')}",
              "{{provider}} {{currency}}"),), limit=0.05,
        ),
        Panel(
            "Credit left, money", "Remaining credit that the provider last reported.", "short",
            ((_gauge("min", "credits_remaining", "provider, unit", ',unit!="seconds"'),
              "{{provider}} {{unit}}"),), width=6,
        ),
        Panel(
            "Credit left, time",
            "Remaining credit that a provider which counts seconds last reported.", "s",
            ((_gauge("min", "credits_remaining", "provider", ',unit="seconds"'),
              "{{provider}}"),), width=6,
        ),
        Panel(
            "Budgets left, money",
            "Remainder of today's budgets, for tenants that have sessions now.", "short",
            ((_gauge("min", "budget_remaining", "tenant, unit", ',unit!="seconds"'),
              "{{tenant}} {{unit}}"),), width=6,
        ),
        Panel(
            "Budgets left, time",
            "Remainder of today's budgets, for tenants that have sessions now.", "s",
            ((_gauge("min", "budget_remaining", "tenant", ',unit="seconds"'), "{{tenant}}"),),
            width=6,
        ),
        Panel(
            "Sessions ended by budgets",
            "Sessions per second that an exhausted budget ended. session: the session's "
            "max_seconds; tenant: the tenant's daily budget.", "ops",
            ((_rate("budget_ended_sessions_total", "scope"), "{{scope}}"),), width=24,
        ),
    ),
    "Voice": (
        Panel(
            "Utterances", "Utterances that ended, by outcome: `finished` was played to its end; "
            "the others were interrupted for the reason shown.", "cps",
            ((_rate("voice_utterances_total", "outcome"), "{{outcome}}"),), stacked=True,
        ),
        Panel(
            "Time to first audio", "From the arrival of an utterance's first text to its first "
            "audio.", "s", _quantiles("voice_first_audio_seconds", "provider", shares=(50, 95)),
        ),
        Panel(
            "Speech", "Seconds of speech per second: published by voice, and played, as players "
            "report it.", _AUDIO_RATE,
            (
                (_rate("voice_audio_seconds_total", "provider"), "{{provider}} published"),
                (_rate("voice_played_seconds_total"), "played"),
            ),
        ),
        Panel(
            "Characters", "Characters sent to voices, which bill them, and the part of them that "
            "was sent again because of faults.", "suffix: characters/s",
            (
                (_rate("voice_characters_total", "provider"), "{{provider}}"),
                (_rate("voice_repeated_characters_total", "provider"), "{{provider}} again"),
            ), width=12,
        ),
        Panel(
            "Chunks published again", "Chunks of speech that a player lacked and asked for.", "cps",
            ((_rate("voice_republished_chunks_total"), "chunks"),), width=12,
        ),
    ),
    "Webhook": (
        Panel(
            "Webhook events", "Events that the receiver has accepted, failed attempts by cause, "
            "and dead letters, per second.", "ops",
            (
                (_rate("webhook_sent_total", "name"), "{{name}} sent"),
                (_rate("webhook_attempts_failed_total", "name, cause"), "{{name}} {{cause}}"),
                (_rate("webhook_dead_letters_total", "name"), "{{name}} dead letters"),
            ), width=6,
        ),
        Panel(
            "Webhook backlog", "Events that the receiver has not accepted yet.", "short",
            ((_gauge("sum", "webhook_waiting", "name"), "{{name}}"),), width=6,
        ),
        Panel(
            "Webhook delay", "Age of the oldest event that the receiver has not accepted yet.", "s",
            ((_gauge("max", "webhook_oldest_seconds", "name"), "{{name}}"),), width=6, limit=900,
        ),
        Panel(
            "Webhook requests", "Duration of requests, successful or not.", "s",
            _quantiles("webhook_request_seconds", "name"), width=6,
        ),
    ),
    "Registrar": (
        Panel(
            "Enrollment", "Machines that were enrolled, agents whose credentials were renewed, "
            "and requests that were refused, by reason, per hour. `unavailable`: the registrar's "
            "log says why.", "short",
            ((f"3600 * {_rate('registrar_answers_total', 'outcome')}", "{{outcome}}"),), width=24,
        ),
    ),
    "Gateway": (
        Panel(
            "Gateway connections", "Open connections of clients, by door.", "short",
            ((_gauge("sum", "gateway_connections", "door"), "{{door}}"),), stacked=True,
        ),
        Panel(
            "Gateway use", "Share of the connections that a gateway accepts. A full gateway "
            "refuses clients.", "percentunit",
            ((
                f"{_gauge('sum', 'gateway_connections', 'job, instance')} / on (job, instance) "
                f"{_gauge('max', 'gateway_connections_limit', 'job, instance')}", "{{instance}}",
            ),), limit=0.9,
        ),
        Panel(
            "Gateway sessions", "Sessions whose audio is not all published, and those that a "
            "client which came back has continued, per minute.", "short",
            (
                (_gauge("sum", "gateway_sessions"), "sessions"),
                (f"60 * {_rate('gateway_sessions_rejoined_total')}", "continued per minute"),
            ),
        ),
        Panel(
            "Clients accepted", "Connections that were accepted, by door.", "cps",
            ((_rate("gateway_connections_accepted_total", "door"), "{{door}}"),),
        ),
        Panel(
            "Clients refused", "Connections that were refused, by door and reason. `full`: the "
            "gateway or the key has no room; `draining`: a rollout.", "cps",
            ((_rate("gateway_connections_refused_total", "door, reason"), "{{door}} {{reason}}"),),
        ),
        Panel(
            "Clients cut", "Clients that were disconnected because they read nothing, and events "
            "that were received live although the stream has refused them.", "cps",
            (
                (_rate("gateway_slow_clients_total", "door"), "{{door}} slow"),
                (_rate("gateway_refused_events_total"), "refused events"),
            ),
        ),
        Panel(
            "Audio from clients", "Seconds of audio received from clients, per second.",
            _AUDIO_RATE, ((_rate("gateway_audio_seconds_total"), "received"),),
        ),
        Panel(
            "Chunks not acknowledged", "Chunks of clients that the broker is not known to have "
            "stored. Normally about one for each session.", "short",
            ((_gauge("max", "gateway_unacknowledged_chunks", "instance"), "{{instance}}"),),
        ),
        Panel(
            "Gateway state", "1 while clients may connect, while connected to NATS, and after "
            "SIGTERM.", "short",
            (
                (_gauge("min", "gateway_ready", "instance"), "ready {{instance}}"),
                (_gauge("min", "gateway_nats_connected", "instance"), "NATS {{instance}}"),
                (_gauge("max", "gateway_draining", "instance"), "draining {{instance}}"),
                (_gauge("count", "gateway_build_info", "version"), "gateways of {{version}}"),
            ),
        ),
    ),
    "Edges": (
        Panel(
            "Edges", "Edges that are known, by state. Every worker reports the same number.",
            "short", ((_gauge("max", "edges", "state"), "{{state}}"),),
        ),
        Panel(
            "Absent edges", "1 while an edge does not report, although it has not said that it "
            "stopped.", "short",
            ((f"{_gauge('max', 'edge_absent', 'tenant, agent')} > 0", "{{tenant}}.{{agent}}"),),
        ),
        Panel(
            "Findings of inputs", "Sources whose input has a finding now: dead, clipped, too low.",
            "short",
            ((
                _gauge("max", "edge_input_findings", "tenant, agent, code"),
                "{{tenant}}.{{agent}} {{code}}",
            ),),
        ),
        Panel(
            "Notices of edges", "What edges say of their audio, when it begins and ends, by code.",
            "short", ((_rate("notices_total", "code"), "{{code}}"),),
        ),
        Panel(
            "Spools of edges", "Share of the spool that is used by audio that NATS has not stored. "
            "The ten fullest.", "percentunit",
            ((
                f"topk(10, {_gauge('max', 'edge_spool_ratio', 'tenant, agent')})",
                "{{tenant}}.{{agent}}",
            ),), limit=0.5,
        ),
        Panel(
            "Last report", "Time since an edge has last reported. The ten longest.", "s",
            ((
                f"topk(10, {_gauge('max', 'edge_seen_seconds', 'tenant, agent')})",
                "{{tenant}}.{{agent}}",
            ),),
        ),
        Panel(
            "Clocks of edges", "How far the clock of an edge is off the broker's. The ten "
            "furthest.", "s",
            ((
                "topk(10, max by (tenant, agent) (abs("
                f"{_series('edge_clock_offset_seconds')})))", "{{tenant}}.{{agent}}",
            ),), limit=2,
        ),
    ),
    "Process": (
        Panel(
            "Event-loop delay", "Delay of timers of the event loop. Beyond 0.1 s, the worker has "
            "more sessions than its CPU can serve.", "s",
            _quantiles("event_loop_delay_seconds", "instance", shares=(50, 99)), limit=0.1,
        ),
        Panel(
            "CPU", "CPU cores used. The event loop can use one core at most; an embedded engine "
            "uses more.", "short",
            ((_rate("process_cpu_seconds_total", "instance"), "{{instance}}"),),
        ),
        Panel(
            "Memory", "Resident memory.", "bytes",
            ((_gauge("sum", "process_resident_memory_bytes", "instance"), "{{instance}}"),),
        ),
        Panel(
            "File descriptors", "Open files and sockets, as a share of the process's limit.",
            "percentunit",
            ((f"{_series('process_open_fds')} / {_series('process_max_fds')}", "{{instance}}"),),
            limit=0.8,
        ),
        Panel(
            "NATS", "1 while connected to the broker.", "short",
            ((_gauge("min", "nats_connected", "instance"), "{{instance}}"),), width=6,
        ),
        Panel(
            "Ready", "1 while /readyz answers 200.", "short",
            (
                (_gauge("min", "worker_ready", "instance"), "{{instance}}"),
                (_gauge("min", "webhook_ready", "instance"), "webhook {{instance}}"),
                (_gauge("min", "registrar_ready", "instance"), "registrar {{instance}}"),
            ), width=6,
        ),
        Panel(
            "Draining", "1 after SIGTERM.", "short",
            ((_gauge("max", "draining", "instance"), "{{instance}}"),), width=6,
        ),
        Panel(
            "Versions", "Number of workers per version of natterjack.", "short",
            ((_gauge("count", "build_info", "version"), "{{version}}"),), "stat", 6,
        ),
        Panel(
            "Missing on the broker", "1 while a JetStream stream is missing, or while the queue's "
            "consumer is missing or paused. `natterjack streams apply` creates them.", "short",
            (
                (_gauge("max", "stream_missing", "stream"), "{{stream}}"),
                (_gauge("max", "queue_consumer_missing"), "consumer of the queue"),
            ), width=12,
        ),
        Panel(
            "Streams' limits", "Share of a JetStream stream's size limit that is used. A full "
            "STT_AUDIO drops the oldest audio; a full STT_SESSIONS refuses new sessions.",
            "percentunit", ((_gauge("max", "stream_used_ratio", "stream"), "{{stream}}"),),
            width=12, limit=0.9,
        ),
        Panel(
            "Failed attempts to connect to NATS", "By reason; `authorization`, `expired` and `tls` "
            "need another key, JWT or certificate.", "cps",
            ((_rate("nats_connect_failures_total", "reason"), "{{reason}}"),), width=12,
        ),
        Panel(
            "Credentials expire in", "Time until the credentials and certificates in use expire. "
            "Write new files before it is over; no restart is needed.", "s",
            ((
                f"{_gauge('min', 'nats_credentials_expiry_timestamp_seconds', 'credential')}"
                " - time()", "{{credential}}",
            ),), width=12,
        ),
    ),
}  # fmt: skip
