"""The state of a source of an agent, as it is reported."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """The state of a source, as it is reported."""

    CAPTURING = "capturing"
    WAITING = "waiting"
    """It has no audio yet, or for now."""
    MUTED = "muted"
    STOPPED = "stopped"
    FAILED = "failed"
    """It is tried again after a while."""
