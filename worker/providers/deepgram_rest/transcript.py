"""Turns the results of a stream's recordings into provider events, on the stream's clock.

Pure: no sockets, clocks or environment.
"""

from __future__ import annotations

from dataclasses import replace

from natterjack.plugin.provider import Final, ProviderEvent, ProviderWord, Turn

from .protocol import Result


class Transcript:
    """Finals that partition the audio, and turns. Times are seconds of the stream's audio."""

    def __init__(self) -> None:
        self.frontier = 0.0
        """End of the last Final returned."""
        self._turn_open = False
        self._last_word_end = 0.0

    def silence(self, end: float, *, paused: bool = False) -> list[ProviderEvent]:
        """Return the events for silence up to `end`. `paused` means that speech ended before it."""
        return self._final(Result("", (), None, None, None), end) + self._end_turn(paused)

    def speech(self, result: Result, end: float, *, paused: bool) -> list[ProviderEvent]:
        """Return the events for the recording from the frontier to `end`. `paused` means that
        speech ends with it."""
        start = self.frontier
        words = tuple(_shifted(word, start, end) for word in result.words)
        events: list[ProviderEvent] = []
        if result.text and not self._turn_open:
            self._turn_open = True
            begins = [word.start for word in words if word.start is not None]
            events.append(Turn("started", min(begins, default=start)))
        if result.text:
            self._last_word_end = max((word.end or start for word in words), default=end)
        events += self._final(replace(result, words=words), end)
        return events + self._end_turn(paused)

    def _final(self, result: Result, end: float) -> list[ProviderEvent]:
        if end <= self.frontier and not result.text:
            return []
        start, self.frontier = self.frontier, end
        return [
            Final(
                text=result.text,
                start=start,
                end=end,
                words=result.words if result.text else (),
                confidence=result.confidence,
                language=result.language if result.text else None,
            )
        ]

    def _end_turn(self, paused: bool) -> list[ProviderEvent]:
        if not paused or not self._turn_open:
            return []
        self._turn_open = False
        return [Turn("ended", self._last_word_end)]


def _shifted(word: ProviderWord, start: float, end: float) -> ProviderWord:
    """Shift a word of the recording from `start` to `end` to the stream's clock, limited to the
    recording."""
    begin = None if word.start is None else min(start + word.start, end)
    stop = None if word.end is None else min(max(start + word.end, begin or start), end)
    return word._replace(start=begin, end=stop)
