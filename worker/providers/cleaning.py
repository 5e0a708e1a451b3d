"""Makes the values in a provider's events usable, whatever their types. Pure.

Text is kept. A time or a confidence that is not usable is left out.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Final

from natterjack.plugin.provider import ProviderWord

_SLACK_SECONDS: Final = 0.5
"""A time that is this far outside the audio is moved to its edge; one further out is left out."""
_ORDER_SECONDS: Final = 0.05
"""A word may start this much before the word that precedes it."""
_MAX_CODE: Final = 40


def text_of(value: Any) -> str:
    """A string that can be encoded as UTF-8; empty if `value` is not a string."""
    if not isinstance(value, str):
        return ""
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:  # lone surrogates, which JSON can express
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def label_of(value: Any) -> str | None:
    """A label, such as a speaker or a language; None if there is none."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1_000_000:
        return str(value)
    return text_of(value) or None


def code_of(value: Any) -> str:
    """A notice's code, fit for a metric label."""
    return value if isinstance(value, str) and 0 < len(value) <= _MAX_CODE else "unknown"


def number_of(value: Any, highest: float = math.inf) -> float | None:
    """A finite number from 0 to `highest`; None for anything else."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if 0 <= number <= highest and number != math.inf else None


def time_of(value: Any, latest: float) -> float | None:
    """A time within the audio, which ends at `latest`; None if `value` is not one."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    if not -_SLACK_SECONDS <= value <= latest + _SLACK_SECONDS:  # false for NaN
        return None
    return min(max(0.0, float(value)), latest)


def plain(text: str) -> str:
    """The letters and digits of a text in one case, to compare it with others."""
    return "".join(character for character in text.casefold() if character.isalnum())


def are_clean(words: Any, earliest: float, latest: float) -> bool:
    """Whether words need no cleaning, and lie in order between two times: nearly always."""
    if type(words) is not tuple:
        return False
    previous, begun = earliest, False
    for word in words:
        if type(word) is not ProviderWord:
            return False
        text, start, end, confidence, speaker = word
        if type(text) is not str or not text or text.isspace():
            return False
        if not text.isascii() and text_of(text) is not text:
            return False
        if start is not None or end is not None:
            if not (isinstance(start, (float, int)) and isinstance(end, (float, int))):
                return False
            if isinstance(start, bool) or isinstance(end, bool):
                return False
            # Two words that start together may be one that comes twice. NaN is not in order.
            if not previous <= start <= end <= latest or (begun and start == previous):
                return False
            previous, begun = start, True
        if confidence is not None and not (type(confidence) is float and 0 <= confidence <= 1):
            return False
        if speaker is not None and (type(speaker) is not str or text_of(speaker) is not speaker):
            return False
    return True


def words_of(words: Any, latest: float) -> tuple[ProviderWord, ...]:
    """The words that have text, with the values of each that are usable."""
    if not isinstance(words, (tuple, list)):
        return ()
    made = [word for item in words if (word := _word(item, latest)) is not None]
    return tuple(_ordered(made))


def _word(item: Any, latest: float) -> ProviderWord | None:
    if not isinstance(item, (tuple, list)):
        return None
    fields = (*item, None, None, None, None, None)
    text = text_of(fields[0]).strip()
    if not text:
        return None
    start, end = time_of(fields[1], latest), time_of(fields[2], latest)
    if start is not None and end is not None and end < start:
        end = None
    return ProviderWord(text, start, end, number_of(fields[3], 1.0), label_of(fields[4]))


def _ordered(words: list[ProviderWord]) -> Iterable[ProviderWord]:
    """Leave out the times of as few words as possible, so that the others are in order."""
    timed = [(at, index) for index, word in enumerate(words) if (at := first(word)) is not None]
    if all(a <= b + _ORDER_SECONDS for (a, _), (b, _) in pairwise(timed)):
        return words
    # The longest subsequence that does not decrease: `tails` has the smallest last time of a
    # subsequence of each length, `chain` its place in `timed`, `before` the place in front of each.
    tails: list[float] = []
    chain: list[int] = []
    before: list[int] = []
    for place, (at, _) in enumerate(timed):
        length = bisect_right(tails, at)
        before.append(chain[length - 1] if length else -1)
        tails[length : length + 1] = [at]
        chain[length : length + 1] = [place]
    kept, place = set(), chain[-1]
    while place >= 0:
        kept.add(timed[place][1])
        place = before[place]
    return [
        word if index in kept or first(word) is None else word._replace(start=None, end=None)
        for index, word in enumerate(words)
    ]


def first(word: ProviderWord) -> float | None:
    """The earliest time that is known of a word."""
    return word.end if word.start is None else word.start


def last(word: ProviderWord) -> float | None:
    """The latest time that is known of a word."""
    return word.start if word.end is None else word.end


def middles(words: Sequence[ProviderWord], start: float, end: float) -> list[float]:
    """The middle of each word. One without times lies evenly between those around it, or between
    them and the span from `start` to `end`."""
    known: list[tuple[int, float]] = [(-1, start)]
    for index, word in enumerate(words):
        a, b = first(word), last(word)
        if a is not None and b is not None:
            known.append((index, (a + b) / 2))
    known.append((len(words), max(end, known[-1][1])))
    found: list[float] = []
    for (left, a), (right, b) in pairwise(known):
        step = (b - a) / (right - left)
        found += [a + step * n for n in range(1, right - left)]
        found.append(b)
    return found[:-1]


def fitted(text: str, words: tuple[ProviderWord, ...]) -> tuple[ProviderWord, ...]:
    """The words if they are those of `text`. Else the text wins: its words take the times of as
    many words; if there are more or fewer, there are none."""
    texts = [word.text for word in words]
    if text == " ".join(texts) or plain(text) == plain("".join(texts)):
        return words
    tokens = text.split()
    if len(tokens) != len(words):
        return ()
    return tuple(word._replace(text=token) for word, token in zip(words, tokens, strict=True))


def without(text: str, words: Sequence[ProviderWord], dropped: set[int]) -> str:
    """Return `text` without the words whose indices are in `dropped`."""
    at, places = 0, []
    for word in words:
        at = text.find(word.text, at)
        if at < 0:
            return " ".join(word.text for n, word in enumerate(words) if n not in dropped)
        places.append(at)
        at += len(word.text)
    places.append(len(text))
    pieces = [text[a:b] for n, (a, b) in enumerate(pairwise(places)) if n not in dropped]
    return "".join(pieces).strip()
