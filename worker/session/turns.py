"""The turns of a session, over reconnects: none is started twice or ended unstarted."""

from __future__ import annotations

from natterjack.events import TurnEvent, TurnKind


class Turns:
    """Index of the current turn, and whether it is open."""

    def __init__(self, last: TurnEvent | None = None) -> None:
        """`last` is the newest turn event that any worker has published for the session."""
        self.open = last is not None and last.event != "ended"
        self.index = 0 if last is None else last.turn + (not self.open)

    def admit(self, kind: TurnKind) -> int | None:
        """Index under which to publish an event, or None when it must not be published."""
        if kind == "started":
            if self.open:
                return None
            self.open = True
            return self.index
        if not self.open:
            return None
        index = self.index
        if kind == "ended":
            self.open = False
            self.index += 1
        return index
