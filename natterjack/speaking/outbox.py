"""The text of a session that was not stored yet, as pieces. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from natterjack.voice.spec import TextPiece

_PIECE_CHARACTERS = 8000
"""The longest text of one piece, well below the size that every server accepts."""


@dataclass
class _Part:
    """Text of one utterance that waits to be published."""

    utterance: int
    text: str = ""
    flush: bool = False
    end: bool = False


class Outbox:
    """Text in the order in which it was given. One piece at a time is published, so pieces are
    stored in order, and text that comes meanwhile is joined to one piece.

    Numbers of utterances and pieces have no holes.
    """

    def __init__(self, session_id: str) -> None:
        self._session_id = session_id
        self._parts: deque[_Part] = deque()
        self._piece: TextPiece | None = None
        """The piece that is being published."""
        self._next_piece = (0, 0)
        """Utterance and number of the next piece."""
        self.utterance = 0
        """The number of the open utterance, or of the next one."""
        self.open = False
        """True if the utterance has text and may get more."""
        self.ended = False
        """True if no utterance follows."""

    @property
    def empty(self) -> bool:
        """True if all text was stored."""
        return not self._parts and self._piece is None

    @property
    def characters(self) -> int:
        """How many characters were not stored yet."""
        waiting = sum(len(part.text) for part in self._parts)
        return waiting + (len(self._piece.text) if self._piece else 0)

    def add(self, text: str) -> None:
        """Append text to the open utterance, or begin one with it."""
        if text:
            self._part().text += text
            self.open = True

    def flush(self) -> None:
        """End the open utterance, if there is one."""
        if self.open:
            self._part().flush = True
            self.open = False
            self.utterance += 1

    def end(self) -> None:
        """Say that no utterance follows. Idempotent."""
        if self.ended:
            return
        self.flush()
        self.ended = True
        if self._parts:
            self._parts[-1].end = True
        else:  # the last piece was published: an utterance without text says it
            self._parts.append(_Part(self.utterance, flush=True, end=True))

    def drop(self) -> None:
        """Drop text that is not being published, and end the open utterance.

        Of an utterance that was published in part, the end remains.
        """
        published, sent = self._next_piece
        if self._parts or self.open:
            ended = self.ended
            self._parts.clear()
            self.open = False
            if sent:
                self._parts.append(_Part(published, flush=True))
                self.utterance = published + 1
            else:
                self.utterance = published
            if ended:
                self.ended = False
                self.end()

    def take(self) -> TextPiece | None:
        """Return the piece to publish, the same one until `stored`; None if there is none."""
        if self._piece is None and self._parts:
            part = self._parts[0]
            text, part.text = part.text[:_PIECE_CHARACTERS], part.text[_PIECE_CHARACTERS:]
            last = not part.text
            if last:
                self._parts.popleft()
            utterance, number = self._next_piece
            assert utterance == part.utterance
            flush = last and part.flush
            self._next_piece = (utterance + 1, 0) if flush else (utterance, number + 1)
            self._piece = TextPiece(
                session_id=self._session_id, utterance=utterance, piece=number, text=text,
                flush=flush, end=last and part.end,
            )  # fmt: skip
        return self._piece

    def stored(self) -> None:
        """The piece was stored."""
        self._piece = None

    def _part(self) -> _Part:
        """The part that later text of the open utterance is appended to."""
        if not self._parts or self._parts[-1].utterance != self.utterance:
            self._parts.append(_Part(self.utterance))
        return self._parts[-1]
