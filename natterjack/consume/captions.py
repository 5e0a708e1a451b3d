"""Captions: events as lines of text, with a row that is rewritten for each session."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Literal, TextIO

from natterjack.decoding import AnyEvent, UnknownEvent
from natterjack.events import FinalEvent, NoticeEvent, StatusEvent
from natterjack.notices import text_of
from natterjack.process.live_area import LiveArea
from natterjack.process.terminal import end, escaped, middle, plain, start, width
from natterjack.subjects import SessionKey
from natterjack.values import Gap
from natterjack.voice.events import UtteranceEvent, VoiceEvent, VoiceStatusEvent

from .live_rows import LiveRows, Row

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
        self._area = LiveArea(sys.stdout if out is None else out, log_to=self._log)
        self._names = names
        self._clocks = clocks
        self._states = states
        self._now = now
        self._tenants: set[str] = set()
        self._rows = LiveRows()

    def __enter__(self) -> Captions:
        self._area.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._area.__exit__()

    def _log(self, line: str) -> None:
        self._draw([line])

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
        if isinstance(event, NoticeEvent) and self._states:
            notice = plain(text_of(event.code, ended=event.state == "ends"))
            return [f"{self._clock(event.at)}{head}[{notice}]"]
        if isinstance(event, UnknownEvent) and self._states:
            unknown = f"{plain(event.kind)} event that this release does not know"
            return [f"{self._clock(None)}{head}[{unknown}]"]
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

    def _draw(self, lines: list[str]) -> None:
        if not self._area.live:
            self._area.draw(lines, ())
            return
        room, count = self._area.room()
        rows, more = self._rows.shown(count, self._now())
        parts = [self._row_text(row, room) for row in rows]
        if more:
            margin = self._clock(None) if room >= _WIDE else ""
            parts.append((start(f"{margin}and {more} more", room), ""))
        self._area.draw(lines, parts)


def _spoken_text(event: UtteranceEvent) -> str:
    """Return the text of an utterance that was heard, and for an interrupted one, the reason and
    the text that was not heard."""
    heard = plain(event.text_spoken or "")
    if event.event == "finished":
        return heard
    rest = plain(event.text_remaining or "")
    unheard = f"; not heard: {rest}" if rest else ""
    return f"{heard} [interrupted ({plain(event.reason or 'no reason given')}){unheard}]".lstrip()


def _gap_text(gap: Gap) -> str:
    return f"[gap of {gap.end - gap.start:.1f} s ({plain(gap.cause)})]"
