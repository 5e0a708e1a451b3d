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
        return (now or datetime.now(UTC)) - since
    if isinstance(since, datetime):
        if since.tzinfo is None:
            raise UsageError("since: a time needs a time zone, as in datetime.now(UTC)")
        return since
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
