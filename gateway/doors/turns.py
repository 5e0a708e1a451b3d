"""Turns for clients whose protocol has them, whether or not the backend detects turns."""

from __future__ import annotations

from natterjack.events import Event, FinalEvent, InterimEvent, StatusEvent, TurnEvent


class Turns:
    """Tells with which events a client's turn starts and ends.

    A turn starts with its first text, not with the backend's announcement: client protocols have
    text in a turn, and some have it in the message that starts one. A turn that the backend has
    announced ends when the backend says so, or when the session ends. Without an announcement, a
    turn ends with its first final: such a backend makes one at each endpoint.
    """

    def __init__(self) -> None:
        self.open = False
        self._announced = False
        """Whether a turn of the backend is open."""
        self._announced_at: float | None = None
        self._text_end = 0.0

    def starts(self, event: Event) -> float | None:
        """The time at which a turn starts with this event; None if none does. Call it once for
        each event, before `ends`."""
        if isinstance(event, TurnEvent) and event.event == "started":
            self._announced, self._announced_at = True, event.start
        if not isinstance(event, InterimEvent | FinalEvent) or not event.text:
            return None
        self._text_end = event.end
        if self.open:
            return None
        self.open = True
        at, self._announced_at = self._announced_at, None
        first = next((word.start for word in event.words if word.start is not None), event.start)
        return first if at is None else min(at, first)

    def ends(self, event: Event) -> float | None:
        """The time at which the open turn ends with this event; None if it does not."""
        if isinstance(event, TurnEvent) and event.event == "ended":
            self._announced, self._announced_at = False, None
            return self.end(event.end)
        if isinstance(event, FinalEvent) and event.text and not self._announced:
            return self.end()
        if isinstance(event, StatusEvent) and event.closing:
            return self.end()
        return None

    def end(self, at: float | None = None) -> float | None:
        """End the open turn at `at`, or where its text ends. Return that time; None if no turn is
        open."""
        if not self.open:
            return None
        self.open = False
        return self._text_end if at is None else at
