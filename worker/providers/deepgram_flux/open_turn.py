"""A turn that is open: what was last said of it, and which head of it can be made final. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from natterjack.plugin.provider import ProviderWord

from .numbers import is_number
from .words import Word, plain, split_text

_SAME_GAP_SECONDS: Final = 0.02
"""Gaps between words that differ by less are alike."""
_NEAR: Final = 2
"""Words so many places from the boundary are looked at where a message contradicts a head."""


@dataclass(frozen=True, slots=True)
class Commit:
    """When the head of an open turn is made final."""

    updates: int = 3
    """So many messages in a row must say the same words; 0: never."""
    seconds: float = 3.0
    """For so many seconds of audio."""
    length_seconds: float = 5.0
    """The head must be at least so long."""


class Head(NamedTuple):
    """Words of an open turn that are final from now on."""

    words: list[Word]
    text: str
    boundary: float
    """In the gap behind the last of them."""


class _Seen(NamedTuple):
    text: str
    message: int
    """The number of the first message of those that said it in a row."""
    since: float
    """How far that one had transcribed."""


class OpenTurn:
    """The state of a turn. Its committed head stands, whatever later messages say of it."""

    def __init__(self) -> None:
        self.words: list[Word] = []
        """As the last message has them, the committed ones included."""
        self.rest: list[Word] = []
        self.rest_text = ""
        """What is not committed."""
        self.eager_end: float | None = None
        """Where EagerEndOfTurn, if it was the last word on it, saw the turn's end."""
        self.language: str | None = None
        self._heads: list[str] = []
        self._committed: list[str] = []
        """Plain words of the heads."""
        self._said: list[str] = []
        self._said_text = ""
        """What the last message had of the committed words; empty: it contradicted them."""
        self._last: Word | None = None
        """The last committed word."""
        self._boundary = 0.0
        self._next = ""
        """The word behind the boundary, as of the last message."""
        self._messages = 0
        self._seen: list[_Seen] = []
        """One for each word of the rest."""

    @property
    def last_word_end(self) -> float:
        return max([self._boundary, *(word.end for word in self.rest)])

    @property
    def text(self) -> str:
        """Of the whole turn, as its finals and the last interim have it."""
        return self.text_with(self.rest_text)

    def text_with(self, rest: str) -> str:
        """The text of the turn if `rest` follows its heads."""
        return " ".join(text for text in (*self._heads, rest) if text)

    def unchanged(self, words: Sequence[ProviderWord], text: str) -> int:
        """How many words a message begins with that are committed, and as the message before had
        them: all or none. They need no work."""
        count = len(self._said)
        if not count or count != len(self._committed) or count >= len(words):
            return 0
        if [word.text for word in words[:count]] != self._said:
            return 0
        return count if text.startswith(self._said_text) else 0

    def update(
        self, words: Sequence[Word], text: str, window_end: float, unchanged: int = 0
    ) -> None:
        """A message restates the turn. `words` are without those that are `unchanged`, `text` is
        all of it. `window_end` is of the provider's clock."""
        if unchanged:
            self.words[unchanged:] = words
            self.rest = list(words)
            _, self.rest_text = split_text(text[len(self._said_text) :], words, 0)
        else:
            self._restate(words, text)
        self._next = self.rest[0].text if self.rest else ""
        self._messages += 1
        same = 0
        for word, seen in zip(self.rest, self._seen, strict=False):
            if word.text != seen.text:
                break
            same += 1
        self._seen[same:] = [
            _Seen(word.text, self._messages, window_end) for word in self.rest[same:]
        ]

    def _restate(self, words: Sequence[Word], text: str) -> None:
        self.words = list(words)
        kept, at = self._behind_committed(words)
        self.rest = [*kept, *self.words[at:]]
        _, self.rest_text = split_text(text, words, at) if at else ("", text)
        agreed = at == len(self._committed) and not kept
        if at and agreed and self.rest_text and text.endswith(self.rest_text):
            self._said = [word.text for word in words[:at]]
            self._said_text = text[: -len(self.rest_text)]
        else:
            self._said, self._said_text = [], ""
        if kept:
            self.rest_text = " ".join([*(word.text for word in kept), self.rest_text]).strip()

    def commit(
        self, rules: Commit, window_end: float, *, next_to_numbers: bool = True
    ) -> Head | None:
        """The head that is final from now on, if there is one.

        The last word stays: who resumes at the boundary hears something of the turn, and its end.
        The word behind the boundary must be as stable as those before it, lest the two become one.
        For the same reason no number is next to it, unless `next_to_numbers`.
        """
        stable = self._stable(rules, window_end)
        cuts: list[tuple[int, int]] = []
        for count in range(1, stable):
            last, following = self.rest[count - 1], self.rest[count]
            if not next_to_numbers and (is_number(last.text) or is_number(following.text)):
                continue
            gap = following.start - last.end
            # Words overlap: a cut between them would be inside one.
            if gap >= 0 and last.end - self.rest[0].start >= rules.length_seconds:
                cuts.append((round(gap / _SAME_GAP_SECONDS), count))
        if not cuts:
            return None
        # The widest gap: a word that is cut in the ear of the recogniser may be lost.
        _, count = max(cuts)
        boundary = (self.rest[count - 1].end + self.rest[count].start) / 2
        text, rest_text = split_text(self.rest_text, self.rest, count)
        head = Head(self.rest[:count], text, boundary)
        self._heads.append(text)
        self._committed += [plain(word.text) for word in head.words]
        self._last = head.words[-1]
        self._boundary = boundary
        self.rest, self.rest_text = self.rest[count:], rest_text
        self._next = self.rest[0].text
        del self._seen[:count]
        return head

    def _stable(self, rules: Commit, window_end: float) -> int:
        """How many words of the rest have stayed as they are for long enough."""
        count = 0
        for word, seen in zip(self.rest, self._seen, strict=True):
            long_enough = window_end - seen.since >= rules.seconds
            messages = self._messages - seen.message + 1
            if not rules.updates or messages < rules.updates or not long_enough:
                break
            # A boundary among times of our own making could be anywhere in a word.
            if word.estimated:
                break
            count += 1
        return count

    def _behind_committed(self, words: Sequence[Word]) -> tuple[list[Word], int]:
        """What is not committed: words of the message before that are kept, and the index of the
        first word of this one.

        Where the message has the committed words as they are, by their count. Where it contradicts
        them, by time: what is in the main behind the boundary; a word that stood on either side of
        it, and is still there, settles which of the places next to it is meant.
        """
        count = len(self._committed)
        if [plain(word.text) for word in words[:count]] == self._committed:
            return [], count
        behind = [word.middle >= self._boundary for word in words]
        by_time = behind.index(True) if True in behind else len(words)

        def fits(at: int) -> int:
            before = at > 0 and plain(words[at - 1].text) == self._committed[-1]
            after = at < len(words) and plain(words[at].text) == plain(self._next)
            return before + after

        places = [at for at in (by_time, by_time - 1, by_time + 1) if 0 <= at <= len(words)]
        at = max(places, key=fits)
        return ([], at) if fits(at) else self._merged(words, at)

    def _merged(self, words: Sequence[Word], by_time: int) -> tuple[list[Word], int]:
        """The same where no word next to the boundary is left: two of them may have become one
        ("twenty", "five": "25"). One that has the place of the last committed word is not said
        again; what was behind the boundary, and is on neither side of it now, is kept."""
        last = self._last
        assert last is not None
        covering = [i for i, word in enumerate(words) if word.start <= last.middle < word.end]
        if not self.rest or not covering:
            return [], by_time
        merged = words[covering[-1]]
        at = covering[-1] + 1 if merged.end > self._boundary else by_time
        near = {plain(word.text) for word in words[max(0, at - _NEAR) : at + _NEAR]}
        kept: list[Word] = []
        for word in self.rest:
            replaced = at < len(words) and words[at].start <= word.middle
            if replaced or plain(word.text) in near or (kept and word.start >= merged.end):
                break
            kept.append(word)
        return kept, at
