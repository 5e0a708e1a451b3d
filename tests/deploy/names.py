"""Metrics of workers and of the NATS exporter, and their use in rules and the dashboard."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from docs.generate.metrics import metrics

from .libyaml import read_yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus"
RULE_FILES = (RULES / "recording.yml", RULES / "alerts.yml")
ALERT_CASES = sorted((Path(__file__).parent / "alerts").glob("*.yml"))

COUNTER_ENDINGS = ("_total", "_bucket", "_count", "_sum")
_TARGET_LABELS = ("job", "instance")
_SELECTOR = re.compile(r"(?<![\w:])((?:natterjack|process|nats)_\w+)(?:\{([^}]*)\})?")
_LABEL = re.compile(r'(\w+)(!?=~?)"([^"]*)"')


@cache
def labels_of_samples() -> dict[str, tuple[str, ...]]:
    """Return the labels of every series that a worker can have, by name."""
    found = {}
    for metric in metrics():
        for sample in metric.samples:
            bucket = ("le",) if sample.endswith("_bucket") else ()
            found[sample] = (*metric.labels, *bucket, *_TARGET_LABELS)
    return found


_SERVER = ("server_id", "server_name", "cluster", "domain", "meta_leader", "is_meta_leader")
_ACCOUNT = ("account", "account_name", "account_id")
_CONSUMER = ("consumer_name", "consumer_leader", "is_consumer_leader", "consumer_desc")
_STREAM = ("stream_name", "stream_leader", "is_stream_leader", "stream_raft_group")
BROKER = {
    "nats_varz_jetstream_stats_storage": ("server_id", *_TARGET_LABELS),
    "nats_varz_jetstream_config_max_storage": ("server_id", *_TARGET_LABELS),
    "nats_varz_jetstream_stats_memory": ("server_id", *_TARGET_LABELS),
    "nats_varz_jetstream_config_max_memory": ("server_id", *_TARGET_LABELS),
    "nats_varz_jetstream_meta_cluster_size": ("server_id", *_TARGET_LABELS),
    "nats_server_max_storage": (*_SERVER, *_TARGET_LABELS),
    "nats_stream_total_bytes": (*_SERVER, *_ACCOUNT, *_STREAM, *_TARGET_LABELS),
    **{
        f"nats_consumer_num_{what}": (*_SERVER, *_ACCOUNT, *_STREAM, *_CONSUMER, *_TARGET_LABELS)
        for what in ("pending", "ack_pending")
    },
}
"""Gauges of prometheus-nats-exporter 0.20 and their labels.

The flags are those of the official NATS chart: -prefix=nats -varz -jsz=all. Names with varz follow
the server's /varz.
"""


class Selector(NamedTuple):
    """A use of a metric in an expression."""

    name: str
    labels: list[tuple[str, str, str]]
    """Label, operator and value."""


def selectors(expression: str) -> list[Selector]:
    return [
        Selector(name, _LABEL.findall(labels or ""))
        for name, labels in _SELECTOR.findall(expression)
    ]


def unrated_counters(expression: str) -> list[str]:
    """Return the counters that an expression uses without rate or increase."""
    bare = re.sub(r"(?:rate|increase)\((?:natterjack|process)_\w+(?:\{[^}]*\})?\[", "(", expression)
    return [s.name for s in selectors(bare) if s.name.endswith(COUNTER_ENDINGS)]


def rules(*kinds: str) -> list[dict[str, Any]]:
    """Return the rules of the given kinds (`record`, `alert`)."""
    return [
        rule
        for path in RULE_FILES
        for group in read_yaml(path)["groups"]
        for rule in group["rules"]
        if any(kind in rule for kind in kinds)
    ]
