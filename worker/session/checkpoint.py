"""A session's checkpoint: where to resume it, in the bucket `stt_sessions`, by compare-and-set."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError
from nats.js.errors import APIError, KeyNotFoundError
from nats.js.kv import KeyValue
from pydantic import TypeAdapter, ValidationError

from natterjack.broker.connection import Broker
from natterjack.broker.streams import BUCKET, bucket_subject
from natterjack.events import Account
from natterjack.subjects import SessionKey
from worker.audio.marks import Mark
from worker.errors import LeaseLost, Overtaken

_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_WRONG_LAST_SEQUENCE = (10071, 10164)
_TIMEOUT_S = 5.0


@dataclass(slots=True, kw_only=True)
class Checkpoint:
    """What a worker that takes over must know, beside the durable events.

    `position` counts frames since the session's start: all before it is final. `mark_*` is a
    place in STT_AUDIO from which reading finds all from `position` on.
    """

    session_id: str
    epoch: int
    worker: str
    holder: str = ""
    """Of whom it is: another for each time a session is taken."""
    instance: str = ""
    """Process of the worker, as the roster names it."""
    state: str
    closed: bool = False
    provider: str | None = None
    position: int = 0
    mark_position: int = 0
    mark_seq: int = 0
    mark_stream_sequence: int = 1
    crashes: int = 0
    """Workers that failed on this session without progress."""
    request_sequence: int = 0
    """Of the session's request in STT_SESSIONS."""
    closed_before: list[str] = field(default_factory=list)
    """The last sessions of this key that were closed."""
    gaps_until: float = 0
    """Gaps before this second are in the account."""
    slot: str | None = None
    """Ticket of the provider's slot that is held."""
    limit: int | None = None
    """Position at which the session ends."""
    limit_reason: str | None = None
    limit_detail: str | None = None
    configured: dict[str, Any] = field(default_factory=dict)
    """Settings changed in mid-stream."""
    sent_until: int = 0
    """Audio before this position was sent at least once."""
    opened_at: datetime
    updated_at: datetime | None = None
    account: Account | None = None
    """As it was read; who writes gives it as JSON."""

    @property
    def mark(self) -> Mark:
        return Mark(self.mark_position, self.mark_seq, self.mark_stream_sequence)

    @classmethod
    def decode(cls, payload: bytes) -> Checkpoint:
        """Raises ValidationError. Unknown fields are left out."""
        return _ADAPTER.validate_json(payload)

    def encode(self, account: str) -> bytes:
        """JSON; absent values are left out. `account` is JSON already."""
        rest = _ADAPTER.dump_json(self, exclude_none=True, exclude=_ACCOUNT)
        return b'%b,"account":%b}' % (rest[:-1], account.encode())


_ADAPTER = TypeAdapter(Checkpoint)
_ACCOUNT = {"account"}


class CheckpointStore:
    """The checkpoint of one key, as one holder sees it. Every write is a compare-and-set."""

    def __init__(self, broker: Broker, bucket: KeyValue, key: SessionKey) -> None:
        self._broker = broker
        self._bucket = bucket
        self._key = str(key)
        self._subject = bucket_subject(BUCKET, str(key))
        self._revision = 0
        self._lock = asyncio.Lock()

    async def read(self) -> Checkpoint | None:
        """What is stored; later writes succeed only if nobody wrote in between."""
        stored, self._revision = await self._look()
        return stored

    async def _look(self) -> tuple[Checkpoint | None, int]:
        """What is stored, and its revision."""
        while True:
            try:
                async with self._broker.asking():
                    entry = await self._bucket.get(self._key)
            except KeyNotFoundError as missing:
                return None, (missing.entry.revision or 0) if missing.entry else 0
            except (NatsError, TimeoutError):
                await self._broker.wait_connected()
                continue
            revision = entry.revision or 0
            try:
                return Checkpoint.decode(entry.value or b""), revision
            except ValidationError:
                return None, revision  # not one of ours: write over it

    async def write(self, checkpoint: Checkpoint, account: str) -> None:
        """Raises LeaseLost when another holder wrote since; Overtaken if that was an older one, so
        that what it wrote is to be read first. Tries on while the broker is away. `account`:
        natterjack.events.Account, as JSON."""
        payload = checkpoint.encode(account)
        async with self._lock:
            await self._write(checkpoint, payload)

    async def _write(self, checkpoint: Checkpoint, payload: bytes) -> None:
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
                # Perhaps by our own write, whose acknowledgement was lost. If it was another's, its
                # revision must not become ours: the next write would be let through.
                stored, revision = await self._look()
                if stored is None or stored.session_id != checkpoint.session_id:
                    raise LeaseLost(f"the checkpoint of {self._key} was written over") from None
                if stored.holder != checkpoint.holder:
                    # Delivery counts are not for ever: a broker that was killed may count anew.
                    kind = LeaseLost if stored.epoch >= checkpoint.epoch else Overtaken
                    raise kind(f"{stored.worker} has the session, epoch {stored.epoch}") from None
                self._revision = revision
            except MaxPayloadError:
                raise
            except (NatsError, TimeoutError):
                await self._broker.wait_connected()
            else:
                return
