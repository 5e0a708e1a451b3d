"""The fleet at one moment: every session and who has it. Pure: `fleet_reader` reads what it is made
of.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from pydantic import BaseModel

from natterjack.errors import InvalidKey
from natterjack.events import ProviderUsage
from natterjack.subjects import SESSION_PREFIX, SessionKey, check_token

from .roster import SessionRecord, WorkerPage

WAITING = "waiting"
"""In the queue, and nobody has it."""
NO_AUDIO = "no audio"
"""What a worker calls waiting: it has the session, and awaits the first sound, or the next."""
GONE = "gone?"
"""Its worker has not told of itself for a while: it was killed, or is cut off."""

GONE_SECONDS = 5.0
FORGOTTEN_SECONDS = 60.0
LET_GO = {"closed", "failed", "handed over", "lost"}
"""States in which a worker does not hold a session any more."""


class Row(BaseModel):
    """A session. Seconds and money are of its whole life, as its worker last told them."""

    key: str
    session_id: str | None = None
    state: str
    worker: str | None = None
    instance: str | None = None
    epoch: int | None = None
    provider: str | None = None
    opened_at: datetime | None = None
    told_seconds_ago: float | None = None
    waiting_seconds: float | None = None
    lag_seconds: float | None = None
    captured_seconds: float = 0
    final_seconds: float = 0
    cost: dict[str, float] = {}
    providers: dict[str, ProviderUsage] = {}
    last_words: str | None = None

    @property
    def behind_seconds(self) -> float:
        """How far behind live it is: what was told, and the time since if nobody goes on with it;
        what nobody has taken is behind by all of its wait."""
        if self.waiting_seconds is not None:
            return self.waiting_seconds
        lost = (self.told_seconds_ago or 0.0) if self.state == GONE else 0.0
        return (self.lag_seconds or 0.0) + lost


class Worker(NamedTuple):
    """A worker that has told of itself in the last minute."""

    name: str
    instance: str
    slots: int
    used: int
    draining: bool
    gone: bool


class Told(NamedTuple):
    """A page of the roster, and how long ago it was stored, by the server's clock."""

    page: WorkerPage
    seconds_ago: float


class Request(NamedTuple):
    """A request in the queue."""

    key: SessionKey
    session_id: str | None
    opened_at: datetime | None
    seconds_ago: float


@dataclass
class Fleet:
    """`notes`: what could not be read, for people."""

    rows: list[Row]
    workers: list[Worker]
    notes: list[str] = field(default_factory=list)


class KeyFilter(NamedTuple):
    """Which sessions are meant; None: any."""

    tenant: str | None = None
    conversation: str | None = None
    speaker: str | None = None

    def check(self) -> KeyFilter:
        """Itself. Raises InvalidKey."""
        for name, value in self._asdict().items():
            if value is not None:
                check_token(name, value)
        return self

    @property
    def requests(self) -> str:
        """The subjects of their requests."""
        return ".".join([SESSION_PREFIX, *(value or "*" for value in self)])

    def matches(self, key: SessionKey) -> bool:
        return all(w is None or w == has for w, has in zip(self, key, strict=True))


# ---- putting it together ------------------------------------------------------------------------


def current(told: Iterable[Told]) -> list[Told]:
    """Each page once, as it was last told; without pages that a record has no more."""
    pages: dict[tuple[str, int], Told] = {}
    for one in sorted(told, key=lambda one: -one.seconds_ago):
        pages[one.page.instance, one.page.page] = one
    count = {instance: one.page.pages for (instance, page), one in pages.items() if page == 0}
    return [one for (instance, page), one in pages.items() if page < count.get(instance, 0)]


def holders(told: Iterable[Told], keys: KeyFilter) -> tuple[dict[str, Row], int]:
    """By session id, what its holder says of each session: of several, the one that has it by all
    signs. And how many were left out since their keys are none."""
    best: dict[str, tuple[tuple[bool, bool, int, float], Row]] = {}
    odd = 0
    for page, ago in told:
        for session in page.sessions:
            try:
                key = SessionKey.parse(session.key)
            except InvalidKey:
                odd += 1
                continue
            rank = (ago <= GONE_SECONDS, session.state not in LET_GO, session.epoch, -ago)
            known = best.get(session.session_id)
            if keys.matches(key) and (known is None or known[0] < rank):
                best[session.session_id] = rank, _row(page, session, ago)
    return {session_id: row for session_id, (_, row) in best.items()}, odd


def _row(page: WorkerPage, session: SessionRecord, ago: float) -> Row:
    cost: dict[str, float] = {}
    for usage in session.providers.values():
        cost[usage.currency] = cost.get(usage.currency, 0.0) + usage.cost
    state = NO_AUDIO if session.state == "waiting" else session.state
    return Row(
        key=session.key, session_id=session.session_id, state=GONE if ago > GONE_SECONDS else state,
        worker=page.worker, instance=page.instance, epoch=session.epoch, provider=session.provider,
        opened_at=session.opened_at, told_seconds_ago=round(ago, 3),
        lag_seconds=session.lag_seconds, captured_seconds=session.captured_seconds,
        final_seconds=session.final_seconds, cost={c: round(v, 6) for c, v in cost.items()},
        providers=session.providers,
    )  # fmt: skip


def settled(held: dict[str, Row], requests: Sequence[Request] | None) -> list[Row]:
    """The sessions there are. What a worker that has gone held and is not in the queue any more has
    ended; what is in the queue and held by nobody waits. `requests` None: the queue is unknown."""
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
    """A row of the queue. `before`: what is known from a holder that has gone."""
    ago = request.seconds_ago
    row = before or Row(
        key=str(request.key), session_id=request.session_id, state=WAITING,
        opened_at=request.opened_at,
    )  # fmt: skip
    if before is not None and before.told_seconds_ago is not None:
        ago = min(ago, before.told_seconds_ago)
    gone = {"worker": None, "instance": None, "lag_seconds": None}
    return row.model_copy(update={**gone, "state": WAITING, "waiting_seconds": round(ago, 3)})


def workers(told: Sequence[Told]) -> list[Worker]:
    """Who has told of itself in the last minute."""
    used: dict[str, set[str]] = {}
    for page, _ in told:
        used.setdefault(page.instance, set()).update(s.session_id for s in page.sessions)
    return [
        Worker(page.worker, page.instance, page.slots, len(used[page.instance]), page.draining,
               gone=ago > GONE_SECONDS)
        for page, ago in told
        if page.page == 0 and ago <= FORGOTTEN_SECONDS
    ]  # fmt: skip
