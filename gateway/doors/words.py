"""The words of a transcript event as client protocols need them: each with times, and together with
the same letters as the event's text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from natterjack.events import FinalEvent, InterimEvent
from natterjack.values import Word

_UNSPACED = frozenset(("cmn", "ja", "km", "lo", "my", "th", "wuu", "yue", "zh"))
"""Languages that are written without spaces between words."""
_RIGHT_TO_LEFT = frozenset(("ar", "fa", "he", "ps", "sd", "ug", "ur", "yi"))


class TimedWord(NamedTuple):
    """One word; times are seconds on the clock of the event."""

    text: str
    start: float
    end: float
    confidence: float | None
    speaker: str | None


def delimiter(language: str | None) -> str:
    """The separator of words in a language: a space, or nothing."""
    return "" if _base(language) in _UNSPACED else " "


def right_to_left(language: str | None) -> bool:
    """Whether a language is written from right to left."""
    return _base(language) in _RIGHT_TO_LEFT


def timed_words(event: InterimEvent | FinalEvent) -> list[TimedWord]:
    """The words of an event. If its words are not those of its text, the text counts, and times are
    estimated: spread evenly over the event, like those of words without times."""
    words: Sequence[Word] = event.words
    if _letters("".join(word.text for word in words)) != _letters(event.text):
        words = [Word(text=text) for text in event.text.split()]
    found: list[TimedWord] = []
    at = event.start
    for index, word in enumerate(words):
        start = at if word.start is None else word.start
        end = word.end
        if end is None:
            end = start + _share(words, index, start, event.end)
        end = max(start, end)
        confidence = event.confidence if word.confidence is None else word.confidence
        found.append(TimedWord(word.text, start, end, confidence, word.speaker))
        at = end
    return found


def _share(words: Sequence[Word], index: int, start: float, end: float) -> float:
    """Duration of a word without an end: its share of the time until the next known start."""
    count = 1
    for word in words[index + 1 :]:
        if word.start is not None:
            end = word.start
            break
        count += 1
    return max(0.0, end - start) / count


def _letters(text: str) -> str:
    return "".join(text.split())


def _base(language: str | None) -> str:
    return (language or "").replace("_", "-").partition("-")[0].lower()
