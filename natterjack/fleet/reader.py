"""Reading the fleet: the roster, the queues, and the last words of sessions.

Uses only direct gets and requests for the state of the queues: creates nothing on the broker.
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
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.broker.stored import Stored, StoreUnavailable, StreamStore
from natterjack.errors import BrokerUnreachable, InvalidKey, StreamMismatch
from natterjack.settings import KINDS, Kind
from natterjack.subjects import SessionKey, parse_key, transcript_subject, voice_event_subject

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
_NO_VOICE = (
    f"there is no stream {streams.VOICE_SESSIONS}: start a worker whose WORKER_KINDS has `speak` "
    "(the default), which creates it"
)


class _QueuedSpec(BaseModel):
    """The part of a request that is needed here; the rest of it may be invalid."""

    model_config = ConfigDict(extra="ignore")

    session_id: str
    opened_at: datetime | None = None


class _LastWords(BaseModel):
    """The part of a final or of the end of an utterance that is needed here."""

    model_config = ConfigDict(extra="ignore")

    session_id: str
    text: str | None = Field(None, validation_alias=AliasChoices("text", "text_spoken"))


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
        self._words: dict[Kind, StreamStore] = {
            "transcribe": StreamStore(broker, streams.TRANSCRIPTS),
            "speak": StreamStore(broker, streams.VOICE_EVENTS),
        }
        self._retry_at: dict[str, float] = {}
        """When to repeat a request that got no reply: a user without permission gets none."""

    async def start(self) -> None:
        await self._roster.start()
        for store in self._words.values():
            await store.start()

    async def read(self, keys: KeyFilter, kind: Kind | None = None) -> Fleet:
        """Read the sessions whose keys match, of one kind or of all, without last words, and all
        workers.

        Raises: StreamMismatch if the streams do not exist yet; BrokerUnreachable.
        """
        kinds = KINDS if kind is None else (kind,)
        queues = {kind: await self._queue(kind, keys) for kind in kinds}
        if all(queue == {} for queue in queues.values()):
            raise StreamMismatch(
                _NO_VOICE
                if kind == "speak"
                else f"there is no stream {streams.SESSIONS}: start a worker once, which creates it"
            )
        entries = await self._entries()
        times = [queue["ts"] for queue in queues.values() if queue]
        now = datetime.fromisoformat(times[0]) if times else datetime.now(UTC)
        notes = []
        pages, unreadable = _pages(entries, now)
        pages = current(pages)
        all_held, invalid = holders(pages, keys)
        if unreadable or invalid:
            notes.append(f"skipped invalid data: {unreadable} records and {invalid} sessions")
        rows: list[Row] = []
        for kind, queue in queues.items():
            held = {session: row for session, row in all_held.items() if row.kind == kind}
            requests = None
            with contextlib.suppress(StoreUnavailable):
                if queue is not None:
                    requests = await self._unless_refused(
                        f"{kind} requests", self._requests, kind, queue, held, now
                    )
            if requests is None:
                notes.append(
                    f"the queue {streams.QUEUES[kind]} cannot be read: waiting sessions are not "
                    "shown"
                )
            rows += merged(held, requests)
        return Fleet(rows, workers(pages), notes)

    async def add_words(self, rows: Sequence[Row]) -> list[str]:
        """Set `last_words` of these rows. Returns notes for people about what cannot be read."""
        notes = []
        for kind, store in self._words.items():
            by_id = {(row.key, row.session_id): row for row in rows if row.kind == kind}
            keys = {key for key, session_id in by_id if session_id is not None}
            key_of = {_subject_of_words(kind, key): key for key in keys}
            subjects = list(key_of)
            try:
                for n in range(0, len(subjects), _SUBJECTS_PER_READ):
                    batch = subjects[n : n + _SUBJECTS_PER_READ]
                    what = f"{kind} words"
                    for stored in await self._unless_refused(what, store.last_of, batch):
                        words = _parsed(_LastWords, stored.data)
                        row = words and by_id.get((key_of[stored.subject], words.session_id))
                        if words and row:
                            row.last_words = words.text
            except StoreUnavailable:
                stream = streams.VOICE_EVENTS if kind == "speak" else streams.TRANSCRIPTS
                notes.append(f"last words cannot be read from {stream}")
        return notes

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

    async def _queue(self, kind: Kind, keys: KeyFilter) -> dict[str, Any] | None:
        """State of a kind's queue with its subjects; empty if there is no such stream, and None
        without a reply."""
        request = {"subjects_filter": keys.requests(kind)}
        what = f"STREAM.INFO.{streams.QUEUES[kind]}"
        try:
            return await self._unless_refused(f"{kind} queue", self._ask, what, request)
        except StoreUnavailable:
            return None
        except _Refused as error:
            if error.code == _NO_STREAM:
                return {}
            raise BrokerUnreachable(f"JetStream refused: {error}") from None

    async def _requests(
        self, kind: Kind, queue: dict[str, Any], held: dict[str, Row], now: datetime
    ) -> list[Request]:
        """Requests whose sessions may have no holder; requests of live holders are not read."""
        live = Counter(
            row.key for row in held.values() if row.state != GONE and row.state not in RELEASED
        )
        unread = []
        subjects = queue["state"].get("subjects") if queue else None
        for subject, count in (subjects or {}).items():
            try:
                key = parse_key(subject)
            except InvalidKey:
                continue  # workers discard such a request
            if count > live[str(key)]:
                unread.append((kind, key, subject, count))
        found: list[Request] = []
        for n in range(0, len(unread), _CONCURRENCY):
            asking = (self._stored(*one, now) for one in unread[n : n + _CONCURRENCY])
            for batch in await asyncio.gather(*asking):
                found += batch
        return found

    async def _stored(
        self, kind: Kind, key: SessionKey, subject: str, count: int, now: datetime
    ) -> list[Request]:
        """The requests of one key, oldest first. The stream does not allow direct gets."""
        found: list[Request] = []
        sequence = 1
        while len(found) < count:
            request = {"seq": sequence, "next_by_subj": subject}
            try:
                reply = await self._ask(f"STREAM.MSG.GET.{streams.QUEUES[kind]}", request)
            except _Refused as error:
                if error.code == _NO_MESSAGE:
                    break  # its session has ended since
                raise BrokerUnreachable(f"JetStream refused: {error}") from None
            message = reply["message"]
            sequence = message["seq"] + 1
            spec = _parsed(_QueuedSpec, base64.b64decode(message.get("data", "")))
            ago = (now - datetime.fromisoformat(message["time"])).total_seconds()
            session_id, opened_at = (spec.session_id, spec.opened_at) if spec else (None, None)
            found.append(Request(key, session_id, opened_at, max(0.0, ago), kind))
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


def _subject_of_words(kind: Kind, key: str) -> str:
    """The subject of the events with a session's words."""
    parsed = SessionKey.parse(key)
    if kind == "speak":
        return voice_event_subject(parsed, "utterance")
    return transcript_subject(parsed, "final")


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
