"""Work of an edge before its source has audio: it sends earlier sessions and reports to the
center."""

from __future__ import annotations

import asyncio

from natterjack.process.run import end_tasks
from natterjack.settings import BrokerSettings

from ..delivery.leftovers import Leftovers
from ..delivery.link import Link
from ..sources import Source
from ..spool import Spool
from .reporter import Reporter

_AT_ONCE_S = 1.0
"""A source that opens sooner is not worth a connection of its own."""


class Meanwhile:
    """Is done while a source is opened that takes long, on a connection of its own."""

    def __init__(
        self,
        broker: BrokerSettings,
        reporter: Reporter,
        leftovers: Leftovers,
        spool: Spool | None,
        *,
        once: bool,
    ) -> None:
        self._link = Link(broker, once=once)
        self._reporter = reporter
        self._leftovers = leftovers
        self._spool = spool

    async def until(self, opening: asyncio.Task[Source | None]) -> Source | None:
        """Return the source that `opening` opens, or None if it was stopped before. Cancel-safe.

        Raises: SourceError, SourceLost; BrokerError, UsageError.
        """
        await asyncio.wait((opening,), timeout=_AT_ONCE_S)
        if opening.done():
            return opening.result()
        async with asyncio.TaskGroup() as tasks:
            connection = tasks.create_task(self._link.run(), name="connection")
            side = [
                tasks.create_task(self._leftovers.run(self._link, ()), name="leftovers"),
                tasks.create_task(self._reporter.run(self._link, goes_on=opening), name="report"),
            ]
            if self._spool is not None:
                side.append(tasks.create_task(self._spool.maintain(), name="spool"))
            source = await opening
            await end_tasks(side)
            await end_tasks([connection])
        return source
