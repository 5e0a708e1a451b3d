"""The Prometheus metrics of `natterjack webhook`, in a registry of their own."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from .judgment import CAUSES

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)


class WebhookMetrics:
    """All metrics of one process. Their only labels are `name`, that of the durable consumer, and
    `cause`."""

    def __init__(self, name: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def counter(what: str, about: str) -> Counter:
            made = Counter(f"natterjack_webhook_{what}", about, ("name",), registry=self.registry)
            return made.labels(name)

        def gauge(what: str, about: str) -> Gauge:
            made = Gauge(f"natterjack_webhook_{what}", about, ("name",), registry=self.registry)
            return made.labels(name)

        self.ready = gauge(
            "ready", "1 if events are being sent: NATS is connected, the receiver is not gone"
        )
        self.sent = counter("sent_total", "Events that the receiver has accepted")
        failed = Counter(
            "natterjack_webhook_attempts_failed_total",
            "Attempts that failed, by cause",
            ("name", "cause"),
            registry=self.registry,
        )
        self.failed = {cause: failed.labels(name, cause) for cause in CAUSES}
        self.dead_letters = counter(
            "dead_letters_total", "Events that were given up after a day and are stored apart"
        )
        self.waiting = gauge(
            "waiting", "Events that are stored and not done, as far as this process knows"
        )
        self.oldest = gauge(
            "oldest_seconds", "Age of the oldest event that waits for an answer or a retry"
        )
        self.seconds: Histogram = Histogram(
            "natterjack_webhook_request_seconds",
            "Duration of requests, successful or not",
            ("name",),
            buckets=_SECONDS,
            registry=self.registry,
        ).labels(name)
