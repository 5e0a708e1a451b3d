"""When the sessions of a source end and the next begin: by the clock, by schedule, by silence.

Pure. A time zone of None is that of the machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import NamedTuple

_PAUSE_S, _QUIETER_DB = 0.15, 20.0
"""A pause is this long, and this much quieter than what was said."""
_SET_BACK_NS = 60 * 1_000_000_000
"""From here on, a step back of the wall clock means that it was set."""


class Schedule(NamedTuple):
    """Times on the clock at which sessions are rotated."""

    every_minutes: int | None = None
    """At multiples of so many minutes after midnight, by the clock on the wall."""
    at: tuple[time, ...] = ()
    """At these times of day."""
    zone: tzinfo | None = None

    def next(self, after: datetime) -> datetime | None:
        """Return the first of its times after `after`, in UTC; None if it has none.

        When clocks are set back, an interval is kept in the hour that comes twice, and a time of
        day counts when it first comes. When they are set forward, a time of day that does not come
        counts as much later as the clocks are set.
        """
        today = after.astimezone(self.zone).date()
        found = [
            self._instant(datetime.combine(today + timedelta(days), at), 0)
            for days in range(-1, 3)
            for at in self.at
        ]
        if self.every_minutes is not None:
            found += self._multiples(after, timedelta(minutes=self.every_minutes))
        return min((each for each in found if each > after), default=None)

    def _multiples(self, after: datetime, every: timedelta) -> Iterable[datetime]:
        """Times at multiples of `every`, among them the first one after `after`."""
        here = after.astimezone(self.zone)
        wall = here.replace(tzinfo=None, fold=0)
        day = timedelta(days=1)
        offsets = [each.astimezone(self.zone).utcoffset() for each in (after - day, after + day)]
        known = [each for each in (*offsets, here.utcoffset()) if each is not None]
        shift = max(known) - min(known)
        if not shift:
            yield after.astimezone(UTC) + (_multiple_after(wall, every) - wall)
            return
        # Clocks are set within a day: any time that this may have moved is looked at.
        at, last = wall - shift - every, wall + every + 2 * shift
        while at <= last:
            at = _multiple_after(at, every)
            for fold in (0, 1):
                yield self._instant(at, fold)

    def _instant(self, local: datetime, fold: int) -> datetime:
        """Return when a time comes: with a fold of 1, for the second time."""
        if self._set_forward(local):
            fold = 0
        return self._in_zone(local, fold).astimezone(UTC)

    def _in_zone(self, local: datetime, fold: int) -> datetime:
        local = local.replace(fold=fold)
        return local if self.zone is None else local.replace(tzinfo=self.zone)

    def _set_forward(self, local: datetime) -> bool:
        """Whether a time does not come, because clocks are set forward over it."""
        there = self._in_zone(local, 0).astimezone(UTC).astimezone(self.zone)
        return there.replace(tzinfo=None, fold=0) != local


def _multiple_after(wall: datetime, every: timedelta) -> datetime:
    """Return the next time of a clock on the wall that is a multiple of `every` after midnight."""
    midnight = datetime.combine(wall.date(), time())
    following = midnight + ((wall - midnight) // every + 1) * every
    return min(following, midnight + timedelta(days=1))


class Silence:
    """Whether nothing has been audible for so long that the session is to be rotated."""

    def __init__(self, seconds: float, dbfs: float) -> None:
        """Audio whose level is at most `dbfs` is silent."""
        self._seconds = seconds
        self._dbfs = dbfs
        self._silent_s = 0.0
        self._audible = False
        """Whether anything was audible since the last rotation."""

    def feed(self, seconds: float, level_dbfs: float) -> bool:
        """Take the level of the next so many seconds. Returns whether the session is to be rotated
        now: once, until something is audible again."""
        if level_dbfs > self._dbfs:
            self._silent_s, self._audible = 0.0, True
            return False
        self._silent_s += seconds
        return self._audible and self._silent_s >= self._seconds

    def rotated(self) -> None:
        """The session was rotated, for whatever reason."""
        self._audible = False


class Pause:
    """The pause between words that a rotation waits for: a word that is cut in two is understood in
    neither session."""

    def __init__(self, wait_s: float, dbfs: float) -> None:
        """It is waited for over `wait_s` seconds of audio; 0 does not wait. Audio whose level is at
        most `dbfs` is a pause in any case."""
        self._wait_s = wait_s
        self._dbfs = dbfs
        self._waited_s = self._quiet_s = 0.0
        self._loudest = dbfs

    def feed(self, seconds: float, level_dbfs: float) -> bool:
        """Take the level of the next so many seconds. Returns whether to wait no longer."""
        self._loudest = max(self._loudest, level_dbfs)
        quiet = level_dbfs <= max(self._dbfs, self._loudest - _QUIETER_DB)
        self._quiet_s = self._quiet_s + seconds if quiet else 0.0
        over = self._quiet_s >= _PAUSE_S or self._waited_s >= self._wait_s
        self._waited_s += seconds
        if over:
            self._waited_s, self._quiet_s, self._loudest = 0.0, 0.0, self._dbfs
        return over


class Rotation:
    """When one source is rotated."""

    def __init__(
        self,
        schedule: Schedule,
        silence: Silence | None = None,
        pause: Pause | None = None,
        *,
        began_ns: int,
    ) -> None:
        """`began_ns` is the wall clock at which the first session began, in nanoseconds. Without
        `pause`, a session is rotated as soon as that is due."""
        self._schedule = schedule
        self._silence = silence
        self._pause = pause
        self._due_ns = self._next(began_ns)
        self._newest_ns = began_ns
        self._asked = False

    def needs_level(self, time_ns: int) -> bool:
        """Whether `feed` needs the level of the block of this time."""
        return self._silence is not None or (self._pause is not None and self.is_due(time_ns))

    def ask(self) -> None:
        """Rotate at the next pause."""
        self._asked = True

    def is_due(self, time_ns: int) -> bool:
        """Whether a rotation is due at this time on the wall clock."""
        if time_ns < self._newest_ns - _SET_BACK_NS:
            self._due_ns = self._next(time_ns)
        self._newest_ns = time_ns
        return self._asked or (self._due_ns is not None and time_ns >= self._due_ns)

    def feed(self, time_ns: int, seconds: float = 0, level_dbfs: float = 0) -> bool:
        """Take the wall clock, the length and the level of the next block. Returns whether a
        session is to begin with it."""
        due = self.is_due(time_ns)
        if due and self._pause is not None:
            due = self._pause.feed(seconds, level_dbfs)
        if self._silence is not None:
            due |= self._silence.feed(seconds, level_dbfs)
        if due:
            self._asked = False
            self._due_ns = self._next(time_ns)
            if self._silence is not None:
                self._silence.rotated()
        return due

    def _next(self, time_ns: int) -> int | None:
        due = self._schedule.next(datetime.fromtimestamp(time_ns / 1e9, UTC))
        return None if due is None else round(due.timestamp()) * 1_000_000_000
