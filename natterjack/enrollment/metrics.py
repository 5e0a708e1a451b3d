"""The Prometheus metrics of `natterjack registrar`, in a registry of their own."""

from __future__ import annotations

from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    ProcessCollector,
    disable_created_metrics,
)

from .records import Refusal

OUTCOMES = ("enrolled", "renewed", *get_args(Refusal))
"""Labels of answers."""


class RegistrarMetrics:
    """All metrics of one process. Their only label is `outcome`."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.ready = Gauge(
            "natterjack_registrar_ready",
            "1 if requests are answered: NATS is connected, the signing key can be read",
            registry=self.registry,
        )
        answers = Counter(
            "natterjack_registrar_answers_total",
            "Answers to machines that enroll and to agents that renew their credentials, by "
            "outcome",
            ("outcome",),
            registry=self.registry,
        )
        self.answers = {outcome: answers.labels(outcome) for outcome in OUTCOMES}

    def count(self, outcome: str) -> None:
        """Count an answer, by one of OUTCOMES."""
        self.answers[outcome].inc()
