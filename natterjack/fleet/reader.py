"""Reading the fleet: the roster, the queue, and the last finals of sessions.

Only direct gets, and questions about the queue's stream: nothing is made on the broker.
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
    LET_GO,
    Fleet,
    KeyFilter,
    Request,
    Row,
    Told,
    current,
    holders,
    settled,
    workers,
)

ModelT = TypeVar("ModelT", bound=BaseModel)
T = TypeVar("T")

_ASK_S = 2.0
_ASK_AGAIN_S = 15.0
_AT_ONCE = 100
_SUBJECTS_A_READ = 500
_NO_STREAM, _NO_MESSAGE = 10059, 10037


class _Asked(BaseModel):
    """What is needed of a request, whatever else may be wrong with it."""

    model_config = ConfigDict(extra="ignore")

    session_id: str
    opened_at: datetime | None = None


class _Said(BaseModel):
    """What is needed of a final."""

    model_config = ConfigDict(extra="ignore")

    session_id: str
    text: str


class _Refused(Exception):
    """The broker answered with an error; the message is its description."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(str(error.get("description")))
        self.code = error.get("err_code")


class FleetReader:
    """Reads the fleet, as often as one likes, over one connection."""

    def __init__(self, broker: Broker) -> None:
        self._client = broker.client
        self._roster = StreamStore(broker, f"KV_{streams.WORKERS_BUCKET}")
        self._finals = StreamStore(broker, streams.TRANSCRIPTS)
        self._silent: dict[str, float] = {}
        """When to ask again what gave no answer: a user without the right gets none."""

    async def start(self) -> None:
        await self._roster.start()
        await self._finals.start()

    async def read(self, keys: KeyFilter) -> Fleet:
        """Sessions whose keys match, and all workers; without last words.

        Raises StreamMismatch when the streams are not made yet, BrokerUnreachable.
        """
        queue, entries = await self._queue(keys), await self._entries()
        now = datetime.now(UTC) if queue is None else datetime.fromisoformat(queue["ts"])
        notes = []
        pages, unreadable = _pages(entries, now)
        told = current(pages)
        held, odd = holders(told, keys)
        if unreadable or odd:
            notes.append(f"left out as odd: {unreadable} records and {odd} sessions")
        requests = None
        with contextlib.suppress(StoreUnavailable):
            if queue is not None:
                requests = await self._unless_silent("requests", self._requests, queue, held, now)
        if requests is None:
            notes.append("the queue cannot be read: sessions that wait are not shown")
        return Fleet(settled(held, requests), workers(told), notes)

    async def add_words(self, rows: Sequence[Row]) -> str | None:
        """Fill in `last_words` of these rows. A note for people if they cannot be read."""
        by_id = {(row.key, row.session_id): row for row in rows}
        keys = {key for key, session_id in by_id if session_id is not None}
        of = {transcript_subject(SessionKey.parse(key), "final"): key for key in keys}
        subjects = list(of)
        try:
            for n in range(0, len(subjects), _SUBJECTS_A_READ):
                batch = subjects[n : n + _SUBJECTS_A_READ]
                for stored in await self._unless_silent("words", self._finals.last_of, batch):
                    said = _parsed(_Said, stored.data)
                    row = said and by_id.get((of[stored.subject], said.session_id))
                    if said and row:
                        row.last_words = said.text
        except StoreUnavailable:
            return f"last words cannot be read from {streams.TRANSCRIPTS}"
        return None

    async def _unless_silent(
        self, what: str, ask: Callable[..., Awaitable[T]], *arguments: Any
    ) -> T:
        """Raises StoreUnavailable, at once if there was no answer lately."""
        if time.monotonic() < self._silent.get(what, 0.0):
            raise StoreUnavailable(what)
        try:
            return await ask(*arguments)
        except StoreUnavailable:
            self._silent[what] = time.monotonic() + _ASK_AGAIN_S
            raise

    async def _entries(self) -> list[Stored]:
        bucket = streams.WORKERS_BUCKET
        try:
            return await self._roster.read_all(streams.bucket_subject(bucket, "*.*"))
        except StoreUnavailable as error:
            self._silent.clear()  # then the others were silent for the same reason
            if ": 503" in str(error):
                raise StreamMismatch(
                    f"there is no bucket {bucket}: start a worker once, it makes the streams"
                ) from None
            raise BrokerUnreachable(
                f"the bucket {bucket} does not answer; its reader needs the right to publish to "
                f"$JS.API.DIRECT.GET.KV_{bucket}"
            ) from None

    async def _queue(self, keys: KeyFilter) -> dict[str, Any] | None:
        """What the broker says of the queue's stream, with its subjects; None: no answer."""
        question = {"subjects_filter": keys.requests}
        what = f"STREAM.INFO.{streams.SESSIONS}"
        try:
            return await self._unless_silent("queue", self._ask, what, question)
        except StoreUnavailable:
            return None
        except _Refused as error:
            if error.code == _NO_STREAM:
                raise StreamMismatch(
                    f"there is no stream {streams.SESSIONS}: start a worker once, it makes it"
                ) from None
            raise BrokerUnreachable(f"JetStream refused: {error}") from None

    async def _requests(
        self, queue: dict[str, Any], held: dict[str, Row], now: datetime
    ) -> list[Request]:
        """Requests that may be of sessions that nobody holds: those of live holders stay unread."""
        live = Counter(
            row.key for row in held.values() if row.state != GONE and row.state not in LET_GO
        )
        unclear = []
        for subject, count in (queue["state"].get("subjects") or {}).items():
            try:
                key = parse_key(subject)
            except InvalidKey:
                continue  # the next worker throws it away
            if count > live[str(key)]:
                unclear.append((key, subject, count))
        found: list[Request] = []
        for n in range(0, len(unclear), _AT_ONCE):
            asking = (self._stored(*one, now) for one in unclear[n : n + _AT_ONCE])
            for some in await asyncio.gather(*asking):
                found += some
        return found

    async def _stored(
        self, key: SessionKey, subject: str, count: int, now: datetime
    ) -> list[Request]:
        """The requests of one key, oldest first. The stream allows no direct get."""
        found: list[Request] = []
        sequence = 1
        while len(found) < count:
            question = {"seq": sequence, "next_by_subj": subject}
            try:
                answer = await self._ask(f"STREAM.MSG.GET.{streams.SESSIONS}", question)
            except _Refused as error:
                if error.code == _NO_MESSAGE:
                    break  # done with, meanwhile
                raise BrokerUnreachable(f"JetStream refused: {error}") from None
            message = answer["message"]
            sequence = message["seq"] + 1
            asked = _parsed(_Asked, base64.b64decode(message.get("data", "")))
            ago = (now - datetime.fromisoformat(message["time"])).total_seconds()
            session_id, opened_at = (asked.session_id, asked.opened_at) if asked else (None, None)
            found.append(Request(key, session_id, opened_at, max(0.0, ago)))
        return found

    async def _ask(self, what: str, question: dict[str, Any]) -> dict[str, Any]:
        """An answer of JetStream. Raises _Refused, StoreUnavailable, BrokerUnreachable."""
        subject = f"$JS.API.{what}"
        try:
            reply = await self._client.request(subject, json.dumps(question).encode(), _ASK_S)
        except NoRespondersError:
            raise BrokerUnreachable("JetStream is not available: nats-server needs -js") from None
        except (NatsError, TimeoutError) as error:
            raise StoreUnavailable(f"{subject}: {error!r}") from None
        answer: dict[str, Any] = json.loads(reply.data)
        if "error" in answer:
            raise _Refused(answer["error"])
        return answer


def _pages(entries: Iterable[Stored], now: datetime) -> tuple[list[Told], int]:
    """The pages in the roster's entries, and how many entries are none."""
    pages, unreadable = [], 0
    for stored in entries:
        if stored.headers.get("KV-Operation") or not stored.data:
            continue  # a worker that has left
        page = _parsed(WorkerPage, stored.data)
        if page is None:
            unreadable += 1
        else:
            ago = (now - datetime.fromisoformat(stored.stored_at)).total_seconds()
            pages.append(Told(page, max(0.0, ago)))
    return pages, unreadable


def _parsed(model: type[ModelT], data: bytes) -> ModelT | None:
    try:
        return model.model_validate_json(data)
    except ValidationError:
        return None
