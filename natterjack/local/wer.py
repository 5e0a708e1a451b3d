"""Word error rate: how far a transcript is from the words that were spoken."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_NOT_A_WORD = re.compile(r"[^\w']+|_+")


def normalized_words(text: str) -> list[str]:
    """The words of `text` for comparison: without case, punctuation or apostrophes.

    Hyphens and dashes separate words. Digits stay digits: `10` and `ten` are different words.
    """
    plain = (
        unicodedata.normalize("NFKC", text)
        .casefold()
        .replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    )
    words = (word.replace("'", "") for word in _NOT_A_WORD.split(plain))
    return [word for word in words if word]


def word_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """The fewest words to insert, delete or replace to turn `reference` into `hypothesis`.

    This is the Levenshtein distance over words.
    """
    row = list(range(len(hypothesis) + 1))
    for i, expected in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, found in enumerate(hypothesis, 1):
            diagonal, row[j] = (
                row[j],
                min(row[j] + 1, row[j - 1] + 1, diagonal + (expected != found)),
            )
    return row[-1]


def word_error_rate(reference: str, hypothesis: str) -> float:
    """Word errors per word of `reference`, both normalized.

    0.0 is a perfect transcript; a rate above 1 is possible when the hypothesis is longer.

    Raises: ValueError if `reference` has no words.
    """
    expected = normalized_words(reference)
    if not expected:
        raise ValueError("the reference has no words")
    return word_errors(expected, normalized_words(hypothesis)) / len(expected)
