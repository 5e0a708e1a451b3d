"""The limits of a Speechmatics session's time, and the warnings before them ("Limits")."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from ..session import Elapsed

Kind = Literal["idle_timeout", "session_timeout"]
"""The type of the Warnings and of the Error."""

_IDLE_SECONDS: Final = 3600.0
_SESSION_SECONDS: Final = 48 * 3600.0
LIFELESS_SECONDS: Final = 180.0
"""Time without audio, in total, and without audio, ping and pong."""
_WARNINGS: Final[dict[Kind, tuple[int, ...]]] = {
    "idle_timeout": (15, 10, 5),
    "session_timeout": (45, 30, 15),
}
"""Minutes before the limit at which a Warning is sent."""


class Due(NamedTuple):
    """A limit that is near, or reached."""

    kind: Kind
    minutes: int
    """Minutes to the limit that the Warning names; 0 if the limit is reached."""


class TimeLimits:
    """The limits of one session that have warnings: time without audio, and time in total."""

    def __init__(self) -> None:
        self._warned: set[Due] = set()

    def due(self, elapsed: Elapsed) -> Due | None:
        """Return the next warning that is due, each one once, or the limit that is reached.

        The limit of time without audio comes first.
        """
        return self._check("idle_timeout", elapsed.without_audio, _IDLE_SECONDS) or self._check(
            "session_timeout", elapsed.open, _SESSION_SECONDS
        )

    def _check(self, kind: Kind, passed: float, limit: float) -> Due | None:
        if passed >= limit:
            return Due(kind, 0)
        for minutes in _WARNINGS[kind]:
            warning = Due(kind, minutes)
            if passed >= limit - 60 * minutes and warning not in self._warned:
                self._warned.add(warning)
                return warning
        return None
