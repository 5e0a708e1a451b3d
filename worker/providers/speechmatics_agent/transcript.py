"""Turns the segments and turns of one stream into provider events.

Finals never overlap. Pure: no sockets, clocks or environment.
"""

from __future__ import annotations

import math
from typing import Final as Constant

from natterjack.plugin.errors import RemoteProtocolError
from natterjack.plugin.provider import Final, Interim, ProviderEvent, ProviderWord, Turn

from ..estimate import estimated_words
from .messages import EndOfTurn, Segment, Speech, StartOfTurn
from .options import NAME

_CLOCK_SECONDS: Constant = 1.0
"""How far behind the frontier a segment may start."""
_WORD_SECONDS: Constant = 0.3
"""Length of a word for the estimate of an end. A later end would cover words that follow."""
_REVISED_SECONDS: Constant = 1.0
"""How much earlier a segment may end than the interim before it, without words being left."""


class Segments:
    """Interims, finals and turns of one stream, in seconds of its audio.

    Speechmatics docs, "Segmentation" and "Turn detection": a final segment is never revised, an
    interim covers the segment in progress, and EndOfTurn follows the last segment of its turn.
    """

    def __init__(self) -> None:
        self.frontier = 0.0
        """End of the last Final returned."""
        self.pending: Interim | None = None
        """The last interim with words that are not final yet."""
        self.turn_open = False
        self.speech = False
        """Whether the server hears a voice now."""

    def segment(self, message: Segment) -> list[ProviderEvent]:
        """Return the provider events for a segment.

        Raises: RemoteProtocolError if the server's clock was set back.
        """
        # Speechmatics docs, "Pause and resume": a session that is parked because audio comes slowly
        # may go on at time zero. The audio of the segment is unknown then.
        at = message.end if message.start is None else message.start
        if at is not None and at < self.frontier - _CLOCK_SECONDS:
            what = f"the clock went back from {self.frontier:.1f} s to {at:.1f} s"
            raise RemoteProtocolError(NAME, what)
        start, end = self._span(message)
        words = self._words(message, start, end)
        if message.final:
            return self._final(message, start, end, words)
        interim = Interim(message.text, start, end, words, times_estimated=bool(words))
        self.pending = interim if words else None
        return [*self._turn_started(words), interim]

    def start_of_turn(self, message: StartOfTurn) -> list[ProviderEvent]:
        """Return the start of a turn, unless one is open."""
        if self.turn_open:
            return []
        self.turn_open = True
        return [Turn("started", math.nan if message.at is None else message.at)]

    def end_of_turn(self, message: EndOfTurn) -> list[ProviderEvent]:
        """Return the end of the open turn."""
        self.pending = None  # no segment of the turn follows
        if not self.turn_open:
            return []
        self.turn_open = False
        return [Turn("ended", math.nan if message.at is None else message.at)]

    def speech_changed(self, message: Speech) -> None:
        """Note the start or the end of voice activity."""
        self.speech = message.active

    def silence(self, until: float) -> list[ProviderEvent]:
        """Return a final for silence up to `until`."""
        start, self.frontier = self.frontier, until
        return [Final("", start, until)]

    def end(self) -> list[ProviderEvent]:
        """Return the remaining events once everything is final."""
        return self.end_of_turn(EndOfTurn(self.frontier))

    @property
    def unfinalized(self) -> Final | None:
        """The words of the last interim that never became final, as a final; None if all did."""
        left = self.pending
        if left is None:
            return None
        return Final(left.text, left.start, left.end, left.words, times_estimated=True)

    def _span(self, message: Segment) -> tuple[float, float]:
        """Start and end of a segment, not before the frontier; unknown ones are estimated."""
        start = self.frontier if message.start is None else max(message.start, self.frontier)
        if message.end is not None:
            return start, max(start, message.end)
        length = _WORD_SECONDS * len(message.text.split())
        if self.pending is not None and self.pending.end > start:
            return start, self.pending.end
        return start, start + length

    def _words(self, message: Segment, start: float, end: float) -> tuple[ProviderWord, ...]:
        """The words of a segment, spread over it."""
        found = estimated_words(message.text, [(start, end)])
        if message.speaker is None:
            return found
        return tuple([word._replace(speaker=message.speaker) for word in found])

    def _final(
        self, message: Segment, start: float, end: float, words: tuple[ProviderWord, ...]
    ) -> list[ProviderEvent]:
        if self.pending is not None and self.pending.end <= end + _REVISED_SECONDS:
            self.pending = None
        if not words and end <= self.frontier:
            return []
        if not words:
            start = self.frontier
        self.frontier = end
        final = Final(message.text, start, end, words, times_estimated=bool(words))
        return [*self._turn_started(words), final]

    def _turn_started(self, words: tuple[ProviderWord, ...]) -> list[ProviderEvent]:
        """The start of a turn for which there was no message."""
        return self.start_of_turn(StartOfTurn(words[0].start)) if words else []
