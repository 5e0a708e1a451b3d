"""Results of a transcript joined into words and readable text.

Pure: no sockets, clocks or environment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ...provider import ProviderWord
from .messages import Result


@dataclass(frozen=True, slots=True)
class Joined:
    """What results say. A punctuation mark is part of the word that it is attached to."""

    text: str
    words: tuple[ProviderWord, ...]
    carry: str
    """What opens the next word, which is not in these results ("¿", an opening quote)."""
    language: str | None

    @property
    def confidence(self) -> float | None:
        """Mean of the words' confidences: the provider gives none for a transcript."""
        known = [word.confidence for word in self.words if word.confidence is not None]
        return round(sum(known) / len(known), 4) if known else None


def join(
    results: Iterable[Result], delimiter: Callable[[str | None], str], carry: str = ""
) -> Joined:
    """Join results in their order; `delimiter` says what stands before a word of a language.

    Specification, AttachesToEnum: `previous` and `both` have no delimiter before, `next` and
    `both` none after. A mark that is attached to a word of an earlier final is left out: that
    final has been given, and is never revised.
    """
    words: list[ProviderWord] = []
    text = ""
    opening, opening_gap, glued = carry, "", False
    language: str | None = None
    for result in results:
        apart = words and not glued and result.attaches not in ("previous", "both")
        gap = delimiter(result.language) if apart else ""
        glued = result.attaches in ("next", "both")
        if not result.punctuation:
            language = language or result.language
            words.append(
                ProviderWord(
                    text=opening + result.text,
                    start=result.start,
                    end=result.end,
                    confidence=result.confidence,
                    speaker=result.speaker,
                )
            )
            text += (opening_gap if opening else gap) + words[-1].text
            opening = ""
        elif result.attaches == "next" or (not words and result.attaches == "none"):
            if not opening:
                opening_gap = gap
            opening += result.text + ("" if glued else delimiter(result.language))
        elif words:
            words[-1] = words[-1]._replace(text=words[-1].text + gap + result.text)
            text += gap + result.text
    return Joined(text, tuple(words), opening, language)
