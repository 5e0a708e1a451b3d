"""What went wrong, told apart: refused handshakes, in-band errors, closes.

Sources: Speechmatics docs, "Error handling" and "Limits"; specification, ErrorTypeEnum.
"""

from __future__ import annotations

from typing import Final

from natterjack.plugin.errors import (
    Dropped,
    ProviderError,
    RefusedCause,
    RequestRefused,
    Unavailable,
)
from natterjack.plugin.websocket import Closed

from .messages import Error
from .options import NAME
from .protocol import MAX_QUOTE

_REFUSALS: Final[dict[str, RefusedCause]] = {
    "invalid_message": "request",
    "invalid_model": "request",
    "invalid_language": "request",
    "invalid_config": "request",
    "invalid_audio_type": "request",
    "invalid_output_format": "request",
    "protocol_error": "request",
    "not_authorised": "auth",
    "not_allowed": "auth",
    # Hours of the contract are used up; concurrency is `quota_exceeded`.
    "timelimit_exceeded": "credit",
}
"""In-band errors that will be the same the next time."""
_OUTAGES: Final = ("job_error", "unknown_error")
_TYPES: Final = {
    1003: "protocol_error",
    1011: "unknown_error",
    4001: "not_authorised",
    4003: "not_allowed",
    4004: "invalid_model",
    4005: "quota_exceeded",
    4006: "timelimit_exceeded",
    4013: "job_error",
}
"""Error types by the close code that goes with them (Speechmatics docs, "Error handling")."""
_MISUSED: Final = (1002, 1007, 1009)
"""RFC 6455, 7.4.1: what we sent was against the WebSocket protocol, or too big."""


def error_of(error: Error) -> ProviderError:
    """What an in-band error means. Its type decides; the reason is for people."""
    return _of_type(error.type, error.reason, error.type or None)


def _of_type(kind: str, reason: str, code: str | None) -> ProviderError:
    said = reason or "the session was ended"
    if kind in _REFUSALS:
        return RequestRefused(NAME, _REFUSALS[kind], said, code)
    if kind == "quota_exceeded":
        return Unavailable(NAME, "rate_limit", said, code)
    if kind in _OUTAGES:
        return Unavailable(NAME, "server_error", said, code)
    if kind in ("idle_timeout", "session_timeout"):
        # To be expected: a new session may be opened at once.
        return Dropped(NAME, said, code)
    # Of a type yet to be invented: the session is over, and another try will tell.
    return Unavailable(NAME, "server_error", said, code)


def close_error(closed: Closed) -> ProviderError:
    """What the end of a connection means, when neither EndOfTranscript nor an Error came first.

    The payload of the closing frame repeats the error's type. 1008 goes with errors of both kinds,
    permanent and not: without a type it is worth another try, in which an Error may say more.
    """
    code, reason = closed.code, closed.reason[:MAX_QUOTE]
    shown = None if code is None else str(code)
    kind = reason if reason in _REFUSALS or reason.endswith("_timeout") else _TYPES.get(code or 0)
    if kind is not None:
        return _of_type(kind, reason, shown)
    if code in _MISUSED:
        return RequestRefused(NAME, "request", reason or "the stream was refused", shown)
    return Dropped(NAME, reason or "the connection ended before the transcript did", shown)
