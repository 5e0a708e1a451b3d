"""What a source of an agent does, as others see it."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """What a source does, as others see it."""

    CAPTURING = "capturing"
    WAITING = "waiting"
    """It has no audio yet, or for now."""
    MUTED = "muted"
    STOPPED = "stopped"
    FAILED = "failed"
    """It is tried again after a while."""
