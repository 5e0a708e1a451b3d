"""How far the transcription of each recording is: rows on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from natterjack.process.live_area import LiveArea
from natterjack.process.terminal import escaped, middle, plain, width

_LINES_S = 10.0
"""Interval of lines about one recording, where there are no rows."""
_BAR_CELLS = 20
_NAME_CELLS = 12
"""Least width of a name."""


def duration(seconds: float) -> str:
    """Format seconds as m:ss or h:mm:ss."""
    whole = int(seconds)
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02}"
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


@dataclass
class Row:
    """One recording that is being transcribed."""

    name: str
    seconds: float | None
    """Its length, if that is known."""
    started: float
    """When its transcription began here."""
    first: float = 0.0
    """How far it was then."""
    position: float = 0.0
    """How far it is transcribed, in seconds of audio."""
    said: float = field(default=0.0)
    """When a line was written about it."""

    @property
    def share(self) -> float | None:
        """The part that is done, from 0 to 1."""
        return min(1.0, self.position / self.seconds) if self.seconds else None

    def times(self, now: float) -> str:
        """How much is done, how fast, and how long the rest may take."""
        done = self.position - self.first
        text = duration(self.position)
        if self.seconds:
            text += f" of {duration(self.seconds)}"
        if done > 0 and now > self.started:
            speed = done / (now - self.started)
            text += f", {speed:.1f} times real time"
            if self.seconds and speed > 0:
                text += f", {duration(max(0.0, self.seconds - self.position) / speed)} left"
        return text


class Progress:
    """Shows the recordings that are being transcribed. A context manager."""

    def __init__(
        self,
        out: TextIO | None = None,
        *,
        quiet: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`quiet`: lines about what is done, and no progress."""
        self._area = LiveArea(sys.stderr if out is None else out, log_to=self._log)
        self._quiet = quiet
        self._now = now
        self._rows: list[Row] = []

    def __enter__(self) -> Progress:
        self._area.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._area.__exit__()

    def _log(self, line: str) -> None:
        self._draw(line)

    def say(self, text: str) -> None:
        """Write lines."""
        self._draw(*(escaped(line) for line in text.splitlines()))

    def begin(self, name: str, seconds: float | None) -> Row:
        """Show a recording, until `end`."""
        row = Row(plain(name), seconds, self._now(), said=self._now())
        self._rows.append(row)
        self._draw()
        return row

    def reached(self, row: Row, position: float) -> None:
        """Note how far a recording is transcribed."""
        row.position = max(row.position, position)
        now = self._now()
        if self._area.live or self._quiet:
            self._draw()
        elif now - row.said >= _LINES_S:
            row.said = now
            self.say(f"{row.name}: {row.times(now)}")

    def end(self, row: Row) -> None:
        """Show a recording no longer."""
        self._rows.remove(row)
        self._draw()

    def _draw(self, *lines: str) -> None:
        with contextlib.suppress(OSError):  # the work goes on without its terminal
            self._show(lines)

    def _show(self, lines: Sequence[str]) -> None:
        if not self._area.live or self._quiet:
            self._area.draw(lines, ())
            return
        room, count = self._area.room()
        shown = self._rows[: count if len(self._rows) <= count else count - 1]
        rows = [(row_text(row, room, self._now()), "") for row in shown]
        if len(shown) < len(self._rows):
            rows.append((f"and {len(self._rows) - len(shown)} more"[:room], ""))
        self._area.draw(lines, rows)


def row_text(row: Row, room: int, now: float) -> str:
    """The text of a row, at most `room` cells wide: what is left out first says least."""
    share = row.share
    percent = "    " if share is None else f"{share:4.0%}"
    times = row.times(now)
    bar = ""
    if share is not None:
        done = round(share * _BAR_CELLS)
        bar = f"[{'#' * done}{'.' * (_BAR_CELLS - done)}] "
    short = times.partition(",")[0]
    for rest in (f"{bar}{percent}  {times}", f"{percent}  {times}", f"{percent}  {short}", percent):
        if width(rest) + _NAME_CELLS + 2 <= room:
            return f"{middle(row.name, min(room - width(rest) - 2, 40))}  {rest}"
    return middle(row.name, room)
