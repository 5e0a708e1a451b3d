"""Reading the fleet: the roster, the queue, and the last finals of sessions.

Uses only direct gets and requests for the state of the queue: creates nothing on the broker.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from pydantic import BaseModel, ConfigDict, ValidationError

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.broker.stored import Stored, StoreUnavailable, StreamStore
from natterjack.errors import BrokerUnreachable, InvalidKey, StreamMismatch
from natterjack.subjects import SessionKey, parse_key, transcript_subject

from .roster import WorkerPage
from .sessions import (
    GONE,
    RELEASED,
    Fleet,
    KeyFilter,
    Request,
    Row,
    StoredPage,
    current,
    holders,
    merged,
    workers,
)

ModelT = TypeVar("ModelT", bound=BaseModel)
T = TypeVar("T")

_REQUEST_TIMEOUT_S = 2.0
_RETRY_S = 15.0
_CONCURRENCY = 100
_SUBJECTS_PER_READ = 500
_NO_STREAM, _NO_MESSAGE = 10059, 10037


class _QueuedSpec(BaseModel):
    """The part of a request that is needed here; the rest of it may be invalid."""

    model_config = ConfigDict(extra="ignore")

    session_id: str
    opened_at: datetime | None = None


class _LastFinal(BaseModel):
    """The part of a final that is needed here."""

    model_config = ConfigDict(extra="ignore")

    session_id: str
    text: str


class _Refused(Exception):
    """JetStream replied with an error; the message is its description."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(str(error.get("description")))
        self.code = error.get("err_code")


class FleetReader:
    """Reads the fleet repeatedly over one connection."""

    def __init__(self, broker: Broker) -> None:
        self._client = broker.client
        self._roster = StreamStore(broker, f"KV_{streams.WORKERS_BUCKET}")
        self._finals = StreamStore(broker, streams.TRANSCRIPTS)
        self._retry_at: dict[str, float] = {}
        """When to repeat a request that got no reply: a user without permission gets none."""

    async def start(self) -> None:
        await self._roster.start()
        await self._finals.start()

    async def read(self, keys: KeyFilter) -> Fleet:
        """Read the sessions whose keys match, without last words, and all workers.

        Raises: StreamMismatch if the streams do not exist yet; BrokerUnreachable.
        """
        queue, entries = await self._queue(keys), await self._entries()
        now = datetime.now(UTC) if queue is None else datetime.fromisoformat(queue["ts"])
        notes = []
        pages, unreadable = _pages(entries, now)
        pages = current(pages)
        held, invalid = holders(pages, keys)
        if unreadable or invalid:
            notes.append(f"skipped invalid data: {unreadable} records and {invalid} sessions")
        requests = None
        with contextlib.suppress(StoreUnavailable):
            if queue is not None:
                requests = await self._unless_refused("requests", self._requests, queue, held, now)
        if requests is None:
            notes.append("the queue cannot be read: waiting sessions are not shown")
        return Fleet(merged(held, requests), workers(pages), notes)

    async def add_words(self, rows: Sequence[Row]) -> str | None:
        """Set `last_words` of these rows. Returns a note for people if they cannot be read."""
        by_id = {(row.key, row.session_id): row for row in rows}
        keys = {key for key, session_id in by_id if session_id is not None}
        key_of = {transcript_subject(SessionKey.parse(key), "final"): key for key in keys}
        subjects = list(key_of)
        try:
            for n in range(0, len(subjects), _SUBJECTS_PER_READ):
                batch = subjects[n : n + _SUBJECTS_PER_READ]
                for stored in await self._unless_refused("words", self._finals.last_of, batch):
                    final = _parsed(_LastFinal, stored.data)
                    row = final and by_id.get((key_of[stored.subject], final.session_id))
                    if final and row:
                        row.last_words = final.text
        except StoreUnavailable:
            return f"last words cannot be read from {streams.TRANSCRIPTS}"
        return None

    async def _unless_refused(
        self, what: str, ask: Callable[..., Awaitable[T]], *arguments: Any
    ) -> T:
        """Call `ask`. Raises StoreUnavailable, at once if an earlier call got no reply recently."""
        if time.monotonic() < self._retry_at.get(what, 0.0):
            raise StoreUnavailable(what)
        try:
            return await ask(*arguments)
        except StoreUnavailable:
            self._retry_at[what] = time.monotonic() + _RETRY_S
            raise

    async def _entries(self) -> list[Stored]:
        bucket = streams.WORKERS_BUCKET
        try:
            return await self._roster.read_all(streams.bucket_subject(bucket, "*.*"))
        except StoreUnavailable as error:
            self._retry_at.clear()  # the others failed for the same reason
            if ": 503" in str(error):
                raise StreamMismatch(
                    f"there is no bucket {bucket}: start a worker once, which creates the streams"
                ) from None
            raise BrokerUnreachable(
                f"no reply from the bucket {bucket}: its readers need the permission to publish to "
                f"$JS.API.DIRECT.GET.KV_{bucket}"
            ) from None

    async def _queue(self, keys: KeyFilter) -> dict[str, Any] | None:
        """State of the queue's stream with its subjects, or None without a reply."""
        request = {"subjects_filter": keys.requests}
        what = f"STREAM.INFO.{streams.SESSIONS}"
        try:
            return await self._unless_refused("queue", self._ask, what, request)
        except StoreUnavailable:
            return None
        except _Refused as error:
            if error.code == _NO_STREAM:
                raise StreamMismatch(
                    f"there is no stream {streams.SESSIONS}: start a worker once, which creates it"
                ) from None
            raise BrokerUnreachable(f"JetStream refused: {error}") from None

    async def _requests(
        self, queue: dict[str, Any], held: dict[str, Row], now: datetime
    ) -> list[Request]:
        """Requests whose sessions may have no holder; requests of live holders are not read."""
        live = Counter(
            row.key for row in held.values() if row.state != GONE and row.state not in RELEASED
        )
        unread = []
        for subject, count in (queue["state"].get("subjects") or {}).items():
            try:
                key = parse_key(subject)
            except InvalidKey:
                continue  # workers discard such a request
            if count > live[str(key)]:
                unread.append((key, subject, count))
        found: list[Request] = []
        for n in range(0, len(unread), _CONCURRENCY):
            asking = (self._stored(*one, now) for one in unread[n : n + _CONCURRENCY])
            for batch in await asyncio.gather(*asking):
                found += batch
        return found

    async def _stored(
        self, key: SessionKey, subject: str, count: int, now: datetime
    ) -> list[Request]:
        """The requests of one key, oldest first. The stream does not allow direct gets."""
        found: list[Request] = []
        sequence = 1
        while len(found) < count:
            request = {"seq": sequence, "next_by_subj": subject}
            try:
                reply = await self._ask(f"STREAM.MSG.GET.{streams.SESSIONS}", request)
            except _Refused as error:
                if error.code == _NO_MESSAGE:
                    break  # its session has ended since
                raise BrokerUnreachable(f"JetStream refused: {error}") from None
            message = reply["message"]
            sequence = message["seq"] + 1
            spec = _parsed(_QueuedSpec, base64.b64decode(message.get("data", "")))
            ago = (now - datetime.fromisoformat(message["time"])).total_seconds()
            session_id, opened_at = (spec.session_id, spec.opened_at) if spec else (None, None)
            found.append(Request(key, session_id, opened_at, max(0.0, ago)))
        return found

    async def _ask(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        """Request `what` from JetStream. Raises _Refused, StoreUnavailable, BrokerUnreachable."""
        subject = f"$JS.API.{what}"
        try:
            message = await self._client.request(
                subject, json.dumps(request).encode(), _REQUEST_TIMEOUT_S
            )
        except NoRespondersError:
            raise BrokerUnreachable("JetStream is not available: nats-server needs -js") from None
        except (NatsError, TimeoutError) as error:
            raise StoreUnavailable(f"{subject}: {error!r}") from None
        reply: dict[str, Any] = json.loads(message.data)
        if "error" in reply:
            raise _Refused(reply["error"])
        return reply


def _pages(entries: Iterable[Stored], now: datetime) -> tuple[list[StoredPage], int]:
    """Parse the roster's entries. Also returns the number of invalid entries."""
    pages, unreadable = [], 0
    for stored in entries:
        if stored.headers.get("KV-Operation") or not stored.data:
            continue  # the worker has ended
        page = _parsed(WorkerPage, stored.data)
        if page is None:
            unreadable += 1
        else:
            ago = (now - datetime.fromisoformat(stored.stored_at)).total_seconds()
            pages.append(StoredPage(page, max(0.0, ago)))
    return pages, unreadable


def _parsed(model: type[ModelT], data: bytes) -> ModelT | None:
    try:
        return model.model_validate_json(data)
    except ValidationError:
        return None
