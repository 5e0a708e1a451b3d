"""The edges of a tenant, read from the broker at most every 2 s for all who ask."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import BaseModel

from gateway.access import Grant, Reason, Refused
from natterjack.broker.connection import Broker
from natterjack.errors import BrokerUnreachable, InvalidKey, StreamMismatch
from natterjack.fleet.edge_reader import EdgeRow, Edges, EdgesReader
from natterjack.fleet.edges import Level, SourcePresence, SpoolPresence
from natterjack.subjects import SessionKey

FRESH_S = 2.0
MAX_EDGES = 1000
"""Edges of an answer; further ones are left out."""
_MAX_TENANTS = 1000


class SourceSummary(BaseModel):
    """One source of an edge."""

    name: str
    kind: str
    device: str | None
    state: str
    """`capturing`, `waiting`, `muted`, `stopped`, `failed`, or one of a later release."""
    level: Level | None
    """Over the last 10 s."""
    findings: list[str]
    conversation: str | None = None
    """That of its session, as is `speaker`."""
    speaker: str | None = None
    session_id: str | None
    error: str | None


class EdgeSummary(BaseModel):
    """An edge, as it was last heard of."""

    agent: str
    state: str
    """`running`, `ending`, `stopped`, `absent`, or one of a later release."""
    seen_seconds_ago: float
    """Seconds since its newest report, by the clock of the broker."""
    started_at: datetime
    version: str
    host: str
    sources: list[SourceSummary]
    spool: SpoolPresence | None
    clock_offset_seconds: float | None
    """How far its clock is ahead of the broker's."""
    last_error: str | None


class EdgeList(BaseModel):
    """The edges of a tenant, and notes about what cannot be read."""

    edges: list[EdgeSummary] = []
    notes: list[str] = []


def check_whole_tenant(grant: Grant) -> None:
    """Raise Refused if a key or a token is for some conversations only: an edge is a machine, and
    not a part of a conversation."""
    if grant.conversation is not None or grant.conversations:
        raise Refused(
            Reason.CONVERSATION,
            f"key {grant.key_id} is for some conversations only, and edges are of the whole tenant",
        )


def summaries(found: Edges, tenant: str) -> EdgeList:
    """Return those of a tenant. Pure."""
    mine = [row for row in found.rows if row.presence.tenant == tenant]
    notes = []
    if len(mine) > MAX_EDGES:
        notes.append(f"{len(mine) - MAX_EDGES} more edges are left out")
    if found.unreadable:
        notes.append(f"{found.unreadable} reports of edges cannot be read")
    return EdgeList(edges=[_edge(row) for row in mine[:MAX_EDGES]], notes=notes)


def _edge(row: EdgeRow) -> EdgeSummary:
    presence = row.presence
    return EdgeSummary(
        agent=presence.agent, state=row.state, seen_seconds_ago=row.seen_seconds_ago,
        started_at=presence.started_at, version=presence.version, host=presence.host,
        sources=[_source(source, presence.tenant) for source in presence.sources],
        spool=presence.spool, clock_offset_seconds=presence.clock_offset_seconds,
        last_error=presence.last_error,
    )  # fmt: skip


def _source(source: SourcePresence, tenant: str) -> SourceSummary:
    key = _key(source.key, tenant)
    return SourceSummary(
        name=source.name, kind=source.kind, device=source.device, state=source.state,
        level=source.level, findings=source.findings, session_id=source.session_id,
        error=source.error, conversation=key and key.conversation, speaker=key and key.speaker,
    )  # fmt: skip


def _key(text: str | None, tenant: str) -> SessionKey | None:
    """The key of a session of the tenant; None for anything else that an edge may name."""
    try:
        key = SessionKey.parse(text or "")
    except InvalidKey:
        return None
    return key if key.tenant == tenant else None


@dataclass
class _Read:
    """The edges of a tenant, as they were read last, or why they could not be."""

    at: float = float("-inf")
    edges: EdgeList = field(default_factory=EdgeList)
    problem: str | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class EdgeDirectory:
    """Reads the edges of tenants. Any number of viewers of one tenant cost one read in 2 s, also
    while the broker does not answer."""

    def __init__(self, broker: Broker) -> None:
        self._reader = EdgesReader(broker)
        self._starting = asyncio.Lock()
        self._started = False
        self._reads: OrderedDict[str, _Read] = OrderedDict()

    async def of(self, tenant: str) -> EdgeList:
        """The tenant's edges, by name. Raises: BrokerUnreachable; no bucket yet is a note."""
        read = self._reads.pop(tenant, None) or _Read()
        self._reads[tenant] = read
        if len(self._reads) > _MAX_TENANTS:
            self._reads.popitem(last=False)
        async with read.lock:
            if time.monotonic() - read.at >= FRESH_S:
                await self._renew(tenant, read)
            if read.problem is not None:
                raise BrokerUnreachable(read.problem)
            return read.edges

    async def _renew(self, tenant: str, read: _Read) -> None:
        try:
            async with self._starting:
                if not self._started:
                    await self._reader.start()
                    self._started = True
            read.edges, read.problem = summaries(await self._reader.read(tenant), tenant), None
        except StreamMismatch as error:
            read.edges, read.problem = EdgeList(notes=[str(error)]), None
        except BrokerUnreachable as error:
            read.problem = str(error)
        read.at = time.monotonic()
