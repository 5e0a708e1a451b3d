"""Checkpoints of sessions, from which another worker can resume them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, ClassVar, Generic, Self, TypeVar

from nats.errors import Error as NatsError
from nats.js.errors import APIError, KeyNotFoundError
from nats.js.kv import KeyValue
from pydantic import TypeAdapter, ValidationError

from natterjack.broker.client.fastpath import MessageTooLarge
from natterjack.broker.connection import Broker
from natterjack.broker.streams import CHECKPOINTS_BUCKET, bucket_subject
from natterjack.subjects import SessionKey
from natterjack.values import Account
from worker.audio.marks import Mark
from worker.errors import LeaseLost, Overtaken

_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_WRONG_LAST_SEQUENCE = (10071, 10164)
_TIMEOUT_S = 5.0


_adapters: dict[type[LeaseRecord], TypeAdapter[Any]] = {}


def _adapter(kind: type[LeaseRecord]) -> TypeAdapter[Any]:
    """The adapter of a kind of checkpoint, which is made once: making it is slow."""
    adapter = _adapters.get(kind)
    if adapter is None:
        adapter = _adapters[kind] = TypeAdapter(kind)
    return adapter


@dataclass(slots=True, kw_only=True)
class LeaseRecord:
    """The part of a checkpoint that the leases of all kinds of session need."""

    bucket: ClassVar[str]
    """The bucket in which checkpoints of this kind are stored."""

    session_id: str
    epoch: int
    worker: str
    holder: str = ""
    """Names one lease: different each time the session is taken over."""
    instance: str = ""
    """The worker's process, as the roster names it."""
    state: str
    closed: bool = False
    provider: str | None = None
    crashes: int = 0
    """How many workers in a row died with this session since it last made progress."""
    request_sequence: int = 0
    """The sequence of the session's request in the stream of the queue."""
    closed_before: list[str] = field(default_factory=list)
    """The latest closed sessions of this key."""
    failing_since: datetime | None = None
    """Since when no provider could serve the session; None if one has."""
    slot: str | None = None
    """The ticket of the provider permit that the session holds."""
    configured: dict[str, Any] = field(default_factory=dict)
    """Settings that a control request has changed."""
    opened_at: datetime
    updated_at: datetime | None = None

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Parse a stored checkpoint; unknown fields are ignored. Raises ValidationError."""
        checkpoint: Self = _adapter(cls).validate_json(payload)
        return checkpoint

    def encode(self, account: str) -> bytes:
        """Encode as JSON without absent values. `account`, what the session has used, is JSON
        already; it becomes the field `account`."""
        rest = _adapter(type(self)).dump_json(self, exclude_none=True, exclude=_ACCOUNT)
        return b'%b,"account":%b}' % (rest[:-1], account.encode())

    def shortened(self, account: str) -> tuple[Self, str] | None:
        """A smaller checkpoint, with its account, for a broker that does not accept a larger one;
        None if there is nothing that a successor can do without.

        The older half of the key's closed sessions goes first, and last the settings that were
        changed.
        """
        closed = self.closed_before
        if len(closed) > 1:
            return replace(self, closed_before=closed[len(closed) // 2 :]), account
        return (replace(self, configured={}), account) if self.configured else None


C = TypeVar("C", bound=LeaseRecord)
_ACCOUNT = {"account"}


@dataclass(slots=True, kw_only=True)
class Checkpoint(LeaseRecord):
    """The state that a worker needs to take a session over, besides its durable events.

    All audio before `position`, in frames, is final. `mark_*` is a place in STT_AUDIO: reading from
    there finds all audio from `position` on.
    """

    bucket: ClassVar[str] = CHECKPOINTS_BUCKET

    audio_of: str | None = None
    """The ID in the headers of the session's audio, if it is not its own."""
    start_position: int = 0
    """The session's first frame; its account counts from there."""
    position: int = 0
    mark_position: int = 0
    mark_seq: int = 0
    mark_stream_sequence: int = 1
    gaps_until: float = 0
    """The account contains all gaps before this time, in seconds."""
    notices_until: int = -1
    """The account counts all notices up to this position."""
    limit: int | None = None
    """The position at which the session ends, whatever audio follows."""
    limit_reason: str | None = None
    limit_detail: str | None = None
    sent_until: int = 0
    """All audio before this position was sent at least once."""
    account: Account | None = None
    """Set when a checkpoint is read. `encode` takes the account as JSON instead."""

    @property
    def audio_session_id(self) -> str:
        """The ID in the headers of the session's audio."""
        return self.audio_of or self.session_id

    @property
    def mark(self) -> Mark:
        return Mark(self.mark_position, self.mark_seq, self.mark_stream_sequence)

    def shortened(self, account: str) -> tuple[Checkpoint, str] | None:
        """See LeaseRecord; but half of the gaps that the account lists go first."""
        listed = Account.model_validate_json(account)
        if listed.gaps:
            fewer = listed.model_copy(update={"gaps": listed.gaps[: len(listed.gaps) // 2]})
            return self, fewer.model_dump_json(exclude_defaults=True)
        return LeaseRecord.shortened(self, account)


class CheckpointStore(Generic[C]):
    """Reads and writes the checkpoint of one key. Every write is a compare-and-set."""

    __slots__ = ("_broker", "_bucket", "_key", "_kind", "_lock", "_revision", "_subject")

    def __init__(self, broker: Broker, bucket: KeyValue, key: SessionKey, kind: type[C]) -> None:
        """`kind` is the class of the checkpoints that `bucket` keeps."""
        self._broker = broker
        self._bucket = bucket
        self._kind = kind
        self._key = str(key)
        self._subject = bucket_subject(kind.bucket, str(key))
        self._revision = 0
        self._lock = asyncio.Lock()

    async def read(self) -> C | None:
        """Read the checkpoint. Later writes succeed only if no other holder has written since."""
        stored, self._revision = await self._read_entry()
        return stored

    async def _read_entry(self) -> tuple[C | None, int]:
        """Read the checkpoint and its revision."""
        while True:
            try:
                async with self._broker.within_connection():
                    entry = await self._bucket.get(self._key)
            except KeyNotFoundError as missing:
                return None, (missing.entry.revision or 0) if missing.entry else 0
            except (NatsError, TimeoutError):
                await self._broker.wait_connected()
                continue
            revision = entry.revision or 0
            try:
                return self._kind.decode(entry.value or b""), revision
            except ValidationError:
                return None, revision  # unreadable: the next write replaces it

    async def write(self, checkpoint: C, account: str) -> None:
        """Store the checkpoint, or what of it the broker accepts; retry while the broker is away.
        `account` is JSON.

        Raises LeaseLost if another holder wrote since the last read, or its subclass Overtaken if
        that holder has an older epoch: then its checkpoint has to be read first. MessageTooLarge.
        """
        async with self._lock:
            while True:
                try:
                    await self._write(checkpoint, checkpoint.encode(account))
                    return
                except MessageTooLarge:
                    smaller = checkpoint.shortened(account)
                    if smaller is None:
                        raise
                    checkpoint, account = smaller

    async def _write(self, checkpoint: C, payload: bytes) -> None:
        while True:
            try:
                headers = {_EXPECTED: str(self._revision)}
                acks = self._broker.acks
                written = await acks.publish(self._subject, payload, headers, _TIMEOUT_S)
                self._revision = await written
            except APIError as error:
                if error.err_code not in _WRONG_LAST_SEQUENCE:
                    await self._broker.wait_connected()
                    continue
                # It may be our own write, whose acknowledgement was lost. The revision of another
                # holder's write must not be adopted: the next write would succeed.
                stored, revision = await self._read_entry()
                if stored is None or stored.session_id != checkpoint.session_id:
                    raise LeaseLost(f"the checkpoint of {self._key} was replaced") from None
                if stored.holder != checkpoint.holder:
                    # Epochs may restart: a broker that was killed may have lost delivery counts.
                    kind = LeaseLost if stored.epoch >= checkpoint.epoch else Overtaken
                    raise kind(f"{stored.worker} has the session, epoch {stored.epoch}") from None
                self._revision = revision
            except MessageTooLarge:
                raise
            except (NatsError, TimeoutError):
                await self._broker.wait_connected()
            else:
                return
