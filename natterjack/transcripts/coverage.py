"""Sets of stretches of audio, in seconds: which parts of it a session has transcribed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

Stretch = tuple[float, float]


class Stretches:
    """Stretches that do not overlap, in order."""

    __slots__ = ("_of",)

    def __init__(self, stretches: Iterable[Stretch] = ()) -> None:
        merged: list[Stretch] = []
        for start, end in sorted(s for s in stretches if s[0] < s[1]):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], end))
            else:
                merged.append((start, end))
        self._of = tuple(merged)

    def __iter__(self) -> Iterator[Stretch]:
        return iter(self._of)

    def __contains__(self, at: float) -> bool:
        return any(start <= at < end for start, end in self._of)

    def __or__(self, other: Stretches) -> Stretches:
        return Stretches((*self._of, *other._of))

    def __sub__(self, other: Stretches) -> Stretches:
        left: list[Stretch] = []
        for start, end in self._of:
            edges = [start]
            for from_, to in other._of:
                if from_ < end and to > start:
                    edges += (max(from_, start), min(to, end))
            edges.append(end)
            left += list(pairwise(edges))[::2]
        return Stretches(left)
