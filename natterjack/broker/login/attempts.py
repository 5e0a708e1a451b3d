"""Attempts to connect to NATS: when the next one is made, and what the last ones failed with."""

from __future__ import annotations

import asyncio
import random
import re
import ssl
import time
from collections import Counter
from collections.abc import Callable

from nats.errors import AuthorizationError, UnexpectedEOF
from nats.errors import Error as NatsError

_FIRST_S, _LONGEST_S = 0.3, 3.0
"""The longest pause after the first failure, and the longest of all. A third of it is random."""
_STABLE_S = 2.0
"""A connection that was lost sooner counts as a failed attempt."""

REASONS = ("authorization", "expired", "tls", "limit", "timeout", "unreachable", "other")
"""Labels of failed attempts."""
_REFUSALS = frozenset({"authorization", "expired", "tls", "limit"})
_SERVER_ERRORS = (
    (re.compile(r"expired", re.I), "expired"),
    (re.compile(r"authorization|authentication|revoked", re.I), "authorization"),
    (re.compile(r"maximum \S*\s*\S*\s*connections", re.I), "limit"),
    (re.compile(r"secure connection", re.I), "tls"),
)
"""Errors that nats-server sends before it closes a connection."""


def reason(error: BaseException) -> str:
    """Return the label of an error, one of REASONS."""
    if isinstance(error, ssl.SSLError):
        return "expired" if "CERTIFICATE_EXPIRED" in (error.reason or "") else "tls"
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, AuthorizationError):
        return "authorization"
    if isinstance(error, OSError | UnexpectedEOF):
        return "unreachable"
    if isinstance(error, NatsError):
        for pattern, label in _SERVER_ERRORS:
            if pattern.search(str(error)):
                return label
    return "other"


def describe(error: BaseException) -> str:
    """Return an error in words for people."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not valid: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and "_ALERT_" in (error.reason or ""):
        alert = str(error.reason).partition("_ALERT_")[2].replace("_", " ").lower()
        return f"the server refuses the client certificate: {alert}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    words = str(error).removeprefix("nats: ").strip("'") or type(error).__name__
    if reason(error) in ("authorization", "expired"):
        return f"the server refuses the credentials: {words}"
    return words


async def last_error(reader: asyncio.StreamReader | None) -> NatsError | ConnectionResetError:
    """Return the error that the server sent before it closed the connection, or, if none arrived,
    one without an address, so that repeats are recognized as the same error.

    Nothing else can be read from `reader` afterwards.
    """
    line = ""
    if isinstance(reader, asyncio.StreamReader):
        reader.set_exception(None)  # type: ignore[arg-type]  # else it hides what has arrived
        reader.feed_eof()
        line = (await reader.readline()).decode(errors="replace").strip()
    if line.startswith("-ERR "):
        return NatsError(f"nats: {line.removeprefix('-ERR ')}")
    return ConnectionResetError("the connection is gone")


class Attempts:
    """Paces the attempts to connect of one program, and remembers why they fail."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        on_failure: Callable[[str], None] | None = None,
    ) -> None:
        """`chance` returns numbers from 0 to 1. `on_failure` is called with the label of each
        failed attempt, one of REASONS."""
        self.failures: Counter[str] = Counter()
        """Failed attempts, by REASONS."""
        self.trouble: str | None = None
        """Why there is no connection, in words; None while there is one, or as long as nothing is
        known."""
        self._clock, self._chance, self._on_failure = clock, chance, on_failure
        self._made = 0
        """Attempts since a connection was stable."""
        self._connected_at: float | None = None

    def pause(self, servers: int = 1) -> float:
        """Return the seconds to wait before the attempt that is about to be made.

        There is no pause before the first attempt after a stable connection was lost. Then each
        round over all `servers` takes twice as long as the one before.
        """
        if self._connected_at is not None:
            if self._clock() - self._connected_at >= _STABLE_S:
                self._made = 0
            self._connected_at = None
        self._made += 1
        if self._made == 1:
            return 0.0
        doubled = min((self._made - 2) // servers, 8)
        longest = min(_LONGEST_S, _FIRST_S * (1 << doubled)) / servers
        return longest * (2 + self._chance()) / 3

    def failed(self, error: BaseException, *, expired: bool = False) -> str:
        """Note why an attempt failed, and return it in words; `expired` if the credentials that it
        used have expired."""
        self.trouble = self.count(error, expired=expired)
        return self.trouble

    def count(self, error: BaseException, *, expired: bool = False) -> str:
        """Like `failed`, for an attempt beside a connection that is still up."""
        label, words = reason(error), describe(error)
        if expired and label == "authorization":
            label, words = "expired", words.replace(":", ", which have expired:", 1)
        self.failures[label] += 1
        if self._on_failure is not None:
            self._on_failure(label)
        return words

    def refused(self, error: BaseException) -> None:
        """Note an error that the server sent on an open connection, which it is about to close."""
        if reason(error) in _REFUSALS:
            self.trouble = describe(error)

    def connected(self) -> None:
        """Note that there is a connection."""
        self.trouble = None
        self._connected_at = self._clock()
