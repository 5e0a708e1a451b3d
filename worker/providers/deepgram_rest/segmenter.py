"""Where a stream is cut into recordings: in pauses, and where there are none, where it is quietest.

Positions count blocks (`voice.BLOCK_SECONDS`) since the stream's start. Segments follow one another
without a hole from zero to the end: they become the finals of the stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from math import ceil
from typing import Final

from ..voice import BLOCK_SECONDS, Block

PRE_ROLL_SECONDS: Final = 0.3
"""Audio kept from before the first voiced block: words start softly."""
SILENCE_SECONDS: Final = 1.5
"""Silence is cut off in segments of so much, which moves the stream's position on."""
_LEAST_VOICED: Final = 3
"""Fewer voiced blocks in a segment are no word."""
_GAP_BLOCKS: Final = 10
"""So many blocks without voice are a pause between words rather than a stop within one."""
_CUT_BLOCKS: Final = 5
"""Blocks over which power is averaged to find the quietest place."""


def blocks(seconds: float) -> int:
    """Blocks that cover `seconds`, at least one."""
    return max(1, ceil(seconds / BLOCK_SECONDS - 1e-9))


@dataclass(frozen=True, slots=True)
class Segment:
    """The stretch from `start` to `end`."""

    start: int
    end: int
    speech: bool
    """Whether there may be words in it."""
    paused: bool = False
    """Whether speech ends with it: a pause follows, or nothing at all."""


class Segmenter:
    """Takes one block after the other and says what can be cut off."""

    def __init__(self, *, pause_seconds: float, max_segment_seconds: float) -> None:
        """Speech ends with a pause of `pause_seconds`. Speech that has none is cut each
        `max_segment_seconds` at the latest."""
        self._pause = blocks(pause_seconds)
        self._max = blocks(max_segment_seconds)
        self._pre_roll = blocks(PRE_ROLL_SECONDS)
        self._silence = blocks(SILENCE_SECONDS)
        self.start = 0
        """Up to here all is cut off."""
        self._speaking = False
        self._last_voiced = 0
        """End of the last voiced block."""
        self._pending: list[Block] = []
        """Blocks from `start` on."""

    @property
    def end(self) -> int:
        """Blocks taken."""
        return self.start + len(self._pending)

    def add(self, block: Block) -> Iterator[Segment]:
        """Take the next block; what can be cut off now."""
        self._pending.append(block)
        if block.voiced:
            self._last_voiced = self.end
        if not self._speaking:
            quiet = max(self.start, self.end - block.voiced - self._pre_roll)
            if block.voiced or quiet - self.start >= self._silence:
                yield from self._cut(quiet)
            self._speaking = block.voiced
        elif self.end - self._last_voiced >= self._pause:
            self._speaking = False
            # The middle of the pause: what follows may be the soft start of a word, and what
            # precedes the soft end of one.
            yield from self._cut(self._last_voiced + self._pause // 2, paused=True)
        elif self.end - self.start >= self._max:
            yield from self._cut(self._quietest())

    def finish(self) -> Iterator[Segment]:
        """Cut off everything: no block follows."""
        yield from self._cut(self.end, paused=self._speaking)
        self._speaking = False

    def _cut(self, end: int, *, paused: bool = False) -> Iterator[Segment]:
        # A cut amid a gap may have been made where the pause is that ends the speech.
        end = max(end, self.start)
        count = end - self.start
        if not count and not paused:
            return
        voiced = sum(block.voiced for block in self._pending[:count])
        yield Segment(self.start, end, voiced >= _LEAST_VOICED, paused)
        del self._pending[:count]
        self.start = end

    def _quietest(self) -> int:
        """A place in the later half of what is left: amid the longest gap between words, else in
        the quietest twentieth of a second."""
        count = len(self._pending)
        half = count // 2
        gaps, at = [(0, 0)], half
        for voiced, run in groupby(self._pending[half:], key=lambda block: block.voiced):
            length = sum(1 for _ in run)
            if not voiced:
                gaps.append((length, at + length // 2))
            at += length
        length, middle = max(gaps)
        if length >= _GAP_BLOCKS:
            return self.start + middle
        powers = [block.power for block in self._pending]
        power = sum(powers[half : half + _CUT_BLOCKS])
        least, best = power, half
        for first in range(half + 1, count - _CUT_BLOCKS + 1):
            power = sum(powers[first : first + _CUT_BLOCKS])
            if power < least:
                least, best = power, first
        return self.start + best + _CUT_BLOCKS // 2 + 1
