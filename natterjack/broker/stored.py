"""Reading the stored messages of a stream by direct get (NATS ADR-31).

Direct get keeps no state on the server, so there is nothing to lose or clean up. A batched request
is answered with the messages themselves and a closing status message.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from nats.errors import Error as NatsError

from natterjack.errors import BrokerError

from .client.fastpath import DirectSubscription
from .client.wire import parse_headers, parse_status
from .connection import Broker

_TIMEOUT_S = 3.0
_MAX_BATCHES = 16
"""Batches requested at the same time. When many sessions start or recover together, live audio
queues behind the answers on the same connection, and the server disconnects a slow consumer."""
_BATCH, _BATCH_BYTES = 500, 4 * 1024 * 1024


class StoreUnavailable(BrokerError):
    """The stream did not answer; the request may be repeated later."""


class Stored(NamedTuple):
    """A message of a stream."""

    sequence: int
    raw: bytes
    """The headers as they are on the wire, including those that the server adds."""
    data: bytes

    @property
    def headers(self) -> dict[str, str]:
        return parse_headers(self.raw)

    @property
    def subject(self) -> str:
        return self.headers["Nats-Subject"]

    @property
    def stored_at(self) -> str:
        """The server's time of storage, RFC 3339."""
        return self.headers["Nats-Time-Stamp"]


class _Answer:
    """The messages that answer one request, until the last has arrived."""

    __slots__ = ("done", "messages")

    def __init__(self) -> None:
        self.messages: list[Stored] = []
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()


class StreamStore:
    """Direct reads of one stream, through one inbox."""

    def __init__(self, broker: Broker, stream: str) -> None:
        self._client = broker.client
        self._stream = stream
        self._subject = f"$JS.API.DIRECT.GET.{stream}"
        self._inbox = self._client.new_inbox()
        self._waiting: dict[str, _Answer] = {}
        self._token = 0
        self._subscription: DirectSubscription | None = None
        self._batches = asyncio.Semaphore(_MAX_BATCHES)

    async def start(self) -> None:
        self._subscription = await self._client.listen(f"{self._inbox}.*", self._received)

    async def stop(self) -> None:
        """Unsubscribe. Idempotent; not needed before the connection is closed."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.end()

    def _received(self, subject: bytes, _reply: bytes, raw: bytes | None, data: bytes) -> None:
        answer = self._waiting.get(subject.rpartition(b".")[2].decode())
        if answer is None or answer.done.done():
            return
        raw = raw or b""
        # The server appends the sequence to the message's own headers.
        _, found, rest = raw.rpartition(b"\r\nNats-Sequence: ")
        if found:
            sequence = int(rest[: rest.index(b"\r\n")])
            answer.messages.append(Stored(sequence, raw, data))
            # A single get has no closing status; in a batch, each message has the number left.
            if b"\r\nNats-Num-Pending: " not in rest:
                answer.done.set_result(0)
            return
        status, description = parse_status(raw)
        if status == "204":
            answer.done.set_result(int(parse_headers(raw).get("Nats-Num-Pending", 0)))
        elif status == "404":
            answer.done.set_result(0)
        else:
            detail = f"{status} {description}".strip()
            answer.done.set_exception(StoreUnavailable(f"{self._subject}: {detail}"))

    async def _get(self, request: dict[str, Any]) -> tuple[list[Stored], int]:
        self._token += 1
        token = str(self._token)
        answer = self._waiting[token] = _Answer()
        try:
            await self._client.publish(
                self._subject, json.dumps(request).encode(), reply=f"{self._inbox}.{token}"
            )
            async with asyncio.timeout(_TIMEOUT_S):
                left = await answer.done
        except (NatsError, TimeoutError) as error:
            raise StoreUnavailable(f"{self._subject}: {error!r}") from None
        finally:
            del self._waiting[token]
        return answer.messages, left

    async def last(self, subject: str) -> Stored | None:
        """Return the newest message on `subject`, or None. Raises StoreUnavailable."""
        messages, _ = await self._get({"last_by_subj": subject})
        return messages[0] if messages else None

    async def last_of(self, subjects: Sequence[str]) -> list[Stored]:
        """Return the newest message of each subject that has one. Raises StoreUnavailable."""
        found: list[Stored] = []
        missing = list(subjects)
        while missing:
            messages, left = await self._get({"multi_last": missing})
            found += messages
            if not left or not messages:
                break
            answered = {message.subject for message in messages}
            missing = [subject for subject in missing if subject not in answered]
        return found

    async def newest_sequence(self) -> int:
        """Return the stream's last sequence from its leader. Direct reads are answered by any
        replica, which may lag behind. Raises StoreUnavailable."""
        try:
            state = (await self._client.jetstream().stream_info(self._stream)).state
        except (NatsError, TimeoutError) as error:
            raise StoreUnavailable(f"{self._stream}: {error!r}") from None
        return int(state.last_seq)

    async def read(
        self, subject: str, from_sequence: int, *, batch: int, max_bytes: int
    ) -> tuple[list[Stored], int]:
        """Return up to `batch` messages on `subject` from a stream sequence on, oldest first, and
        the number of messages left. Raises StoreUnavailable."""
        request = {
            "seq": max(1, from_sequence),
            "next_by_subj": subject,
            "batch": batch,
            "max_bytes": max_bytes,
        }
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._batches.acquire()
        except TimeoutError:
            raise StoreUnavailable(f"{self._subject}: too many reads at the same time") from None
        try:
            return await self._get(request)
        finally:
            self._batches.release()

    async def read_all(self, subject: str) -> list[Stored]:
        """Return every message on `subject` (which may have wildcards), oldest first. For a bucket
        these are its entries and markers of deleted ones. Raises StoreUnavailable."""
        found: list[Stored] = []
        left = 1
        while left:
            sequence = found[-1].sequence + 1 if found else 1
            messages, left = await self.read(
                subject, sequence, batch=_BATCH, max_bytes=_BATCH_BYTES
            )
            found += messages
            if not messages:
                break
        return found
