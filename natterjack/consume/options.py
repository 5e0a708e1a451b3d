"""The parameters of `listen()`, checked."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from natterjack.errors import UsageError
from natterjack.position import Position
from natterjack.subjects import EventKind

from .interims import Interims
from .reader import Since

Until = Literal["stored", "closed"]
KINDS: tuple[EventKind, ...] = get_args(EventKind)

_FIRST, _LAST = datetime(1971, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
"""Nothing was stored before, and nothing will be after."""


def checked_kinds(kinds: Collection[str] | None) -> frozenset[str] | None:
    """The kinds of event that are wanted; None for all. Raises UsageError."""
    if kinds is None:
        return None
    wanted = frozenset([kinds] if isinstance(kinds, str) else kinds)
    for kind in sorted(map(str, wanted - set(KINDS))):
        raise UsageError(f"kinds: {kind!r} is not one of {', '.join(KINDS)}")
    if not wanted:
        raise UsageError(f"kinds: name at least one of {', '.join(KINDS)}, or None for all")
    return wanted


def checked_since(since: datetime | timedelta | str | None, now: datetime | None = None) -> Since:
    """Where reading begins. Raises UsageError."""
    if isinstance(since, timedelta):
        if since < timedelta(0):
            raise UsageError("since: a duration must not be negative: it reaches back from now")
        now = now or datetime.now(UTC)
        return "start" if since > now - _FIRST else now - since
    if isinstance(since, datetime):
        if since.tzinfo is None:
            raise UsageError("since: a time needs a time zone, as in datetime.now(UTC)")
        # The server cannot calculate with times that are far away.
        naive = since.replace(tzinfo=None)
        if naive < _FIRST.replace(tzinfo=None):
            return "start"
        return min(since, _LAST) if naive < datetime.max - timedelta(days=1) else _LAST
    if isinstance(since, str):
        return "start" if since == "start" else Position.parse(since)
    if since is not None:
        raise UsageError(
            f'since: {since!r} is no datetime, timedelta, position of an event, or "start"'
        )
    return None


def checked_interims(interims: Interims | None, kinds: Collection[str] | None) -> Interims | None:
    """Which interims are wanted. Raises UsageError."""
    if interims is None and kinds is not None and "interim" in kinds:
        raise UsageError('kinds: "interim" needs interims="latest" or interims="all"')
    if interims not in (*get_args(Interims), None):
        raise UsageError(f'interims: {interims!r} is not "latest", "all" or None')
    return interims


def checked_until(until: Until | None, conversation: str | None) -> Until | None:
    """Raises UsageError."""
    if until not in (*get_args(Until), None):
        raise UsageError(f'until: {until!r} is not "stored", "closed" or None')
    if until == "closed" and conversation is None:
        raise UsageError('until="closed" needs a conversation: a tenant has no end')
    return until
