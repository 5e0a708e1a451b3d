"""Captions: events as lines of text, with a row that is rewritten for each session."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import Literal, TextIO

from natterjack.decoding import AnyEvent
from natterjack.events import FinalEvent, Gap, StatusEvent
from natterjack.process.terminal import (
    end,
    escaped,
    middle,
    plain,
    rewritable,
    size,
    start,
    styled,
    width,
)
from natterjack.subjects import SessionKey
from natterjack.voice.events import UtteranceEvent, VoiceEvent, VoiceStatusEvent

from .live_rows import LiveRows, Row

_UP, _DOWN = "\x1b[{}A", "\x1b[{}B"
_CLEAR_LINE, _CLEAR_BELOW = "\x1b[K", "\x1b[J"
_ONE_LINE, _MANY_LINES = "\x1b[?7l", "\x1b[?7h"
"""Text beyond the last column is cut, or continues on the next line."""
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
_CLOCK_CELLS = 9
_WIDE = 50
"""Columns from which rows have a clock."""
_MAX_GAPS = 10


def clock(seconds: float) -> str:
    """Format seconds as m:ss.t."""
    tenths = round(seconds * 10)
    return f"{tenths // 600}:{tenths // 10 % 60:02}.{tenths % 10}"


class Captions:
    """Writes events as lines. On a terminal, rows below them show what each open session says now.

    The rows are at most half of the terminal; the last one counts the sessions without a row. Other
    outputs get lines only, without control characters. A context manager: at the end, the rows are
    removed.
    """

    def __init__(
        self,
        out: TextIO | None = None,
        *,
        names: Literal["key", "speaker"] | None = "key",
        clocks: bool = True,
        states: bool = True,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`names`: how a line names its session. `clocks`: lines begin with a time. `states`: there
        are lines for changes of state."""
        self._out = sys.stdout if out is None else out
        self._live = rewritable(self._out)
        self._styled = styled(self._out)
        self._names = names
        self._clocks = clocks
        self._states = states
        self._now = now
        self._tenants: set[str] = set()
        self._rows = LiveRows()
        self._drawn: list[str] = []
        """The rows on the screen, without style."""
        self._columns = 0
        """Width of the terminal when they were drawn."""
        self._logging = contextlib.ExitStack()

    def __enter__(self) -> Captions:
        if self._live and sys.stderr.isatty():
            self._logging.enter_context(_logging_to(_Lines(self)))
        return self

    def __exit__(self, *_: object) -> None:
        self._logging.close()
        if self._drawn:
            self._out.write(f"{self._to_first_row()}{_CLEAR_BELOW}")
            self._out.flush()
            self._drawn = []

    def show(self, event: AnyEvent | VoiceEvent) -> None:
        """Show one event. Turn and usage events only tell that their session is open, and so does
        the start of an utterance."""
        self._tenants.add(event.tenant)
        self._rows.add(event, self._now())
        self._draw(self._lines_of(event))

    def line(self, text: str) -> None:
        """Write a line above the rows."""
        self._draw([escaped(text)])

    # ---- what is shown ---------------------------------------------------------------------------

    def _lines_of(self, event: AnyEvent | VoiceEvent) -> list[str]:
        name = self._label(event.key)
        head = f"{name}: " if name else ""
        if isinstance(event, FinalEvent):
            return [f"{self._clock(event.start)}{head}{plain(event.text)}"]
        if isinstance(event, UtteranceEvent):
            if event.event == "started" or not (event.text_spoken or event.text_remaining):
                return []
            says = f"{name} says: " if name else ""
            return [f"{self._clock(event.start)}{says}{_spoken_text(event)}"]
        if isinstance(event, StatusEvent | VoiceStatusEvent) and self._states:
            account = event.account if isinstance(event, StatusEvent) else None
            gaps = account.gaps if account is not None else []
            lines = [f"{self._clock(g.start)}{head}{_gap_text(g)}" for g in gaps[:_MAX_GAPS]]
            if len(gaps) > _MAX_GAPS:
                lines.append(f"{self._clock(None)}{head}[more gaps]")
            reason = f" ({plain(event.reason)})" if event.reason else ""
            return [*lines, f"{self._clock(None)}{head}[{plain(event.state)}{reason}]"]
        return []

    def _clock(self, seconds: float | None) -> str:
        """The beginning of a line."""
        if not self._clocks:
            return ""
        return f"{'' if seconds is None else clock(seconds):>{_CLOCK_CELLS - 2}}  "

    def _label(self, key: SessionKey) -> str:
        """Conversation and speaker, and the tenant if events of several tenants were shown."""
        if self._names == "key":
            return plain(".".join(key if len(self._tenants) > 1 else key[1:]))
        return plain(key.speaker) if self._names else ""

    def _row_text(self, row: Row, room: int) -> tuple[str, str]:
        """The head and the text of a row; together, they are at most `room` cells wide."""
        head = self._clock(row.start if row.text else None) if room >= _WIDE else ""
        if self._names:
            head += f"{middle(self._label(row.key), max(8, room // 3))}: "
        head = start(head, room)
        text = row.text or f"[{row.state}]"
        return head, end(text, room - width(head))

    # ---- drawing ---------------------------------------------------------------------------------

    def _draw(self, lines: list[str]) -> None:
        """Write lines above the rows, and rewrite the rows that have changed."""
        if not self._live:
            self._out.writelines(f"{line}\n" for line in lines)
            if lines:
                self._out.flush()
            return
        columns, screen_lines = size(self._out)
        rows, more = self._rows.shown(max(1, screen_lines // 2), self._now())
        # The last column stays free: some terminals begin the next line when it is written.
        room = max(1, columns - 1)
        parts = [self._row_text(row, room) for row in rows]
        if more:
            margin = self._clock(None) if room >= _WIDE else ""
            parts.append((start(f"{margin}and {more} more", room), ""))
        drawn = ["".join(part) for part in parts]
        styled_rows = [
            f"{_ONE_LINE}{head}{self._dim(text)}{_MANY_LINES}{_CLEAR_LINE}" for head, text in parts
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


def _spoken_text(event: UtteranceEvent) -> str:
    """What was heard of an utterance, and of an interrupted one, why and what was not."""
    heard = plain(event.text_spoken or "")
    if event.event == "finished":
        return heard
    rest = plain(event.text_remaining or "")
    unheard = f"; not heard: {rest}" if rest else ""
    return f"{heard} [interrupted ({plain(event.reason or 'no reason given')}){unheard}]".lstrip()


def _gap_text(gap: Gap) -> str:
    return f"[gap of {gap.end - gap.start:.1f} s ({plain(gap.cause)})]"


class _Lines(io.TextIOBase):
    """Takes log lines, and has captions write them above the rows."""

    def __init__(self, captions: Captions) -> None:
        self._captions = captions
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._captions.line(line)
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
