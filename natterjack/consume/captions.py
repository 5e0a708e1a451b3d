"""Captions: transcript events as lines of text, where finals replace interims."""

from __future__ import annotations

import shutil
import sys
from typing import TextIO

from natterjack.events import (
    Event,
    FinalEvent,
    InterimEvent,
    StatusEvent,
    TurnEvent,
    UsageEvent,
)

_CLEAR = "\r\x1b[K"
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


def clock(seconds: float) -> str:
    """Format seconds as m:ss.t."""
    tenths = round(seconds * 10)
    return f"{tenths // 600}:{tenths // 10 % 60:02}.{tenths % 10}"


class Captions:
    """Writes events to a terminal; to other outputs, plain lines without interims."""

    def __init__(
        self, out: TextIO = sys.stdout, *, speakers: bool = True, states: bool = True
    ) -> None:
        self._out = out
        self._live = out.isatty()
        self._speakers = speakers
        self._states = states
        self._interim_shown = False

    def show(self, event: Event) -> None:
        """Write one event. Turn and usage events are ignored."""
        if isinstance(event, InterimEvent):
            if self._live:
                self._show_interim(event)
        elif isinstance(event, FinalEvent):
            self.line(f"{self._head(event)}{event.text}")
        elif isinstance(event, StatusEvent) and self._states:
            reason = f" ({event.reason})" if event.reason else ""
            self.line(f"{self._head(event)}[{event.state}{reason}]")
        else:
            assert isinstance(event, TurnEvent | UsageEvent | StatusEvent)

    def line(self, text: str) -> None:
        """Write a line, replacing the interim that is shown."""
        clear = _CLEAR if self._interim_shown else ""
        self._interim_shown = False
        print(f"{clear}{text}", file=self._out, flush=True)

    def _show_interim(self, event: InterimEvent) -> None:
        head = self._head(event)
        room = shutil.get_terminal_size().columns - len(head) - 2
        text = event.text if len(event.text) <= room else "…" + event.text[1 - room :]
        print(f"{_CLEAR}{head}{_DIM}{text}{_PLAIN}", end="", file=self._out, flush=True)
        self._interim_shown = True

    def _head(self, event: Event) -> str:
        start = clock(event.start) if isinstance(event, InterimEvent | FinalEvent) else ""
        return f"{start:>7}  " + (f"{event.speaker}: " if self._speakers else "")
