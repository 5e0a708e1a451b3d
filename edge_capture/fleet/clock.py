"""The clock of this machine, compared with the server's."""

from __future__ import annotations

from datetime import datetime

MAX_ROUND_TRIP_S = 2.0
"""A longer round trip says too little about the clock."""


def offset_seconds(before: float, after: float, stored_at: str) -> float | None:
    """Return by how many seconds the clock of this machine is ahead of the server's.

    The server stored a message at `stored_at` (RFC 3339) by its clock, after `before` and before
    `after` (seconds since the epoch) by the clock of this machine. The result is wrong by at most
    half the time between them. Returns None if that is too long, or `stored_at` is no time.
    """
    if not 0 <= after - before <= MAX_ROUND_TRIP_S:
        return None
    try:
        stored = datetime.fromisoformat(stored_at)
        return round((before + after) / 2 - stored.timestamp(), 3)
    except (ValueError, OverflowError):
        return None
