"""A worker's lease on a session, and the checkpoint that proves it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Generic, Protocol

from natterjack.events import StatusEvent
from natterjack.fleet.roster import SessionRecord
from natterjack.plugin.provider import Final
from natterjack.spec import SessionSpec
from natterjack.subjects import SessionKey
from natterjack.telemetry.log import fields
from natterjack.values import Account
from worker.errors import LeaseLost, Overtaken
from worker.trace import NoTrace

from . import takeover
from .checkpoint import C, Checkpoint, LeaseRecord
from .cutoff import Cutoff
from .progress import Progress
from .states import State, may_follow
from .takeover import Claimant, Estimate

log = logging.getLogger(__name__)

_SILENCE_SECONDS = 5.0
"""A checkpoint is written after each final with text, and after this much finalized silence."""
_MARK_SECONDS = 10.0
"""How often the place of the live audio in the stream is looked up. It bounds what a worker that
takes over has to read again."""
_PROBE_SECONDS = 0.25


QueueQuery = Callable[[int], Awaitable[int | None]]
RosterQuery = Callable[[str, str, str], Awaitable[SessionRecord | None]]
EndQuery = Callable[[str], Awaitable[StatusEvent | None]]


class KeyBusy(Exception):
    """An earlier session still has the key; try again later."""


class AlreadyClosed(Exception):
    """The session was closed before: only the ack of its request is missing."""


class QueueUnknown(Exception):
    """The broker did not answer a query about the queue."""


class Store(Protocol[C]):
    """Storage of checkpoints; worker.session.checkpoint.CheckpointStore implements it."""

    async def read(self) -> C | None: ...
    async def write(self, checkpoint: C, account: str) -> None: ...


class BaseLease(ABC, Generic[C]):
    """Writes a session's checkpoint. Each write fails once another worker has taken over. The kinds
    of session differ in what their checkpoints contain."""

    __slots__ = ("_store", "checkpoint", "unconfirmed")

    def __init__(self, store: Store[C], first: C) -> None:
        """`first` is the claimant's first checkpoint of a session that starts."""
        self._store = store
        self.unconfirmed = False
        self.checkpoint = first
        """The checkpoint that the next write stores. The session keeps `state`, `provider`, `slot`
        and `configured` up to date; `write` fills in the rest."""

    async def acquire(
        self, first_queued: QueueQuery, last_record: RosterQuery, end_of: EndQuery
    ) -> Estimate | None:
        """Become the session's only holder: adopt the stored checkpoint, and write it.

        `first_queued` asks the queue for the sequence of the first request for the key from a
        sequence on, and raises QueueUnknown. `last_record` reads the roster record that an
        instance last wrote of a holder's session of a tenant. `end_of` reads the closing event of
        an earlier session of the key. Returns what the former holder is assumed to have used beyond
        its records. Raises LeaseLost, KeyBusy, AlreadyClosed.
        """
        claimant = Claimant.of(self.checkpoint)
        while True:
            stored = await self._store.read()
            decision = takeover.decide(stored, claimant)
            if isinstance(decision, takeover.Ask):
                try:
                    queued = takeover.Queued(await first_queued(decision.sequence))
                except QueueUnknown:
                    raise KeyBusy from None
                decision = takeover.decide(stored, claimant, queued)
            estimate = None
            match decision:
                case takeover.Adopt(former):
                    estimate = await self._adopt(former, claimant, last_record)
                case takeover.Start(before):
                    await self._start(before, claimant, end_of)
                case takeover.Finished():
                    raise AlreadyClosed
                case takeover.HeldElsewhere(worker, epoch):
                    raise LeaseLost(f"{worker} has epoch {epoch}")
                case _:
                    raise KeyBusy
            with contextlib.suppress(Overtaken):  # an older holder wrote after the read: read again
                await self.write()
                return estimate

    @abstractmethod
    async def _start(self, before: C | None, claimant: Claimant, end_of: EndQuery) -> None:
        """Start the session after the key's last one."""

    @abstractmethod
    async def _adopt(
        self, stored: C, claimant: Claimant, last_record: RosterQuery
    ) -> Estimate | None:
        """Continue from where the former holder, or an earlier attempt, left the session."""

    async def write(self, *, closed: bool = False, handed_over: bool = False) -> None:
        """Store the checkpoint. With `closed` or `handed_over`, the lease ends with it.

        Raises LeaseLost if another worker holds the session.
        """
        account = await self._fill(ends=closed or handed_over)
        checkpoint = self.checkpoint
        if handed_over:
            checkpoint.state = State.HANDED_OVER.value
        checkpoint.closed = closed or checkpoint.closed
        checkpoint.updated_at = datetime.now(UTC)
        await self._store.write(checkpoint, account)

    @abstractmethod
    async def _fill(self, *, ends: bool) -> str:
        """Bring the checkpoint up to date, and return what the session has used, as JSON. `ends`:
        the lease ends with this checkpoint."""

    async def served(self) -> None:
        """Note that a provider answers, so that a worker that takes over does not go on counting an
        outage that has ended. Raises LeaseLost."""
        if self.checkpoint.failing_since is not None:
            self.checkpoint.failing_since = None
            await self.write()

    def mark_unconfirmed(self) -> None:
        """Note that the lease may have run out while this process or its connection was suspended.
        Nothing may be published before `confirm` returns."""
        self.unconfirmed = True
        self._wake()

    @abstractmethod
    def _wake(self) -> None:
        """Make the session call `confirm` soon."""

    async def confirm(self) -> None:
        """Write the checkpoint if the lease is unconfirmed. Raises LeaseLost if it is lost."""
        if self.unconfirmed:
            await self.write()
            self.unconfirmed = False


class Lease(BaseLease[Checkpoint]):
    """The lease on a session that transcribes."""

    __slots__ = ("_marked_at", "_spec", "cutoff", "progress")

    def __init__(
        self,
        store: Store[Checkpoint],
        claimant: Claimant,
        spec: SessionSpec,
        progress: Progress,
        cutoff: Cutoff,
    ) -> None:
        super().__init__(store, takeover.started(claimant, spec))
        self._spec = spec
        self.progress = progress
        self.cutoff = cutoff
        self._marked_at = 0.0

    async def _start(self, before: Checkpoint | None, claimant: Claimant, end_of: EndQuery) -> None:
        spec = self._spec
        other = takeover.separated_from(before, spec)
        end = None if other is None else await end_of(other)
        self.checkpoint = first = takeover.started(claimant, spec, before, end)
        captured = first.start_position
        if before is not None and before.account is not None and takeover.continued(before, spec):
            seconds = before.account.captured_seconds
            captured = before.start_position + round(seconds * spec.sample_rate)
        self.progress.begin(first.start_position, captured)
        self.cutoff.begin(first.start_position)

    async def _adopt(
        self, stored: Checkpoint, claimant: Claimant, last_record: RosterQuery
    ) -> Estimate | None:
        progress, spec = self.progress, self._spec
        account, record = stored.account or Account(), None
        if takeover.may_have_used_more(stored):
            record = await last_record(stored.instance, stored.holder, spec.tenant)
        used = takeover.former_usage(
            stored, account, record, instance=claimant.instance, sample_rate=spec.sample_rate
        )
        self.checkpoint = adopted = takeover.adopted(stored, claimant, spec)
        progress.begin(adopted.start_position)
        self.cutoff.begin(adopted.start_position)
        progress.writer.position = adopted.position
        progress.writer.provider = stored.provider
        progress.account_builder.adopt(account, stored.gaps_until, stored.notices_until)
        sent_until = max(used.sent_until, adopted.sent_until)
        progress.ledger.adopt(used.providers, sent_until, used.captured_seconds)
        self.cutoff.adopt(stored.limit, stored.limit_reason, stored.limit_detail, adopted.position)
        return used.estimate

    async def _fill(self, *, ends: bool) -> str:
        checkpoint, progress, cutoff = self.checkpoint, self.progress, self.cutoff
        feed = progress.feed
        if feed is not None:
            now = time.monotonic()
            if now - self._marked_at > _MARK_SECONDS:
                self._marked_at = now
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_PROBE_SECONDS):
                        await feed.probe()
        final = progress.final
        mark = checkpoint.mark if feed is None else feed.mark_before(final)
        if final > checkpoint.position:
            checkpoint.crashes, checkpoint.failing_since = 0, None
        checkpoint.position = final
        checkpoint.mark_position, checkpoint.mark_seq, checkpoint.mark_stream_sequence = mark
        checkpoint.gaps_until = progress.account_builder.gaps_until
        checkpoint.notices_until = progress.account_builder.notices.counted_until
        checkpoint.limit, checkpoint.limit_reason = cutoff.position, cutoff.reason
        checkpoint.limit_detail = cutoff.detail
        # After a final, figures as old as those in the roster are good enough.
        account = progress.account_json(exact=ends)
        checkpoint.sent_until = progress.sent_until
        return account

    async def before_final(self) -> None:
        """Store gaps, and publish and count notices, before the final that follows them: a worker
        that resumes after the final does not see them. Raises LeaseLost."""
        builder, checkpoint = self.progress.account_builder, self.checkpoint
        if builder.notices.pending:
            await self.progress.publish_notices()
        counted = builder.notices.counted_until
        if builder.gaps_until > checkpoint.gaps_until or counted > checkpoint.notices_until:
            await self.write()

    async def after_final(self, event: Final) -> None:
        """Store the new position after a final, unless it has moved over a little silence only.
        Raises LeaseLost."""
        silence = (self.progress.final - self.checkpoint.position) / self._spec.sample_rate
        if event.text or silence >= _SILENCE_SECONDS:
            await self.write()

    def _wake(self) -> None:
        if self.progress.relay is not None:
            self.progress.relay.wake_guard()


class Lifecycle:
    """The state of a session, and its only setter. It is separate from the session so that objects
    that change the state do not refer to the session: a reference cycle would not be freed at
    once."""

    __slots__ = ("_key", "_lease", "state", "trace")

    def __init__(self, key: SessionKey, lease: BaseLease[Any], trace: NoTrace) -> None:
        self._key = key
        self._lease = lease
        self.state = State.TAKING_OVER
        self.trace = trace

    def enter(self, state: State, **extra: Any) -> None:
        """Go to another state. `extra` is logged."""
        if not may_follow(self.state, state):
            raise RuntimeError(f"session {self._key}: no transition from {self.state} to {state}")
        checkpoint: LeaseRecord = self._lease.checkpoint
        self.state, checkpoint.state = state, state.value
        self.trace.moved(state.name, extra)
        log.info(
            "session %s",
            state.value,
            extra=fields(session=str(self._key), epoch=checkpoint.epoch, **extra),
        )
