"""Estimates the position of a text in the audio from the pauses, if the proxy does not report it.

A text ends in a pause. Which one follows from the length of the text, the pace of speech, and the
latency of texts. Pure: no sockets, clocks or environment. Times are seconds of the stream's audio.
"""

from __future__ import annotations

import math
from itertools import groupby
from typing import Final, NamedTuple

from ..estimate import Span
from ..voice import BLOCK_SECONDS, Voice
from .protocol import BYTES_PER_SECOND, SAMPLE_RATE

PAUSE_SECONDS: Final = 0.2
"""Minimum silence between words; shorter silence may be inside a word."""
_INTO_PAUSE_SECONDS: Final = 0.1
"""How far into a pause a text ends, since words start and end softly."""
_FIRST_PACE: Final = 18.0
"""Initial pace, in characters per second of speech without pauses."""
_FIRST_WEIGHT_SECONDS: Final = 0.3
"""Weight of the initial pace, as seconds of speech."""
_KNOWN_SECONDS: Final = 1.0
_FORGETTING: Final = 0.7
_MAX_RATIO: Final = 2.0
"""Ratio of actual to expected length up to which a text may end at a pause."""
_CERTAIN_RATIO: Final = 1.5
"""The same ratio for a certain match."""
_LATENCY_SECONDS: Final = 0.8
"""Initial latency: the time from a pause to its text."""
_LEAST_SECONDS: Final = 0.3
_LATEST_SECONDS: Final = 4.0
_FIRST_SECONDS: Final = 0.8
"""Assumed length of speech at the first interim, since there is about one per second."""
_LEARNING: Final = 0.3
_SPREAD_PACE: Final = 0.35
_SPREAD_SECONDS: Final = 0.8
"""Typical deviation of a text's pace (as a logarithm), and of its latency."""
_MID_SPEECH_SECONDS: Final = 1.5
"""Assumed time from the last word of a text to its arrival during speech."""
_SNAP_SECONDS: Final = 0.4
_LOOK_BACK_SECONDS: Final = 5.0


class PauseMatch(NamedTuple):
    """The pause in which a text ends."""

    end: float
    """End of the text, within the pause."""
    speech: float
    """Seconds of speech before the pause."""
    certain: bool
    """False if the text may continue after the pause."""


class Pace:
    """Pace of speech, in characters per second, learned from matched texts."""

    def __init__(self) -> None:
        self._characters = _FIRST_PACE * _FIRST_WEIGHT_SECONDS
        self._seconds = _FIRST_WEIGHT_SECONDS

    @property
    def known(self) -> bool:
        """Whether enough was learned to rule out pauses."""
        return self._seconds >= _KNOWN_SECONDS

    def seconds(self, text: str) -> float:
        """Expected length of `text`, in seconds of speech."""
        return len(text) * self._seconds / self._characters

    def learn(self, text: str, seconds: float) -> None:
        """Learn that `text` took `seconds` of speech."""
        if text and seconds > 0:
            self._characters = self._characters * _FORGETTING + len(text)
            self._seconds = self._seconds * _FORGETTING + seconds


class PauseMatcher:
    """Records the voice activity of the audio that is sent, and matches texts to its pauses."""

    def __init__(self) -> None:
        self._voice = Voice(SAMPLE_RATE)
        self._bytes = 0
        self._first = 0
        """Index of the first block in `_voiced`."""
        self._voiced = bytearray()
        """1 for each voiced block, else 0."""
        self._pace = Pace()
        self._latency = _LATENCY_SECONDS
        """Estimated time from a pause to its text."""

    @property
    def sent(self) -> float:
        """Seconds of audio sent."""
        return self._bytes / BYTES_PER_SECOND

    @property
    def start(self) -> float:
        """Start of the recorded audio; earlier audio is discarded."""
        return self._first * BLOCK_SECONDS

    def add_audio(self, audio: bytes) -> None:
        """Record audio that is sent."""
        self._bytes += len(audio)
        self._voiced += bytes(block.voiced for block in self._voice.feed(audio))

    def finish(self) -> None:
        """Record the end of the audio, as a pause."""
        self._voiced += bytes(block.voiced for block in self._voice.flush())
        self._voiced += bytes(round(PAUSE_SECONDS / BLOCK_SECONDS))

    def forget(self, before: float) -> None:
        """Discard everything before `before`."""
        count = min(max(0, int(before / BLOCK_SECONDS) - self._first), len(self._voiced))
        del self._voiced[:count]
        self._first += count

    def spans(self, until: float = math.inf) -> list[Span]:
        """Spans of speech since `start`."""
        return [span for voiced, span in self._runs(until) if voiced]

    def leading_silence_end(self) -> float:
        """End of the silence that begins at `start`."""
        found = self._voiced.find(1)
        return self.start + (len(self._voiced) if found < 0 else found) * BLOCK_SECONDS

    def speech(self, until: float = math.inf) -> float:
        """Seconds of speech since `start`."""
        return sum(end - start for start, end in self.spans(until))

    def pauses(self) -> list[Span]:
        """Pauses after speech since `start`; the last may continue."""
        runs = self._runs(math.inf)
        return [
            span
            for (voiced, span), before in zip(
                runs, [False, *(run[0] for run in runs)], strict=False
            )
            if not voiced and before and span[1] - span[0] > PAUSE_SECONDS - BLOCK_SECONDS / 2
        ]

    def pause_after(self, text: str, received_at: float) -> PauseMatch | None:
        """Find the pause in which the text that starts at `start` ends; None if it is not known.

        `received_at` is how much audio had been sent when the text's last word arrived; later
        speech is not part of it.
        """
        pauses = [pause for pause in self.pauses() if pause[0] <= received_at]
        if not pauses:
            return None
        expected = max(self._pace.seconds(text), BLOCK_SECONDS)
        lengths = [self.speech(pause[0]) for pause in pauses]
        length_errors = [abs(math.log(length / expected)) for length in lengths]
        delay_errors = [received_at - pause[0] - self._latency for pause in pauses]
        costs = [
            _cost(length_error, delay_error)
            for length_error, delay_error in zip(length_errors, delay_errors, strict=True)
        ]
        best = costs.index(min(costs))
        if self._pace.known and length_errors[best] > math.log(_MAX_RATIO):
            return None
        certain = length_errors[best] < math.log(_CERTAIN_RATIO)
        start, end = pauses[best]
        return PauseMatch(
            min(start + _INTO_PAUSE_SECONDS, (start + end) / 2), lengths[best], certain
        )

    def first_text(self, text: str, *, is_final: bool) -> None:
        """Estimate the latency from the first text of the stream."""
        spans = self.spans()
        if spans:
            spoken = self._pace.seconds(text) if is_final else _FIRST_SECONDS
            late = self.sent - spans[0][0] - spoken
            self._latency = min(max(late, _LEAST_SECONDS), _LATEST_SECONDS)

    def learn(self, text: str, received_at: float, found: PauseMatch) -> None:
        """Learn from a text that was matched to a pause."""
        self._pace.learn(text, found.speech)
        late = min(max(received_at - found.end, _LEAST_SECONDS), _LATEST_SECONDS)
        self._latency += _LEARNING * (late - self._latency)

    def guess_after(self, text: str, received_at: float) -> PauseMatch:
        """Estimate the end of the text that starts at `start` if no pause shows it: the gap nearest
        to the expected place."""
        at = max(self.start, received_at - _MID_SPEECH_SECONDS)
        if self._pace.known:
            at = min(at, self.time_of_speech(self._pace.seconds(text)))
        gaps = [(start + end) / 2 for voiced, (start, end) in self._runs(math.inf) if not voiced]
        nearest = min(gaps, key=lambda gap: abs(gap - at), default=at)
        end = nearest if abs(nearest - at) <= _SNAP_SECONDS else at
        return PauseMatch(end, self.speech(end), False)

    def time_of_speech(self, seconds: float) -> float:
        """Time at which `seconds` of speech since `start` have passed."""
        at = self.start
        for start, end in self.spans():
            at = min(end, start + seconds)
            seconds -= end - start
            if seconds <= 0:
                break
        return at

    def last_gap_before(self, at: float) -> float:
        """A time shortly before `at` that is not inside a word; else `at`."""
        gaps = [(start + end) / 2 for voiced, (start, end) in self._runs(at) if not voiced]
        return gaps[-1] if gaps and at - gaps[-1] < _LOOK_BACK_SECONDS else at

    def _runs(self, until: float) -> list[tuple[bool, Span]]:
        """Spans with and without voice since `start`."""
        count = len(self._voiced)
        if until < math.inf:
            count = min(count, max(0, round(until / BLOCK_SECONDS) - self._first))
        runs, at = [], self._first
        for voiced, run in groupby(self._voiced[:count]):
            end = at + len(tuple(run))
            runs.append((voiced == 1, (at * BLOCK_SECONDS, end * BLOCK_SECONDS)))
            at = end
        return runs


def _cost(length_error: float, delay_error: float) -> float:
    """Cost of a pause, from the deviation of the pace and of the latency.

    The cost of latency grows slowly, since a proxy may occasionally be late.
    """
    return (length_error / _SPREAD_PACE) ** 2 + math.log1p((delay_error / _SPREAD_SECONDS) ** 2)
