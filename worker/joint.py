"""Where a session that is cut off in the middle of speech ends, and its successor begins. Pure.

A budget or `max_seconds` may end a session in the middle of a word, so that each session would
have a part of it. So the word at the cut is left to the successor. A session that ends because no
more audio comes keeps its last word: its successor may never come.
"""

from __future__ import annotations

from dataclasses import replace

from natterjack.plugin.provider import Final, Turn
from worker import fitting

_AT_CUT_SECONDS = 0.3
"""A word that ends no earlier before the cut may be the one that was cut."""
_UNHEARD_SECONDS = 1.0
"""The longest part of a word from which the provider may have made no text."""


class Joint:
    """Takes the finals and turns of a provider stream that was cut off. Times are those of the
    stream."""

    __slots__ = ("_cut", "_last", "turns")

    def __init__(self, cut: float) -> None:
        """`cut` is where the audio was cut off."""
        self._cut = cut
        self._last: Final | None = None
        self.turns: list[Turn] = []
        """The turn events after the last final."""

    def next(self, event: Final | Turn) -> list[Final | Turn]:
        """Take the next event. Return those that are to be published now: a final is kept until
        there is a later one, and turn events follow the finals that belong before them."""
        if isinstance(event, Turn):
            self.turns.append(event)
            return []
        if not event.text:
            return []  # silence, or part of a word that was cut
        ready: list[Final | Turn] = [] if self._last is None else [self._last]
        ready += self.turns
        self._last, self.turns = event, []
        return ready

    def whole(self) -> tuple[Final | None, float]:
        """The last final as it is, and the cut."""
        return self._last, self._cut

    def last(self) -> tuple[Final | None, float]:
        """The last final without the word that may be cut, if it has others and their times are
        known; and where the session ends then."""
        final, end = self._last, max(0.0, self._cut - _UNHEARD_SECONDS)
        if final is None:
            return None, end
        word = final.words[-1] if final.words and not final.times_estimated else None
        if word is None or word.start is None or word.end is None:
            return None, final.start
        if word.end <= self._cut - _AT_CUT_SECONDS:
            end = max(end, word.end)
            return replace(final, end=min(final.end, end)), end
        shorter = fitting.without_last_word(final)
        return shorter, final.start if shorter is None else shorter.end
