"""Remembers, across the streams of a session, audio to which the proxy did not respond.

The worker sends such audio again on a new stream, which starts at the end of the finals. Speech
then gets a text; noise does not, and would be sent again forever. Audio on which two streams in a
row were mute is therefore skipped. Pure: no sockets, clocks or environment.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

_SESSIONS: Final = 1000
_KEEP_SECONDS: Final = 120.0
"""How long an entry is valid; later streams may start elsewhere, after another provider."""


class MuteMemory:
    """For each session, how much audio after its finals a stream was mute on."""

    def __init__(self) -> None:
        self._mute: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def note(self, session_id: str, seconds: float, now: float) -> None:
        """Record that a stream was mute on `seconds` of audio after its last final."""
        self._mute[session_id] = seconds, now
        self._mute.move_to_end(session_id)
        if len(self._mute) > _SESSIONS:
            self._mute.popitem(last=False)

    def take(self, session_id: str, now: float) -> float:
        """Remove and return how much of its first audio the session's previous stream was mute
        on."""
        seconds, noted = self._mute.pop(session_id, (0.0, now))
        return seconds if now - noted <= _KEEP_SECONDS else 0.0
