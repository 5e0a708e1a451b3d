"""Times of words, from the model's token times or estimated from the voiced spans."""

from __future__ import annotations

from collections.abc import Sequence

from natterjack.plugin.provider import ProviderWord

Span = tuple[float, float]
"""Start and end in seconds."""


def spoken_text(text: str) -> str:
    """Return `text` without outer whitespace, or `""` if it has no letter or digit.

    Models transcribe noise and music as notes or periods.
    """
    return text.strip() if any(character.isalnum() for character in text) else ""


def estimated_words(text: str, voiced: Sequence[Span]) -> tuple[ProviderWord, ...]:
    """Spread the words of `text` over the voiced spans, in proportion to their lengths."""
    words = text.split()
    total_s = sum(end - start for start, end in voiced)
    # One extra character per word: a short word takes longer than its letters suggest.
    per_character = total_s / (sum(len(word) + 1 for word in words) or 1)
    found, spoken = [], 0.0
    for word in words:
        start = _at(spoken, voiced, after=True)
        spoken += (len(word) + 1) * per_character
        end = _at(spoken, voiced, after=False)
        found.append(ProviderWord(word, round(start, 3), round(max(start, end), 3)))
    return tuple(found)


def with_times(words: Sequence[ProviderWord], start: float, end: float) -> tuple[ProviderWord, ...]:
    """The words between `start` and `end`, with estimates for times that are missing: words without
    times are spread evenly between their neighbors."""
    done: list[ProviderWord] = []
    for index, word in enumerate(words):
        begin = word.start
        if begin is None:
            begin = (done[-1].end or start) if done else start
        finish = word.end
        if finish is None:
            rest = words[index + 1 :]
            after = next((at for at, other in enumerate(rest, 1) if other.start is not None), None)
            limit = end if after is None else rest[after - 1].start or end
            share = (limit - begin) / (len(rest) + 1 if after is None else after)
            finish = begin + max(share, 0.0)
        done.append(word._replace(start=begin, end=max(begin, finish)))
    return tuple(done)


def _at(spoken: float, voiced: Sequence[Span], *, after: bool) -> float:
    """The time at which `spoken` seconds of speech have passed.

    Where that falls on a pause, the end of the pause if `after`, else its start.
    """
    for start, end in voiced:
        if spoken < end - start or (spoken <= end - start + 1e-9 and not after):
            return start + spoken
        spoken -= end - start
    return voiced[-1][1]


def timed_words(
    tokens: Sequence[str], times: Sequence[float], voiced: Sequence[Span]
) -> tuple[ProviderWord, ...]:
    """Build words from the model's tokens and their start times in seconds.

    A token that starts with a space, or with SentencePiece's mark for one, starts a word. A word
    ends where the next word starts or where its voiced span ends, whichever comes first.
    """
    texts: list[str] = []
    starts: list[float] = []
    lasts: list[float] = []
    for token, time in zip(tokens, times, strict=False):
        plain = token.replace("\u2581", " ")
        if plain.startswith(" ") or not texts:
            texts.append("")
            starts.append(time)
            lasts.append(time)
        texts[-1] += plain.strip()
        lasts[-1] = time
    found = []
    for index, (text, start, last) in enumerate(zip(texts, starts, lasts, strict=True)):
        pause = next((end for _, end in voiced if end > last), last)
        following = starts[index + 1] if index + 1 < len(starts) else pause
        if text:
            end = max(start, min(pause, following))
            found.append(ProviderWord(text, round(start, 3), round(end, 3)))
    return tuple(found)
