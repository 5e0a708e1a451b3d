"""The tally: what this process has used today (UTC), by tenant and provider, in `stt_usage`.

Entries are absolute totals, one for each day, tenant and process. Writing one twice therefore
counts once, and a tenant's usage on a day is the sum over processes.
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

from .usage import Usage

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
    """One tenant's usage on one day."""

    def __init__(self) -> None:
        self.captured = 0.0
        self.rows: dict[str, Usage] = {}
        self.currencies: dict[str, str] = {}

    def to_record(self) -> DayUsage:
        providers = {name: row.to_record(self.currencies[name]) for name, row in self.rows.items()}
        return DayUsage(captured_seconds=round(self.captured, 3), providers=providers)


class Tally:
    """Adds up usage in memory and writes entries that changed to the bucket."""

    def __init__(self, instance: str, day: Callable[[], str] = today) -> None:
        """`instance` is this process's name in keys of the bucket."""
        self.instance = instance
        self._day_of = day
        self._days: dict[tuple[str, str], _Day] = {}
        self._changed: dict[tuple[str, str], None] = {}
        self._writing = asyncio.Lock()

    def add(self, tenant: str, provider: str, currency: str, more: Usage) -> None:
        day = self._day(tenant)
        row = day.rows.get(provider)
        if row is None:
            row = day.rows[provider] = Usage()
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
        """Drop everything the tenant has used so far, so that it is never written."""
        for name in [name for name in self._days if name[1] == tenant]:
            del self._days[name]
            self._changed.pop(name, None)

    def of(self, day: str, tenant: str) -> DayUsage:
        """This process's use for a tenant on one day."""
        found = self._days.get((day, tenant))
        return DayUsage() if found is None else found.to_record()

    def unwritten(self) -> dict[str, DayUsage]:
        """Entries that the bucket does not have yet, by key.

        They go into the roster, so that a successor can write them if this process dies.
        """
        return {self._key(*name): self._days[name].to_record() for name in self._changed}

    def _key(self, day: str, tenant: str) -> str:
        return f"{day}.{tenant}.{self.instance}"

    async def write(self, js: JetStreamContext, tenants: set[str] | None = None) -> None:
        """Write the entries that changed, of `tenants` or of all.

        Entries that cannot be written now are tried again next time; broker errors are not raised.
        """
        # One call at a time: the entry being written is not marked as changed, so a second call
        # would drop it.
        async with self._writing:
            await self._write(js, tenants)

    async def _write(self, js: JetStreamContext, tenants: set[str] | None) -> None:
        for name in [n for n in self._changed if tenants is None or n[1] in tenants]:
            self._changed.pop(name, None)
            if name not in self._days:
                continue  # forgotten meanwhile
            subject = streams.bucket_subject(streams.USAGE_BUCKET, self._key(*name))
            try:
                payload = self._days[name].to_record().model_dump_json(exclude_none=True).encode()
                await js.publish(subject, payload, timeout=_TIMEOUT_S)
            except (NatsError, TimeoutError) as error:
                self._not_written(name)
                log.debug("usage not written yet: %r", error)
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
