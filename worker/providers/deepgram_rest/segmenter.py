"""Splits a stream into segments: in pauses, or at the quietest place of speech without pauses.

Positions count blocks (`voice.BLOCK_SECONDS`) from the start of the stream. Segments are contiguous
from 0 to the end, and become the finals of the stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from math import ceil
from typing import Final

from ..voice import BLOCK_SECONDS, Block

PRE_ROLL_SECONDS: Final = 0.3
"""Audio included before the first voiced block, since words start softly."""
SILENCE_SECONDS: Final = 1.5
"""Length of segments of silence, which advance the stream's position."""
_LEAST_VOICED: Final = 3
"""Minimum number of voiced blocks of a segment with speech."""
_GAP_BLOCKS: Final = 10
"""Number of unvoiced blocks that separate words; shorter gaps may be inside a word."""
_CUT_BLOCKS: Final = 5
"""Number of blocks over which power is averaged to find the quietest place."""


def blocks(seconds: float) -> int:
    """Number of blocks that cover `seconds`; at least one."""
    return max(1, ceil(seconds / BLOCK_SECONDS - 1e-9))


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment from `start` to `end`."""

    start: int
    end: int
    speech: bool
    """Whether it may contain words."""
    paused: bool = False
    """Whether a turn ends with it: a pause or the end of the stream follows."""


class Segmenter:
    """Takes blocks one by one and yields segments as they end."""

    def __init__(self, *, pause_seconds: float, max_segment_seconds: float) -> None:
        """Speech ends with a pause of `pause_seconds`; speech without one is split after at most
        `max_segment_seconds`."""
        self._pause = blocks(pause_seconds)
        self._max = blocks(max_segment_seconds)
        self._pre_roll = blocks(PRE_ROLL_SECONDS)
        self._silence = blocks(SILENCE_SECONDS)
        self.start = 0
        """End of the last segment."""
        self._speaking = False
        self._last_voiced = 0
        """End of the last voiced block."""
        self._pending: list[Block] = []
        """Blocks since `start`."""

    @property
    def end(self) -> int:
        """Number of blocks received."""
        return self.start + len(self._pending)

    def add(self, block: Block) -> Iterator[Segment]:
        """Add the next block; yield the segments that it completes."""
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
            # The middle of the pause: its start may be the soft end of a word, and its end the soft
            # start of one.
            yield from self._cut(self._last_voiced + self._pause // 2, paused=True)
        elif self.end - self.start >= self._max:
            yield from self._cut(self._quietest())

    def finish(self) -> Iterator[Segment]:
        """Yield the rest as a segment: no block follows."""
        yield from self._cut(self.end, paused=self._speaking)
        self._speaking = False

    def _cut(self, end: int, *, paused: bool = False) -> Iterator[Segment]:
        # A split in a gap may already lie behind the middle of the pause that ends the speech.
        end = max(end, self.start)
        count = end - self.start
        if not count and not paused:
            return
        voiced = sum(block.voiced for block in self._pending[:count])
        yield Segment(self.start, end, voiced >= _LEAST_VOICED, paused)
        del self._pending[:count]
        self.start = end

    def _quietest(self) -> int:
        """A place in the second half of the pending blocks: the middle of the longest gap between
        words, else the quietest 50 ms."""
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
