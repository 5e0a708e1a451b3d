"""When words were spoken: as the model says, or spread over the voiced spans."""

from __future__ import annotations

from collections.abc import Sequence

from natterjack.plugin.provider import ProviderWord

Span = tuple[float, float]
"""Start and end in seconds."""


def spoken_text(text: str) -> str:
    """`text` as transcribed, or nothing if there is no letter or digit in it: for noise and music
    the model writes notes or full stops."""
    return text.strip() if any(character.isalnum() for character in text) else ""


def estimated_words(text: str, voiced: Sequence[Span]) -> tuple[ProviderWord, ...]:
    """The words of `text` spread over the voiced spans, each as long as it has characters."""
    words = text.split()
    total_s = sum(end - start for start, end in voiced)
    # One more for each word: short words take longer than their letters.
    per_character = total_s / (sum(len(word) + 1 for word in words) or 1)
    found, spoken = [], 0.0
    for word in words:
        start = _at(spoken, voiced, after=True)
        spoken += (len(word) + 1) * per_character
        end = _at(spoken, voiced, after=False)
        found.append(ProviderWord(word, round(start, 3), round(max(start, end), 3)))
    return tuple(found)


def _at(spoken: float, voiced: Sequence[Span], *, after: bool) -> float:
    """Where `spoken` seconds of speech are over; in a pause, `after` or before it."""
    for start, end in voiced:
        if spoken < end - start or (spoken <= end - start + 1e-9 and not after):
            return start + spoken
        spoken -= end - start
    return voiced[-1][1]


def timed_words(
    tokens: Sequence[str], times: Sequence[float], voiced: Sequence[Span]
) -> tuple[ProviderWord, ...]:
    """Words from the model's tokens and the second at which each begins.

    A token that starts with a space (or SentencePiece's mark for one) starts a word. A word ends
    where the next starts, or before that with the voiced span in which it was spoken.
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
