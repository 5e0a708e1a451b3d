"""Changes of settings in mid-stream: one on its way at a time, later ones merged. It is told the
time, and says what to send and when to ask again; no sockets.

Deepgram docs, "Configure": each is answered with ConfigureSuccess or ConfigureFailure, in order; a
failing one changes nothing; unanswered ones are limited in number.
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
    """Changes that go out together, and those who wait for the answer."""

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
    """The changes of one stream."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout = timeout_seconds
        self._next: _Batch | None = None
        self._sent: _Batch | None = None
        self._expires = math.inf
        self._given_up = 0
        """Messages whose answer was awaited in vain, and may come yet."""

    def ask(self, changes: Mapping[str, Any], waiter: asyncio.Future[None]) -> None:
        """`changes` (options.parse_changes) are to be made; `waiter` will say how it went."""
        if self._next is None:
            self._next = _Batch()
        self._next.changes.update(changes)
        self._next.waiting.append(waiter)

    @property
    def bound_seconds(self) -> float:
        """By then whoever asks has an answer: behind one on its way, and a moment to send both."""
        return 2.5 * self._timeout

    @property
    def deadline(self) -> float:
        """When to ask `due` again, if nothing happens before."""
        if self._sent is not None:
            return self._expires
        return math.inf if self._next is None else 0.0

    def due(self, now: float) -> str | None:
        """The message to send now."""
        if self._sent is not None and now >= self._expires:
            sent, self._sent = self._sent, None
            self._given_up += 1
            sent.resolve(Stalled(NAME, "mute", f"no answer to Configure in {self._timeout:g} s"))
        if self._sent is not None or self._next is None:
            return None
        self._sent, self._next = self._next, None
        self._expires = now + self._timeout
        return encode_configure(self._sent.changes)

    def answered(self, answer: Configured | ConfigureFailed) -> None:
        """The provider took or refused the changes on their way."""
        if self._sent is None:
            self._given_up = max(0, self._given_up - 1)
            return
        if isinstance(answer, ConfigureFailed):
            said = ": ".join(part for part in (answer.code, answer.description) if part)
            error = refused(f"configure: {said or 'it was refused'}")
        else:
            error = None
            if self._given_up and not _matches(answer.values, self._sent.changes):
                self._given_up -= 1  # the late answer to one that was given up
                return
        sent, self._sent = self._sent, None
        sent.resolve(error)

    def fail(self, error: ProviderError) -> None:
        """The stream is over."""
        for batch in (self._sent, self._next):
            if batch is not None:
                batch.resolve(error)
        self._sent = self._next = None


def _matches(values: Mapping[str, Any], changes: Mapping[str, Any]) -> bool:
    """Whether an answer shows the changes; it returns the values now in force."""
    return all(name not in values or values[name] == value for name, value in changes.items())
