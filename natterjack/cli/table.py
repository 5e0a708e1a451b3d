"""Text in columns for a terminal: cleaned of what could steer it, and cut to its width."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

GAP = "  "
_LEAST_LAST = 8
_JOINERS = "\u200c\u200d"
_STEERING = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def plain(text: str) -> str:
    """On one line, without control characters and what turns the direction of writing."""
    if not text.isprintable():
        text = "".join(
            char if char in _JOINERS or unicodedata.category(char) not in _STEERING else " "
            for char in text
        )
    return " ".join(text.split())


def width(text: str) -> int:
    """In cells of a terminal: East Asian characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(map(_cells, text))


def _cells(char: str) -> int:
    if char in _JOINERS or unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def end(text: str, room: int) -> str:
    """As much of the end of `text` as has room, in cells; it says if something is missing."""
    if width(text) <= room:
        return text
    left, kept = room - 1, len(text)
    while kept and left >= _cells(text[kept - 1]):
        kept -= 1
        left -= _cells(text[kept])
    return "…" + text[kept:] if room > 0 else ""


def start(text: str, room: int) -> str:
    """The same of its start."""
    return end(text[::-1], room)[::-1]


def middle(text: str, room: int) -> str:
    """The start and the end of `text`."""
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
    """Aligned lines, the columns `right` to the right. With `room` (cells), no line is wider: the
    `elastic` columns give way first, down to `least`; the last column has what is left, or is left
    out if that is too little to be read."""
    widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
    last = len(widths) - 1
    if room is not None:
        wanted = min(widths[last], 2 * least)
        spare = room - sum(widths[:last]) - len(GAP) * last - wanted
        while spare < 0 and any(widths[n] > least for n in elastic):
            widths[max(elastic, key=widths.__getitem__)] -= 1
            spare += 1
        widths[last] = max(0, min(widths[last], wanted + spare))
        if widths[last] < min(wanted, _LEAST_LAST) and last not in right:
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
