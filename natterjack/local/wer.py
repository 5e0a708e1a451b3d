"""Word error rate: how far a transcript is from what was really said."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_NOT_A_WORD = re.compile(r"[^\w']+|_+")


def normalised_words(text: str) -> list[str]:
    """The words of `text` as they are compared: without case, punctuation and apostrophes.

    Hyphens and dashes part words. Digits stay digits: `10` and `ten` are different words.
    """
    plain = (
        unicodedata.normalize("NFKC", text)
        .casefold()
        .replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    )
    words = (word.replace("'", "") for word in _NOT_A_WORD.split(plain))
    return [word for word in words if word]


def word_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Fewest words to put in, take out or change to make `hypothesis` of `reference`
    (Levenshtein distance over words)."""
    row = list(range(len(hypothesis) + 1))
    for i, said in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, heard in enumerate(hypothesis, 1):
            diagonal, row[j] = (
                row[j],
                min(row[j] + 1, row[j - 1] + 1, diagonal + (said != heard)),
            )
    return row[-1]


def word_error_rate(reference: str, hypothesis: str) -> float:
    """Word errors per word of `reference`, after normalising both: 0.0 is perfect, and many
    invented words make it more than 1.

    Raises: ValueError if `reference` has no words.
    """
    said = normalised_words(reference)
    if not said:
        raise ValueError("the reference has no words")
    return word_errors(said, normalised_words(hypothesis)) / len(said)
