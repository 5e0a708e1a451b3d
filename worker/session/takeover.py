"""The decision whether a worker that has claimed a request takes over the session, and its start.

Pure functions: the caller reads the checkpoint, and asks the queue if the decision is `Ask`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple

from natterjack.events import StatusEvent
from natterjack.fleet.roster import REPORT_SECONDS, SessionRecord
from natterjack.spec import SessionSpec
from natterjack.values import Account, ProviderUsage

from .checkpoint import C, Checkpoint, LeaseRecord
from .states import State

_MAX_CLOSED_BEFORE = 50
MAX_CRASHES = 10
"""A session is given up when more workers than this died holding it without any progress."""
_RISKY = {state.value for state in (State.CONNECTING, State.STREAMING, State.FINISHING)}
_IDLE = {state.value for state in (State.WAITING, State.QUEUED, State.RECOVERING)}


class Claimant(NamedTuple):
    """The worker that has claimed the request of a session."""

    session_id: str
    request_sequence: int
    """Position of the request in the JetStream stream of the queue."""
    epoch: int
    worker: str
    holder: str
    instance: str

    @classmethod
    def of(cls, checkpoint: LeaseRecord) -> Claimant:
        """The holder that wrote, or is about to write, a checkpoint."""
        return cls(
            checkpoint.session_id,
            checkpoint.request_sequence,
            checkpoint.epoch,
            checkpoint.worker,
            checkpoint.holder,
            checkpoint.instance,
        )


@dataclass(frozen=True, slots=True)
class Ask:
    """The decision depends on the first request for the key in the queue, from `sequence` on."""

    sequence: int


class Queued(NamedTuple):
    """The queue's answer to `Ask`. `first` is None if it has no such request."""

    first: int | None


@dataclass(frozen=True, slots=True)
class Adopt(Generic[C]):
    """Continue the session from the stored checkpoint."""

    stored: C


@dataclass(frozen=True, slots=True)
class Start(Generic[C]):
    """Start the session from its first frame. `before` is the checkpoint of the key's last session,
    if there is one."""

    before: C | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """The session has ended before, or another request for it exists: only the ack is missing."""


@dataclass(frozen=True, slots=True)
class Busy:
    """An earlier session still has the key: try again later."""


@dataclass(frozen=True, slots=True)
class HeldElsewhere:
    """Another worker holds the session, with an epoch that is no smaller."""

    worker: str
    epoch: int


Decision = Ask | Adopt[C] | Start[C] | Finished | Busy | HeldElsewhere


def decide(stored: C | None, claimant: Claimant, queued: Queued | None = None) -> Decision[C]:
    """Decide what to do with a claimed session, given the checkpoint stored under its key.

    Returns Ask only if `queued` is None.
    """
    mine = claimant.request_sequence
    if stored is not None and claimant.session_id in stored.closed_before:
        return Finished()  # the request was delivered again after later sessions used the key
    if stored is None or stored.session_id != claimant.session_id:
        # Sessions of one key run one after another, in the order of their requests.
        if queued is None:
            return Ask(1)
        if queued.first != mine:
            return Busy()
        return Start(stored)
    if stored.closed:
        return Finished()
    if stored.request_sequence not in (0, mine):
        if queued is None:
            return Ask(stored.request_sequence)
        if queued.first == stored.request_sequence:
            return Finished()  # a second request for a session that is in progress
    if stored.epoch >= claimant.epoch:
        return HeldElsewhere(stored.worker, stored.epoch)
    return Adopt(stored)


def crashes(stored: LeaseRecord) -> int:
    """How many workers in a row have died with the session since it last made progress.

    A worker that held the session without a provider stream, or gave it back, did not die of it.
    """
    return stored.crashes + 1 if stored.state in _RISKY else 0


def give_up_reason(crashed: int) -> str | None:
    """The reason to fail a session that has killed `crashed` workers; None to try again."""
    if crashed <= MAX_CRASHES:
        return None
    return f"gave up after {crashed} attempts without progress"


def closed_before(before: LeaseRecord | None) -> list[str]:
    """The latest closed sessions of a key, given the checkpoint of its last session."""
    if before is None:
        return []
    return [*before.closed_before, before.session_id][-_MAX_CLOSED_BEFORE:]


def started(
    claimant: Claimant,
    spec: SessionSpec,
    before: Checkpoint | None = None,
    end: StatusEvent | None = None,
) -> Checkpoint:
    """The claimant's first checkpoint of a session that starts. `before` is the checkpoint of the
    key's last session. `end` is the closing event of the session that this one continues, if it
    is `separated_from` that one and the event is still stored.

    A session starts no earlier than the finals of the one that it continues end, so that no word
    is in both. If that is the key's last session, it also reads its audio from the same mark. If it
    starts right there, the workers that died at that audio count, and at least one attempt is left.
    """
    audio = spec.audio_session_id
    first = Checkpoint(
        session_id=claimant.session_id,
        epoch=claimant.epoch,
        worker=claimant.worker,
        holder=claimant.holder,
        instance=claimant.instance,
        state=State.TAKING_OVER.value,
        request_sequence=claimant.request_sequence,
        audio_of=None if audio == spec.session_id else audio,
        start_position=spec.start_position,
        position=spec.start_position,
        sent_until=spec.start_position,
        opened_at=spec.opened_at,
    )
    if end is not None and end.audio_position is not None and _same_audio(end, spec):
        start = max(spec.start_position, end.audio_position)
        first.start_position = first.position = first.sent_until = start
    if before is None:
        return first
    first.closed_before = closed_before(before)
    if continued(before, spec):
        start = max(spec.start_position, before.position)
        first.start_position = first.position = first.sent_until = start
        first.mark_position, first.mark_seq, first.mark_stream_sequence = before.mark
        if start == before.position:
            first.crashes = min(before.crashes, MAX_CRASHES)
    return first


def continued(before: Checkpoint, spec: SessionSpec) -> bool:
    """Whether the session of `spec` goes on with the audio of the session before it."""
    same_audio = before.audio_session_id == spec.audio_session_id
    return spec.continues == before.session_id and same_audio


def separated_from(before: Checkpoint | None, spec: SessionSpec) -> str | None:
    """The ID of the session that `spec` continues, if its checkpoint is gone: another session has
    used the key since, or the bucket was emptied."""
    gone = before is None or before.session_id != spec.continues
    return spec.continues if gone else None


def _same_audio(end: StatusEvent, spec: SessionSpec) -> bool:
    """Whether the session that ended has the audio of `spec`, as far as is known: a large request
    is not stored."""
    if end.request is None:
        return True
    return (end.request.get("audio_of") or end.session_id) == spec.audio_session_id


def adopted(stored: Checkpoint, claimant: Claimant, spec: SessionSpec) -> Checkpoint:
    """The claimant's first checkpoint of a session that continues from `stored`.

    A worker of an earlier release knows no first frame: what it stored may lie before it.
    """
    start = max(stored.start_position, spec.start_position)
    return replace(
        stored,
        audio_of=started(claimant, spec).audio_of,
        start_position=start,
        position=max(stored.position, start),
        sent_until=max(stored.sent_until, start),
        epoch=claimant.epoch,
        worker=claimant.worker,
        holder=claimant.holder,
        instance=claimant.instance,
        state=State.TAKING_OVER.value,
        request_sequence=claimant.request_sequence,
        crashes=crashes(stored),
        account=None,
    )


class Estimate(NamedTuple):
    """Audio that a killed worker is assumed to have sent after its last report."""

    provider: str
    seconds: float


class FormerUsage(NamedTuple):
    """The known usage of the former holder, and the estimate of what it used beyond that."""

    providers: dict[str, ProviderUsage]
    sent_until: int
    captured_seconds: float
    estimate: Estimate | None


def may_have_used_more(stored: LeaseRecord) -> bool:
    """Whether the former holder may have reported more to the roster than its checkpoint says."""
    return bool(stored.instance) and stored.state != State.HANDED_OVER.value


def former_usage(
    stored: Checkpoint,
    account: Account,
    record: SessionRecord | None,
    *,
    instance: str,
    sample_rate: int,
) -> FormerUsage:
    """The former holder's usage, from its roster record if that is newer than its checkpoint.

    `account` is the one in the checkpoint, `instance` this process. A killed worker is assumed to
    have sent audio for half of the time between two reports.
    """
    if record is None:
        return FormerUsage(account.providers, stored.sent_until, account.captured_seconds, None)
    providers = account.providers | _later(record.providers, account.providers)
    captured = max(record.captured_seconds, account.captured_seconds)
    sent_until = max(record.sent_until, stored.sent_until)
    provider = stored.provider or record.provider
    idle = record.state in _IDLE and stored.state != State.STREAMING.value
    if stored.instance == instance or provider is None or idle:
        return FormerUsage(providers, sent_until, captured, None)
    estimate = Estimate(provider, REPORT_SECONDS / 2)
    sent_until += round(estimate.seconds * sample_rate)
    return FormerUsage(providers, sent_until, captured, estimate)


def _later(
    reported: Mapping[str, ProviderUsage], stored: Mapping[str, ProviderUsage]
) -> dict[str, ProviderUsage]:
    """The rows of a roster record that are at least as new as the checkpoint's."""
    return {
        name: usage
        for name, usage in reported.items()
        if name not in stored or usage.sent_seconds >= stored[name].sent_seconds
    }
