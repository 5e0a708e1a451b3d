"""What was sent to the proxy and had no answer, over the streams of a session.

The worker sends it once more, on a new stream that begins where the finals ended. Speech is then
answered. Noise is not, and would be sent again for ever: so a stretch on which two streams in a row
were mute is passed over. Pure: no sockets, clocks or environment.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

_SESSIONS: Final = 1000
_KEEP_SECONDS: Final = 120.0
"""A stream that is opened later may begin elsewhere: another provider may have gone on."""


class MuteMemory:
    """By session: how much audio, from the end of its finals, a stream was mute on."""

    def __init__(self) -> None:
        self._mute: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def note(self, session_id: str, seconds: float, now: float) -> None:
        """A stream ended, mute on `seconds` of audio after its last final."""
        self._mute[session_id] = seconds, now
        self._mute.move_to_end(session_id)
        if len(self._mute) > _SESSIONS:
            self._mute.popitem(last=False)

    def take(self, session_id: str, now: float) -> float:
        """On how much of its first audio the stream before was mute; asked once a stream."""
        seconds, noted = self._mute.pop(session_id, (0.0, now))
        return seconds if now - noted <= _KEEP_SECONDS else 0.0
