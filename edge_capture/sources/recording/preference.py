"""When to leave the microphone in use for one that is preferred, and which ones to avoid."""

from __future__ import annotations

from ..choice import Key

_FIRST_AVOIDED_S, _LONGEST_AVOIDED_S = 30.0, 3600.0
_MISSED_LOOKS = 2.5
"""A device that was not seen for so many intervals has been away."""


class Preference:
    """Decides by what is seen; it reads no clock: each method takes the time `now`, in seconds."""

    def __init__(self, return_s: float, look_s: float) -> None:
        """A preferred device is switched to once it is seen for `return_s`, looked for every
        `look_s`."""
        self._return_s = return_s
        self._gone_s = look_s * _MISSED_LOOKS
        self._seen: Key | None = None
        self._since = self._last = 0.0
        self._failures: dict[Key, int] = {}
        self._avoided_until: dict[Key, float] = {}

    def avoided(self, now: float) -> set[Key]:
        """Return the devices that are there and were of no use a short while ago."""
        return {key for key, until in self._avoided_until.items() if until > now}

    def failed(self, key: Key, now: float) -> None:
        """A device could not be recorded, or delivered nothing: avoid it for 30 s, and for twice as
        long each time, up to an hour."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self._avoided_until[key] = now + min(_LONGEST_AVOIDED_S, _FIRST_AVOIDED_S * 2**failures)

    def worked(self, key: Key) -> None:
        """A device was recorded for a while."""
        self._failures.pop(key, None)
        self._avoided_until.pop(key, None)

    def returned(self, key: Key | None, now: float) -> bool:
        """Whether to switch to the preferred device that is seen now, if any."""
        if key is None or key in self.avoided(now):
            self._seen = None
            return False
        if key != self._seen or now - self._last > self._gone_s:
            self._seen, self._since = key, now
        self._last = now
        return now - self._since >= self._return_s
