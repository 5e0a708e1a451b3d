"""Exports what edges say about themselves, so that alerts reach those who are in no room.

Every worker exports the same: whichever of them runs is enough, and rules take the maximum. The
number of series is bounded: WORKER_METRICS_EDGES edges, by name, have series of their own.
"""

from __future__ import annotations

import asyncio
import logging
import random

from natterjack.broker.connection import Broker
from natterjack.errors import BrokerError
from natterjack.fleet.edge_reader import Edges, EdgesReader
from natterjack.fleet.edges import ABSENT, STOPPED
from natterjack.notices import label

from .metrics import Metrics

log = logging.getLogger(__name__)

_STATES = ("running", "ending", STOPPED, ABSENT)
_OTHER = "other"


class EdgeWatch:
    """Reads the edges every few seconds, and exports their state."""

    def __init__(self, metrics: Metrics, interval_seconds: float, most_edges: int) -> None:
        """Nothing is read if the interval is 0."""
        self._metrics = metrics
        self._interval = interval_seconds
        self._most_edges = most_edges

    async def run(self, broker: Broker) -> None:
        """Look until cancelled."""
        if not self._interval:
            return
        reader = EdgesReader(broker)
        await reader.start()
        while True:
            if broker.connected:
                await self.look(reader)
            else:
                self.show(Edges())
            await asyncio.sleep(self._interval * random.uniform(0.9, 1.1))  # noqa: S311 - spread

    async def look(self, reader: EdgesReader) -> None:
        """Read all edges once and export them; nothing if they cannot be read."""
        try:
            found = await reader.read()
        except BrokerError as error:
            log.debug("edges not read: %s", error)
            found = Edges()
        self.show(found)

    def show(self, found: Edges) -> None:
        """Export these edges and no others."""
        metrics = self._metrics
        counts = dict.fromkeys((*_STATES, _OTHER), 0)
        for row in found.rows:
            counts[row.state if row.state in _STATES else _OTHER] += 1
        for state, count in counts.items():
            metrics.edges.labels(state).set(count)
        for gauge in (
            metrics.edge_seen,
            metrics.edge_absent,
            metrics.edge_findings,
            metrics.edge_spool,
            metrics.edge_clock,
        ):
            gauge.clear()
        for row in found.rows[: self._most_edges]:
            presence = row.presence
            names = (presence.tenant, presence.agent)
            metrics.edge_seen.labels(*names).set(row.seen_seconds_ago)
            metrics.edge_absent.labels(*names).set(row.state == ABSENT)
            if row.state in (ABSENT, STOPPED):
                continue  # what it said last says nothing about now
            for source in presence.sources:
                for code in dict.fromkeys(map(label, source.findings)):
                    metrics.edge_findings.labels(*names, code).inc()
            share = presence.spool.share if presence.spool is not None else None
            if share is not None:
                metrics.edge_spool.labels(*names).set(share)
            if presence.clock_offset_seconds is not None:
                metrics.edge_clock.labels(*names).set(presence.clock_offset_seconds)
