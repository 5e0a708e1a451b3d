"""Budgets of tenants, kept by all workers together: sessions are warned, and ended when nothing is
left.

Each worker writes what it has used for a tenant to `stt_usage` and hears what others write there.
A sum of what is known is never more than what was used, so whoever finds a budget used up is right
without asking anybody; what is sent before everybody has found it out is the overshoot
(docs/explanation/metering.md).

Only a budget itself may be old knowledge, since an operator may raise it while NATS is away from
us: nothing is ended, or kept from starting, unless the budget was read on the connection that
stands now. A worker without NATS gets no new audio anyway.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.broker.watch import Watch
from natterjack.errors import UsageError
from natterjack.fleet.budgets import (
    DEFAULT_KEY,
    TENANT_KEYS,
    Budget,
    Used,
    fraction_used,
    parse_budget,
    parse_usage,
    remaining_seconds,
    spent_detail,
    standings,
)
from natterjack.fleet.usage import DayUsage
from natterjack.subjects import SessionKey
from natterjack.telemetry.log import fields
from worker.metrics import Metrics

from .tally import Tally, today

log = logging.getLogger(__name__)

_LOOK_S = 0.25
"""Ledgers tell the tally once a second; this comes on top of it, here and at every other worker."""
_READY_S = 2.0
_READY_POLL_S = 0.02
_LINGER_S = 60.0
"""A tenant whose last session ended so long ago is no longer followed."""
_RETRY_S = 1.0
_SPENT = 1.0


class Budgeted(Protocol):
    """A session, as far as budgets go. Hashable, by identity."""

    key: SessionKey

    def low(self, remaining_seconds: float | None) -> None:
        """A threshold was passed; so much audio is left for all sessions of the tenant."""

    def exhaust(self, detail: str) -> None:
        """Nothing is left: end."""


class _Followed:
    """What other processes have used for a tenant on one day."""

    def __init__(self, broker: Broker, day: str, tenant: str, instance: str) -> None:
        """`instance`: our own name in keys."""
        self.day = day
        self.wanted_at = time.monotonic()
        self.told = 0.0
        """The highest threshold that the log has."""
        self.task: asyncio.Task[None] | None = None
        self.watch = Watch(broker, streams.USAGE_BUCKET, f"{day}.{tenant}.*", self._changed)
        self._own = f"{day}.{tenant}.{instance}"
        self._usages: dict[str, DayUsage] = {}
        self._sums: dict[str, Used] = {}

    def _changed(self, key: str, value: bytes | None) -> None:
        if key == self._own:
            return
        if value is None:
            self._usages.pop(key, None)
        elif usage := parse_usage(key, value):
            before = self._usages.get(key)
            # Who writes for a worker that has died may be refused, and is heard all the same.
            if before is None or usage.sent_seconds >= before.sent_seconds:
                self._usages[key] = usage
        self._sums.clear()

    def used(self, currency: str) -> Used:
        found = self._sums.get(currency)
        if found is None:
            found = self._sums[currency] = Used.of(self._usages.values(), currency)
        return found


class Budgets:
    """The budgets, and what tenants with sessions here have used of them today."""

    def __init__(
        self,
        broker: Broker,
        js: JetStreamContext,
        tally: Tally,
        metrics: Metrics,
        warnings: tuple[float, ...] = (0.8, 0.95),
        day: Callable[[], str] = today,
    ) -> None:
        """`warnings`: parts of a budget, between 0 and 1, at which sessions are warned."""
        if not all(0 < level < 1 for level in warnings):
            raise ValueError(f"thresholds lie between 0 and 1: {warnings}")
        self._broker = broker
        self._js = js
        self._tally = tally
        self._metrics = metrics
        self._levels = (*sorted(warnings), _SPENT)
        self._day = day
        # One watch, so that a tenant's own budget and the default are always read together.
        self._watch = Watch(broker, streams.BUDGETS_BUCKET, ">", self._changed)
        self._budgets: dict[str, Budget] = {}
        """By key."""
        self._read_on: dict[str, int] = {}
        """The connection, counted, on which a key was last heard of."""
        self._bad: dict[str, bytes] = {}
        self._followed: dict[str, _Followed] = {}
        self._told: dict[Budgeted, float] = {}
        """The highest threshold that a session was told of."""
        self._shown: set[tuple[str, str]] = set()
        self._unread = False
        self._tasks: asyncio.TaskGroup | None = None

    # ---- budgets ----------------------------------------------------------------------------

    def _changed(self, key: str, value: bytes | None) -> None:
        if key != DEFAULT_KEY and not key.startswith(f"{TENANT_KEYS}."):
            return
        self._read_on[key] = self._broker.reconnects
        if value is None:
            self._budgets.pop(key, None)
            self._bad.pop(key, None)
            log.info("budget removed", extra=fields(key=key))
            return
        try:
            budget = parse_budget(value)
        except UsageError as error:
            if self._bad.get(key) != value:
                self._bad[key] = value
                held = "the one before it holds" if key in self._budgets else "left out"
                log.warning("%s in %s: %s; %s", key, streams.BUDGETS_BUCKET, error, held)
            return
        self._bad.pop(key, None)
        if self._budgets.get(key) != budget:
            self._budgets[key] = budget
            log.info("budget set", extra=fields(key=key, **budget.model_dump(exclude_none=True)))

    def _key(self, tenant: str) -> str:
        own = f"{TENANT_KEYS}.{tenant}"
        return own if own in self._budgets else DEFAULT_KEY

    def of(self, tenant: str) -> Budget | None:
        """The budget of a tenant, as far as is known."""
        return self._budgets.get(self._key(tenant)) if self._budgets else None

    def _sure(self, tenant: str) -> bool:
        """The tenant's budget is as the broker has it."""
        read_on = self._read_on.get(self._key(tenant))
        return self._broker.connected and read_on == self._broker.reconnects

    # ---- what sessions ask --------------------------------------------------------------------

    async def ready(self, tenant: str) -> None:
        """Return when it is known what the tenant has used, at the latest after 2 s; at once when
        it has no budget. Costs the broker nothing then."""
        if self._watch.ready.is_set() and self.of(tenant) is None:
            return
        if self._unread and not self._watch.ready.is_set():
            return  # once in vain is enough
        try:
            async with asyncio.timeout(_READY_S):
                await self._watch.ready.wait()
                while self.of(tenant) is not None:
                    followed = self._follow(tenant)
                    if followed is None or (followed.watch.ready.is_set() and self._sure(tenant)):
                        break
                    await asyncio.sleep(_READY_POLL_S)
            self._unread = False
        except TimeoutError:
            if not self._unread:
                self._unread = True
                log.warning(
                    "budgets, or what was used of them, cannot be read: sessions start without",
                    extra=fields(tenant=tenant),
                )

    def spent(self, tenant: str) -> str | None:
        """What there is to say of a budget that is used up; None when something is left, as far as
        is known."""
        budget = self.of(tenant)
        if budget is None or not self._sure(tenant):
            return None
        return spent_detail(tenant, self._day(), budget, self._used(tenant, budget))

    def _used(self, tenant: str, budget: Budget) -> Used:
        """By all processes, as far as is known: never more than that."""
        day = self._day()
        own = Used.of((self._tally.of(day, tenant),), budget.currency)
        followed = self._followed.get(tenant)
        if followed is None or followed.day != day:
            return own
        others = followed.used(budget.currency)
        return Used(own.seconds + others.seconds, own.cost + others.cost)

    # ---- the worker's task ----------------------------------------------------------------------

    async def run(self, sessions: Callable[[], Iterable[Budgeted]]) -> None:
        """Until cancelled. `sessions`: those that this worker holds."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                tasks.create_task(_watching(self._watch), name="budgets")
                tasks.create_task(self._write(), name="budgets: use")
                while True:
                    if self._budgets or self._followed:
                        self._look(sessions())
                    await asyncio.sleep(_LOOK_S)
        finally:
            self._tasks = None
            self._followed.clear()

    async def _write(self) -> None:
        """Tell the others what is used here. Apart from looking, which must not wait for NATS."""
        while True:
            await asyncio.sleep(_LOOK_S)
            if self._followed and self._broker.connected:
                await self._tally.write(self._js, set(self._followed))

    def _follow(self, tenant: str) -> _Followed | None:
        """See that we hear what others use for the tenant. None: we have not begun, or have
        ended."""
        day, found = self._day(), self._followed.get(tenant)
        if found is not None and found.day != day:
            self._unfollow(tenant)
            found = None
        if found is None:
            if self._tasks is None:
                return None
            found = _Followed(self._broker, day, tenant, self._tally.instance)
            found.task = self._tasks.create_task(_watching(found.watch), name=f"use of {tenant}")
            self._followed[tenant] = found
        found.wanted_at = time.monotonic()
        return found

    def _unfollow(self, tenant: str) -> None:
        task = self._followed.pop(tenant).task
        if task is not None:
            task.cancel()

    def _look(self, sessions: Iterable[Budgeted]) -> None:
        """Warn and end sessions, and show what is left."""
        of_tenants: dict[str, list[Budgeted]] = {}
        for session in sessions:
            of_tenants.setdefault(session.key.tenant, []).append(session)
        told, self._told = self._told, {}
        left: dict[tuple[str, str], float] = {}
        for tenant, its_sessions in of_tenants.items():
            budget = self.of(tenant)
            followed = None if budget is None else self._follow(tenant)
            if budget is None or followed is None:
                continue
            used = self._used(tenant, budget)
            for standing in standings(budget, used):
                # Tenants that share a label show the one that has least.
                name = self._metrics.tenant(tenant), standing.unit
                left[name] = min(standing.remaining, left.get(name, standing.remaining))
            level = self._level(budget, used)
            if level == _SPENT and not self._sure(tenant):
                self._told |= {session: told.get(session, 0.0) for session in its_sessions}
                continue
            self._log(tenant, followed, level, budget, used)
            for session in its_sessions:
                self._told[session] = level
                if level > told.get(session, 0.0):
                    self._tell(session, level, budget, used)
        self._show(left)
        now = time.monotonic()
        for tenant in list(self._followed):
            unwanted = now - self._followed[tenant].wanted_at > _LINGER_S
            if unwanted or self.of(tenant) is None:
                self._unfollow(tenant)

    def _level(self, budget: Budget, used: Used) -> float:
        """The highest threshold that is passed; 0: none. It falls again when a budget is raised or
        a day begins, and is told anew when it rises."""
        fraction = fraction_used(budget, used)
        return max((level for level in self._levels if level <= fraction), default=0.0)

    def _tell(self, session: Budgeted, level: float, budget: Budget, used: Used) -> None:
        if level < _SPENT:
            session.low(remaining_seconds(budget, used))
        elif detail := spent_detail(session.key.tenant, self._day(), budget, used):
            session.exhaust(detail)

    def _log(
        self, tenant: str, followed: _Followed, level: float, budget: Budget, used: Used
    ) -> None:
        if level > followed.told:
            what = "budget is used up" if level == _SPENT else "budget is running low"
            shown = " and ".join(map(str, standings(budget, used)))
            log.info(what, extra=fields(tenant=tenant, used=shown))
        followed.told = level

    def _show(self, left: dict[tuple[str, str], float]) -> None:
        gauge = self._metrics.budget_remaining
        for name, amount in left.items():
            gauge.labels(*name).set(amount)
        for name in self._shown - left.keys():
            gauge.remove(*name)
        self._shown = set(left)


async def _watching(watch: Watch) -> None:
    """Watch until cancelled, whatever NATS says to it."""
    while True:
        try:
            await watch.run()
        except (NatsError, OSError):
            await asyncio.sleep(_RETRY_S)
