"""Why the gateway refuses a client. Each door maps the reasons to the statuses of its protocol."""

from __future__ import annotations

from enum import Enum

from natterjack.errors import NatterjackError


class Reason(Enum):
    """Why a client is refused. The values are labels of the metric of refusals."""

    MISSING = "missing"
    """No secret where this door expects one."""
    WRONG = "wrong"
    """The secret belongs to no key, or is a token that was not signed here."""
    EXPIRED = "expired"
    """The key or the token has expired."""
    DOOR = "door"
    """The key does not open this door."""
    CONVERSATION = "conversation"
    """The key may not use this conversation, or not in this way."""
    ORIGIN = "origin"
    """A page of this origin may not use the gateway."""
    FULL = "full"
    """The key has, or the gateway has, as many connections as it may have."""
    BUDGET = "budget"
    """The tenant's budget of the day is used up."""
    RATE = "rate"
    """The same client was refused too often: it is to come back later."""


_STATUS = {
    Reason.MISSING: 401, Reason.WRONG: 401, Reason.EXPIRED: 401, Reason.DOOR: 403,
    Reason.CONVERSATION: 403, Reason.ORIGIN: 403, Reason.FULL: 503, Reason.BUDGET: 402,
    Reason.RATE: 429,
}  # fmt: skip


class Refused(NatterjackError):
    """A client may not do what it asks for. The message may be shown to the client.

    `retry_after` is the number of seconds after which trying again makes sense, if it is known.
    """

    def __init__(self, reason: Reason, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.reason, self.retry_after = reason, retry_after

    @property
    def status(self) -> int:
        """The HTTP status for doors whose protocol has no other custom."""
        return _STATUS[self.reason]
