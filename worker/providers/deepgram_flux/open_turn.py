"""An open turn: its latest words, and the head of it that can be made final. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from natterjack.plugin.provider import ProviderWord

from .numbers import is_number
from .words import Word, plain, split_text

_SAME_GAP_SECONDS: Final = 0.02
"""Difference up to which gaps between words count as equal."""
_NEARBY_WORDS: Final = 2
"""Number of words on either side of the boundary to compare when a message contradicts a head."""


@dataclass(frozen=True, slots=True)
class CommitRules:
    """Conditions for making the head of an open turn final."""

    updates: int = 3
    """Number of consecutive messages that must agree on the words; 0 turns commits off."""
    seconds: float = 3.0
    """Seconds of audio over which they must agree."""
    length_seconds: float = 5.0
    """Minimum length of the head, in seconds."""


class Head(NamedTuple):
    """Words of an open turn that are final from now on."""

    words: list[Word]
    text: str
    boundary: float
    """A time in the gap after the last of them."""


class _FirstSeen(NamedTuple):
    """The first of the consecutive messages that have a word at its place."""

    text: str
    message: int
    """Number of that message."""
    audio_end: float
    """End of the audio that the message covers."""


class OpenTurn:
    """The state of a turn. A committed head never changes, even if later messages contradict it."""

    def __init__(self) -> None:
        self.words: list[Word] = []
        """Words of the last message, including the committed ones."""
        self.rest: list[Word] = []
        self.rest_text = ""
        """Text of the words that are not committed."""
        self.eager_end: float | None = None
        """End of the turn according to EagerEndOfTurn, unless TurnResumed followed it."""
        self.language: str | None = None
        self._head_texts: list[str] = []
        self._committed: list[str] = []
        """Words of the heads, in plain form."""
        self._last_head: list[str] = []
        self._last_head_text = ""
        """Text of the committed words in the last message; empty if it contradicted them."""
        self._last_committed: Word | None = None
        """The last committed word."""
        self._boundary = 0.0
        self._after_boundary = ""
        """The word after the boundary in the last message."""
        self._messages = 0
        self._first_seen: list[_FirstSeen] = []
        """One for each word of `rest`."""

    @property
    def last_word_end(self) -> float:
        return max([self._boundary, *(word.end for word in self.rest)])

    @property
    def text(self) -> str:
        """Text of the whole turn: its heads and the rest."""
        return self.text_with(self.rest_text)

    def text_with(self, rest: str) -> str:
        """The text of the turn if `rest` follows its heads."""
        return " ".join(text for text in (*self._head_texts, rest) if text)

    def unchanged(self, words: Sequence[ProviderWord], text: str) -> int:
        """Number of leading words of a message that are committed and unchanged since the last
        message.

        Either all committed words or 0. `update` skips these words.
        """
        count = len(self._last_head)
        if not count or count != len(self._committed) or count >= len(words):
            return 0
        if [word.text for word in words[:count]] != self._last_head:
            return 0
        return count if text.startswith(self._last_head_text) else 0

    def update(
        self, words: Sequence[Word], text: str, window_end: float, unchanged: int = 0
    ) -> None:
        """Replace the words of the turn by those of a new message.

        `words` leaves out the first `unchanged` words; `text` is the whole text. `window_end` is on
        the provider's clock.
        """
        if unchanged:
            self.words[unchanged:] = words
            self.rest = list(words)
            _, self.rest_text = split_text(text[len(self._last_head_text) :], words, 0)
        else:
            self._replace_all(words, text)
        self._after_boundary = self.rest[0].text if self.rest else ""
        self._messages += 1
        same = 0
        for word, seen in zip(self.rest, self._first_seen, strict=False):
            if word.text != seen.text:
                break
            same += 1
        self._first_seen[same:] = [
            _FirstSeen(word.text, self._messages, window_end) for word in self.rest[same:]
        ]

    def _replace_all(self, words: Sequence[Word], text: str) -> None:
        self.words = list(words)
        kept, at = self._split_at_boundary(words)
        self.rest = [*kept, *self.words[at:]]
        _, self.rest_text = split_text(text, words, at) if at else ("", text)
        agreed = at == len(self._committed) and not kept
        if at and agreed and self.rest_text and text.endswith(self.rest_text):
            self._last_head = [word.text for word in words[:at]]
            self._last_head_text = text[: -len(self.rest_text)]
        else:
            self._last_head, self._last_head_text = [], ""
        if kept:
            self.rest_text = " ".join([*(word.text for word in kept), self.rest_text]).strip()

    def commit(
        self, rules: CommitRules, window_end: float, *, next_to_numbers: bool = True
    ) -> Head | None:
        """Make the head of the turn final if the rules allow it, and return it.

        The last word is never committed, so that a stream that resumes at the boundary hears part
        of the turn and its end. The word after the boundary must be as stable as those before it,
        since the two might merge. For the same reason the boundary is not next to a number, unless
        `next_to_numbers`.
        """
        stable = self._stable(rules, window_end)
        candidates: list[tuple[int, int]] = []
        for count in range(1, stable):
            last, following = self.rest[count - 1], self.rest[count]
            if not next_to_numbers and (is_number(last.text) or is_number(following.text)):
                continue
            gap = following.start - last.end
            # If words overlap, a boundary between them would be inside one.
            if gap >= 0 and last.end - self.rest[0].start >= rules.length_seconds:
                candidates.append((round(gap / _SAME_GAP_SECONDS), count))
        if not candidates:
            return None
        # The widest gap: the recognizer may lose a word that is cut.
        _, count = max(candidates)
        boundary = (self.rest[count - 1].end + self.rest[count].start) / 2
        text, rest_text = split_text(self.rest_text, self.rest, count)
        head = Head(self.rest[:count], text, boundary)
        self._head_texts.append(text)
        self._committed += [plain(word.text) for word in head.words]
        self._last_committed = head.words[-1]
        self._boundary = boundary
        self.rest, self.rest_text = self.rest[count:], rest_text
        self._after_boundary = self.rest[0].text
        del self._first_seen[:count]
        return head

    def _stable(self, rules: CommitRules, window_end: float) -> int:
        """Number of leading words of `rest` that satisfy the rules."""
        count = 0
        for word, seen in zip(self.rest, self._first_seen, strict=True):
            long_enough = window_end - seen.audio_end >= rules.seconds
            messages = self._messages - seen.message + 1
            if not rules.updates or messages < rules.updates or not long_enough:
                break
            # With estimated times, the boundary could be inside a word.
            if word.estimated:
                break
            count += 1
        return count

    def _split_at_boundary(self, words: Sequence[Word]) -> tuple[list[Word], int]:
        """Split a message at the boundary: return kept words of the last message, and the index of
        the first word of this one that is not committed.

        If the message agrees with the committed words, they are counted. If not, the split is by
        time: a word belongs to the rest if its middle is after the boundary. Among the neighboring
        places, one where a word adjacent to the boundary still matches is preferred.
        """
        count = len(self._committed)
        if [plain(word.text) for word in words[:count]] == self._committed:
            return [], count
        in_rest = [word.middle >= self._boundary for word in words]
        by_time = in_rest.index(True) if True in in_rest else len(words)

        def fits(at: int) -> int:
            before = at > 0 and plain(words[at - 1].text) == self._committed[-1]
            after = at < len(words) and plain(words[at].text) == plain(self._after_boundary)
            return before + after

        places = [at for at in (by_time, by_time - 1, by_time + 1) if 0 <= at <= len(words)]
        at = max(places, key=fits)
        return ([], at) if fits(at) else self._split_merged(words, at)

    def _split_merged(self, words: Sequence[Word], by_time: int) -> tuple[list[Word], int]:
        """Split a message in which no word next to the boundary matches.

        Two words may have merged ("twenty", "five": "25"). A word at the time of the last committed
        word is not repeated. Words of the rest that appear on neither side of the split are kept.
        """
        last = self._last_committed
        assert last is not None
        covering = [i for i, word in enumerate(words) if word.start <= last.middle < word.end]
        if not self.rest or not covering:
            return [], by_time
        merged = words[covering[-1]]
        at = covering[-1] + 1 if merged.end > self._boundary else by_time
        nearby = {
            plain(word.text) for word in words[max(0, at - _NEARBY_WORDS) : at + _NEARBY_WORDS]
        }
        kept: list[Word] = []
        for word in self.rest:
            replaced = at < len(words) and words[at].start <= word.middle
            if replaced or plain(word.text) in nearby or (kept and word.start >= merged.end):
                break
            kept.append(word)
        return kept, at
