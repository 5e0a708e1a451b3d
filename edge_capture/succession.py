"""Decides what follows the end of a session: nothing, a successor for the rest, or an error.

Pure. Positions are frames of the session's audio.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from natterjack.control import is_stop
from natterjack.events import StatusEvent

AT_ONCE = 3
"""How many successors are opened at once, one after another, while none makes progress."""
_PROGRESS_S = 1.0
"""The least audio that a session must have transcribed to have made progress."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 5.0, 300.0
_JITTER = 0.25
"""The longest addition to a wait, as a part of it."""
_BUDGET, _END_OF_AUDIO = "budget", "end of audio"
"""Closing reasons of a worker."""
_MAX_SECONDS = "max_seconds"
"""Beginning of the detail of the reason "budget", if the session's own limit has ended it."""


@dataclass(frozen=True, slots=True)
class Transcribed:
    """All of the audio is transcribed, or part of a gap that a session has named."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """A request ended the session: nothing more is to be published."""


@dataclass(frozen=True, slots=True)
class Successor:
    """Another session is to transcribe the audio from `position` on, in `wait_s` seconds."""

    position: int
    wait_s: float


@dataclass(frozen=True, slots=True)
class Untranscribed:
    """No session transcribes the audio from `position` on; None if its worker did not say where."""

    position: int | None


Step = Transcribed | Stopped | Successor | Untranscribed


class Succession:
    """The sessions of one audio, one after another.

    A source that can wait has one session only, because its audio can be sent again. Live audio has
    a successor at once whenever a session ends before the audio, or after a growing wait when
    several in a row have made no progress.
    """

    def __init__(
        self,
        position: int,
        sample_rate: int,
        *,
        live: bool,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`position` is where the first session starts; `jitter` returns numbers from 0 to 1."""
        self.position = position
        """The first frame that no ended session has transcribed."""
        self.fruitless = 0
        """How many sessions in a row have made no progress."""
        self._least_progress = round(_PROGRESS_S * sample_rate)
        self._live = live
        self._jitter = jitter

    def after(self, event: StatusEvent | None, end: int | None) -> Step:
        """Return what follows the session that ended with `event`.

        The event is None if it cannot be read: a successor starts where that session did, or later,
        because its worker reads the event. `end` is where the audio ends, or None while more of it
        is captured.
        """
        if event is None:
            return self._successor(end, progress=False) if self._live else Untranscribed(None)
        if is_stop(event.reason):
            return Stopped()
        regular = event.state == "closed" and event.reason in (None, _END_OF_AUDIO)
        if end is not None and regular:
            return Transcribed()
        if event.audio_position is None:
            return Untranscribed(None)
        before, self.position = self.position, max(self.position, event.audio_position)
        if end is not None and self.position >= end:
            return Transcribed()
        if not self._live:
            return Untranscribed(self.position)
        progress = self.position - before >= self._least_progress
        return self._successor(end, progress=progress and not _tenant_budget(event))

    def _successor(self, end: int | None, *, progress: bool) -> Successor | Untranscribed:
        """`progress`: the session that ended is known to have made progress, and the next one may,
        too."""
        self.fruitless = 0 if progress else self.fruitless + 1
        if self.fruitless <= AT_ONCE:
            return Successor(self.position, 0.0)
        # Once the audio has ended, it does not become less likely to expire by waiting.
        return Untranscribed(self.position) if end is not None else self._later()

    def _later(self) -> Successor:
        wait_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(16, self.fruitless - AT_ONCE - 1))
        return Successor(self.position, wait_s * (1 + _JITTER * self._jitter()))


def _tenant_budget(event: StatusEvent) -> bool:
    """Whether the tenant's budget ended the session, which would end the next one too, and not the
    session's own `max_seconds`."""
    return event.reason == _BUDGET and not (event.detail or "").startswith(_MAX_SECONDS)


def clock_text(seconds: float) -> str:
    """Format as M:SS.s, or H:MM:SS.s from one hour on."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return (f"{hours}:{minutes:02}" if hours else f"{minutes}") + f":{rest:04.1f}"
