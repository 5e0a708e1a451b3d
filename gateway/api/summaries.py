"""The conversations of a tenant: open ones, and those that ended lately. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from pydantic import BaseModel

from natterjack.fleet.sessions import GONE, RELEASED, WAITING, Row
from natterjack.settings import Kind
from natterjack.subjects import SessionKey

from .activity import Past

_UNREPORTED_S = 30.0
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


class SessionSummary(BaseModel):
    """A session of a conversation. Seconds and costs cover its whole life."""

    speaker: str
    kind: Kind = "transcribe"
    session_id: str | None = None
    open: bool
    state: str
    reason: str | None = None
    provider: str | None = None
    worker: str | None = None
    epoch: int | None = None
    opened_at: datetime | None = None
    last_at: datetime | None = None
    """When its state changed last, if that is known."""
    ended_at: datetime | None = None
    lag_seconds: float | None = None
    captured_seconds: float = 0
    transcribed_seconds: float = 0
    gap_seconds: float = 0
    cost: dict[str, float] = {}
    """Costs, by currency."""
    last_words: str | None = None


class ConversationSummary(BaseModel):
    """A conversation, and the sum of its sessions."""

    conversation: str
    open: bool
    state: str
    """That of the open session that needs most attention; of a closed one, how it ended."""
    opened_at: datetime | None = None
    last_at: datetime | None = None
    lag_seconds: float | None = None
    """The greatest of its open sessions."""
    captured_seconds: float = 0
    cost: dict[str, float] = {}
    last_words: str | None = None
    sessions: list[SessionSummary]


_ATTENTION = ("failed", "lost", GONE, "queued", WAITING, "recovering", "handed over")
"""States from the worst on; others are as they should be."""


def of_row(row: Row) -> SessionSummary:
    """An open session, as its worker reports it."""
    return SessionSummary(
        speaker=SessionKey.parse(row.key).speaker, kind=row.kind, session_id=row.session_id,
        open=row.state not in RELEASED - {"handed over"}, state=row.state, reason=row.reason,
        provider=row.provider, worker=row.worker, epoch=row.epoch, opened_at=row.opened_at,
        lag_seconds=round(row.behind_seconds, 3), captured_seconds=row.captured_seconds,
        transcribed_seconds=row.final_seconds, cost=row.cost, last_words=row.last_words,
    )  # fmt: skip


def of_past(past: Past, now: datetime) -> SessionSummary:
    """A session, as its events tell it. Workers report what they hold a moment later."""
    lately = (now - past.last_at).total_seconds() < _UNREPORTED_S
    return SessionSummary(
        speaker=past.key.speaker, session_id=past.session_id,
        open=past.ended_at is None and lately, state=past.state,
        reason=past.reason, provider=past.provider, opened_at=past.opened_at, last_at=past.last_at,
        ended_at=past.ended_at, captured_seconds=past.captured_seconds,
        transcribed_seconds=past.transcribed_seconds, gap_seconds=past.gap_seconds,
        cost=past.cost or {},
    )  # fmt: skip


def conversations(
    rows: Iterable[Row], past: Iterable[Past], limit: int, now: datetime
) -> list[ConversationSummary]:
    """Open conversations first, then those that ended lately; within both, the newest first.

    A session that a worker reports counts once, as it is now. At most `limit`, and all open ones.
    """
    found: dict[str, dict[str, SessionSummary]] = {}
    for row in rows:
        key = SessionKey.parse(row.key)
        of = found.setdefault(key.conversation, {})
        of[row.session_id or f"request {len(of)}"] = of_row(row)
    for one in past:
        of = found.setdefault(one.key.conversation, {})
        known = of.get(one.session_id)
        if known is None or one.ended_at is not None:
            of[one.session_id] = of_past(one, now)
        else:
            known.last_at = one.last_at
    made = [_conversation(name, list(of.values())) for name, of in found.items()]
    made.sort(key=lambda each: (each.open, each.last_at or _NEVER), reverse=True)
    open_ones = sum(each.open for each in made)
    return made[: max(limit, open_ones)]


def _conversation(name: str, sessions: list[SessionSummary]) -> ConversationSummary:
    sessions.sort(key=lambda each: (each.open, each.opened_at or _NEVER), reverse=True)
    open_ones = [each for each in sessions if each.open]
    states = [each.state for each in open_ones or sessions]
    worst = min(states, key=lambda s: _ATTENTION.index(s) if s in _ATTENTION else len(_ATTENTION))
    cost: dict[str, float] = {}
    for each in sessions:
        for currency, amount in each.cost.items():
            cost[currency] = round(cost.get(currency, 0.0) + amount, 6)
    opened = [each.opened_at for each in sessions if each.opened_at is not None]
    times = [time for each in sessions for time in (each.ended_at, each.last_at, each.opened_at)]
    return ConversationSummary(
        conversation=name, open=bool(open_ones), state=worst,
        opened_at=min(opened, default=None),
        last_at=max((time for time in times if time is not None), default=None),
        lag_seconds=max((each.lag_seconds or 0.0 for each in open_ones), default=None),
        captured_seconds=sum(each.captured_seconds for each in sessions),
        cost=cost, sessions=sessions,
        last_words=next((each.last_words for each in sessions if each.last_words), None),
    )  # fmt: skip


def with_words(found: Iterable[ConversationSummary], words: Mapping[str, str]) -> None:
    """Set the last words of sessions by their IDs."""
    for conversation in found:
        for session in conversation.sessions:
            session.last_words = words.get(session.session_id or "", session.last_words)
        texts = [each.last_words for each in conversation.sessions if each.last_words]
        conversation.last_words = texts[0] if texts else None
