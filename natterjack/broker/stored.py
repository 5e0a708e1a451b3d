"""Reading a stream's stored messages by direct get: stateless, so nothing to lose or clean up.

Batched direct get answers with the messages themselves and ends with a status message; no
consumer is made on the server. (NATS ADR-31: direct get, `next_by_subj`, `batch`.)
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from nats.errors import Error as NatsError

from natterjack.errors import BrokerError

from .connection import Broker
from .fastpath import DirectSubscription
from .wire import parse_headers, parse_status

_TIMEOUT_S = 3.0
_MOST_BATCHES = 16
"""Asked for at once: when many sessions begin or recover at the same time, live audio is behind the
answers on the same connection, and the server cuts off who is too slow for both."""
_BATCH, _BATCH_BYTES = 500, 4 * 1024 * 1024


class StoreUnavailable(BrokerError):
    """The stream did not answer; ask again later."""


class Stored(NamedTuple):
    """A message as the stream holds it."""

    sequence: int
    raw: bytes
    """Its headers as they came, those that the server adds among them."""
    data: bytes

    @property
    def headers(self) -> dict[str, str]:
        return parse_headers(self.raw)

    @property
    def subject(self) -> str:
        return self.headers["Nats-Subject"]

    @property
    def stored_at(self) -> str:
        """By the server's clock, RFC 3339."""
        return self.headers["Nats-Time-Stamp"]


class _Collected:
    __slots__ = ("done", "messages")

    def __init__(self) -> None:
        self.messages: list[Stored] = []
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()


class StreamStore:
    """Direct reads of one stream, over one inbox for the whole process."""

    def __init__(self, broker: Broker, stream: str) -> None:
        self._client = broker.client
        self._stream = stream
        self._subject = f"$JS.API.DIRECT.GET.{stream}"
        self._inbox = self._client.new_inbox()
        self._waiting: dict[str, _Collected] = {}
        self._token = 0
        self._arrivals: DirectSubscription | None = None
        self._batches = asyncio.Semaphore(_MOST_BATCHES)

    async def start(self) -> None:
        self._arrivals = await self._client.listen(f"{self._inbox}.*", self._received)

    async def stop(self) -> None:
        """Idempotent. A store that lives as long as its connection need not be stopped."""
        arrivals, self._arrivals = self._arrivals, None
        if arrivals is not None:
            await arrivals.end()

    def _received(self, subject: bytes, _reply: bytes, raw: bytes | None, data: bytes) -> None:
        collected = self._waiting.get(subject.rpartition(b".")[2].decode())
        if collected is None or collected.done.done():
            return
        raw = raw or b""
        # What was stored has its sequence added behind whatever headers of its own it has.
        _, found, rest = raw.rpartition(b"\r\nNats-Sequence: ")
        if found:
            sequence = int(rest[: rest.index(b"\r\n")])
            collected.messages.append(Stored(sequence, raw, data))
            # A single get has no closing status; a batch says in each message what is left.
            if b"\r\nNats-Num-Pending: " not in rest:
                collected.done.set_result(0)
            return
        status, description = parse_status(raw)
        if status == "204":
            collected.done.set_result(int(parse_headers(raw).get("Nats-Num-Pending", 0)))
        elif status == "404":
            collected.done.set_result(0)
        else:
            detail = f"{status} {description}".strip()
            collected.done.set_exception(StoreUnavailable(f"{self._subject}: {detail}"))

    async def _get(self, request: dict[str, Any]) -> tuple[list[Stored], int]:
        self._token += 1
        token = str(self._token)
        collected = self._waiting[token] = _Collected()
        try:
            await self._client.publish(
                self._subject, json.dumps(request).encode(), reply=f"{self._inbox}.{token}"
            )
            async with asyncio.timeout(_TIMEOUT_S):
                left = await collected.done
        except (NatsError, TimeoutError) as error:
            raise StoreUnavailable(f"{self._subject}: {error!r}") from None
        finally:
            del self._waiting[token]
        return collected.messages, left

    async def last(self, subject: str) -> Stored | None:
        """The newest message on `subject`. Raises StoreUnavailable."""
        messages, _ = await self._get({"last_by_subj": subject})
        return messages[0] if messages else None

    async def last_of(self, subjects: Sequence[str]) -> list[Stored]:
        """The newest message of each subject that has one, in one answer (NATS ADR-31:
        `multi_last`). Raises StoreUnavailable."""
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
        """Of the whole stream, as its leader knows it: direct reads are answered by any replica,
        and one may lag behind. Raises StoreUnavailable."""
        try:
            state = (await self._client.jetstream().stream_info(self._stream)).state
        except (NatsError, TimeoutError) as error:
            raise StoreUnavailable(f"{self._stream}: {error!r}") from None
        return int(state.last_seq)

    async def read(
        self, subject: str, from_sequence: int, *, batch: int, max_bytes: int
    ) -> tuple[list[Stored], int]:
        """Up to `batch` messages on `subject` from a stream sequence on, oldest first, and how many
        more there are. Raises StoreUnavailable."""
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
            raise StoreUnavailable(f"{self._subject}: too much is asked for at once") from None
        try:
            return await self._get(request)
        finally:
            self._batches.release()

    async def read_all(self, subject: str) -> list[Stored]:
        """Every message on `subject` (which may have wildcards), oldest first; of a bucket, its
        entries, and what says that one was deleted. Raises StoreUnavailable."""
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
