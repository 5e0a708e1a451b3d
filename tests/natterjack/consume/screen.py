"""A terminal that keeps what is written to it, for tests. It measures characters as `rich` does."""

from __future__ import annotations

import io
import re

from rich.cells import get_character_cell_size

_CONTROL = re.compile(r"\x1b\[(\??)(\d*)([A-Za-z])")
_STYLES = {"0", "2"}


class Screen(io.StringIO):
    """Wraps lines, and folds them anew when its width changes, as most terminals do.

    Raises AssertionError for control characters other than those that captions need.
    """

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.wraps = True
        self._lines: list[list[str]] = [[]]
        """Physical lines: a character for each cell, `""` for the second cell of a wide one."""
        self._continues: list[bool] = [False]
        """Whether the physical line continues the one before."""
        self._line = self._column = 0

    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> list[str]:
        """All lines that were written, without the line breaks of the terminal, up to the cursor's
        line, which is empty after a line end."""
        found: list[str] = []
        for cells, continues in zip(self._lines, self._continues, strict=True):
            if continues:
                found[-1] += "".join(cells)
            else:
                found.append("".join(cells))
        return found

    def resize(self, columns: int) -> None:
        lines = self.text
        assert self._line == len(self._lines) - 1
        self.columns = columns
        self._lines, self._continues, self._line, self._column = [[]], [False], 0, 0
        for n, line in enumerate(lines):
            self.write(("\n" if n else "") + line)

    def write(self, text: str) -> int:
        at = 0
        while at < len(text):
            found = _CONTROL.match(text, at)
            if found is not None:
                self._control(*found.groups())
                at = found.end()
            else:
                self._put(text[at])
                at += 1
        return len(text)

    def _control(self, private: str, number: str, kind: str) -> None:
        if private:
            assert (number, kind) in (("7", "h"), ("7", "l")), (number, kind)
            self.wraps = kind == "h"
        elif kind == "m":
            assert number in _STYLES
        elif kind == "A":
            self._line = max(0, self._line - int(number))
        elif kind == "B":
            self._line = min(len(self._lines) - 1, self._line + int(number))
        elif kind == "K":
            del self._lines[self._line][self._column :]
        else:
            assert kind == "J", kind
            del self._lines[self._line][self._column :]
            del self._lines[self._line + 1 :]
            del self._continues[self._line + 1 :]

    def _put(self, char: str) -> None:
        if char == "\r":
            self._column = 0
        elif char == "\n":
            self._column = 0
            self._next(continues=False)
        else:
            assert char.isprintable() or char in "\u200c\u200d", f"{char!r} on the terminal"
            self._put_cells(char, get_character_cell_size(char))

    def _put_cells(self, char: str, cells: int) -> None:
        if self._column + cells > self.columns:
            if self.wraps:
                self._column = 0
                self._next(continues=True)
            else:
                self._column = self.columns - cells
        line = self._lines[self._line]
        if not cells:
            at = min(self._column, len(line)) - 1
            while at > 0 and not line[at]:
                at -= 1
            if at >= 0:
                line[at] += char
            return
        line[self._column : self._column + cells] = [char, *[""] * (cells - 1)]
        self._column += cells

    def _next(self, *, continues: bool) -> None:
        self._line += 1
        if self._line == len(self._lines):
            self._lines.append([])
            self._continues.append(continues)
