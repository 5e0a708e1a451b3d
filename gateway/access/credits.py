"""The remaining part of a tenant's budget of the day, as `natterjack budget show` reports it."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import NamedTuple

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.broker.stored import StoreUnavailable, StreamStore
from natterjack.fleet.budgets import (
    Used,
    read_budgets,
    read_usage,
    remaining_seconds,
    spent_detail,
)

from .refused import Reason, Refused

log = logging.getLogger(__name__)

_FRESH_S = 2.0
"""An answer is used again for this long: a tenant that opens many sessions is read once."""
_MAX_TENANTS = 10_000


class Balance(NamedTuple):
    """The state of a tenant's budget."""

    remaining_seconds: float | None
    """Seconds of audio left for all sessions of the tenant; None if there is no such limit."""
    spent: str | None
    """A description of the limit that is used up, or None if there is budget left."""


class Credits:
    """Reads budgets and usage from the broker. Workers enforce them; the gateway only tells."""

    def __init__(self, broker: Broker) -> None:
        self._budgets = StreamStore(broker, f"KV_{streams.BUDGETS_BUCKET}")
        self._usage = StreamStore(broker, f"KV_{streams.USAGE_BUCKET}")
        self._known: dict[str, tuple[float, Balance]] = {}

    async def start(self) -> None:
        await self._budgets.start()
        await self._usage.start()

    async def stop(self) -> None:
        await self._budgets.stop()
        await self._usage.stop()

    async def balance(self, tenant: str) -> Balance:
        """The balance of a tenant, at most two seconds old.

        If the broker does not answer, there is no limit: the workers know better.
        """
        now = time.monotonic()
        known = self._known.get(tenant)
        if known is not None and now < known[0]:
            return known[1]
        try:
            found = await self._read(tenant)
        except StoreUnavailable as error:
            log.debug("the budget of %s cannot be read: %s", tenant, error)
            return Balance(None, None)
        if len(self._known) >= _MAX_TENANTS:
            self._known.clear()
        self._known[tenant] = (now + _FRESH_S, found)
        return found

    async def _read(self, tenant: str) -> Balance:
        budget = (await read_budgets(self._budgets)).of(tenant)
        if budget is None:
            return Balance(None, None)
        day = datetime.now(UTC).date().isoformat()
        usages = (await read_usage(self._usage, day, tenant)).get(tenant, [])
        used = Used.of(usages, budget.currency)
        return Balance(remaining_seconds(budget, used), spent_detail(tenant, day, budget, used))

    async def check(self, tenant: str) -> None:
        """Raise Refused if the tenant's budget is used up."""
        balance = await self.balance(tenant)
        if balance.spent is not None:
            raise Refused(Reason.BUDGET, balance.spent)
