"""Where a session's events and checkpoints go, without a broker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from natterjack.broker.client.fastpath import MessageTooLarge
from natterjack.events import Event, parse_event
from natterjack.spec import SessionSpec
from natterjack.subjects import EventKind
from worker.errors import LeaseLost, Overtaken
from worker.metering.account import AccountBuilder
from worker.metering.ledger import Ledger
from worker.metering.tally import Tally
from worker.metrics import Metrics
from worker.session.checkpoint import Checkpoint
from worker.session.output.events import EventWriter
from worker.session.progress import Progress


class Published:
    """An outlet that keeps what is published, numbered as the broker would have it. It refuses
    events of more than `limit` bytes, and all after the first `most` as another holder's."""

    def __init__(self, limit: int = 1_000_000) -> None:
        self.limit = limit
        self.most: int | None = None
        self.events: list[Any] = []
        self.interims: list[Any] = []

    async def resume(self) -> None:
        pass

    async def newest(self, kind: EventKind, *, of_key: bool = False) -> Any:
        return next((event for event in reversed(self.events) if event.type == kind), None)

    async def durable(self, kind: EventKind, make: Callable[[int], bytes]) -> None:
        event = self._parse(make(len(self.events)))
        if len(self.events) == self.most:
            raise LeaseLost("another worker has published")
        assert event.type == kind
        self.events.append(event)

    async def interim(self, event: bytes) -> None:
        self.interims.append(self._parse(event))

    def _parse(self, event: bytes) -> Event:
        if len(event) > self.limit:
            raise MessageTooLarge(len(event), self.limit)
        return parse_event(event)


class Bucket:
    """One key of a bucket, with compare-and-set."""

    def __init__(self) -> None:
        self.revision = 0
        self.stored: bytes | None = None

    def read(self) -> Checkpoint | None:
        return None if self.stored is None else Checkpoint.decode(self.stored)


class BucketStore:
    """One holder's view of a bucket: a write fails if another holder wrote since it read."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.writes: list[Checkpoint] = []
        self.after_read: Callable[[], Awaitable[None]] | None = None
        """Called once, between a read and the write that follows it."""
        self._revision = -1

    async def read(self) -> Checkpoint | None:
        self._revision, stored = self.bucket.revision, self.bucket.read()
        if self.after_read is not None:
            act, self.after_read = self.after_read, None
            await act()
        return stored

    async def write(self, checkpoint: Checkpoint, account: str) -> None:
        if self._revision != self.bucket.revision:
            other = self.bucket.read()
            newer = other is None or other.epoch >= checkpoint.epoch
            raise LeaseLost("lost") if newer else Overtaken("overtaken")
        self.bucket.stored = checkpoint.encode(account)
        self.bucket.revision = self._revision = self.bucket.revision + 1
        self.writes.append(replace(checkpoint))


def progress(spec: SessionSpec, outlet: Published | None = None, epoch: int = 1) -> Progress:
    metrics, rate = Metrics(1), spec.sample_rate
    ledger = Ledger(spec.tenant, rate, metrics, Tally("w"))
    writer = EventWriter(outlet or Published(), spec, epoch, "w", metrics)
    return Progress(rate, writer, AccountBuilder(spec.key, rate, metrics, ledger), ledger)
