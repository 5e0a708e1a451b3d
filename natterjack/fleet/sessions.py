"""The fleet at one moment: all sessions and their holders. Pure: `reader` reads the data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from pydantic import BaseModel

from natterjack.errors import InvalidKey
from natterjack.settings import Kind
from natterjack.subjects import SESSION_PREFIX, VOICE_SESSION_PREFIX, SessionKey, check_token
from natterjack.values import ProviderUsage

from .roster import SessionRecord, WorkerPage

WAITING = "waiting"
"""The session is in the queue and no worker holds it."""
WITHOUT: dict[Kind, str] = {"transcribe": "no audio", "speak": "no text"}
"""A worker holds the session and waits for audio or text; workers call this state `waiting`."""
GONE = "gone?"
"""The worker has not reported for a while: it was killed or is disconnected."""

GONE_SECONDS = 5.0
FORGOTTEN_SECONDS = 60.0
RELEASED = {"closed", "failed", "handed over", "lost"}
"""States in which a worker no longer holds a session."""


class Row(BaseModel):
    """A session. Seconds and costs cover its whole life, as last reported by its worker."""

    key: str
    kind: Kind = "transcribe"
    session_id: str | None = None
    state: str
    reason: str | None = None
    """Why no provider serves a session in the state queued."""
    worker: str | None = None
    instance: str | None = None
    epoch: int | None = None
    repeats: str | None = None
    """The session whose audio this one transcribes again."""
    continues: str | None = None
    """The session that this one continues."""
    provider: str | None = None
    opened_at: datetime | None = None
    told_seconds_ago: float | None = None
    """Seconds since the last report of the worker."""
    waiting_seconds: float | None = None
    lag_seconds: float | None = None
    captured_seconds: float = 0
    final_seconds: float = 0
    """For a voice session: how many seconds of speech it has published."""
    cost: dict[str, float] = {}
    providers: dict[str, ProviderUsage] = {}
    last_words: str | None = None

    @property
    def seconds(self) -> float:
        """Seconds of audio that were captured, or of speech that was made."""
        return self.final_seconds if self.kind == "speak" else self.captured_seconds

    @property
    def behind_seconds(self) -> float:
        """Seconds behind live audio.

        This is the reported lag, plus the time since the report if the worker is gone. For a
        waiting session, it is the time since the request.
        """
        if self.waiting_seconds is not None:
            return self.waiting_seconds
        since = (self.told_seconds_ago or 0.0) if self.state == GONE else 0.0
        return (self.lag_seconds or 0.0) + since


class Worker(NamedTuple):
    """A worker that has reported in the last minute."""

    name: str
    instance: str
    slots: int
    used: int
    draining: bool
    gone: bool


class StoredPage(NamedTuple):
    """A page of the roster, and its age by the server's clock."""

    page: WorkerPage
    seconds_ago: float


class Request(NamedTuple):
    """A request in the queue."""

    key: SessionKey
    session_id: str | None
    opened_at: datetime | None
    seconds_ago: float
    kind: Kind = "transcribe"


@dataclass
class Fleet:
    """Sessions and workers. `notes` say, for people, what could not be read."""

    rows: list[Row]
    workers: list[Worker]
    notes: list[str] = field(default_factory=list)


class KeyFilter(NamedTuple):
    """Selects sessions by key; None matches any token."""

    tenant: str | None = None
    conversation: str | None = None
    speaker: str | None = None

    def check(self) -> KeyFilter:
        """Return the filter itself if its tokens are valid. Raises InvalidKey."""
        for name, value in self._asdict().items():
            if value is not None:
                check_token(name, value)
        return self

    def requests(self, kind: Kind) -> str:
        """A subject filter for the requests of these sessions."""
        prefix = VOICE_SESSION_PREFIX if kind == "speak" else SESSION_PREFIX
        return ".".join([prefix, *(value or "*" for value in self)])

    def matches(self, key: SessionKey) -> bool:
        return all(want in (None, have) for want, have in zip(self, key, strict=True))


# ---- merging ------------------------------------------------------------------------------------


def current(stored: Iterable[StoredPage]) -> list[StoredPage]:
    """The latest version of each page, without pages left over from a longer record."""
    pages: dict[tuple[str, int], StoredPage] = {}
    for one in sorted(stored, key=lambda one: -one.seconds_ago):
        pages[one.page.instance, one.page.page] = one
    count = {instance: one.page.pages for (instance, page), one in pages.items() if page == 0}
    return [one for (instance, page), one in pages.items() if page < count.get(instance, 0)]


def holders(pages: Iterable[StoredPage], keys: KeyFilter) -> tuple[dict[str, Row], int]:
    """The row of each session by session ID, and the number of sessions with invalid keys.

    If several workers report a session, its holder is most likely the one that reported lately, has
    not released it, and has the greatest epoch.
    """
    best: dict[str, tuple[tuple[bool, bool, int, float], Row]] = {}
    invalid = 0
    for page, ago in pages:
        for session in page.sessions:
            try:
                key = SessionKey.parse(session.key)
            except InvalidKey:
                invalid += 1
                continue
            rank = (ago <= GONE_SECONDS, session.state not in RELEASED, session.epoch, -ago)
            known = best.get(session.session_id)
            if keys.matches(key) and (known is None or known[0] < rank):
                best[session.session_id] = rank, _row(page, session, ago)
    return {session_id: row for session_id, (_, row) in best.items()}, invalid


def _row(page: WorkerPage, session: SessionRecord, ago: float) -> Row:
    cost: dict[str, float] = {}
    for usage in session.providers.values():
        cost[usage.currency] = cost.get(usage.currency, 0.0) + usage.cost
    state = WITHOUT[session.kind] if session.state == "waiting" else session.state
    return Row(
        key=session.key, kind=session.kind, session_id=session.session_id,
        state=GONE if ago > GONE_SECONDS else state, reason=session.reason, worker=page.worker,
        instance=page.instance, epoch=session.epoch, repeats=session.repeats,
        continues=session.continues, provider=session.provider, opened_at=session.opened_at,
        told_seconds_ago=round(ago, 3), lag_seconds=session.lag_seconds,
        captured_seconds=session.captured_seconds, final_seconds=session.final_seconds,
        cost={c: round(v, 6) for c, v in cost.items()}, providers=session.providers,
    )  # fmt: skip


def merged(held: dict[str, Row], requests: Sequence[Request] | None) -> list[Row]:
    """All sessions of a kind: those that workers hold and those that wait in the queue.

    A session of a worker that is gone has ended if it is no longer in the queue. `requests` is None
    if the queue could not be read.
    """
    rows, waiting = [], {}
    by_id = {request.session_id: request for request in requests or () if request.session_id}
    for session_id, row in held.items():
        if row.state == GONE:
            forgotten = (row.told_seconds_ago or 0.0) > FORGOTTEN_SECONDS
            request = by_id.get(session_id)
            if request is None and (forgotten or requests is not None):
                continue
            if request is not None and forgotten:
                waiting[session_id] = _waiting(request, row)
                continue
        rows.append(row)
    for request in requests or ():
        if request.session_id is None:
            rows.append(_waiting(request, None))
        elif request.session_id not in held:
            waiting.setdefault(request.session_id, _waiting(request, None))
    return [*rows, *waiting.values()]


def _waiting(request: Request, before: Row | None) -> Row:
    """The row of a request in the queue. `before` is the last row of a holder that is gone."""
    ago = request.seconds_ago
    row = before or Row(
        key=str(request.key), kind=request.kind, session_id=request.session_id, state=WAITING,
        opened_at=request.opened_at,
    )  # fmt: skip
    if before is not None and before.told_seconds_ago is not None:
        ago = min(ago, before.told_seconds_ago)
    gone = {"reason": None, "worker": None, "instance": None, "lag_seconds": None}
    return row.model_copy(update={**gone, "state": WAITING, "waiting_seconds": round(ago, 3)})


def workers(pages: Sequence[StoredPage]) -> list[Worker]:
    """The workers that have reported in the last minute."""
    used: dict[str, set[str]] = {}
    for page, _ in pages:
        in_slots = (s.session_id for s in page.sessions if s.reason is None)  # others are held
        used.setdefault(page.instance, set()).update(in_slots)
    return [
        Worker(page.worker, page.instance, page.slots, len(used[page.instance]), page.draining,
               gone=ago > GONE_SECONDS)
        for page, ago in pages
        if page.page == 0 and ago <= FORGOTTEN_SECONDS
    ]  # fmt: skip
