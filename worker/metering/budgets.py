"""Budgets of tenants, enforced by all workers together: sessions are warned, then ended.

Each worker writes what it has used for a tenant to `stt_usage` and watches what the others write.
The sum of what it knows never exceeds the real usage, so a worker that finds a budget used up is
right without asking the others. Audio that is sent before every worker has noticed is the overshoot
(docs/explanation/metering.md).

Only the budget itself may be stale, because an operator may raise it while this worker has no
connection. Therefore no session is ended or refused unless the budget was read on the current
connection. A worker without NATS gets no new audio anyway.
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

_CHECK_S = 0.25
"""How often budgets are checked. This adds to the delay of the tally, which ledgers update once a
second."""
_READY_S = 2.0
_READY_POLL_S = 0.02
_LINGER_S = 60.0
"""A tenant's usage is watched for this long after its last session ended."""
_RETRY_S = 1.0
_SPENT = 1.0


class Budgeted(Protocol):
    """The part of a session that budgets need. Hashable by identity."""

    key: SessionKey

    def warn_budget(self, remaining_seconds: float | None) -> None:
        """A threshold was passed: `remaining_seconds` of audio are left for the whole tenant."""

    def exhaust(self, detail: str) -> None:
        """The budget is used up: the session must end."""


class _Followed:
    """Watches what other processes use for a tenant on one day."""

    def __init__(self, broker: Broker, day: str, tenant: str, instance: str) -> None:
        """`instance` is this process's own name in keys."""
        self.day = day
        self.wanted_at = time.monotonic()
        self.logged = 0.0
        """The highest threshold that was logged."""
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
            # A write on behalf of a dead worker is received live even if the broker refuses it.
            if before is None or usage.sent_seconds >= before.sent_seconds:
                self._usages[key] = usage
        self._sums.clear()

    def used(self, currency: str) -> Used:
        found = self._sums.get(currency)
        if found is None:
            found = self._sums[currency] = Used.of(self._usages.values(), currency)
        return found


class Budgets:
    """The budgets, and what the tenants with sessions here have used today."""

    def __init__(
        self,
        broker: Broker,
        js: JetStreamContext,
        tally: Tally,
        metrics: Metrics,
        warnings: tuple[float, ...] = (0.8, 0.95),
        day: Callable[[], str] = today,
    ) -> None:
        """`warnings` are the fractions of a budget, between 0 and 1, at which sessions are
        warned."""
        if not all(0 < level < 1 for level in warnings):
            raise ValueError(f"thresholds lie between 0 and 1: {warnings}")
        self._broker = broker
        self._js = js
        self._tally = tally
        self._metrics = metrics
        self._thresholds = (*sorted(warnings), _SPENT)
        self._day = day
        # A single watch, so that a tenant's own budget and the default are always read together.
        self._watch = Watch(broker, streams.BUDGETS_BUCKET, ">", self._changed)
        self._budgets: dict[str, Budget] = {}
        """Valid budgets by key."""
        self._read_on: dict[str, int] = {}
        """The number of the connection on which each key was last received."""
        self._bad: dict[str, bytes] = {}
        self._followed: dict[str, _Followed] = {}
        self._warned: dict[Budgeted, float] = {}
        """The highest threshold that each session was warned of."""
        self._labels_set: set[tuple[str, str]] = set()
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
                held = "the old one stays" if key in self._budgets else "ignored"
                log.warning("%s in %s: %s; %s", key, streams.BUDGETS_BUCKET, error, held)
            return
        self._bad.pop(key, None)
        if self._budgets.get(key) != budget:
            self._budgets[key] = budget
            log.info("budget set", extra=fields(key=key, **budget.model_dump(exclude_none=True)))

    def _key(self, tenant: str) -> str:
        own = f"{TENANT_KEYS}.{tenant}"
        return own if own in self._budgets else DEFAULT_KEY

    def budget_of(self, tenant: str) -> Budget | None:
        """The known budget of a tenant, or None."""
        return self._budgets.get(self._key(tenant)) if self._budgets else None

    def _current(self, tenant: str) -> bool:
        """Whether the tenant's budget was read on the current connection."""
        read_on = self._read_on.get(self._key(tenant))
        return self._broker.connected and read_on == self._broker.reconnects

    # ---- for sessions ---------------------------------------------------------------------------

    async def ready(self, tenant: str) -> None:
        """Wait up to 2 s until the tenant's usage is known.

        Returns at once, without asking the broker, when the tenant has no budget.
        """
        if self._watch.ready.is_set() and self.budget_of(tenant) is None:
            return
        if self._unread and not self._watch.ready.is_set():
            return  # an earlier wait has timed out: do not wait again
        try:
            async with asyncio.timeout(_READY_S):
                await self._watch.ready.wait()
                while self.budget_of(tenant) is not None:
                    followed = self._follow(tenant)
                    if followed is None or (
                        followed.watch.ready.is_set() and self._current(tenant)
                    ):
                        break
                    await asyncio.sleep(_READY_POLL_S)
            self._unread = False
        except TimeoutError:
            if not self._unread:
                self._unread = True
                log.warning(
                    "budgets or usage cannot be read, sessions start without budgets",
                    extra=fields(tenant=tenant),
                )

    def spent(self, tenant: str) -> str | None:
        """The detail for the closing event if the tenant's budget is used up, else None."""
        budget = self.budget_of(tenant)
        if budget is None or not self._current(tenant):
            return None
        return spent_detail(tenant, self._day(), budget, self._used(tenant, budget))

    def _used(self, tenant: str, budget: Budget) -> Used:
        """Known usage of all processes: never more than the real usage."""
        day = self._day()
        own = Used.of((self._tally.of(day, tenant),), budget.currency)
        followed = self._followed.get(tenant)
        if followed is None or followed.day != day:
            return own
        others = followed.used(budget.currency)
        return Used(own.seconds + others.seconds, own.cost + others.cost)

    # ---- the task -------------------------------------------------------------------------------

    async def run(self, sessions: Callable[[], Iterable[Budgeted]]) -> None:
        """Enforce budgets on the worker's `sessions` until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                tasks.create_task(_watching(self._watch), name="budgets")
                tasks.create_task(self._write(), name="budgets: usage")
                while True:
                    if self._budgets or self._followed:
                        self._check(sessions())
                    await asyncio.sleep(_CHECK_S)
        finally:
            self._tasks = None
            self._followed.clear()

    async def _write(self) -> None:
        """Publish what is used here. A separate task, because checking must not wait for NATS."""
        while True:
            await asyncio.sleep(_CHECK_S)
            if self._followed and self._broker.connected:
                await self._tally.write(self._js, set(self._followed))

    def _follow(self, tenant: str) -> _Followed | None:
        """Watch what other workers use for the tenant. None before `run` and after it has ended."""
        day, found = self._day(), self._followed.get(tenant)
        if found is not None and found.day != day:
            self._unfollow(tenant)
            found = None
        if found is None:
            if self._tasks is None:
                return None
            found = _Followed(self._broker, day, tenant, self._tally.instance)
            found.task = self._tasks.create_task(_watching(found.watch), name=f"usage of {tenant}")
            self._followed[tenant] = found
        found.wanted_at = time.monotonic()
        return found

    def _unfollow(self, tenant: str) -> None:
        task = self._followed.pop(tenant).task
        if task is not None:
            task.cancel()

    def _check(self, sessions: Iterable[Budgeted]) -> None:
        """Warn or end sessions, and set the metric of remaining budgets."""
        sessions_of: dict[str, list[Budgeted]] = {}
        for session in sessions:
            sessions_of.setdefault(session.key.tenant, []).append(session)
        warned, self._warned = self._warned, {}
        left: dict[tuple[str, str], float] = {}
        for tenant, its_sessions in sessions_of.items():
            budget = self.budget_of(tenant)
            followed = None if budget is None else self._follow(tenant)
            if budget is None or followed is None:
                continue
            used = self._used(tenant, budget)
            for standing in standings(budget, used):
                # Tenants that share a label show the one with the least left.
                name = self._metrics.tenant(tenant), standing.unit
                left[name] = min(standing.remaining, left.get(name, standing.remaining))
            level = self._level(budget, used)
            if level == _SPENT and not self._current(tenant):
                self._warned |= {session: warned.get(session, 0.0) for session in its_sessions}
                continue
            self._log(tenant, followed, level, budget, used)
            for session in its_sessions:
                self._warned[session] = level
                if level > warned.get(session, 0.0):
                    self._warn_or_end(session, level, budget, used)
        self._set_remaining(left)
        now = time.monotonic()
        for tenant in list(self._followed):
            unwanted = now - self._followed[tenant].wanted_at > _LINGER_S
            if unwanted or self.budget_of(tenant) is None:
                self._unfollow(tenant)

    def _level(self, budget: Budget, used: Used) -> float:
        """The highest threshold that was passed, or 0.

        It falls again when a budget is raised or a new day begins; sessions are then warned again.
        """
        fraction = fraction_used(budget, used)
        return max((level for level in self._thresholds if level <= fraction), default=0.0)

    def _warn_or_end(self, session: Budgeted, level: float, budget: Budget, used: Used) -> None:
        if level < _SPENT:
            session.warn_budget(remaining_seconds(budget, used))
        elif detail := spent_detail(session.key.tenant, self._day(), budget, used):
            session.exhaust(detail)

    def _log(
        self, tenant: str, followed: _Followed, level: float, budget: Budget, used: Used
    ) -> None:
        if level > followed.logged:
            what = "budget is used up" if level == _SPENT else "budget is running low"
            shown = " and ".join(map(str, standings(budget, used)))
            log.info(what, extra=fields(tenant=tenant, used=shown))
        followed.logged = level

    def _set_remaining(self, left: dict[tuple[str, str], float]) -> None:
        gauge = self._metrics.budget_remaining
        for name, amount in left.items():
            gauge.labels(*name).set(amount)
        for name in self._labels_set - left.keys():
            gauge.remove(*name)
        self._labels_set = set(left)


async def _watching(watch: Watch) -> None:
    """Watch until cancelled; try again after errors of NATS."""
    while True:
        try:
            await watch.run()
        except (NatsError, OSError):
            await asyncio.sleep(_RETRY_S)
