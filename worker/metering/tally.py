"""What this process has used today (UTC), by tenant and provider, kept in the bucket `stt_usage`.

The entries are absolute, one for each day, tenant and process: writing one twice counts once, and
a tenant's use of a day is the sum over processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from natterjack.broker import streams
from natterjack.fleet.usage import DayUsage

from .use import Use

log = logging.getLogger(__name__)

_TIMEOUT_S = 3.0
_DAY_S = 86_400


def today() -> str:
    """The day in UTC, YYYY-MM-DD."""
    return _date(int(time.time()) // _DAY_S)


@functools.lru_cache(maxsize=4)
def _date(day: int) -> str:
    return datetime.fromtimestamp(day * _DAY_S, UTC).date().isoformat()


class _Day:
    """One tenant's use of one day."""

    def __init__(self) -> None:
        self.captured = 0.0
        self.rows: dict[str, Use] = {}
        self.currencies: dict[str, str] = {}

    def told(self) -> DayUsage:
        providers = {name: row.told(self.currencies[name]) for name, row in self.rows.items()}
        return DayUsage(captured_seconds=round(self.captured, 3), providers=providers)


class Tally:
    """Adds up, and writes what has changed."""

    def __init__(self, instance: str, day: Callable[[], str] = today) -> None:
        """`instance`: this process's name in keys."""
        self.instance = instance
        self._day_of = day
        self._days: dict[tuple[str, str], _Day] = {}
        self._changed: dict[tuple[str, str], None] = {}
        self._writing = asyncio.Lock()

    def add(self, tenant: str, provider: str, currency: str, more: Use) -> None:
        day = self._day(tenant)
        row = day.rows.get(provider)
        if row is None:
            row = day.rows[provider] = Use()
            day.currencies[provider] = currency
        row.add(more)

    def add_captured(self, tenant: str, seconds: float) -> None:
        self._day(tenant).captured += seconds

    def _day(self, tenant: str) -> _Day:
        name = (self._day_of(), tenant)
        self._changed[name] = None
        found = self._days.get(name)
        if found is None:
            found = self._days[name] = _Day()
        return found

    def forget(self, tenant: str) -> None:
        """Nothing that it has used until now is to be written."""
        for name in [name for name in self._days if name[1] == tenant]:
            del self._days[name]
            self._changed.pop(name, None)

    def of(self, day: str, tenant: str) -> DayUsage:
        """What this process has used."""
        found = self._days.get((day, tenant))
        return DayUsage() if found is None else found.told()

    def unwritten(self) -> dict[str, DayUsage]:
        """What has not reached the bucket yet, by its key there: for whoever comes after us."""
        return {self._key(*name): self._days[name].told() for name in self._changed}

    def _key(self, day: str, tenant: str) -> str:
        return f"{day}.{tenant}.{self.instance}"

    async def write(self, js: JetStreamContext, tenants: set[str] | None = None) -> None:
        """Write what has changed, of these tenants or of all. What cannot be written now stays
        changed; never raises for the broker's sake."""
        # One at a time: what one has in hand is not marked as changed, and another would drop it.
        async with self._writing:
            await self._write(js, tenants)

    async def _write(self, js: JetStreamContext, tenants: set[str] | None) -> None:
        for name in [n for n in self._changed if tenants is None or n[1] in tenants]:
            self._changed.pop(name, None)
            if name not in self._days:
                continue  # forgotten meanwhile
            subject = streams.bucket_subject(streams.USAGE_BUCKET, self._key(*name))
            try:
                payload = self._days[name].told().model_dump_json(exclude_none=True).encode()
                await js.publish(subject, payload, timeout=_TIMEOUT_S)
            except (NatsError, TimeoutError) as error:
                self._not_written(name)
                log.debug("usage is not written yet: %r", error)
                return
            except BaseException:  # cancelled
                self._not_written(name)
                raise
        current = self._day_of()
        for name in [n for n in self._days if n[0] < current and n not in self._changed]:
            with contextlib.suppress(KeyError):
                del self._days[name]

    def _not_written(self, name: tuple[str, str]) -> None:
        if name in self._days:
            self._changed[name] = None
