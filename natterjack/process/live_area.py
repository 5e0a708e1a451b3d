"""Lines of text on a terminal, and rows below them that are rewritten in place."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from .terminal import escaped, rewritable, size, styled, width

_UP, _DOWN = "\x1b[{}A", "\x1b[{}B"
_CLEAR_LINE, _CLEAR_BELOW = "\x1b[K", "\x1b[J"
_ONE_LINE, _MANY_LINES = "\x1b[?7l", "\x1b[?7h"
"""Text beyond the last column is cut, or continues on the next line."""
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"

Row = tuple[str, str]
"""A row's text, and text after it that is dim."""


class LiveArea:
    """Writes lines, and rows below them. Other outputs than terminals get the lines only, without
    control characters. A context manager: at the end, the rows are removed."""

    def __init__(self, out: TextIO, *, log_to: Callable[[str], None]) -> None:
        """Within the context, on a terminal, `log_to` is called with each line of the log."""
        self._out = out
        self.live = rewritable(out)
        """Whether there are rows."""
        self._styled = styled(out)
        self._drawn: list[str] = []
        """The rows on the screen, without style."""
        self._columns = 0
        """Width of the terminal when they were drawn."""
        self._log_to = log_to
        self._logging = contextlib.ExitStack()

    def __enter__(self) -> LiveArea:
        if self.live and sys.stderr.isatty():
            self._logging.enter_context(_logging_to(_Lines(self._log_to)))
        return self

    def __exit__(self, *_: object) -> None:
        self._logging.close()
        if self._drawn:
            self._out.write(f"{self._to_first_row()}{_CLEAR_BELOW}")
            self._out.flush()
            self._drawn = []

    def room(self) -> tuple[int, int]:
        """Return the cells of a row, and how many rows leave half of the terminal for lines."""
        columns, lines = size(self._out)
        # The last column stays free: some terminals begin the next line when it is written.
        return max(1, columns - 1), max(1, lines // 2)

    def draw(self, lines: Sequence[str], rows: Sequence[Row]) -> None:
        """Write lines above the rows, and rewrite the rows that have changed. Each row must fit
        into `room`."""
        if not self.live:
            self._out.writelines(f"{line}\n" for line in lines)
            if lines:
                self._out.flush()
            return
        columns = size(self._out).columns
        drawn = ["".join(row) for row in rows]
        styled_rows = [
            f"{_ONE_LINE}{head}{self._dim(text)}{_MANY_LINES}{_CLEAR_LINE}" for head, text in rows
        ]
        written = ""
        if lines or columns != self._columns or len(drawn) != len(self._drawn):
            written = f"{self._to_first_row()}{_CLEAR_BELOW if self._drawn else ''}"
            written += "".join(f"{line}\n" for line in (*lines, *styled_rows))
        else:
            for n, row in enumerate(drawn):
                if row != self._drawn[n]:
                    up = len(drawn) - n
                    written += f"{_UP.format(up)}\r{styled_rows[n]}{_DOWN.format(up)}\r"
        self._drawn, self._columns = drawn, columns
        if written:
            self._out.write(written)
            self._out.flush()

    def _dim(self, text: str) -> str:
        return f"{_DIM}{text}{_PLAIN}" if self._styled and text else text

    def _to_first_row(self) -> str:
        """Move the cursor to the first row, which a terminal that became narrower has folded."""
        columns = size(self._out).columns
        up = sum(max(1, -(-width(row) // columns)) for row in self._drawn)
        return f"{_UP.format(up)}\r" if up else ""


class _Lines(io.TextIOBase):
    """Takes log lines, and has them written above the rows."""

    def __init__(self, write_line: Callable[[str], None]) -> None:
        self._write_line = write_line
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._write_line(escaped(line))
        return len(text)


@contextlib.contextmanager
def _logging_to(stream: io.TextIOBase) -> Iterator[None]:
    handlers = [h for h in logging.getLogger().handlers if isinstance(h, logging.StreamHandler)]
    before = [handler.setStream(stream) for handler in handlers]
    try:
        yield
    finally:
        for handler, stream_before in zip(handlers, before, strict=True):
            if stream_before is not None:
                handler.setStream(stream_before)
