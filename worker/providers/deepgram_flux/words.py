"""Words of a turn: times for words that lack them, and their places in the transcript. Pure."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from natterjack.plugin.provider import ProviderWord

_WORD_SECONDS = 0.4
"""Assumed length of a word without times."""


class Word(NamedTuple):
    """A word with its times, in seconds of the audio given to the stream."""

    text: str
    start: float
    end: float
    confidence: float | None
    estimated: bool = False
    """Whether its times are estimated."""

    @property
    def middle(self) -> float:
        return (self.start + self.end) / 2

    def as_provider_word(self) -> ProviderWord:
        return ProviderWord(self.text, self.start, self.end, self.confidence)


def plain(text: str) -> str:
    """The word without case and punctuation, which Flux revises most often."""
    return text.strip(string.punctuation + "¿¡…“”").casefold() or text


def timed(
    received: Sequence[ProviderWord],
    known: Sequence[Word],
    to_given: Callable[[float], float],
    since: float,
    until: float,
) -> list[Word]:
    """Return the words of a message, each with times.

    Flux may omit times (AsyncAPI, TurnInfo: `start` and `end` are optional; the sample of a
    manually ended turn has none). A word without times takes those of the same word in `known`, the
    words of the last message; other words are spread evenly between their neighbors. `since` and
    `until` bound the speech of the turn, in seconds of the audio given.
    """
    words: list[Word | None] = []
    complete = True
    for text, start, end, confidence, _ in received:
        if start is None or end is None:
            words.append(None)
            complete = False
            continue
        start = to_given(start)
        words.append(Word(text, start, max(start, to_given(end)), confidence))
    if not complete:
        _carry(received, known, words)
        _spread(received, words, since, until)
    return [word for word in words if word is not None]


def _carry(
    received: Sequence[ProviderWord], known: Sequence[Word], words: list[Word | None]
) -> None:
    for before, now in _common_words(known, received):
        if words[now] is None:
            _, start, end, _, estimated = known[before]
            words[now] = Word(received[now].text, start, end, received[now].confidence, estimated)


def _common_words(known: Sequence[Word], received: Sequence[ProviderWord]) -> list[tuple[int, int]]:
    """Pairs of indexes, in `known` and in `received`, of the same words."""
    count = min(len(known), len(received))
    if all(known[index].text == received[index].text for index in range(count)):
        return [(index, index) for index in range(count)]  # the message only adds words
    matcher = SequenceMatcher(
        None, [plain(w.text) for w in known], [plain(w.text) for w in received], autojunk=False
    )
    return [
        (before + offset, now + offset)
        for before, now, size in matcher.get_matching_blocks()
        for offset in range(size)
    ]


def _spread(
    received: Sequence[ProviderWord], words: list[Word | None], since: float, until: float
) -> None:
    """Spread words without times evenly between their neighbors."""
    first = 0
    while first < len(words):
        if words[first] is not None:
            first += 1
            continue
        last = first
        while last < len(words) and words[last] is None:
            last += 1
        after = words[last] if last < len(words) else None
        end = until if after is None else after.start
        before = words[first - 1] if first else None
        start = max(since, end - _WORD_SECONDS * (last - first)) if before is None else before.end
        end = max(start, end)
        share = (end - start) / (last - first)
        for index in range(first, last):
            begin = start + share * (index - first)
            word = received[index]
            words[index] = Word(word.text, begin, begin + share, word.confidence, estimated=True)
        first = last


def split_text(transcript: str, words: Sequence[Word], at: int) -> tuple[str, str]:
    """Split the transcript before the word at index `at`.

    Some languages do not separate words by spaces, so the transcript is split rather than joined
    from words.
    """
    position = 0
    cut = len(transcript) if at >= len(words) else None
    for index, word in enumerate(words):
        found = transcript.find(word.text, position)
        if found < 0:
            texts = [word.text for word in words]
            return " ".join(texts[:at]), " ".join(texts[at:])
        if index == at:
            cut = found
            break
        position = found + len(word.text)
    return transcript[:cut].strip(), transcript[cut:].strip() if cut is not None else ""
