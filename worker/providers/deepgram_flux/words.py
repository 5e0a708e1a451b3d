"""Words of a turn: their times where some are missing, and their place in the transcript. Pure."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from natterjack.plugin.provider import ProviderWord

_WORD_SECONDS = 0.4
"""A word takes about so long, when nothing better is known."""


class Word(NamedTuple):
    """A word with its times, in seconds of the audio given to the stream."""

    text: str
    start: float
    end: float
    confidence: float | None
    estimated: bool = False
    """Whether its times are ours."""

    @property
    def middle(self) -> float:
        return (self.start + self.end) / 2

    def as_provider_word(self) -> ProviderWord:
        return ProviderWord(self.text, self.start, self.end, self.confidence)


def plain(text: str) -> str:
    """A word without case and punctuation, which Flux revises more than anything else."""
    return text.strip(string.punctuation + "¿¡…“”").casefold() or text


def timed(
    said: Sequence[ProviderWord],
    known: Sequence[Word],
    to_given: Callable[[float], float],
    since: float,
    until: float,
) -> list[Word]:
    """The words of a message, each with times.

    Flux may leave times out (AsyncAPI, TurnInfo: `start` and `end` are optional; the sample of a
    turn ended by hand has none). Then `known`, the words of the message before, tells those of
    the words that are still there, and the others are spread between their neighbours; `since` and
    `until` bound the speech of the turn, in seconds of the audio given.
    """
    words: list[Word | None] = []
    complete = True
    for text, start, end, confidence, _ in said:
        if start is None or end is None:
            words.append(None)
            complete = False
            continue
        start = to_given(start)
        words.append(Word(text, start, max(start, to_given(end)), confidence))
    if not complete:
        _carry(said, known, words)
        _spread(said, words, since, until)
    return [word for word in words if word is not None]


def _carry(said: Sequence[ProviderWord], known: Sequence[Word], words: list[Word | None]) -> None:
    for before, now in _still_there(known, said):
        if words[now] is None:
            _, start, end, _, estimated = known[before]
            words[now] = Word(said[now].text, start, end, said[now].confidence, estimated)


def _still_there(known: Sequence[Word], said: Sequence[ProviderWord]) -> list[tuple[int, int]]:
    """Where words of the message before are, in it and in this one."""
    count = min(len(known), len(said))
    if all(known[index].text == said[index].text for index in range(count)):
        return [(index, index) for index in range(count)]  # it only adds to the one before
    matcher = SequenceMatcher(
        None, [plain(w.text) for w in known], [plain(w.text) for w in said], autojunk=False
    )
    return [
        (before + offset, now + offset)
        for before, now, size in matcher.get_matching_blocks()
        for offset in range(size)
    ]


def _spread(
    said: Sequence[ProviderWord], words: list[Word | None], since: float, until: float
) -> None:
    """Give the words that have no times equal shares of what is between their neighbours."""
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
            word = said[index]
            words[index] = Word(word.text, begin, begin + share, word.confidence, estimated=True)
        first = last


def split_text(transcript: str, words: Sequence[Word], at: int) -> tuple[str, str]:
    """What the transcript has before the word of index `at`, and from it on. In some languages
    words are not parted by spaces, so the transcript is cut instead of being put together."""
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
