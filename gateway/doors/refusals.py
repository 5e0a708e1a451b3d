"""Refusals of a handshake in Deepgram's form ("Errors"), for both of its doors."""

from __future__ import annotations

import json
import math
from uuid import uuid4

from aiohttp import web

from ..access import Reason, Refused

_CODES = {
    400: "Bad Request",
    401: "INVALID_AUTH",
    402: "ASR_PAYMENT_REQUIRED",
    403: "INSUFFICIENT_PERMISSIONS",
    429: "TOO_MANY_REQUESTS",
    503: "Service Unavailable",
}


def refusal(
    status: int, message: str, retry_after: float | None = None, code: str | None = None
) -> web.Response:
    """An HTTP error with its text in the body and, for clients that drop that, in a header."""
    request_id = str(uuid4())
    headers = {"dg-request-id": request_id, "dg-error": " ".join(message.split())[:500]}
    if retry_after is not None:
        headers["Retry-After"] = str(math.ceil(retry_after))
    body = {
        "err_code": code or _CODES.get(status, "Error"),
        "err_msg": message,
        "request_id": request_id,
    }
    return web.Response(
        status=status, headers=headers, text=json.dumps(body), content_type="application/json"
    )


def refused(error: Refused) -> web.Response:
    """The answer to a client that may not do what it asks for."""
    return refusal(error.status, str(error), error.retry_after)


def label(reason: Reason) -> str:
    """The label of a reason in the metric of refused connections."""
    return str(reason.value)
