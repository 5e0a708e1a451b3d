"""Errors and close codes of Speechmatics' realtime APIs (Speechmatics docs, "Error handling")."""

from __future__ import annotations

from typing import Final

_CLOSE_CODES: Final = {
    "invalid_message": 1003,
    "protocol_error": 1003,
    # The documentation does not distinguish these; our choice.
    "invalid_config": 1008,
    "invalid_audio_type": 1008,
    "invalid_language": 1008,
    "invalid_model": 4004,
    "not_authorised": 4001,
    "not_allowed": 4003,
    "quota_exceeded": 4005,
    "timelimit_exceeded": 4006,
    "job_error": 4013,
    "idle_timeout": 1008,
    "session_timeout": 1008,
    "start_recognition_timeout": 1008,
    "unknown_error": 1011,
}


class Fatal(Exception):
    """An error that ends the session: the client gets an Error, and the socket is closed."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind = kind
        self.reason = reason

    @property
    def close_code(self) -> int:
        """The code to close the socket with; clients retry after 4005, 4013 and 1011."""
        return _CLOSE_CODES[self.kind]

    def message(self, *, coded: bool) -> dict[str, object]:
        """The Error message, with the close code if `coded`."""
        message: dict[str, object] = {
            "message": "Error", "type": self.kind, "reason": self.reason
        }  # fmt: skip
        if coded:
            message["code"] = self.close_code
        return message
