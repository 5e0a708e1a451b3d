"""Where in the audio a text lies, when the proxy does not say: found by the pauses in the audio.

A text has been spoken before a pause. Which pause that is follows from how long the text is, how
fast is spoken, and how late texts come. Pure: no sockets, clocks or environment. Times are seconds
of the stream's audio.
"""

from __future__ import annotations

import math
from itertools import groupby
from typing import Final, NamedTuple

from ..estimate import Span
from ..voice import BLOCK_SECONDS, Voice
from .protocol import BYTES_PER_SECOND, SAMPLE_RATE

PAUSE_SECONDS: Final = 0.2
"""Silence so long is between words, not within one."""
_INTO_PAUSE_SECONDS: Final = 0.1
"""How far into a pause a text ends: words end softly, and start softly too."""
_FIRST_PACE: Final = 18.0
"""Characters in a second of speech without its pauses, until it is known better ..."""
_FIRST_WEIGHT_SECONDS: Final = 0.3
"""... which weighs as much as so much speech whose text was found."""
_KNOWN_SECONDS: Final = 1.0
_FORGETTING: Final = 0.7
_OFF: Final = 2.0
"""Times longer or shorter than expected, at most, is a text that ends at a pause ..."""
_CLOSE: Final = 1.5
"""... and so many times if there is no doubt."""
_LATENCY_SECONDS: Final = 0.8
"""So long after its pause a text comes, until it is known better."""
_LEAST_SECONDS: Final = 0.3
_LATEST_SECONDS: Final = 4.0
_FIRST_SECONDS: Final = 0.8
"""Spoken, about, when the first interim is made: one comes each second."""
_LEARNING: Final = 0.3
_SPREAD_PACE: Final = 0.35
_SPREAD_SECONDS: Final = 0.8
"""By how much the pace of one text (as a logarithm) and its latency differ from others."""
_AMID_SECONDS: Final = 1.5
"""Amid speech, a text comes about so long after its last word."""
_SNAP_SECONDS: Final = 0.4
_LOOK_BACK_SECONDS: Final = 5.0


class Found(NamedTuple):
    """A pause."""

    end: float
    """Where in it the text ends."""
    speech: float
    """Seconds of it before."""
    sure: bool
    """Not if more of the text may be to come."""


class Pace:
    """How many characters are said in a second of speech."""

    def __init__(self) -> None:
        self._characters = _FIRST_PACE * _FIRST_WEIGHT_SECONDS
        self._seconds = _FIRST_WEIGHT_SECONDS

    @property
    def known(self) -> bool:
        """Whether enough was heard of it to say what is out of the question."""
        return self._seconds >= _KNOWN_SECONDS

    def seconds(self, text: str) -> float:
        """How long it takes to say `text`."""
        return len(text) * self._seconds / self._characters

    def learn(self, text: str, seconds: float) -> None:
        """`text` was said in `seconds` of speech."""
        if text and seconds > 0:
            self._characters = self._characters * _FORGETTING + len(text)
            self._seconds = self._seconds * _FORGETTING + seconds


class Places:
    """Takes the audio as it is sent."""

    def __init__(self) -> None:
        self._voice = Voice(SAMPLE_RATE)
        self._bytes = 0
        self._first = 0
        """Index of the first block in `_voiced`."""
        self._voiced = bytearray()
        """1 for each block with voice."""
        self._pace = Pace()
        self._latency = _LATENCY_SECONDS
        """After so long a pause its text comes."""

    @property
    def sent(self) -> float:
        """Audio taken."""
        return self._bytes / BYTES_PER_SECOND

    @property
    def start(self) -> float:
        """What was before is forgotten."""
        return self._first * BLOCK_SECONDS

    def hear(self, audio: bytes) -> None:
        """`audio` is sent."""
        self._bytes += len(audio)
        self._voiced += bytes(block.voiced for block in self._voice.feed(audio))

    def finish(self) -> None:
        """No audio follows: it ends as if a pause did."""
        self._voiced += bytes(block.voiced for block in self._voice.flush())
        self._voiced += bytes(round(PAUSE_SECONDS / BLOCK_SECONDS))

    def forget(self, before: float) -> None:
        """Nothing before will be asked for."""
        count = min(max(0, int(before / BLOCK_SECONDS) - self._first), len(self._voiced))
        del self._voiced[:count]
        self._first += count

    def spans(self, until: float = math.inf) -> list[Span]:
        """Stretches of speech since `start`."""
        return [span for voiced, span in self._runs(until) if voiced]

    def quiet_from_start(self) -> float:
        """Where the silence at `start` ends."""
        found = self._voiced.find(1)
        return self.start + (len(self._voiced) if found < 0 else found) * BLOCK_SECONDS

    def speech(self, until: float = math.inf) -> float:
        """Seconds of speech since `start`."""
        return sum(end - start for start, end in self.spans(until))

    def pauses(self) -> list[Span]:
        """Silences since `start` that speech went before; the last may go on."""
        runs = self._runs(math.inf)
        return [
            span
            for (voiced, span), before in zip(
                runs, [False, *(run[0] for run in runs)], strict=False
            )
            if not voiced and before and span[1] - span[0] > PAUSE_SECONDS - BLOCK_SECONDS / 2
        ]

    def pause_after(self, text: str, told: float) -> Found | None:
        """The pause in which the text that begins at `start` ends, if it is known. `told`: how much
        audio had been sent when its last word came: what was spoken later is not in it."""
        pauses = [pause for pause in self.pauses() if pause[0] <= told]
        if not pauses:
            return None
        expected = max(self._pace.seconds(text), BLOCK_SECONDS)
        lengths = [self.speech(pause[0]) for pause in pauses]
        offs = [abs(math.log(length / expected)) for length in lengths]
        lates = [told - pause[0] - self._latency for pause in pauses]
        costs = [_unlikely(off, late) for off, late in zip(offs, lates, strict=True)]
        best = costs.index(min(costs))
        if self._pace.known and offs[best] > math.log(_OFF):
            return None
        sure = offs[best] < math.log(_CLOSE)
        start, end = pauses[best]
        return Found(min(start + _INTO_PAUSE_SECONDS, (start + end) / 2), lengths[best], sure)

    def first_text(self, text: str, *, is_final: bool) -> None:
        """The first text of the stream has come: it tells how late they are."""
        spans = self.spans()
        if spans:
            spoken = self._pace.seconds(text) if is_final else _FIRST_SECONDS
            late = self.sent - spans[0][0] - spoken
            self._latency = min(max(late, _LEAST_SECONDS), _LATEST_SECONDS)

    def learn(self, text: str, told: float, found: Found) -> None:
        """It was taken as found."""
        self._pace.learn(text, found.speech)
        late = min(max(told - found.end, _LEAST_SECONDS), _LATEST_SECONDS)
        self._latency += _LEARNING * (late - self._latency)

    def guess_after(self, text: str, told: float) -> Found:
        """Where the text that begins at `start` may end, if no pause shows it: at the gap nearest
        to where it should."""
        at = max(self.start, told - _AMID_SECONDS)
        if self._pace.known:
            at = min(at, self.spoken(self._pace.seconds(text)))
        gaps = [(start + end) / 2 for voiced, (start, end) in self._runs(math.inf) if not voiced]
        nearest = min(gaps, key=lambda gap: abs(gap - at), default=at)
        end = nearest if abs(nearest - at) <= _SNAP_SECONDS else at
        return Found(end, self.speech(end), False)

    def spoken(self, seconds: float) -> float:
        """Where so much speech since `start` is over."""
        at = self.start
        for start, end in self.spans():
            at = min(end, start + seconds)
            seconds -= end - start
            if seconds <= 0:
                break
        return at

    def quiet_before(self, at: float) -> float:
        """A place shortly before `at` that is not within a word; else `at`."""
        gaps = [(start + end) / 2 for voiced, (start, end) in self._runs(at) if not voiced]
        return gaps[-1] if gaps and at - gaps[-1] < _LOOK_BACK_SECONDS else at

    def _runs(self, until: float) -> list[tuple[bool, Span]]:
        """Stretches with and without voice since `start`."""
        count = len(self._voiced)
        if until < math.inf:
            count = min(count, max(0, round(until / BLOCK_SECONDS) - self._first))
        runs, at = [], self._first
        for voiced, run in groupby(self._voiced[:count]):
            end = at + sum(1 for _ in run)
            runs.append((voiced == 1, (at * BLOCK_SECONDS, end * BLOCK_SECONDS)))
            at = end
        return runs


def _unlikely(off: float, late: float) -> float:
    """How unlikely a pause is: how fast the text would have been spoken, and how late it came. The
    second weighs less the larger it is: a proxy may be late for once."""
    return (off / _SPREAD_PACE) ** 2 + math.log1p((late / _SPREAD_SECONDS) ** 2)
