"""Judgment of the answer to a webhook: "Operational considerations" of Standard Webhooks 1.0.0."""

from __future__ import annotations

from datetime import datetime
from http import HTTPStatus
from typing import Literal, NamedTuple

from .retries import parse_retry_after

Outcome = Literal["delivered", "failed", "throttled", "gone"]
Cause = Literal["status", "redirect", "timeout", "connection", "tls", "address", "disabled"]
CAUSES: tuple[Cause, ...] = (
    "status", "redirect", "timeout", "connection", "tls", "address", "disabled",
)  # fmt: skip
"""Why attempts fail."""

_THROTTLED = {
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}


class Answer(NamedTuple):
    """The result of one attempt to send a webhook."""

    outcome: Outcome
    """`throttled`: failed, and the receiver asks for fewer requests. `gone`: it wants no more."""
    cause: Cause | None = None
    reason: str = ""
    """The failure in words."""
    retry_after: float | None = None
    """Seconds that the receiver asks to wait."""


def judge(status: int, retry_after: str | None, now: datetime) -> Answer:
    """Judge a response by its status and its header `Retry-After`."""
    if 200 <= status < 300:
        return Answer("delivered")
    reason = f"HTTP {status}{_phrase(status)}"
    if status == HTTPStatus.GONE:
        return Answer("gone", "disabled", f"{reason}: the receiver wants no more webhooks")
    if 300 <= status < 400:
        return Answer("failed", "redirect", f"{reason}: redirects are not followed")
    outcome: Outcome = "throttled" if status in _THROTTLED else "failed"
    return Answer(outcome, "status", reason, parse_retry_after(retry_after, now))


def _phrase(status: int) -> str:
    try:
        return f" {HTTPStatus(status).phrase}"
    except ValueError:
        return ""
