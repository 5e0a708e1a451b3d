"""The errors for in-band errors and closes."""

from __future__ import annotations

import pytest

from natterjack.emulators.speechmatics.faults import CLOSE_CODES
from natterjack.emulators.speechmatics.spec import REALTIME as spec
from natterjack.plugin.errors import Dropped, ProviderError, RequestRefused, Unavailable
from natterjack.plugin.websocket import Closed
from worker.providers.speechmatics.failures import close_error, error_of
from worker.providers.speechmatics.keys import management_error
from worker.providers.speechmatics.messages import Error

EXPECTED: dict[str, tuple[type[ProviderError], str]] = {
    "invalid_message": (RequestRefused, "request"),
    "invalid_model": (RequestRefused, "request"),
    "invalid_language": (RequestRefused, "request"),
    "invalid_config": (RequestRefused, "request"),
    "invalid_audio_type": (RequestRefused, "request"),
    "invalid_output_format": (RequestRefused, "request"),
    "protocol_error": (RequestRefused, "request"),
    "not_authorised": (RequestRefused, "auth"),
    "not_allowed": (RequestRefused, "auth"),
    "timelimit_exceeded": (RequestRefused, "credit"),
    "quota_exceeded": (Unavailable, "rate_limit"),
    "job_error": (Unavailable, "server_error"),
    "unknown_error": (Unavailable, "server_error"),
    "idle_timeout": (Dropped, "dropped"),
    "session_timeout": (Dropped, "dropped"),
}


def test_every_type_of_the_specification_is_in_the_tables() -> None:
    types = spec.document()["components"]["schemas"]["ErrorTypeEnum"]["enum"]
    assert set(types) == set(EXPECTED) == set(CLOSE_CODES)


@pytest.mark.parametrize("kind", EXPECTED)
def test_in_band_errors(kind: str) -> None:
    error = error_of("speechmatics", Error(kind, "why"))
    assert (type(error), error.cause) == EXPECTED[kind]
    assert (error.code, str(error)) == (kind, f"speechmatics: why ({kind})")


@pytest.mark.parametrize("kind", EXPECTED)
def test_the_close_frame_alone_has_the_same_meaning(kind: str) -> None:
    error = close_error("speechmatics", Closed(CLOSE_CODES[kind], kind))
    assert (type(error), error.cause) == EXPECTED[kind]
    assert error.code == str(CLOSE_CODES[kind])


@pytest.mark.parametrize("kind", ["", "weather"])
def test_an_error_of_an_unknown_type_is_retried(kind: str) -> None:
    error = error_of("speechmatics", Error(kind, ""))
    assert isinstance(error, Unavailable)
    assert error.cause == "server_error"


@pytest.mark.parametrize(
    ("code", "kind", "cause"),
    [
        (1000, Dropped, "dropped"),
        (1001, Dropped, "dropped"),
        (1005, Dropped, "dropped"),
        (None, Dropped, "dropped"),
        (1008, Dropped, "dropped"),
        (4999, Dropped, "dropped"),
        (1002, RequestRefused, "request"),
        (1003, RequestRefused, "request"),
        (1007, RequestRefused, "request"),
        (1009, RequestRefused, "request"),
        (1011, Unavailable, "server_error"),
        (4001, RequestRefused, "auth"),
        (4003, RequestRefused, "auth"),
        (4004, RequestRefused, "request"),
        (4005, Unavailable, "rate_limit"),
        (4006, RequestRefused, "credit"),
        (4013, Unavailable, "server_error"),
    ],
)
def test_close_codes_without_a_type(
    code: int | None, kind: type[ProviderError], cause: str
) -> None:
    for reason in ("", "policy_violation"):
        error = close_error("speechmatics", Closed(code, reason))
        assert (type(error), error.cause) == (kind, cause)
        assert error.code == (None if code is None else str(code))


@pytest.mark.parametrize(
    ("status", "cause", "retryable"),
    [
        (200, "protocol", True),
        (400, "request", False),
        (403, "auth", False),
        (404, "auth", False),
        (410, "auth", False),
        (429, "rate_limit", True),
        (500, "server_error", True),
    ],
)
def test_no_temporary_key(status: int, cause: str, retryable: bool) -> None:
    error = management_error("speechmatics", status)
    assert (error.cause, error.retryable, error.code) == (cause, retryable, str(status))
