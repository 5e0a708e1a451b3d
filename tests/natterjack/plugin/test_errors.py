"""The errors of providers, and what HTTP statuses stand for."""

from __future__ import annotations

import pytest

from natterjack.plugin import ProviderError, RequestRefused, Unavailable, http_error


@pytest.mark.parametrize(
    ("status", "kind", "cause"),
    [
        (400, RequestRefused, "request"),
        (401, RequestRefused, "auth"),
        (402, RequestRefused, "credit"),
        (403, RequestRefused, "auth"),
        (404, RequestRefused, "request"),
        (405, RequestRefused, "request"),
        (408, Unavailable, "server_error"),
        (429, Unavailable, "rate_limit"),
        (500, Unavailable, "server_error"),
        (502, Unavailable, "server_error"),
        (503, Unavailable, "server_error"),
    ],
)
def test_http_statuses(status: int, kind: type[ProviderError], cause: str) -> None:
    error = http_error("p", status, "the handshake was refused")
    assert (type(error), error.cause, error.code) == (kind, cause, str(status))
    assert str(error) == f"p: the handshake was refused ({status})"
