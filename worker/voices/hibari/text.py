"""Divides the text of a phrase into pieces that the engine speaks one after another.

Pure: the engine's rules for reading words are applied later, piece by piece.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Final, NamedTuple

MAX_PIECE_CHARACTERS: Final = 300
"""Longest piece. The memory of the engine grows with the square of a piece's length; a piece of
this length is about 20 s of speech."""
MAX_WORD_CHARACTERS: Final = 40
"""Longer words are divided. The time of the engine's tokenizer grows with the cube of a word's
length."""
_ENDS: Final = ".!?\N{HORIZONTAL ELLIPSIS}"
_CLAUSE_ENDS: Final = ",;:)\N{EM DASH}"
_CLOSERS: Final = "\"')\N{RIGHT DOUBLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}"
_ABBREVIATIONS: Final = frozenset(("mr", "mrs", "ms", "dr", "prof", "st", "vs", "e.g", "i.e"))
_BRACKETS: Final = str.maketrans("[]", "()")
"""The engine reads `[word](/phonemes/)` as a pronunciation. Text is only text here."""


class Word(NamedTuple):
    """A word as the engine gets it."""

    character: int
    """Index in the phrase of the first character of the word that it comes from."""
    text: str


def pieces(phrase: str) -> Iterator[list[Word]]:
    """Yield the words of each sentence of `phrase`, in order, at most MAX_PIECE_CHARACTERS a piece.

    A longer sentence is divided after a clause, or between two words. Characters that nobody can
    speak, such as control characters, lone surrogates and emoji, are left out; a phrase without any
    other has no pieces.
    """
    piece: list[Word] = []
    size = 0
    for word in _words(phrase):
        if piece and _ends_sentence(piece[-1].text, word.text):
            yield piece
            piece, size = [], 0
        if size + len(word.text) > MAX_PIECE_CHARACTERS:
            head = _head(piece)
            yield piece[:head]
            piece = piece[head:]
            size = _size(piece)
        piece.append(word)
        size += len(word.text) + 1
    if piece:
        yield piece


def _words(phrase: str) -> Iterator[Word]:
    begin = 0
    for index, character in enumerate(phrase):
        if character.isspace():
            yield from _speakable(begin, phrase[begin:index])
            begin = index + 1
        elif index - begin == MAX_WORD_CHARACTERS:
            yield from _speakable(begin, phrase[begin:index])
            begin = index
    yield from _speakable(begin, phrase[begin:])


def _speakable(character: int, raw: str) -> Iterator[Word]:
    # Full-width letters and ligatures become plain letters. A single character can become 18, so
    # the result is cut.
    text = unicodedata.normalize("NFKC", raw).translate(_BRACKETS)
    text = "".join(c for c in text if unicodedata.category(c)[0] != "C" and not _symbol(c))
    text = "".join(text.split())[:MAX_WORD_CHARACTERS]
    if text:
        yield Word(character, text)


def _symbol(character: str) -> bool:
    """True if a character is a picture, such as an emoji, its variation or its skin color."""
    return unicodedata.category(character) in ("So", "Sk", "Me") or (
        "\N{VARIATION SELECTOR-1}" <= character <= "\N{VARIATION SELECTOR-16}"
    )


def _ends_sentence(word: str, following: str) -> bool:
    bare = word.rstrip(_CLOSERS)
    if not bare or bare[-1] not in _ENDS or following[0].islower():
        return False
    if bare[-1] != ".":
        return True
    stem = bare.rstrip(".").lstrip("(\"'\N{LEFT DOUBLE QUOTATION MARK}")
    return stem.lower() not in _ABBREVIATIONS and not (len(stem) == 1 and stem.isupper())


def _head(piece: list[Word]) -> int:
    """How many words of a piece that is full to speak first: up to the end of a clause in its
    second half, or all."""
    spoken, half, found = 0, _size(piece) // 2, len(piece)
    for count, word in enumerate(piece, 1):
        spoken += len(word.text) + 1
        if spoken >= half and word.text[-1] in _CLAUSE_ENDS:
            found = count
    return found


def _size(piece: list[Word]) -> int:
    return sum(len(word.text) + 1 for word in piece)
