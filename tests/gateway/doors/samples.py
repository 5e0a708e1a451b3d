"""Events of a session, as a worker publishes them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from natterjack.events import FinalEvent, InterimEvent, StatusEvent, TurnEvent
from natterjack.values import Word

_COMMON: dict[str, Any] = {
    "session_id": "session-1", "tenant": "acme", "conversation": "call", "speaker": "client",
    "epoch": 1, "published_at": datetime(2026, 12, 1, tzinfo=UTC),
}  # fmt: skip


def words_of(text: str, start: float, end: float, speaker: str | None = None) -> list[Word]:
    """Words of the same length, from `start` to `end` in seconds."""
    texts = text.split()
    length = (end - start) / max(1, len(texts))
    return [
        Word(text=one, start=start + n * length, end=start + (n + 1) * length, confidence=0.9,
             speaker=speaker)
        for n, one in enumerate(texts)
    ]  # fmt: skip


def interim(text: str, start: float, end: float, segment: int = 0, **more: Any) -> InterimEvent:
    """An interim with words."""
    fields = {"words": words_of(text, start, end), **more}
    return InterimEvent(**_COMMON, segment=segment, text=text, start=start, end=end, **fields)


def final(text: str, start: float, end: float, segment: int = 0, **more: Any) -> FinalEvent:
    """A final with words."""
    fields = {"words": words_of(text, start, end), **more}
    return FinalEvent(
        **_COMMON, segment=segment, sequence=segment, text=text, start=start, end=end, **fields
    )


def turn(event: Any, at: float | None = None, number: int = 0, **more: Any) -> TurnEvent:
    """An event of a turn."""
    ends = event in ("ended", "eager_end")
    place = {"end": at} if ends else {"start": at}
    return TurnEvent(**_COMMON, sequence=0, turn=number, event=event, **place, **more)


def status(state: Any, reason: str | None = None, **more: Any) -> StatusEvent:
    """A change of the session's state."""
    return StatusEvent(**_COMMON, sequence=0, state=state, reason=reason, **more, worker="w")
