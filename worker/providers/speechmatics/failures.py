"""Maps in-band errors and closes to provider errors.

Sources: Speechmatics docs, "Error handling" and "Limits"; specification, ErrorTypeEnum. Agent STT
names fewer types in its specification; the others are likely to occur there too.
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

from ..wire import MAX_QUOTE
from .messages import Error

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
    # The hours of the contract are used up; the limit of concurrent sessions is `quota_exceeded`.
    "timelimit_exceeded": "credit",
}
"""In-band errors that a retry would meet again."""
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
"""Error types by close code (Speechmatics docs, "Error handling")."""
_PROTOCOL_VIOLATIONS: Final = (1002, 1007, 1009)
"""RFC 6455, 7.4.1: the client violated the WebSocket protocol, or its message was too big."""


def error_of(provider: str, error: Error) -> ProviderError:
    """The error for an in-band error. Its type decides; the reason is informational."""
    return _of_type(provider, error.type, error.reason, error.type or None)


def _of_type(provider: str, kind: str, reason: str, code: str | None) -> ProviderError:
    message = reason or "the session was ended"
    if kind in _REFUSALS:
        return RequestRefused(provider, _REFUSALS[kind], message, code)
    if kind == "quota_exceeded":
        return Unavailable(provider, "rate_limit", message, code)
    if kind in _OUTAGES:
        return Unavailable(provider, "server_error", message, code)
    if kind in ("idle_timeout", "session_timeout"):
        # Expected; a new session may be opened at once.
        return Dropped(provider, message, code)
    # For an unknown type, a retry will tell.
    return Unavailable(provider, "server_error", message, code)


def close_error(provider: str, closed: Closed) -> ProviderError:
    """The error for the end of a connection without EndOfTranscript or an Error.

    The reason of the close frame repeats the error's type. Code 1008 accompanies both permanent and
    temporary errors; without a type it is retried, which may produce an Error with details.
    """
    code, reason = closed.code, closed.reason[:MAX_QUOTE]
    code_text = None if code is None else str(code)
    kind = reason if reason in _REFUSALS or reason.endswith("_timeout") else _TYPES.get(code or 0)
    if kind is not None:
        return _of_type(provider, kind, reason, code_text)
    if code in _PROTOCOL_VIOLATIONS:
        return RequestRefused(provider, "request", reason or "stream refused", code_text)
    return Dropped(provider, reason or "connection closed before EndOfTranscript", code_text)
