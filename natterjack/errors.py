"""What can go wrong in the parts that every program shares.

NatterjackError
├── UsageError            the user's mistake: a setting, an argument, a file; programs exit with 2
│   └── InvalidKey        a tenant, conversation or speaker that cannot be a subject token
├── BrokerError           NATS is not as we need it
│   ├── BrokerUnreachable no server answers at the URL, or it refuses us
│   ├── NotAllowed        its permissions refuse this user a subject
│   ├── ServerTooOld      the server lacks what is used here
│   └── StreamMismatch    a stream, consumer or bucket is missing or cannot serve its purpose
├── BadChunk              an audio message whose headers or size are wrong
└── BadEvent              a message on a transcript subject that is no event of ours
"""

from __future__ import annotations

from pydantic import ValidationError


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong with data that came from elsewhere: where, and what."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"]


class NatterjackError(Exception):
    """Base of every error that natterjack raises on purpose."""


class UsageError(NatterjackError):
    """The user's mistake; the message names the setting and the cure in one line."""


class InvalidKey(UsageError):
    """A tenant, conversation or speaker that cannot be a subject token."""


class BrokerError(NatterjackError):
    """NATS is not as we need it."""


class BrokerUnreachable(BrokerError):
    """No server answers at the URL, or it refuses our credentials."""


class NotAllowed(BrokerError):
    """The server's permissions refuse this user something.

    `publishes` and `subject` say what; `own_inbox`: the answers to it are what it may not hear.
    """

    def __init__(
        self, subject: str, *, publishes: bool, own_inbox: bool = False, cure: str = ""
    ) -> None:
        if own_inbox:
            said = (
                f"this user may not hear answers on {subject}: set NATS_INBOX_PREFIX to its own, "
                "which `natterjack users list` shows"
            )
        else:
            said = f"this user may not {'publish' if publishes else 'subscribe'} to {subject}"
            said += f": {cure}" if cure else ""
        super().__init__(said)
        self.subject, self.publishes, self.own_inbox = subject, publishes, own_inbox


class ServerTooOld(BrokerError):
    """The server lacks a feature that is used here."""


class StreamMismatch(BrokerError):
    """A stream, consumer or bucket is missing, or is set up so that it cannot serve its purpose."""


class BadChunk(NatterjackError):
    """An audio message whose headers or size are wrong.

    `cause` is one of a small fixed set of words, fit for a metric label and a session's account.
    """

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(f"{cause}: {detail}" if detail else cause)
        self.cause = cause


class BadEvent(NatterjackError):
    """A message on a transcript subject that is no event of ours."""
