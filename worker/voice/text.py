"""The text of a session, put in order: pieces may come twice, late, or never. Pure."""

from __future__ import annotations

from natterjack.voice.spec import TextPiece

MAX_CHARACTERS = 2_000_000
"""How much text of a session is kept in memory. More stays in the stream until some was spoken."""
_MAX_AHEAD = 10_000
"""How many pieces are kept that come after one that is missing."""


class Utterance:
    """The text of one utterance, as far as it has arrived without holes."""

    __slots__ = ("_parts", "_text", "arrived_at", "complete", "length", "number")

    def __init__(self, number: int, now: float) -> None:
        self.number = number
        self.arrived_at = now
        """When its first piece arrived, by the monotonic clock."""
        self.complete = False
        """Whether no more text comes."""
        self.length = 0
        self._text = ""
        self._parts: list[str] = []

    @property
    def text(self) -> str:
        if self._parts:
            self._text = "".join([self._text, *self._parts])
            self._parts.clear()
        return self._text

    def append(self, text: str) -> None:
        if text:
            self._parts.append(text)
            self.length += len(text)


class Script:
    """The utterances of a session that are not over, from number `first` on."""

    def __init__(self, first: int = 0) -> None:
        self.utterances: dict[int, Utterance] = {}
        self.last: int | None = None
        """The number of the utterance after which the session closes, once that is known."""
        self.newest = first - 1
        """The greatest number of an utterance from which anything has arrived."""
        self.characters = 0
        """Length of the text that is kept."""
        self._next = (first, 0)
        self._ahead: dict[tuple[int, int], TextPiece] = {}

    @property
    def hole(self) -> bool:
        """Whether a piece is missing before others that have arrived."""
        return bool(self._ahead)

    @property
    def full(self) -> bool:
        return self.characters >= MAX_CHARACTERS or len(self._ahead) >= _MAX_AHEAD

    def add(self, piece: TextPiece, now: float) -> bool:
        """Take a piece. False if there is no room for it: it must be read again later."""
        if piece.end:
            self.last = piece.utterance
        place = (piece.utterance, piece.piece)
        if place < self._next or place in self._ahead:
            return True
        if self.full and place != self._next:
            return False
        if place[0] > self.newest:
            self.newest = place[0]
        self._ahead[place] = piece
        self.characters += len(piece.text)
        self._advance(now)
        return True

    def _advance(self, now: float) -> None:
        while (piece := self._ahead.pop(self._next, None)) is not None:
            number, index = self._next
            utterance = self.utterances.get(number)
            if utterance is None:
                utterance = self.utterances[number] = Utterance(number, now)
            utterance.append(piece.text)
            utterance.complete = piece.flush or piece.end
            self._next = (number + 1, 0) if utterance.complete else (number, index + 1)

    def skip_hole(self, now: float) -> None:
        """Go on after the missing pieces, which are lost. An utterance whose end is among them ends
        where its text does."""
        if not self._ahead:
            return
        first = min(self._ahead)
        for number, utterance in self.utterances.items():
            if number < first[0]:
                utterance.complete = True
        self._next = first
        self._advance(now)

    def end_open(self) -> None:
        """End the utterance whose text has not ended: no more text is wanted."""
        number, _ = self._next
        if number in self.utterances:
            self.utterances[number].complete = True
            self._next = (number + 1, 0)

    def forget(self, number: int) -> None:
        """Drop an utterance that is over."""
        utterance = self.utterances.pop(number, None)
        if utterance is not None:
            self.characters -= utterance.length

    def drop(self, through: int, now: float) -> None:
        """Drop every utterance up to a number, with what may still arrive of it."""
        for number in [n for n in self.utterances if n <= through]:
            self.forget(number)
        for place in [place for place in self._ahead if place[0] <= through]:
            self.characters -= len(self._ahead.pop(place).text)
        self._next = max(self._next, (through + 1, 0))
        self.newest = max(self.newest, through)
        self._advance(now)

    def following(self, number: int) -> Utterance | None:
        """The utterance with this number, or if its text is lost, the next one; None if it has not
        arrived."""
        found = self.utterances.get(number)
        if found is None and number < self._next[0]:
            later = [n for n in self.utterances if n > number]
            found = self.utterances[min(later)] if later else None
        return found

    @property
    def unspoken(self) -> str:
        """All text that is kept, in order."""
        return "".join(self.utterances[number].text for number in sorted(self.utterances))
