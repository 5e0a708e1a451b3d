"""Server-sent events: what the stream of a conversation is made of, and how it is asked for. Pure.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic_core import from_json, to_json

from natterjack.errors import UsageError
from natterjack.position import Position
from natterjack.subjects import TRANSCRIPT_KINDS

Start = Position | datetime | None
"""Where a viewer begins: after an event, with events stored from a time on, or (None) with new
ones. `BEGINNING` is the time before all events."""

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
COMMENT = b": \n\n"
"""Keeps the connection open. Clients ignore it."""

_DURATION = re.compile(r"(\d{1,9})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def message(data: bytes, position: str | None = None) -> bytes:
    """One message with the JSON `data`. One with a position is where a client continues that has
    lost its connection: it sends it as `Last-Event-ID`."""
    if b"\n" in data or b"\r" in data:  # another program may have published it so
        data = to_json(from_json(data))
    head = b"" if position is None else b"id: %s\n" % position.encode()
    return b"%sdata: %s\n\n" % (head, data)


def note(kind: str, position: str | None = None, **members: Any) -> bytes:
    """A message that is no event of a session: `type` is `kind`."""
    return message(to_json({"type": kind, **members}), position)


def retry(milliseconds: int) -> bytes:
    """How long a client waits before it connects again."""
    return b"retry: %d\n\n" % milliseconds


def start_of(headers: Mapping[str, str], query: Mapping[str, str], now: datetime) -> Start:
    """Where a viewer begins: after `Last-Event-ID`, else at `since`, else at the beginning.

    `since` is `start`, `now`, a position, a time with its time zone, or a duration back from now
    such as `30s`, `15m`, `2h` or `1d`. Raises: UsageError.
    """
    last = headers.get("Last-Event-ID", "").strip()
    if last:
        return Position.parse(last)
    since = query.get("since", "start").strip()
    if since in ("", "start"):
        return BEGINNING
    if since == "now":
        return None
    if found := _DURATION.fullmatch(since):
        seconds = int(found[1]) * _UNITS[found[2]]
        return now - timedelta(seconds=seconds) if seconds < now.timestamp() else BEGINNING
    try:
        moment = datetime.fromisoformat(since.replace(" ", "+"))  # `+` in a query is a space
    except ValueError:
        moment = None
    if moment is not None and moment.tzinfo is not None:
        return max(BEGINNING, moment)
    if moment is not None:
        raise UsageError(f"since: {since!r} needs a time zone, as in 2026-11-29T14:00Z")
    try:
        return Position.parse(since)
    except UsageError:
        raise UsageError(
            f"since: {since[:100]!r} is neither `start`, `now`, the ID of a message, a time such "
            "as 2026-11-29T14:00Z, nor a duration such as 30s, 15m, 2h or 1d"
        ) from None


def kinds_of(query: Mapping[str, str], allowed: Collection[str] | None) -> frozenset[str] | None:
    """The kinds of event that a viewer receives: those of `kinds`, comma-separated, as far as they
    are `allowed`; None for all. Raises: UsageError."""
    text = query.get("kinds", "").strip()
    if not text:
        return None if allowed is None else frozenset(allowed)
    wanted = frozenset(kind.strip() for kind in text.split(","))
    for kind in sorted(wanted - set(TRANSCRIPT_KINDS)):
        raise UsageError(f"kinds: {kind[:40]!r} is not one of {', '.join(TRANSCRIPT_KINDS)}")
    return wanted if allowed is None else wanted & frozenset(allowed)
