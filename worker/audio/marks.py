"""Marks: places in the stream STT_AUDIO from which a session can be read. Pure."""

from __future__ import annotations

from typing import NamedTuple

_MIN_DISTANCE = 64
"""Minimum number of chunks between two marks that are kept."""
_MAX_MARKS = 64


class Mark(NamedTuple):
    """A place to read from: chunk `seq` begins at frame `position`, and this chunk and all later
    ones are stored at `stream_sequence` or later. Mark() is the start of any session."""

    position: int = 0
    seq: int = 0
    stream_sequence: int = 1


class Marks:
    """The known marks, oldest first. The first one is always kept, so that audio that was stored
    out of order is found too."""

    def __init__(self, mark: Mark) -> None:
        self._marks = [mark]

    def add(self, mark: Mark) -> None:
        """Add a mark, unless a later one is known."""
        newest = self._marks[-1]
        if mark.seq <= newest.seq:
            return
        # Called for every chunk that is read from the stream: keep a few marks, well apart.
        if len(self._marks) > 1 and newest.seq - self._marks[-2].seq < _MIN_DISTANCE:
            self._marks[-1] = mark
        else:
            self._marks.append(mark)
        if len(self._marks) > _MAX_MARKS:
            del self._marks[1 : _MAX_MARKS // 2]

    def before(self, position: int) -> Mark:
        """The latest mark from which all audio from `position` on can be read."""
        found = self._marks[0]
        for mark in self._marks:
            if mark.position > position:
                break
            found = mark
        return found

    def before_chunk(self, seq: int) -> Mark:
        """The latest mark from which all chunks from `seq` on can be read."""
        return next((mark for mark in reversed(self._marks) if mark.seq <= seq), self._marks[0])

    def forget_places(self) -> None:
        """Forget stream sequences: the stream was created again, and only positions stay valid."""
        self._marks = [mark._replace(stream_sequence=1) for mark in self._marks]
