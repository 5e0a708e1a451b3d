"""What the dashboard shows.

A panel is a title, what it shows and how to read it, a unit of Grafana's, and queries. Counters are
rates, gauges are added up or the worst of them is shown; `$job` and `$instance` choose the workers.
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
    """Each with its legend."""
    kind: str = "timeseries"
    width: int = 8
    limit: float | None = None
    """A line is drawn where an alert begins."""
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
    """Of a histogram; `by` is one label, or none."""
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

ROWS: dict[str, tuple[Panel, ...]] = {
    "Overview": (
        Panel(
            "Workers ready", "Workers that are connected to NATS and do not drain.", "short",
            ((_READY, "ready"),), "stat", 4,
        ),
        Panel(
            "Sessions", "Sessions that workers hold now.", "short",
            ((_gauge("sum", "sessions_active"), "sessions"),), "stat", 4,
        ),
        Panel(
            "Free slots", "How many more sessions the workers that are ready would take.", "short",
            ((_FREE, "free"),), "stat", 4,
        ),
        Panel(
            "Waiting",
            "Sessions in the queue that no worker has taken. It should be 0; the audio of a "
            "session that waits is kept in the stream.",
            "short", ((_WAITING, "waiting"),), "stat", 4,
        ),
        Panel(
            "Most lag", "Audio of one session that is known and not yet sent: the most of all.",
            "s", ((_gauge("max", "session_lag_seconds"), "lag"),), "stat", 4,
        ),
        Panel(
            "Cost an hour", "What all providers cost now, by the price table, in each currency.",
            _COST_RATE,
            ((f"3600 * {_rate('credits_used_total', 'currency')}", "{{currency}}"),), "stat", 4,
        ),
        Panel(
            "Sessions and capacity", "Sessions held, and the slots that all workers have.", "short",
            (
                (_gauge("sum", "sessions_active"), "sessions"),
                (_gauge("sum", "session_slots"), "slots"),
            ),
        ),
        Panel(
            "Queue", "Requests in the queue: waiting for a worker, or leased to one. Each worker "
            "tells of the whole queue.", "short",
            ((f"sum by (state) ({_gauge('max', 'queue_sessions', 'job, state')})", "{{state}}"),),
        ),
        Panel(
            "Sessions ended, by outcome",
            "Leases given up a second. `closed` and `failed` end a session; after `handed_over`, "
            "`lost`, `busy` and `crashed` it comes back to the queue; `rejected` was no session.",
            "ops", ((_rate("sessions_ended_total", "outcome"), "{{outcome}}"),), stacked=True,
        ),
        Panel(
            "Sessions taken", "Leases taken a second, and those among them that were the first of "
            "their session. What lies between is sessions that changed hands.", "ops",
            (
                (_rate("sessions_claimed_total"), "claimed"),
                (_rate("sessions_started_total"), "started"),
            ),
        ),
        Panel(
            "Sessions failed", "Part of the sessions that ended for good which no provider served.",
            "percentunit", ((_FAILED, "failed"),), limit=0.05,
        ),
        Panel(
            "Leases lost, events refused",
            "Sessions a second that another worker had taken over, and events that the broker "
            "refused from the former holder. Both are harmless once; often, workers stand still.",
            "ops",
            (
                (_rate("leases_lost_total", "instance"), "{{instance}} lost"),
                (_rate("fenced_publishes_total", "instance"), "{{instance}} refused"),
            ),
        ),
    ),
    "Latency": (
        Panel(
            "Interim latency", "From the arrival of the last sample covered to publishing.", "s",
            _quantiles("transcript_latency_seconds", "provider", ',kind="interim"'), limit=1,
        ),
        Panel(
            "Final latency",
            "From the arrival of the last sample covered to publishing. The silence by which the "
            "provider knows that speech has ended is in it.", "s",
            _quantiles("transcript_latency_seconds", "provider", ',kind="final"'), limit=3,
        ),
        Panel(
            "End of speech to final",
            "From the arrival of the end of a turn's last word to publishing its last final: how "
            "long whoever answers has to wait.", "s",
            _quantiles("final_after_speech_seconds", "provider"), limit=3,
        ),
        Panel(
            "First interim", "From the first speech sent on a provider stream to its first "
            "transcript.", "s", _quantiles("first_interim_seconds", "provider"),
        ),
        Panel(
            "Capture delay, by tenant",
            "From capture at the edge to arrival, of live audio. It includes the difference of the "
            "clocks: below zero, the capture machine's is ahead.", "s",
            _quantiles("capture_delay_seconds", "tenant", shares=(50, 95)), limit=1,
        ),
        Panel(
            "Claim delay", "From the request of a session to its first lease.", "s",
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
            "Faults a second. connect, rate_limit, server_error: a dial failed; auth, credit, "
            "request: refused for good; the others: a stream that was open failed.", "ops",
            ((_rate("provider_errors_total", "provider, cause"), "{{provider}} {{cause}}"),),
        ),
        Panel(
            "Recoveries, by cause", "Provider streams opened again, a second.", "ops",
            ((_rate("recoveries_total", "cause"), "{{cause}}"),), stacked=True,
        ),
        Panel(
            "Time to recover", "From a provider stream's failure to the next one. Audio waits "
            "meanwhile.", "s", _quantiles("recovery_seconds", "cause", shares=(50, 95)), limit=10,
        ),
        Panel(
            "Breaker", "Workers that leave a provider alone after failures in a row.", "short",
            ((_gauge("sum", "provider_breaker_open", "provider"), "{{provider}}"),), limit=1,
        ),
        Panel(
            "Connections of limited accounts",
            "Connections held of accounts whose number is limited, and sessions that wait for one.",
            "short",
            (
                (_gauge("sum", "provider_slots_held", "account"), "{{account}} held"),
                (_gauge("sum", "provider_slots_waited_for", "account"), "{{account}} waited for"),
            ),
        ),
        Panel(
            "Wait for a connection", "How long sessions waited for a connection of an account.",
            "s", _quantiles("provider_slot_wait_seconds", "account", shares=(50, 95)),
        ),
        Panel(
            "Notices, by code", "What providers said beside transcripts, a second. `malformed` "
            "could not be decoded and was left out.", "ops",
            ((_rate("provider_notices_total", "provider, code"), "{{provider}} {{code}}"),),
        ),
    ),
    "Audio": (
        Panel(
            "Audio",
            "Seconds of audio a second: of live audio, the number of sessions that send. Replayed "
            "is what was sent before; billed goes by the provider's rule.", _AUDIO_RATE,
            (
                (_rate("audio_received_seconds_total"), "received"),
                (_rate("audio_sent_seconds_total", "provider"), "{{provider}} sent"),
                (_rate("audio_billed_seconds_total", "provider"), "{{provider}} billed"),
                (_rate("audio_replayed_seconds_total", "provider"), "{{provider}} replayed"),
            ), width=12,
        ),
        Panel(
            "Lag", "Audio known and not yet sent to the provider: the most over all sessions of a "
            "worker.", "s", ((_gauge("max", "session_lag_seconds", "instance"), "{{instance}}"),),
            width=12, limit=5,
        ),
        Panel(
            "Gaps, by cause",
            "Seconds a second of audio that could not be had. missing: the broker does not have "
            "it; edge: the edge left it out; bad_chunk: it came, and could not be used.",
            _AUDIO_RATE, ((_rate("audio_gap_seconds_total", "cause"), "{{cause}}"),), width=12,
        ),
        Panel(
            "Bad chunks, by cause",
            "Chunks left out, a second; counted when a session's feed ends.", "ops",
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
            "Recovery share", "Part of the cost that was for audio sent before: what faults cost.",
            "percentunit",
            ((f"{_rate('recovery_cost_total', 'provider, currency')}"
              f" / {_rate('credits_used_total', 'provider, currency')}",
              "{{provider}} {{currency}}"),), limit=0.05,
        ),
        Panel(
            "Credit left, money", "What is left at a provider, as it last said.", "short",
            ((_gauge("min", "credits_remaining", "provider, unit", ',unit!="seconds"'),
              "{{provider}} {{unit}}"),), width=6,
        ),
        Panel(
            "Credit left, time", "What is left at a provider that counts seconds, as it last said.",
            "s",
            ((_gauge("min", "credits_remaining", "provider", ',unit="seconds"'),
              "{{provider}}"),), width=6,
        ),
        Panel(
            "Budgets left, money",
            "What is left today of tenants' budgets, of tenants that have sessions now.", "short",
            ((_gauge("min", "budget_remaining", "tenant, unit", ',unit!="seconds"'),
              "{{tenant}} {{unit}}"),), width=6,
        ),
        Panel(
            "Budgets left, time",
            "What is left today of tenants' budgets, of tenants that have sessions now.", "s",
            ((_gauge("min", "budget_remaining", "tenant", ',unit="seconds"'), "{{tenant}}"),),
            width=6,
        ),
        Panel(
            "Sessions ended by budgets",
            "Sessions a second that ended because a budget was used up. session: max_seconds of "
            "the session itself; tenant: the tenant's day.", "ops",
            ((_rate("budget_ended_sessions_total", "scope"), "{{scope}}"),), width=24,
        ),
    ),
    "Process": (
        Panel(
            "Event-loop delay", "How late the event loop ran a timer. Beyond 0.1 s the worker has "
            "more sessions than its processor can carry.", "s",
            _quantiles("event_loop_delay_seconds", "instance", shares=(50, 99)), limit=0.1,
        ),
        Panel(
            "CPU", "Processor cores used. One is the most that the event loop can use; an embedded "
            "engine uses more.", "short",
            ((_rate("process_cpu_seconds_total", "instance"), "{{instance}}"),),
        ),
        Panel(
            "Memory", "Resident memory.", "bytes",
            ((_gauge("sum", "process_resident_memory_bytes", "instance"), "{{instance}}"),),
        ),
        Panel(
            "File descriptors", "Open files and sockets, as part of what the process may open.",
            "percentunit",
            ((f"{_series('process_open_fds')} / {_series('process_max_fds')}", "{{instance}}"),),
            limit=0.8,
        ),
        Panel(
            "NATS", "1 while connected to the broker.", "short",
            ((_gauge("min", "nats_connected", "instance"), "{{instance}}"),), width=6,
        ),
        Panel(
            "Draining", "1 from SIGTERM on.", "short",
            ((_gauge("max", "draining", "instance"), "{{instance}}"),), width=5,
        ),
        Panel(
            "Versions", "Workers by version of natterjack.", "short",
            ((_gauge("count", "build_info", "version"), "{{version}}"),), "stat", 5,
        ),
    ),
}  # fmt: skip
