"""Division of an utterance's text into phrases, each of which is synthesized at once. Pure.

A phrase depends on the text alone, not on how it was cut into pieces: a worker that takes over
divides the text as its former holder did.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

SHORTEST, LONGEST = 40, 300
"""Characters of a phrase, unless a provider's limits ask for others. The first phrase of an
utterance may be shorter, since somebody waits for it."""
_FIRST = 10
CHARACTERS_PER_SECOND = 15.0
"""How fast text is spoken, for estimates."""
SLOWEST_PACE = 7.5
"""How many characters a slow voice speaks in a second."""

_END = re.compile(
    # With a space after it: 3.14 is no end.
    r"[.!?…؟۔।]+[\"'”’»)\]]*(?=\s)"  # noqa: RUF001 - the full stops of several scripts
    r"|[。！？｡]+[」』”’）]*(?=[^。！？｡」』”’）])"  # noqa: RUF001 - full-width punctuation is meant
    r"|\n+(?=[^\n])",
)
_CLAUSE = re.compile(r"[,;:،؛]+[\"'”’»)\]]*(?=\s)|[，、；：]|[–—]\s")  # noqa: RUF001 - as above
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffd]")
_JOINER = "\u200d"
_LONGEST_CHARACTER = 64
"""Code points of what people see as one character. Text of which more seem to belong together is
not meant to be spoken."""


class Phrase(NamedTuple):
    """A part of an utterance's text that is sent, or has nothing to speak."""

    utterance: int
    start: int
    end: int
    last: bool
    """True if the utterance ends with it."""
    text: str

    @property
    def silent(self) -> bool:
        return not self.text or self.text.isspace()


def longest_seconds(text: str) -> float:
    """The longest that the speech of a phrase may be: far slower than anybody speaks, also for
    signs and numbers that stand for many words."""
    return 10 + 2.0 * len(text)


class Limits(NamedTuple):
    """Lengths of phrases in characters."""

    shortest: int = SHORTEST
    longest: int = LONGEST


def limits(max_phrase_characters: int, flushes_per_minute: int | None) -> Limits:
    """The lengths of phrases for a provider's limits. With few flushes in a minute, phrases have to
    be long enough for speech not to run out."""
    longest = max(1, min(LONGEST, max_phrase_characters))
    shortest = SHORTEST
    if flushes_per_minute:
        shortest = max(shortest, round(60 * CHARACTERS_PER_SECOND * 1.5 / flushes_per_minute))
    return Limits(min(shortest, longest), longest)


def speakable(text: str) -> str:
    """The text without control characters, which become spaces, so that places in it stay the
    same. Line ends and tabs are kept, and so are the marks of right-to-left text."""
    return _CONTROL.sub(" ", text)


def phrase_end(text: str, start: int, limits: Limits, *, complete: bool) -> int | None:
    """Where the phrase that begins at `start` ends; None if that is not known yet, or if no text is
    left. `complete`: no text follows."""
    left = len(text) - start
    if left <= 0:
        return None
    shortest = min(_FIRST, limits.longest) if start == 0 else limits.shortest
    until = start + limits.longest
    for found in _END.finditer(text, start, min(len(text), until + 2)):
        end = found.end()
        if end > until:
            break
        if end - start >= shortest and not _is_initial(text, start, found.start()):
            return end
    if left > limits.longest + 1 or (complete and left > limits.longest):
        return _cut(text, start, until)
    return len(text) if complete else None


def _is_initial(text: str, start: int, dot: int) -> bool:
    """True if the full stop at `dot` follows a single letter, as in a name."""
    if text[dot] != "." or dot - 1 < start or not text[dot - 1].isalpha():
        return False
    return dot - 2 < start or not text[dot - 2].isalnum()


def _cut(text: str, start: int, until: int) -> int:
    """Where to cut a sentence that is too long: after a clause, between words, or between
    characters."""
    ends = [found.end() for found in _CLAUSE.finditer(text, start, until)]
    if ends and ends[-1] - start > (until - start) // 2:
        return ends[-1]
    words = text[start:until]
    space = max(words.rfind(" "), words.rfind("\n"), words.rfind("\t"))
    if space > 0:
        return start + space + 1
    return boundary(text, until, start)


def boundary(text: str, at: int, start: int) -> int:
    """The last place up to `at` between two characters as people see them, after `start`; if there
    is none, the first one after `at`. Emoji and letters with accents stay whole."""
    place, least = at, max(start, at - _LONGEST_CHARACTER)
    while place > least and _joined(text, place, start):
        place -= 1
    if place > least or (place > start and not _joined(text, place, start)):
        return place
    place, most = at, min(len(text), at + _LONGEST_CHARACTER)
    while place < most and _joined(text, place, start):
        place += 1
    return place


def _joined(text: str, at: int, start: int) -> bool:
    """True if the code points before and after `at` belong to one visible character. `start` is a
    place before it between two characters."""
    if not 0 < at < len(text):
        return False
    before, after = text[at - 1], text[at]
    if after == _JOINER or before == _JOINER or (before, after) == ("\r", "\n"):
        return True
    if unicodedata.category(after) in ("Mn", "Mc", "Me") or "\U0001f3fb" <= after <= "\U0001f3ff":
        return True
    if "\u1160" <= after <= "\u11ff":  # the rest of a Korean syllable
        return True
    if _is_flag(before) and _is_flag(after):
        run = 0
        while at - 1 - run >= start and _is_flag(text[at - 1 - run]):
            run += 1
        return run % 2 == 1
    return False


def _is_flag(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"
