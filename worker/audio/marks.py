"""Places in the stream of audio from which a session can be read. Pure."""

from __future__ import annotations

from typing import NamedTuple

_APART = 64
"""Chunks between two places that are kept."""
_MAX_MARKS = 64


class Mark(NamedTuple):
    """A place to read from: chunk `seq` begins at frame `position`, and it and all behind it are
    stored at `stream_sequence` or later. The whole of a session is read from Mark()."""

    position: int = 0
    seq: int = 0
    stream_sequence: int = 1


class Marks:
    """The places known of, oldest first. The first is always kept, so that audio stored out of
    order is found too."""

    def __init__(self, mark: Mark) -> None:
        self._marks = [mark]

    def add(self, mark: Mark) -> None:
        """Remember a place, unless a later one is known."""
        newest = self._marks[-1]
        if mark.seq <= newest.seq:
            return
        # Every chunk read from the stream passes here: keep some, well apart.
        if len(self._marks) > 1 and newest.seq - self._marks[-2].seq < _APART:
            self._marks[-1] = mark
        else:
            self._marks.append(mark)
        if len(self._marks) > _MAX_MARKS:
            del self._marks[1 : _MAX_MARKS // 2]

    def before(self, position: int) -> Mark:
        """The latest place known from which reading finds all from `position` on."""
        found = self._marks[0]
        for mark in self._marks:
            if mark.position > position:
                break
            found = mark
        return found

    def before_chunk(self, seq: int) -> Mark:
        """The same for all from chunk `seq` on."""
        return next((mark for mark in reversed(self._marks) if mark.seq <= seq), self._marks[0])

    def forget_places(self) -> None:
        """The stream was made anew: only the order of chunks is as it was."""
        self._marks = [mark._replace(stream_sequence=1) for mark in self._marks]
