"""Errors in OpenAI's form (API reference, "Error codes"; realtime server event "error")."""

from __future__ import annotations

import json
import math
from typing import Any

from aiohttp import web

from ...access import Reason, Refused

INVALID, QUOTA, RATE, SERVER = (
    "invalid_request_error", "insufficient_quota", "rate_limit_error", "server_error",
)  # fmt: skip
_KINDS = {
    Reason.MISSING: (401, INVALID, "invalid_api_key"),
    Reason.WRONG: (401, INVALID, "invalid_api_key"),
    Reason.EXPIRED: (401, INVALID, "invalid_api_key"),
    Reason.DOOR: (403, INVALID, "insufficient_permissions"),
    Reason.CONVERSATION: (403, INVALID, "insufficient_permissions"),
    Reason.ORIGIN: (403, INVALID, "insufficient_permissions"),
    Reason.FULL: (503, SERVER, "server_overloaded"),
    Reason.BUDGET: (429, QUOTA, "insufficient_quota"),
    Reason.RATE: (429, RATE, "rate_limit_exceeded"),
}
LEAVING = "this server is about to end; connect again"


class ApiError(Exception):
    """A problem with a request. The message is shown to the client."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = INVALID,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.code, self.param = status, kind, code, param
        self.retry_after = retry_after

    @classmethod
    def refused(cls, error: Refused) -> ApiError:
        """The error of a client that may not do what it asks for."""
        status, kind, code = _KINDS[error.reason]
        return cls(str(error), status=status, kind=kind, code=code, retry_after=error.retry_after)

    @classmethod
    def leaving(cls) -> ApiError:
        """The error while this gateway cannot serve anybody."""
        return cls(LEAVING, status=503, kind=SERVER, code="server_shutting_down", retry_after=1)

    @property
    def body(self) -> dict[str, Any]:
        """The object `error`."""
        return {
            "message": str(self), "type": self.kind, "param": self.param, "code": self.code,
        }  # fmt: skip

    def response(self) -> web.Response:
        """The HTTP response."""
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(math.ceil(self.retry_after))
        return web.Response(
            status=self.status, headers=headers, content_type="application/json",
            text=json.dumps({"error": self.body}),
        )  # fmt: skip
