"""Changes of settings on an open stream: one message in flight, later changes merged.

Pure apart from futures: the caller passes the time, sends the messages and arms the timer.

Deepgram docs, "Configure": the server responds to each in order, with ConfigureSuccess or
ConfigureFailure; a failed one changes nothing; the number in flight is limited.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from natterjack.plugin.errors import ProviderError, Stalled

from .options import NAME, refused
from .protocol import Configured, ConfigureFailed, encode_configure


@dataclass
class _Batch:
    """Changes that are sent in one message, and the futures of their callers."""

    changes: dict[str, Any] = field(default_factory=dict)
    waiting: list[asyncio.Future[None]] = field(default_factory=list)

    def resolve(self, error: ProviderError | None) -> None:
        for waiter in self.waiting:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)


class Configuring:
    """Schedules the changes of one stream and resolves their callers' futures."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout = timeout_seconds
        self._next: _Batch | None = None
        self._sent: _Batch | None = None
        self._expires = math.inf
        self._given_up = 0
        """Number of messages whose responses did not come in time but still may."""

    def ask(self, changes: Mapping[str, Any], waiter: asyncio.Future[None]) -> None:
        """Schedule `changes` (from options.parse_changes); `waiter` receives the outcome."""
        if self._next is None:
            self._next = _Batch()
        self._next.changes.update(changes)
        self._next.waiting.append(waiter)

    @property
    def bound_seconds(self) -> float:
        """Upper bound of the time until a caller has an outcome: one message in flight, its own,
        and time to send both."""
        return 2.5 * self._timeout

    @property
    def deadline(self) -> float:
        """Time at which to call `due` again, if nothing happens before."""
        if self._sent is not None:
            return self._expires
        return math.inf if self._next is None else 0.0

    def due(self, now: float) -> str | None:
        """Return the message to send now, if any; fail the one in flight if it has timed out."""
        if self._sent is not None and now >= self._expires:
            sent, self._sent = self._sent, None
            self._given_up += 1
            sent.resolve(
                Stalled(NAME, "mute", f"no response to Configure within {self._timeout:g} s")
            )
        if self._sent is not None or self._next is None:
            return None
        self._sent, self._next = self._next, None
        self._expires = now + self._timeout
        return encode_configure(self._sent.changes)

    def answered(self, answer: Configured | ConfigureFailed) -> None:
        """Handle the provider's response to the message in flight."""
        if self._sent is None:
            self._given_up = max(0, self._given_up - 1)
            return
        if isinstance(answer, ConfigureFailed):
            reason = ": ".join(part for part in (answer.code, answer.description) if part)
            error = refused(f"configure: {reason or 'rejected by the provider'}")
        else:
            error = None
            if self._given_up and not _matches(answer.values, self._sent.changes):
                self._given_up -= 1  # a late response to an earlier message
                return
        sent, self._sent = self._sent, None
        sent.resolve(error)

    def fail(self, error: ProviderError) -> None:
        """Fail all changes with `error`: the stream has ended."""
        for batch in (self._sent, self._next):
            if batch is not None:
                batch.resolve(error)
        self._sent = self._next = None


def _matches(values: Mapping[str, Any], changes: Mapping[str, Any]) -> bool:
    """Whether a response, which lists the values now in effect, is consistent with the changes."""
    return all(name not in values or values[name] == value for name, value in changes.items())
