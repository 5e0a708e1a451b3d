"""Tables for a terminal: without control characters, and cut to the terminal's width."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

GAP = "  "
_MIN_LAST = 8
_JOINERS = "\u200c\u200d"
_REMOVED_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def plain(text: str) -> str:
    """`text` on one line, without control characters and marks that change text direction."""
    if not text.isprintable():
        text = "".join(
            char
            if char in _JOINERS or unicodedata.category(char) not in _REMOVED_CATEGORIES
            else " "
            for char in text
        )
    return " ".join(text.split())


def width(text: str) -> int:
    """Width in terminal cells: wide East Asian characters take two, combining characters none."""
    if text.isascii():
        return len(text)
    return sum(map(_cells, text))


def _cells(char: str) -> int:
    if char in _JOINERS or unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def end(text: str, room: int) -> str:
    """The end of `text`, cut to `room` cells; an ellipsis marks the cut."""
    if width(text) <= room:
        return text
    left, kept = room - 1, len(text)
    while kept and left >= _cells(text[kept - 1]):
        kept -= 1
        left -= _cells(text[kept])
    return "…" + text[kept:] if room > 0 else ""


def start(text: str, room: int) -> str:
    """The start of `text`, cut to `room` cells."""
    return end(text[::-1], room)[::-1]


def middle(text: str, room: int) -> str:
    """The start and the end of `text`, cut to `room` cells in the middle."""
    if width(text) <= room:
        return text
    tail = end(text, room - room // 2)
    return start(text, room // 2 + 1)[:-1] + tail


def table(
    lines: Sequence[Sequence[str]],
    *,
    right: Sequence[int] = (),
    elastic: Sequence[int] = (),
    room: int | None = None,
    least: int = 12,
) -> list[str]:
    """Align `lines` in columns; the columns in `right` are aligned to the right.

    With `room`, no line is wider than that many cells: the `elastic` columns shrink first, down to
    `least` cells each. The last column gets the rest, or is omitted if that is too narrow.
    """
    widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
    last = len(widths) - 1
    if room is not None:
        wanted = min(widths[last], 2 * least)
        spare = room - sum(widths[:last]) - len(GAP) * last - wanted
        while spare < 0 and any(widths[n] > least for n in elastic):
            widths[max(elastic, key=widths.__getitem__)] -= 1
            spare += 1
        widths[last] = max(0, min(widths[last], wanted + spare))
        if widths[last] < min(wanted, _MIN_LAST) and last not in right:
            fewer = [line[:-1] for line in lines]
            return table(fewer, right=right, elastic=elastic, room=room, least=least)
    shown = []
    for line in lines:
        cells = []
        for n, cell in enumerate(line):
            cell = end(cell, widths[n]) if n == last else middle(cell, widths[n])
            blank = " " * (widths[n] - width(cell))
            cells.append(blank + cell if n in right else cell + blank)
        text = GAP.join(cells).rstrip()
        shown.append(text if room is None else start(text, room))
    return shown
