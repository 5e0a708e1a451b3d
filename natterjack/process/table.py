"""Tables for a terminal: without control characters, and cut to the terminal's width."""

from __future__ import annotations

from collections.abc import Sequence

from natterjack.process.terminal import end, middle, plain, start, width

GAP = "  "
_MIN_LAST = 8


def table(
    lines: Sequence[Sequence[str]],
    *,
    right: Sequence[int] = (),
    elastic: Sequence[int] = (),
    room: int | None = None,
    least: int = 12,
) -> list[str]:
    """Align `lines` in columns; the columns in `right` are aligned to the right. Control characters
    are removed.

    With `room`, no line is wider than that many cells: the `elastic` columns shrink first, down to
    `least` cells each. The last column gets the rest, or is omitted if that is too narrow.
    """
    lines = [[cell if cell.isprintable() else plain(cell) for cell in line] for line in lines]
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
