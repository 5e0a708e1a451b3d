"""From the results of a stream's recordings to provider events, on the stream's clock.

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
        """End of the last Final given."""
        self._turn_open = False
        self._last_word_end = 0.0

    def silence(self, end: float, *, paused: bool = False) -> list[ProviderEvent]:
        """Nothing is said up to `end`. `paused`: speech has ended before it."""
        return self._final(Result("", (), None, None, None), end) + self._end_turn(paused)

    def speech(self, result: Result, end: float, *, paused: bool) -> list[ProviderEvent]:
        """The recording from the frontier to `end` says `result`. `paused`: speech ends with it."""
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
    """A word of the recording from `start` to `end`, which a rounded time must not leave."""
    assert word.start is not None
    assert word.end is not None
    begin = min(start + word.start, end)
    return word._replace(start=begin, end=min(max(start + word.end, begin), end))
