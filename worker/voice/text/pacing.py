"""When text may be sent to a provider. Pure."""

from __future__ import annotations

from collections import deque

from natterjack.plugin.voice import VoiceCapabilities

_MINUTE = 60.0


class Pacer:
    """Keeps one stream within its provider's limits. Times are monotonic seconds."""

    def __init__(self, capabilities: VoiceCapabilities) -> None:
        self._characters = capabilities.characters_per_minute
        self._flushes = capabilities.flushes_per_minute
        self._sent: deque[tuple[float, int]] = deque()
        self._total = 0

    def wait(self, characters: int, now: float) -> float:
        """Seconds until a phrase of so many characters may be sent; 0 if it may be sent now."""
        while self._sent and self._sent[0][0] <= now - _MINUTE:
            self._total -= self._sent.popleft()[1]
        if not self._sent:
            return 0.0  # a phrase that is longer than the limit could never be sent otherwise
        full = self._flushes is not None and len(self._sent) >= self._flushes
        if self._characters is not None and self._total + characters > self._characters:
            full = True
        return max(0.01, self._sent[0][0] + _MINUTE - now) if full else 0.0

    def sent(self, characters: int, now: float) -> None:
        """Note that a phrase was sent."""
        self._sent.append((now, characters))
        self._total += characters
