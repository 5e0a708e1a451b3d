"""Markers, which `listen(markers=True)` yields beside events."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """Everything that was stored has been read, and later events follow as they are published. It
    comes again after each lost connection."""

    position: str | None
    """The position of the last event that was read; None before the first."""
    type: Literal["caught_up"] = "caught_up"


@dataclass(frozen=True, slots=True)
class HistoryLost:
    """Events that were stored between two times may be missing: the stream no longer has them."""

    start: datetime
    end: datetime
    type: Literal["history_lost"] = "history_lost"


@dataclass(frozen=True, slots=True)
class StreamReplaced:
    """The stream was recreated or restored from a backup. Events that were stored after `since`
    follow; a session that was open may repeat events that are not in the backup."""

    since: datetime
    type: Literal["stream_replaced"] = "stream_replaced"


Marker = CaughtUp | HistoryLost | StreamReplaced
