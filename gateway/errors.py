"""Errors of the gateway.

GatewayError
├── SessionEnded    the session takes no more audio: it was stopped, or its budget is used up
└── Draining        the gateway is about to end and opens no sessions
"""

from __future__ import annotations

from natterjack.errors import NatterjackError


class GatewayError(NatterjackError):
    """Base class of the gateway's errors."""


class SessionEnded(GatewayError):
    """The session takes no more audio. `reason` is that of its closing event."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the session has ended: {reason}")
        self.reason = reason


class Draining(GatewayError):
    """The gateway is about to end and opens no sessions."""

    def __init__(self) -> None:
        super().__init__("this gateway is about to end; connect again")
