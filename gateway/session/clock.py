"""The client's clock, which starts at zero with its connection, and the session's. Pure."""

from __future__ import annotations

from typing import Any

from natterjack.decoding import AnyEvent
from natterjack.events import FinalEvent, InterimEvent, TurnEvent
from natterjack.values import Word


def on_client_clock(event: AnyEvent, origin: float) -> AnyEvent:
    """Return an event with its times in seconds since the client's first sample, which is at
    `origin` on the session's clock. What came before that is at 0."""
    if not origin or not isinstance(event, InterimEvent | FinalEvent | TurnEvent):
        return event
    changed: dict[str, Any] = {
        "start": _shifted(event.start, origin), "end": _shifted(event.end, origin)
    }  # fmt: skip
    if isinstance(event, InterimEvent | FinalEvent):
        changed["words"] = [_word(word, origin) for word in event.words]
    return event.model_copy(update=changed)


def _word(word: Word, origin: float) -> Word:
    return word.model_copy(
        update={"start": _shifted(word.start, origin), "end": _shifted(word.end, origin)}
    )


def _shifted(seconds: float | None, origin: float) -> float | None:
    return None if seconds is None else max(0.0, round(seconds - origin, 6))
