"""The names of recordings, and which of them have to go. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from natterjack.subjects import TOKEN_PATTERN, SessionKey

DAY_S = 86_400
IN_USE_S = 60.0
"""A file that was written to within this time is still being written."""
_NAME = re.compile(rf"(?:{TOKEN_PATTERN}\.){{3}}\d{{8}}T\d{{6}}Z(?:_\d{{1,4}})?\.flac")


class Kept(NamedTuple):
    """A recording."""

    name: str
    size: int
    """In bytes."""
    written: float
    """When it was written to, in seconds since the epoch."""


def file_name(key: SessionKey, time_ns: int, count: int = 0) -> str:
    """The name of a recording whose first frame was captured at `time_ns`; `count` makes it differ
    from those that begin in the same second. Names sort by time."""
    begin = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC)
    return f"{key}.{begin:%Y%m%dT%H%M%SZ}{f'_{count}' if count else ''}.flac"


def is_recording(name: str) -> bool:
    """Whether a file has such a name. No other file is ever deleted."""
    return _NAME.fullmatch(name) is not None


def surplus(found: Iterable[Kept], now: float, max_bytes: int, max_days: float) -> list[str]:
    """The names of the recordings that are too old, or the oldest that exceed `max_bytes`.

    A file that is being written is not among them, but counts.
    """
    newest_first = sorted(found, key=lambda kept: kept.written, reverse=True)
    names, total = [], 0
    for kept in newest_first:
        total += kept.size
        age_s = now - kept.written
        if age_s < IN_USE_S:
            continue
        if total > max_bytes or age_s > max_days * DAY_S:
            names.append(kept.name)
            total -= kept.size
    return names[::-1]
