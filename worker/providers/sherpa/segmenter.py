"""Splits a stream into turns and segments, based on voice activity; no audio or engine.

Positions count windows of WINDOW samples from the start of the stream. Segments are contiguous from
0 to the end and become the finals of the stream: a session that resumes at the end of any of them
loses and repeats nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from math import ceil

SAMPLE_RATE = 16_000
WINDOW = 512
"""Samples per window, as Silero VAD requires at 16 kHz."""
WINDOW_SECONDS = WINDOW / SAMPLE_RATE

PRE_ROLL_SECONDS = 0.5
"""Audio included before the first voiced window: voice activity is detected only after a soft start
(an f, an h), and recognition is better after a little silence."""
SILENCE_SECONDS = 1.5
"""Length of segments of silence, which advance the stream's position."""
_LEAST_VOICED = 3
"""Minimum number of voiced windows of a segment with speech. The recognizer would hear a word in
fewer, which remain when a turn was split shortly before its end."""
_CUT_BLUR = 2
"""Number of windows on each side over which loudness is averaged to find the quietest place."""


def windows(seconds: float) -> int:
    """Number of windows that cover `seconds`; at least one."""
    return max(1, ceil(seconds / WINDOW_SECONDS - 1e-9))


@dataclass(frozen=True, slots=True)
class Speech:
    """A segment with speech, from `start` to `end`."""

    start: int
    end: int
    voiced: tuple[tuple[int, int], ...]
    """Voiced spans of the segment, in order; never empty."""


@dataclass(frozen=True, slots=True)
class Silence:
    """A segment without speech, from `start` to `end`."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class TurnStarted:
    at: int


@dataclass(frozen=True, slots=True)
class TurnEnded:
    at: int


Cut = Speech | Silence | TurnStarted | TurnEnded


class Segmenter:
    """Takes windows one by one and yields turns and segments.

    A turn starts after `min_speech_seconds` of voiced windows without a pause between them, and
    ends with a pause of `silence_seconds`. A turn without a pause is split after at most
    `max_segment_seconds`, at the quietest place of the second half.
    """

    def __init__(
        self, *, silence_seconds: float, min_speech_seconds: float, max_segment_seconds: float
    ) -> None:
        self._pause = windows(silence_seconds)
        self._min_voiced = windows(min_speech_seconds)
        self._max_segment = windows(max_segment_seconds)
        self._pre_roll = windows(PRE_ROLL_SECONDS)
        self._silence = windows(SILENCE_SECONDS)
        self.start = 0
        """End of the last segment."""
        self.end = 0
        """Number of windows received."""
        self.in_turn = False
        self._voiced: list[bool] = []
        self._loudness: list[float] = []
        self._onset: int | None = None
        self._onset_voiced = 0
        self.last_voiced = 0
        """End of the last voiced window."""

    def add(self, voiced: bool, loudness: float) -> Iterator[Cut]:
        """Add a window: whether it is voiced, and its mean square."""
        self._voiced.append(voiced)
        self._loudness.append(loudness)
        self.end += 1
        if voiced:
            self.last_voiced = self.end
        if self.in_turn:
            if self.end - self.last_voiced >= self._pause:
                yield from self._end_turn(self._middle_of_pause())
            elif self.end - self.start >= self._max_segment:
                yield from self._cut(self._quietest())
        else:
            yield from self._detect_turn(voiced)

    def finalize(self) -> Iterator[Cut]:
        """End segments as far as possible: all of an open turn, which continues; else silence,
        except for what a turn about to start may need."""
        yield from self._cut(self._middle_of_pause() if self.in_turn else self._safe_silence())

    def finish(self) -> Iterator[Cut]:
        """End the last segment and the open turn: no window follows."""
        if self.in_turn:
            yield from self._end_turn(self.end)
        else:
            yield from self._cut(self.end)

    @property
    def voiced(self) -> tuple[tuple[int, int], ...]:
        """Voiced spans from `start` to `end`."""
        return self._voiced_until(self.end)

    def _detect_turn(self, voiced: bool) -> Iterator[Cut]:
        if voiced:
            if self._onset is None:
                self._onset = self.end - 1
            self._onset_voiced += 1
            if self._onset_voiced >= self._min_voiced:
                yield from self._cut(self._safe_silence())
                yield TurnStarted(self._onset)
                self.in_turn = True
                return
        elif self._onset is not None and self.end - self.last_voiced >= self._pause:
            self._forget_onset()
        if self._safe_silence() - self.start >= self._silence:
            yield from self._cut(self._safe_silence())

    def _end_turn(self, end: int) -> Iterator[Cut]:
        yield from self._cut(end)
        yield TurnEnded(self.last_voiced)
        self.in_turn = False
        self._forget_onset()

    def _forget_onset(self) -> None:
        self._onset, self._onset_voiced = None, 0

    def _cut(self, end: int) -> Iterator[Cut]:
        """Yield the segment up to `end`."""
        if end <= self.start:
            return
        spans = self._voiced_until(end) if self.in_turn else ()
        voiced = sum(b - a for a, b in spans)
        if voiced >= _LEAST_VOICED:
            yield Speech(self.start, end, spans)
        else:
            yield Silence(self.start, end)
        del self._voiced[: end - self.start], self._loudness[: end - self.start]
        self.start = end

    def _middle_of_pause(self) -> int:
        """The middle of the current pause: its start may be the soft end of a word, and its end the
        soft start of one."""
        return self.last_voiced + (self.end - self.last_voiced + 1) // 2

    def _safe_silence(self) -> int:
        """Position before which no turn can start anymore."""
        begin = self.end if self._onset is None else self._onset
        return max(self.start, begin - self._pre_roll)

    def _quietest(self) -> int:
        """The middle of the quietest place in the second half of the current segment."""

        def loudness(at: int) -> float:
            near = slice(at - _CUT_BLUR, at + _CUT_BLUR + 1)
            return sum(self._loudness[near])

        count = len(self._loudness)
        candidates = range(count // 2, count - _CUT_BLUR)
        return self.start + min(candidates, key=loudness, default=count - 1) + 1

    def _voiced_until(self, end: int) -> tuple[tuple[int, int], ...]:
        spans, at = [], self.start
        for voiced, run in groupby(self._voiced[: end - self.start]):
            length = sum(1 for _ in run)
            if voiced:
                spans.append((at, at + length))
            at += length
        return tuple(spans)
