"""Where speech starts, ends and is cut: decisions over voice activity, without sound or engine.

Positions here count windows of WINDOW samples since the stream's start. The spans of the cuts
that come out follow one another without a hole from zero to the end: they become the finals of
the stream, and a session that starts again at the end of any of them loses and repeats nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from math import ceil

SAMPLE_RATE = 16_000
WINDOW = 512
"""Samples of one decision; what Silero VAD takes at 16 kHz."""
WINDOW_SECONDS = WINDOW / SAMPLE_RATE

PRE_ROLL_SECONDS = 0.5
"""Audio kept from before the first voiced window: voice activity is seen only after a soft start
(an f, an h), and the recogniser does better with a little silence in front."""
SILENCE_SECONDS = 1.5
"""Silence is cut off in spans of so much, which moves the stream's position on."""
_LEAST_VOICED = 3
"""Fewer voiced windows in a span are no word, and a recogniser would make one of them. They are
left over where a turn was cut shortly before its end."""
_CUT_BLUR = 2
"""Windows on each side over which loudness is averaged to find the quietest place."""


def windows(seconds: float) -> int:
    """Windows that cover `seconds`, at least one."""
    return max(1, ceil(seconds / WINDOW_SECONDS - 1e-9))


@dataclass(frozen=True, slots=True)
class Speech:
    """The span from `start` to `end` holds speech: to be decoded."""

    start: int
    end: int
    voiced: tuple[tuple[int, int], ...]
    """Spans in it that sound like speech, in order; never empty."""


@dataclass(frozen=True, slots=True)
class Silence:
    """The span from `start` to `end` holds no speech."""

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
    """Takes one window after the other and says what can be cut off.

    A turn starts once `min_speech_seconds` of voiced windows have come without a pause among
    them, and ends with a pause of `silence_seconds`. A turn that has no pause is cut each
    `max_segment_seconds` at the latest, at the quietest place of the later half.
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
        """Up to here all is cut off."""
        self.end = 0
        """Windows taken."""
        self.in_turn = False
        self._voiced: list[bool] = []
        self._loudness: list[float] = []
        self._onset: int | None = None
        self._onset_voiced = 0
        self.last_voiced = 0
        """End of the last voiced window."""

    def add(self, voiced: bool, loudness: float) -> Iterator[Cut]:
        """Take the next window: whether it sounds like speech, and its mean square."""
        self._voiced.append(voiced)
        self._loudness.append(loudness)
        self.end += 1
        if voiced:
            self.last_voiced = self.end
        if self.in_turn:
            if self.end - self.last_voiced >= self._pause:
                yield from self._end_turn(self._amid_pause())
            elif self.end - self.start >= self._max_segment:
                yield from self._cut(self._quietest())
        else:
            yield from self._listen(voiced)

    def finalize(self) -> Iterator[Cut]:
        """Cut off all that can be: everything in a turn, which goes on; else silence, without what
        a turn that is about to start would need."""
        yield from self._cut(self._amid_pause() if self.in_turn else self._safe_silence())

    def finish(self) -> Iterator[Cut]:
        """Cut off everything: no window follows."""
        if self.in_turn:
            yield from self._end_turn(self.end)
        else:
            yield from self._cut(self.end)

    @property
    def voiced(self) -> tuple[tuple[int, int], ...]:
        """Spans from `start` to `end` that sound like speech."""
        return self._voiced_until(self.end)

    def _listen(self, voiced: bool) -> Iterator[Cut]:
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
        """Cut off what is left up to `end`."""
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

    def _amid_pause(self) -> int:
        """The middle of the pause that runs now: what follows may be the soft start of a word, and
        what precedes the soft end of one."""
        return self.last_voiced + (self.end - self.last_voiced + 1) // 2

    def _safe_silence(self) -> int:
        """Up to where no turn can begin any more."""
        begin = self.end if self._onset is None else self._onset
        return max(self.start, begin - self._pre_roll)

    def _quietest(self) -> int:
        """The middle of the quietest stretch in the later half of what is left."""

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
