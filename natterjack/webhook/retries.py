"""When a webhook that has failed is sent again, and when it becomes a dead letter."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FIRST_S, LONGEST_S = 5.0, 600.0
"""The delay after the first failure, and the longest of all: a receiver that is back again has
everything ten minutes later."""
PERIOD_S = 24 * 3600.0
_JITTER = 0.2
MAX_RETRY_AFTER_S = 3600.0
"""A receiver that asks for more, by mistake or not, is tried again after an hour."""


def delay(attempt: int, chance: float, retry_after: float | None = None) -> float:
    """Seconds to wait after attempt number `attempt`, the first of which is 1.

    `chance`, from 0 to 1, spreads the attempts of many webhooks that failed together. A receiver
    may ask for a longer delay (`retry_after`).
    """
    seconds = min(LONGEST_S, FIRST_S * 2.0 ** min(attempt - 1, 32))
    jittered = seconds * (1 - _JITTER + 2 * _JITTER * chance)
    return max(jittered, (retry_after or 0.0) * (1 + _JITTER * chance))


def _attempts() -> int:
    """How many attempts a day has, on average over the jitter."""
    count, seconds = 1, 0.0
    while seconds < PERIOD_S:
        seconds += delay(count, 0.5)
        count += 1
    return count


MAX_ATTEMPTS = _attempts()
"""The webhook is a dead letter if this attempt fails, too."""


def parse_retry_after(text: str | None, now: datetime) -> float | None:
    """Seconds that the header `Retry-After` asks for, as a number or a date, up to an hour; None if
    it is absent or has no meaning."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:12]), MAX_RETRY_AFTER_S)
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(0.0, (moment - now).total_seconds()), MAX_RETRY_AFTER_S)
