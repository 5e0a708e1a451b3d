"""Cutting text into subtitles: at most two lines, split at sentences, clauses and pauses.

A token is what is never divided: a word, with the punctuation that belongs to it; in scripts
without spaces, a character. Only a word that is longer than a line is cut, between characters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple
from unicodedata import category as _category

from natterjack.process.terminal import width

from .model import Line, Segment
from .text import SENTENCE_ENDS, clusters, last_mark, separator, unspaced
from .track import word_slices

LINE_CELLS = 42
MAX_LINES = 2
MAX_SECONDS = 7.0
_PAUSE_SECONDS = 1.5
"""A pause that ends a subtitle."""
_SHORT_PAUSE_SECONDS = 0.3
_CLAUSE_ENDS = frozenset(",;:—\u2013\u060c\u061b\u104a\u1363\u3001\uff0c\uff1a\uff1b\uff64")
_SMALL = frozenset("ーぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮ々ゝヽ・")
"""Japanese characters that must not begin a line."""
_SENTENCE, _CLAUSE, _SHORT_PAUSE = 1.0, 0.6, 0.4
"""How much better than between any two words it is to split here; a full subtitle counts 1."""
_SHORT_WORD, _SHORT_LETTERS = -0.3, 3


class Token(NamedTuple):
    """Text that is not divided, and its times in seconds."""

    text: str
    start: float
    end: float
    space: bool
    """A space is between it and the token before, if they are on one line."""


def tokens(line: Line) -> list[Token]:
    """The tokens of a line of a transcript, in order of their times."""
    found: list[Token] = []
    last = ""
    at = line.start
    for segment in line.segments:
        space = bool(separator(last, segment.text))
        for token in _of_segment(segment):
            start = max(at, token.start)
            at = start
            found.append(
                token._replace(start=start, end=max(start, token.end), space=token.space or space)
            )
            space = False
        last = segment.text
    return found


def _of_segment(segment: Segment) -> Iterator[Token]:
    """Tokens with the times of words, or else times in proportion to the text."""
    space = False
    for text, start, end in _timed(segment):
        pieces = _pieces(text)
        total = sum(max(1, width(piece)) for piece, _ in pieces)
        before = 0
        for n, (piece, apart) in enumerate(pieces):
            after = before + max(1, width(piece))
            yield Token(
                piece, start + (end - start) * before / total,
                start + (end - start) * after / total, apart or (n == 0 and space),
            )  # fmt: skip
            before = after
        space = text.endswith(" ")


def _timed(segment: Segment) -> Iterator[tuple[str, float, float]]:
    words = segment.words
    slices = word_slices(segment.text, words)
    if slices is None or any(word.start is None or word.end is None for word in words):
        yield segment.text, segment.start, segment.end
        return
    # Words that no space separates, such as `3` and `%`, belong together.
    text, start, end = "", 0.0, 0.0
    for part, word in zip(slices, words, strict=True):
        assert word.start is not None
        assert word.end is not None
        if text and (text.endswith(" ") or unspaced(text[-1]) or unspaced(part[0])):
            yield text, start, end
            text = ""
        start, end = (start if text else word.start), max(word.end, word.start)
        text += part
    if text:
        yield text, start, end


def _pieces(text: str) -> list[tuple[str, bool]]:
    """The tokens of a text, and whether a space is before each."""
    pieces: list[tuple[str, bool]] = []
    for n, word in enumerate(text.split(" ")):
        parts = [fit for part in _unspaced_parts(word) for fit in _fitting(part)] if word else []
        pieces += [(part, n > 0 and k == 0) for k, part in enumerate(parts)]
    return pieces


def _unspaced_parts(word: str) -> list[str]:
    """A word; in scripts without spaces, its characters, with the punctuation that must not begin
    or end a line."""
    if not any(map(unspaced, word)):
        return [word]
    parts: list[str] = []
    for char in clusters(word):
        glued = parts and (
            (not unspaced(char[0]) and not unspaced(parts[-1][-1]))
            or _clings(char[0])
            or _category(parts[-1][-1]) in ("Ps", "Pi")
        )
        if glued:
            parts[-1] += char
        else:
            parts.append(char)
    return parts


def _clings(char: str) -> bool:
    """Whether a character must not begin a line."""
    return (
        char in SENTENCE_ENDS
        or char in _CLAUSE_ENDS
        or char in _SMALL
        or _category(char) in ("Pe", "Pf", "Mn", "Mc", "Me")
    )


def _fitting(word: str) -> Iterator[str]:
    """A word that fits on a line, or the parts of one that does not."""
    if width(word) <= LINE_CELLS:
        yield word
        return
    part, room = "", LINE_CELLS
    for char in clusters(word):
        for bit in (char,) if width(char) <= LINE_CELLS else char:
            cells = width(bit)
            if part and cells > room:
                yield part
                part, room = "", LINE_CELLS
            part += bit
            room -= cells
    yield part


def split(tokens: Sequence[Token], label_cells: int = 0) -> list[list[Token]]:
    """Divide tokens into subtitles, of which the first begins with a label of so many cells."""
    found: list[list[Token]] = []
    start = 0
    while start < len(tokens):
        end, full = _fill(tokens, start, label_cells if start == 0 else 0)
        if full:
            end = _best_end(tokens, start, end)
        found.append(list(tokens[start:end]))
        start = end
    return found


def _fill(tokens: Sequence[Token], start: int, label_cells: int) -> tuple[int, bool]:
    """Where the longest subtitle from `start` ends, and whether more would belong into it."""
    lines, cells = 1, label_cells
    for n in range(start, len(tokens)):
        token = tokens[n]
        if n > start:
            if token.start - tokens[n - 1].end > _PAUSE_SECONDS:
                return n, False
            if token.end - tokens[start].start > MAX_SECONDS:
                return n, True
        own = width(token.text)
        space = token.space and n > start
        if cells + space + own <= LINE_CELLS:
            cells += space + own
        elif lines < MAX_LINES and cells:
            lines, cells = lines + 1, own
        else:
            return n, True
    return len(tokens), False


def _best_end(tokens: Sequence[Token], start: int, limit: int) -> int:
    """Where to end a subtitle that could go on until `limit`."""
    cells = [width(token.text) + token.space for token in tokens[start:limit]]
    total, so_far = max(1, sum(cells)), 0
    best, best_score = limit, -1.0
    for end in range(start + 1, limit + 1):
        so_far += cells[end - start - 1]
        score = so_far / total
        if end < len(tokens):
            score += strength(tokens[end - 1], tokens[end])
        if tokens[end - 1].end - tokens[start].start < 1.0:
            score -= _CLAUSE
        if score >= best_score:
            best, best_score = end, score
    return best


def strength(before: Token, after: Token) -> float:
    """How good it is to split between two tokens, up to 1. Short words, which are mostly articles
    and prepositions, belong to what follows."""
    last = last_mark(before.text)
    if last in SENTENCE_ENDS:
        return _SENTENCE
    if last in _CLAUSE_ENDS:
        return _CLAUSE
    if after.start - before.end > _SHORT_PAUSE_SECONDS:
        return _SHORT_PAUSE
    return _SHORT_WORD if after.space and len(before.text) <= _SHORT_LETTERS else 0.0


def joined(tokens: Sequence[Token]) -> str:
    """Tokens on one line."""
    return "".join(
        (" " if token.space and n else "") + token.text for n, token in enumerate(tokens)
    )


def rows(tokens: Sequence[Token], label: str = "") -> list[str]:
    """The one or two lines of a subtitle that `split` has made."""
    whole = joined(tokens)
    if width(label) + width(whole) <= LINE_CELLS:
        return [label + whole]
    best: tuple[float, list[str]] | None = None
    for cut in range(0 if label else 1, len(tokens)):
        first = label + joined(tokens[:cut]) if cut else label.rstrip(" ")
        second = joined(tokens[cut:])
        cells = width(label) + width(joined(tokens[:cut])), width(second)
        if max(cells) > LINE_CELLS:
            continue
        cost = abs(cells[0] - cells[1]) / LINE_CELLS + (0.1 if cells[0] > cells[1] else 0)
        cost -= 0.7 * strength(tokens[cut - 1], tokens[cut]) if cut else -1
        if best is None or cost < best[0]:
            best = cost, [first, second]
    assert best is not None
    return best[1]
