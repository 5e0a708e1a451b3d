"""Fair sharing of a provider account's free permits among tenants. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Waiting(NamedTuple):
    """A session that waits for a permit, in any worker."""

    tenant: str
    seconds: float
    """How long it has waited."""
    instance: str
    """The worker process that it waits in."""


def share(free: int, held: Mapping[str, int], waiting: Iterable[Waiting]) -> list[Waiting]:
    """The sessions that get `free` permits, in order; `held` is the number of permits per tenant.

    Each permit goes to the tenant that holds the fewest at that point, and within a tenant to the
    session that has waited longest. Among tenants that hold equally many, the longest wait wins.
    """
    queues: dict[str, deque[Waiting]] = {}
    for session in sorted(waiting, key=lambda w: (-w.seconds, w.instance)):
        queues.setdefault(session.tenant, deque()).append(session)
    count = Counter(held)
    chosen: list[Waiting] = []
    while queues and len(chosen) < free:
        tenant = min(queues, key=lambda t: (count[t], -queues[t][0].seconds, t))
        chosen.append(queues[tenant].popleft())
        count[tenant] += 1
        if not queues[tenant]:
            del queues[tenant]
    return chosen
