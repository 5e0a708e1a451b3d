"""Publishing an event that may be larger than the broker accepts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from prometheus_client import Counter

from natterjack.broker.client.fastpath import MessageTooLarge
from natterjack.events import Durable
from worker import fitting

KindT = TypeVar("KindT", bound=str)


async def publish_shortened(
    durable: Callable[[KindT, Callable[[int], bytes]], Awaitable[None]],
    oversized: Counter,
    kind: KindT,
    model: type[Durable],
    fields: dict[str, Any],
) -> None:
    """Publish an event by `durable`, shortened until the broker accepts it. `oversized` counts, by
    kind, those that are too large.

    Raises: MessageTooLarge if it cannot be shortened any more, and what `durable` raises.
    """
    while True:
        try:
            await durable(kind, partial(encoded, model, fields))
            return
        except MessageTooLarge:
            if not fields.get("shortened"):
                oversized.labels(kind).inc()
            smaller = fitting.shortened(fields)
            if smaller is None:
                raise
            fields = smaller


def encoded(model: type[Durable], fields: dict[str, Any], sequence: int) -> bytes:
    """Return an event with a sequence number, as it is published."""
    return model.model_validate({**fields, "sequence": sequence}).encode()
