"""The page that lists all metrics, and Prometheus' own check of a worker's output."""

from __future__ import annotations

from prometheus_client import Histogram

from natterjack.broker.connection import Broker
from natterjack.settings import BrokerSettings
from worker.metrics import Metrics

from ..emulators.deepgram import DeepgramEmulator
from ..worker.programs import Speaker, StartWorker, closed
from .names import ROOT, Metric, labels_of_samples, metrics
from .prometheus import promtool

PAGE = ROOT / "docs" / "metrics.md"
_HEAD = """\
# Metrics

Workers serve metrics in Prometheus' text format at `/metrics` on `WORKER_HTTP_PORT` (9464). The
dashboard is `deploy/grafana/natterjack.json`, the rules are in `deploy/prometheus/`, and
[alerts.md](alerts.md) says how to respond to each alert.

Metrics named `audio_..._seconds` count seconds of audio. Counters start at zero with the process.
No label has a session or a speaker. The first `WORKER_METRICS_TENANTS` tenants have labels of their
own; all others share `other`. Most labeled series do not exist until their first event, and `rate`
misses that event.

Latencies are measured from the *arrival* of audio at the worker.
`natterjack_capture_delay_seconds` measures the time before that, from the microphone to the worker;
it depends on the clocks of both machines.
"""
_LABELS = """\
## Labels

| label | values |
| --- | --- |
| `provider` | name of a provider; `unknown` if a session requests one that is not installed |
| `account` | provider account whose connections are limited; by default the provider's name |
| `tenant` | first token of a session's key, or `other` |
| `kind` | `interim`, `final` |
| `outcome` | `closed`, `failed`: the session has ended. `handed_over`, `lost`, `busy` (an earlier \
session uses the key), `crashed` (an unexpected error of the worker): the session returns to the \
queue. `rejected`: the request was invalid and is discarded |
| `state` | `waiting`, `leased` |
| `cause` of errors and recoveries | a dial failed: `connect`, `rate_limit`, `server_error`; the \
provider refused permanently: `auth`, `credit`, `request`; an open stream failed: `dropped`, \
`mute`, `send_blocked`, `finish`, `protocol` |
| `cause` of gaps | `missing`: the broker does not have the audio; `edge`: the edge skipped it; \
`bad_chunk`: its chunk was unusable |
| `cause` of bad chunks | `headers`, `size`, `position` |
| `code` | the provider's name of the message; `malformed`: it could not be decoded |
| `scope` | `session`: the session's `max_seconds`; `tenant`: the tenant's daily budget |
| `unit`, `currency` | `seconds`, or an ISO 4217 currency such as `USD` |
"""


def _row(metric: Metric) -> str:
    endings = {"counter": "_total", "info": "_info"}
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    name = metric.name + endings.get(metric.kind, "")
    return f"| `{name}` | {metric.kind} | {labels} | {metric.help} |"


def _buckets() -> list[str]:
    rows = []
    for histogram, name in histograms():
        bounds = " ".join(f"{bound:g}" for bound in histogram._upper_bounds[:-1])
        rows.append(f"| `{name}` | {bounds} |")
    return rows


def histograms() -> list[tuple[Histogram, str]]:
    collectors = list(Metrics(1).registry._collector_to_names)
    return [(c, c._name) for c in collectors if isinstance(c, Histogram)]


def page() -> str:
    """Render docs/metrics.md; `python -m tests.deploy.test_metrics > docs/metrics.md` writes it."""
    ours = [m for m in metrics() if m.name.startswith("natterjack_")]
    others = [m for m in metrics() if m not in ours]
    head = ["| metric | type | labels | |", "| --- | --- | --- | --- |"]
    parts = [
        _HEAD,
        "\n".join([*head, *map(_row, ours)]) + "\n",
        _LABELS,
        "## Buckets\n\nUpper bounds in seconds. The last bucket has no upper bound.\n\n"
        + "\n".join(["| metric | bounds |", "| --- | --- |", *_buckets()])
        + "\n",
        "## Process metrics\n\n" + "\n".join([*head, *map(_row, others)]) + "\n",
    ]
    return "\n".join(parts)


def test_the_page_has_every_metric() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.deploy.test_metrics > docs/metrics.md"


def test_every_label_is_on_the_page() -> None:
    ours = {n: labels for n, labels in labels_of_samples().items() if n.startswith("natterjack_")}
    labels = {label for some in ours.values() for label in some}
    assert labels - {"le", "job", "instance", "version"} == {
        word.strip("`,")
        for line in _LABELS.splitlines()[4:]
        for word in line.split("|")[1].split()
        if word.startswith("`")
    }


async def test_promtool_accepts_the_metrics(
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
    emulator: DeepgramEmulator,
) -> None:
    worker = await start_worker(WORKER_PRICES="deepgram=3.6")
    await emulator.set(drop_after_seconds=2.0, connections=1)
    speaker = Speaker(broker_settings, 8)
    await speaker.speak()
    await closed(broker, speaker.spec)
    _, text = await worker.get("/metrics")
    assert 'natterjack_recoveries_total{cause="dropped"} 1.0' in text
    assert promtool("check", "metrics", text=text) == ""


if __name__ == "__main__":
    print(page(), end="")
