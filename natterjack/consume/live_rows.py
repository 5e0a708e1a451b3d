"""The open sessions of captions: what each says now, and which of them have a row on the screen."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from natterjack.decoding import AnyEvent, UnknownEvent
from natterjack.events import FinalEvent, InterimEvent, StatusEvent
from natterjack.process.terminal import plain
from natterjack.subjects import SessionKey
from natterjack.voice.events import UtteranceEvent, VoiceEvent, VoiceStatusEvent

_STALE_S = 10.0
"""An interim that has not changed for so long gives its row to a session that is speaking."""
_MAX_CLOSED = 1000
_MAX_TEXT = 1000
"""Characters that are kept of an interim: more than the width of any terminal."""


@dataclass(slots=True)
class Row:
    """One open session."""

    key: SessionKey
    number: int
    """Rows are in the order in which their sessions were first seen."""
    state: str = "open"
    text: str = ""
    """The end of the interim, on one line; empty if the last event was a final."""
    start: float = 0.0
    """Where the interim begins, in seconds."""
    changed: float = 0.0


class LiveRows:
    """Follows the sessions through their events. `now` is in seconds of any steady clock."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}
        self._shown: list[str] = []
        self._waiting: str | None = None
        """The session that changed last, if it is not shown."""
        self._closed: dict[str, None] = {}
        """Sessions that closed lately: an interim may arrive after the closing event."""
        self._numbers = count()

    def add(self, event: AnyEvent | VoiceEvent, now: float) -> None:
        """Follow one event."""
        session = event.session_id
        if session in self._closed:
            return
        if isinstance(event, StatusEvent | UnknownEvent | VoiceStatusEvent) and event.closing:
            self._close(session)
            return
        row = self._rows.get(session)
        if row is None:
            row = self._rows[session] = Row(event.key, next(self._numbers))
        if isinstance(event, InterimEvent):
            row.text, row.start = plain(event.text[-_MAX_TEXT:]), event.start
        elif isinstance(event, FinalEvent):
            row.text = ""
        elif isinstance(event, StatusEvent | VoiceStatusEvent):
            row.state = plain(event.state)
        elif isinstance(event, UtteranceEvent):
            row.state = "speaking" if event.event == "started" else "silent"
        row.changed = now
        if session not in self._shown:
            self._waiting = session

    def _close(self, session: str) -> None:
        self._closed[session] = None
        if len(self._closed) > _MAX_CLOSED:
            del self._closed[next(iter(self._closed))]
        self._rows.pop(session, None)
        if session in self._shown:
            self._shown.remove(session)
        if session == self._waiting:
            self._waiting = None

    def shown(self, limit: int, now: float) -> tuple[list[Row], int]:
        """At most `limit` rows, or one less and the number of further open sessions.

        A row stays until its session closes, or is silent while a session without a row speaks.
        """
        if len(self._rows) > limit:
            limit -= 1
        while len(self._shown) > limit:
            self._shown.remove(min(self._shown, key=self._changed))
        while len(self._shown) < min(limit, len(self._rows)):
            hidden = self._rows.keys() - set(self._shown)
            self._shown.append(max(hidden, key=self._changed))
        speaking, self._waiting = self._waiting, None
        if speaking is not None and speaking not in self._shown and self._rows[speaking].text:
            silent = [s for s in self._shown if not self._speaks(s, now)]
            if silent:
                self._shown.remove(min(silent, key=self._changed))
                self._shown.append(speaking)
        rows = sorted((self._rows[session] for session in self._shown), key=lambda r: r.number)
        return rows, len(self._rows) - len(rows)

    def _speaks(self, session: str, now: float) -> bool:
        row = self._rows[session]
        return bool(row.text) and now - row.changed < _STALE_S

    def _changed(self, session: str) -> float:
        return self._rows[session].changed
