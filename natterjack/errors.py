"""Errors of the parts that all programs share.

NatterjackError
├── UsageError            a setting, argument or file is wrong; programs exit with status 2
│   └── InvalidKey        a tenant, conversation or speaker cannot be a subject token
├── BrokerError           NATS cannot serve us
│   ├── BrokerUnreachable no server answers at the URL, or it rejects the credentials
│   ├── NotAllowed        the server does not permit this user a subject
│   ├── NotHeld           no worker holds the session that a request is for
│   ├── ServerTooOld      the server lacks a feature that natterjack needs
│   └── StreamMismatch    a stream, consumer or bucket is missing or misconfigured
│       ├── StreamMissing it is missing
│       └── StoreTooSmall the store has no room for it
├── VoiceError            a voice session cannot speak
│   ├── NoWorker          no worker has taken it in time
│   └── VoiceEnded        it has ended
├── BadChunk              an audio message has invalid headers or an invalid size
└── BadEvent              a message on a transcript subject is not an event
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pydantic import ValidationError
from pydantic_core import ErrorDetails


def problem_text(problem: ErrorDetails) -> str:
    """The message of one of pydantic's problems, without the words that it puts before that of a
    validator."""
    return problem["msg"].removeprefix("Value error, ")


def first_problem(error: ValidationError) -> str:
    """The first problem of invalid data: the field, and what is wrong with it."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {problem_text(first)}" if where else problem_text(first)


def first_error(error: BaseException) -> BaseException:
    """The first error of a group, also of groups in it; any other error itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@contextlib.contextmanager
def ungrouped(*kinds: type[BaseException]) -> Iterator[None]:
    """Raise the first error of a group by itself, as of a task group in the block, if all errors of
    the group are of these kinds.

    In place of `raise` in `except*`, whose error Python 3.11.0 to 3.11.3 put into a group again.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        if group.split(kinds)[1] is not None:
            raise
        raise first_error(group) from None


class NatterjackError(Exception):
    """Base of every error that natterjack raises on purpose."""


class UsageError(NatterjackError):
    """A mistake of the user; the message names it and its remedy in one line."""


class InvalidKey(UsageError):
    """A tenant, conversation or speaker that cannot be a subject token."""


class BrokerError(NatterjackError):
    """NATS cannot serve us."""


class NotHeld(BrokerError):
    """No worker holds the session that a request is for: it waits, has ended, or never was."""


class BrokerUnreachable(BrokerError):
    """No server answers at the URL, or it rejects our credentials."""


class NotAllowed(BrokerError):
    """The server does not permit this user to publish or subscribe to a subject.

    `own_inbox` is true if the refused subscription is the one for replies to its own requests.
    """

    def __init__(
        self, subject: str, *, publishes: bool, own_inbox: bool = False, remedy: str = ""
    ) -> None:
        if own_inbox:
            message = (
                f"this user may not receive replies on {subject}: set NATS_INBOX_PREFIX to its own "
                "prefix, which `natterjack users list` shows"
            )
        else:
            message = f"this user may not {'publish' if publishes else 'subscribe'} to {subject}"
            message += f": {remedy}" if remedy else ""
        super().__init__(message)
        self.subject, self.publishes, self.own_inbox = subject, publishes, own_inbox


class ServerTooOld(BrokerError):
    """The server lacks a feature that natterjack needs."""


class StreamMismatch(BrokerError):
    """A stream, consumer or bucket is missing, or its configuration does not fit its purpose."""


class StreamMissing(StreamMismatch):
    """A stream, consumer or bucket is missing and may not be created by this program."""


class StoreTooSmall(StreamMismatch):
    """The broker's store has no room for a stream with this limit."""


class VoiceError(NatterjackError):
    """A voice session cannot speak."""


class NoWorker(VoiceError):
    """No worker has taken the voice session in time. Its request stays in the queue."""


class VoiceEnded(VoiceError):
    """The voice session has ended, so it takes no text. `reason` is that of its closing event."""

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason


class BadChunk(NatterjackError):
    """An audio message has invalid headers or an invalid size.

    `cause` is one of a few fixed words: it becomes a metric label and part of session accounts.
    """

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(f"{cause}: {detail}" if detail else cause)
        self.cause = cause


class BadEvent(NatterjackError):
    """A message on a transcript subject is not an event."""
