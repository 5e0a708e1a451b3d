"""A worker that measures what its instrumentation costs: `python -m bench.metered`.

Every function in `METERED` and the publication of the roster add their thread's CPU time to a sum,
which the worker logs when it exits. The cost of measuring is part of the sum.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import prometheus_client

from worker.__main__ import main as work
from worker.metering.report import Report
from worker.session.relay import Relay
from worker.session.results import Latencies
from worker.session.session import Session

METERED: tuple[tuple[type, tuple[str, ...]], ...] = (
    (prometheus_client.Counter, ("inc", "labels")),
    (prometheus_client.Gauge, ("set", "inc", "dec", "labels")),
    (prometheus_client.Histogram, ("observe", "labels")),
    (Latencies, ("__init__", "received", "interim", "final", "turn_ended")),
    (Relay, ("count", "count_last")),
    (Session, ("record",)),
)
"""Classes and the names of their synchronous methods that are instrumentation."""
ROSTER = (Report, "_publish")
"""The coroutine that publishes the worker's roster records."""

_spent = 0.0
_inside = False


def _metered(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that its outermost calls add their CPU time to the sum."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        global _spent, _inside
        if _inside:
            return function(*args, **options)
        _inside, began = True, time.thread_time()
        try:
            return function(*args, **options)
        finally:
            _spent, _inside = _spent + time.thread_time() - began, False

    return call


def _metered_coroutine(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def call(*args: Any) -> None:
        global _spent
        began = time.thread_time()
        await function(*args)
        _spent += time.thread_time() - began

    return call


def main() -> None:
    report, publish = ROSTER
    setattr(report, publish, _metered_coroutine(getattr(report, publish)))
    for owner, names in METERED:
        for name in names:
            setattr(owner, name, _metered(getattr(owner, name)))
    work()
    line = {"level": "info", "message": "metered", "spent": _spent, "all": time.process_time()}
    print(json.dumps(line), file=sys.stderr)


if __name__ == "__main__":
    main()
