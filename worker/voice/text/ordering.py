"""The text of a session, put in order: pieces may come twice, late, or never. Pure."""

from __future__ import annotations

from natterjack.voice.spec import TextPiece

MAX_CHARACTERS = 2_000_000
"""How much text of a session is kept in memory. More stays in the stream until some was spoken. It
is also the longest utterance."""
_MAX_AHEAD = 10_000
"""How many pieces are kept that come after one that is missing."""
MAX_UTTERANCES_AHEAD, MAX_PIECES_AHEAD = 1000, 1_000_000
"""How far the number of an utterance, or of a piece in its utterance, may be ahead of the next. The
text between would be skipped."""
MISSING = "a part of its text is missing"
_TOO_LONG = f"its text is longer than {MAX_CHARACTERS:,} characters, and the rest was dropped"


class Utterance:
    """The text of one utterance, as far as it has arrived without holes."""

    __slots__ = (
        "_parts", "_text", "arrived_at", "complete", "headless", "length", "number", "problem",
    )  # fmt: skip

    def __init__(self, number: int, now: float) -> None:
        self.number = number
        self.arrived_at = now
        """When its first piece arrived, by the monotonic clock."""
        self.complete = False
        """True if no more text comes."""
        self.length = 0
        self.problem: str | None = None
        """The first problem of the text: some of it is missing or cannot be read."""
        self.headless = False
        """A part of it was spoken before, and that text is missing: no place in the rest is known,
        so the rest is not spoken."""
        self._text = ""
        self._parts: list[str] = []

    @property
    def text(self) -> str:
        if self._parts:
            self._text = "".join([self._text, *self._parts])
            self._parts.clear()
        return self._text

    def append(self, text: str) -> None:
        if text and self.length + len(text) > MAX_CHARACTERS:
            text, self.problem = text[: MAX_CHARACTERS - self.length], _TOO_LONG
        if text:
            self._parts.append(text)
            self.length += len(text)

    def spoil(self, problem: str | None) -> None:
        """Note what is wrong with the text, if it is the first problem."""
        self.problem = self.problem or problem


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
        self.begun: int | None = None
        """The utterance of which a former holder has spoken a part."""
        self._next = (first, 0)
        self._ahead: dict[tuple[int, int], TextPiece] = {}
        self._problems: dict[tuple[int, int], str] = {}

    @property
    def hole(self) -> bool:
        """True if a piece is missing before others that have arrived."""
        return bool(self._ahead)

    @property
    def full(self) -> bool:
        return self.characters >= MAX_CHARACTERS or len(self._ahead) >= _MAX_AHEAD

    def is_far(self, piece: TextPiece) -> bool:
        """True if a piece is too far ahead of those that have arrived for its numbers to be
        right."""
        number, index = self._next
        base = index if piece.utterance == number else 0
        return (
            piece.utterance - number > MAX_UTTERANCES_AHEAD or piece.piece - base > MAX_PIECES_AHEAD
        )

    def add(self, piece: TextPiece, now: float, problem: str | None = None) -> bool:
        """Take a piece. False if there is no room for it, or it `is_far`: it must be read again
        later. `problem`: why its text cannot be read."""
        if self.is_far(piece):
            return False
        place = (piece.utterance, piece.piece)
        known = place < self._next or place in self._ahead
        # The oldest utterance can only be spoken to its end with its next piece.
        needed = place == self._next and self.utterances.keys() <= {piece.utterance}
        if not known and self.full and not needed:
            return False
        if piece.end:
            self.last = piece.utterance
        if known:
            return True
        if place[0] > self.newest:
            self.newest = place[0]
        self._ahead[place] = piece
        if problem is not None:
            self._problems[place] = problem
        self.characters += len(piece.text)
        self._advance(now)
        return True

    def _advance(self, now: float) -> None:
        while (piece := self._ahead.pop(self._next, None)) is not None:
            number, index = self._next
            utterance = self._utterance(number, now)
            before = utterance.length
            utterance.append(piece.text)
            self.characters += utterance.length - before - len(piece.text)
            utterance.spoil(self._problems.pop(self._next, None))
            utterance.complete = piece.flush or piece.end
            self._next = (number + 1, 0) if utterance.complete else (number, index + 1)

    def _utterance(self, number: int, now: float) -> Utterance:
        found = self.utterances.get(number)
        if found is None:
            found = self.utterances[number] = Utterance(number, now)
        return found

    def skip_hole(self, now: float) -> None:
        """Go on after the missing pieces, which are lost. An utterance whose end is among them ends
        where its text does, and one that is missing altogether has no text."""
        if not self._ahead:
            return
        first = min(self._ahead)
        for number in range(self._next[0], first[0]):
            utterance = self._utterance(number, now)
            utterance.complete = True
            utterance.spoil(MISSING)
        if first[1]:
            utterance = self._utterance(first[0], now)
            utterance.headless = not utterance.length and first[0] == self.begun
            utterance.spoil(MISSING)
        self._next = first
        self._advance(now)

    def end_open(self) -> None:
        """End the utterance whose text has not ended: no more text is wanted."""
        number, _ = self._next
        if self.open is not None:
            self.utterances[number].complete = True
            self._next = (number + 1, 0)

    @property
    def open(self) -> int | None:
        """The number of the utterance whose text has not ended; None if there is none."""
        number, _ = self._next
        return number if number in self.utterances else None

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
            self._problems.pop(place, None)
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
