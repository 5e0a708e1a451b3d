"""Silence for which a server sends no finals. Pure: no sockets, clocks or environment."""

from __future__ import annotations

import math
from typing import Final

_SAME_SECONDS: Final = 0.3
"""How much longer the same silence may be on the next stream."""


class Silences:
    """The last stretch of one session's audio that got neither finals nor interims.

    Deepgram sends finals for all audio. If one is missing, a message was lost, and the audio is
    sent again on another stream. If that stream begins with the same silence, the server is not
    Deepgram's own, and sends no finals for silence.
    """

    __slots__ = ("_seconds",)

    def __init__(self) -> None:
        self._seconds = 0.0

    def skipped(self, frontier: float, until: float) -> bool:
        """Note a silence without finals, from `frontier` to `until` in seconds of the stream.

        True if it is known that the server sends no finals for silence. Otherwise the next stream
        begins at `frontier`, with the same silence.
        """
        if frontier == 0 and until <= self._seconds + _SAME_SECONDS and self._seconds:
            self._seconds = math.inf
        known = self._seconds == math.inf
        if not known:
            self._seconds = until - frontier
        return known
