"""Joins results of a transcript into words and readable text.

Pure: no sockets, clocks or environment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from natterjack.plugin.provider import ProviderWord

from .messages import Result


@dataclass(frozen=True, slots=True)
class Joined:
    """Joined results. A punctuation mark is part of the word that it is attached to."""

    text: str
    words: tuple[ProviderWord, ...]
    carry: str
    """Opening mark of the next word, which is not in these results ("¿", an opening quote)."""
    language: str | None

    @property
    def confidence(self) -> float | None:
        """Mean confidence of the words; the provider reports none for a transcript."""
        known = [word.confidence for word in self.words if word.confidence is not None]
        return round(sum(known) / len(known), 4) if known else None


def join(
    results: Iterable[Result], delimiter: Callable[[str | None], str], carry: str = ""
) -> Joined:
    """Join results in order; `delimiter` returns the separator before a word of a language.

    Specification, AttachesToEnum: `previous` and `both` have no separator before them, `next` and
    `both` none after. A mark attached to a word of an earlier final is left out, since finals are
    never revised.
    """
    words: list[ProviderWord] = []
    text = ""
    opening, opening_gap, glued = carry, "", False
    language: str | None = None
    for punctuation, content, start, end, confidence, spoken, speaker, attaches in results:
        apart = words and not glued and attaches not in ("previous", "both")
        gap = delimiter(spoken) if apart else ""
        glued = attaches in ("next", "both")
        if not punctuation:
            language = language or spoken
            text += (opening_gap if opening else gap) + opening + content
            words.append(ProviderWord(opening + content, start, end, confidence, speaker))
            opening = ""
        elif attaches == "next" or (not words and attaches == "none"):
            if not opening:
                opening_gap = gap
            opening += content + ("" if glued else delimiter(spoken))
        elif words:
            words[-1] = words[-1]._replace(text=words[-1].text + gap + content)
            text += gap + content
    return Joined(text, tuple(words), opening, language)
