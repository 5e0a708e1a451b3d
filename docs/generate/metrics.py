"""docs/reference/metrics.md: every metric of a worker, a webhook, a registrar and a gateway, from
their registries."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from prometheus_client import Histogram
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from gateway.metrics import GatewayMetrics
from natterjack.enrollment.metrics import RegistrarMetrics
from natterjack.webhook.metrics import WebhookMetrics
from worker.metrics import Metrics

from .markdown import cell, code, heading, table

LABELS = {
    "provider": "name of a provider; `unknown` if a session requests one that is not installed",
    "account": "provider account whose connections are limited; by default the provider's name",
    "tenant": "first token of a session's key, or `other`",
    "kind": "`interim`, `final`; of events also `turn`, `status`, `usage`",
    "outcome": "`closed`, `failed`: the session has ended. `handed_over`, `lost`, `busy` (an "
    "earlier session uses the key), `crashed` (an unexpected error of the worker): the session "
    "returns to the queue. `rejected`: the request was invalid and is discarded. Of a registrar: "
    "`enrolled`, `renewed`, or why it "
    "[refused](../how-to/enroll-edges.md#what-the-registrar-answers)",
    "agent": "name of an edge",
    "state": "of the queue: `waiting`, `leased`. Of edges: `running`, `ending`, `stopped`, "
    "`absent`, `other`",
    "cause": "of errors and recoveries: `connect`, `rate_limit`, `server_error` (a dial failed); "
    "`auth`, `credit`, `request` (the provider refused the account or the request); `dropped`, "
    "`mute`, `send_blocked`, `finish`, `protocol`, `plugin` (an open stream failed). Of gaps: "
    "`missing` (the broker does not have the audio), `busy`, `suspended`, `device_lost`, "
    "`dropped`, `resumed`, `edge` (the edge [lost it](events.md#gap)), `bad_chunk` (its chunk was "
    "unusable), `unreadable` (no provider could transcribe it). Of bad chunks: `headers`, `size`, "
    "`flac`, `position`. Of attempts of a webhook: `status` (of the answer), `redirect`, "
    "`timeout`, `connection`, `tls`, `address` (one that is refused), `disabled` (410 Gone)",
    "door": "door of a gateway, such as `deepgram-listen`, `deepgram-flux`, `managed`, `twilio`",
    "name": "name of a webhook's durable consumer, `WEBHOOK_NAME`",
    "code": "the provider's name of the message; `malformed`: it could not be decoded",
    "reason": "of failed attempts to connect to NATS: `authorization`, `expired` (credentials or "
    "client certificate), `tls`, `limit` (of connections), `timeout`, `unreachable`, `other`. Of "
    "refused clients: `missing`, `wrong`, `expired` (key or token), `door`, `conversation` (which "
    "the key does not allow), `origin` (of a web page), `full` (the gateway, or the key), `budget` "
    "(of the tenant), `rate` (refused too often), `draining`, `request` (a value that cannot be "
    "used)",
    "credential": "`creds`, `cert`, `ca`",
    "scope": "`session`: the session's `max_seconds`; `tenant`: the tenant's daily budget",
    "unit": "`seconds`, or an ISO 4217 currency such as `USD`",
    "complete": "`true`: closed, with all audio transcribed; `false`: failed, or with a gap",
    "stream": "name of a JetStream stream; `KV_...` is the stream of a bucket",
    "currency": "an ISO 4217 currency such as `USD`",
}
_ENDINGS = {
    "counter": ("_total",),
    "info": ("_info",),
    "histogram": ("_bucket", "_count", "_sum"),
}


class Metric(NamedTuple):
    """A metric family of a program."""

    name: str
    """Without the ending that samples of counters and histograms have."""
    kind: str
    labels: tuple[str, ...]
    help: str

    @property
    def samples(self) -> list[str]:
        """Names of its series."""
        return [self.name + ending for ending in _ENDINGS.get(self.kind, ("",))]

    @property
    def shown(self) -> str:
        """The name with the ending of its samples."""
        return self.name if self.kind == "histogram" else self.samples[0]


@cache
def metrics() -> tuple[Metric, ...]:
    """All metrics of a worker, then those that only a webhook, a registrar or a gateway has, in the
    order of their registration."""
    found: dict[str, Metric] = {}
    for collector in collectors():
        for family in collector.collect():
            if isinstance(collector, MetricWrapperBase) and family.type != "info":
                labels = tuple(collector._labelnames)
            else:
                labels = tuple(family.samples[0].labels)
            metric = Metric(family.name, family.type, labels, family.documentation)
            found.setdefault(metric.name, metric)
    return tuple(found.values())


def collectors() -> list[Collector]:
    """The collectors of all registries."""
    registries = (
        Metrics(1).registry, WebhookMetrics("webhook").registry, RegistrarMetrics().registry,
        GatewayMetrics().registry,
    )  # fmt: skip
    return [collector for one in registries for collector in one._collector_to_names]


def _row(metric: Metric) -> tuple[str, ...]:
    labels = ", ".join(code(label) for label in metric.labels)
    return code(metric.shown), metric.kind, labels, cell(metric.help)


def page() -> str:
    """The page."""
    columns = ("metric", "type", "labels", "meaning")
    ours = [metric for metric in metrics() if metric.name.startswith("natterjack_")]
    others = [metric for metric in metrics() if metric not in ours]
    buckets = [
        (code(c._name), " ".join(f"{bound:g}" for bound in c._upper_bounds[:-1]))
        for c in collectors()
        if isinstance(c, Histogram)
    ]
    return "\n".join(
        [
            heading(
                "Metrics",
                "the metrics registries",
                "Workers serve metrics in Prometheus' text format at `/metrics` on "
                "`WORKER_HTTP_PORT` (9464), and `natterjack webhook` serves those named "
                "`natterjack_webhook_...` on `WEBHOOK_HTTP_PORT` (9465), `natterjack registrar` "
                "those named `natterjack_registrar_...` on `REGISTRAR_HTTP_PORT` (9466), "
                "`natterjack-gateway` those named `natterjack_gateway_...` on `GATEWAY_HTTP_PORT` "
                "(8080). The dashboard is `deploy/grafana/natterjack.json`, and "
                "`deploy/prometheus/` has the rules of the [alerts](alerts.md).\n\n"
                "Metrics named `audio_..._seconds` count seconds of audio. Counters start at zero "
                "with the process. No label has a session or a speaker. The first "
                "`WORKER_METRICS_TENANTS` tenants have labels of their own; all others share "
                "`other`. Most labeled series do not exist until their first event, and `rate` "
                "misses that event.\n\n"
                "Latencies are measured from the arrival of audio at the worker. "
                "`natterjack_capture_delay_seconds` measures the time before that, from the "
                "microphone to the worker; it depends on the clocks of both machines.",
            ),
            table(columns, map(_row, ours)),
            "## Labels\n\n" + table(("label", "values"), [(code(n), t) for n, t in LABELS.items()]),
            "## Buckets\n\nUpper bounds in seconds; the last is infinite.\n\n"
            + table(("metric", "bounds"), buckets),
            "## Process metrics\n\n" + table(columns, map(_row, others)),
        ]
    )
