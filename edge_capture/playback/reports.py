"""When a player reports how far it has played, and what it lacks.

Pure: callers pass the times.
"""

from __future__ import annotations

from natterjack.voice.spec import Played, PlayState

from .queue import Heard

PLAYING_S, OTHERWISE_S = 0.2, 1.0
"""Intervals of reports. A worker that takes a session over learns the position from the next."""
ASK_S = 1.0
"""Interval of requests for the same missing chunk."""


class Reports:
    """The reports about one session: at once when its state changes or a chunk is missing, and
    regularly in between."""

    def __init__(self, session_id: str) -> None:
        self._session_id = session_id
        self._due = 0.0
        self._state: PlayState | None = None
        self._ask_at = 0.0

    def make(self, now: float, heard: Heard, *, lost: bool, missing: int | None) -> Played | None:
        """Return the report that is due, if one is. `lost`: nothing can be played now."""
        state: PlayState = "lost" if lost else heard.state
        asks = missing is not None and now >= self._ask_at
        if asks:
            self._ask_at = now + ASK_S
        elif missing is None:
            self._ask_at = 0.0
        if state == self._state and not asks and now < self._due:
            return None
        self._state = state
        self._due = now + (PLAYING_S if state == "playing" else OTHERWISE_S)
        return Played(
            session_id=self._session_id,
            utterance=heard.utterance,
            position=heard.position,
            state=state,
            missing=missing if asks else None,
        )
