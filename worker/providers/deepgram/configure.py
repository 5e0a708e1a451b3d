"""Changes of settings in mid-stream: one message on its way at a time, later changes merged.

Deepgram docs, "Configure": each is answered with ConfigureSuccess or ConfigureFailure, in order; a
failing one changes nothing; one may be unanswered at a time. Servers from before October 2026 say
nothing of a success, and Error of a failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from natterjack.plugin.errors import Dropped, ProviderError, Stalled
from natterjack.plugin.provider import Notice

from .options import NAME, refused
from .protocol import ConfigureAnswer, encode_configure

ANSWER_SECONDS: Final = 4.0
"""How long an answer is awaited. Two of it (behind one on its way) are less than a client waits."""
_UNANSWERED: Final = Notice("configure_unanswered", "no answer to Configure: taken as a success")


@dataclass
class _Batch:
    """Changes that go out together."""

    changes: dict[str, Any] = field(default_factory=dict)
    done: bool = False
    error: ProviderError | None = None


class Configuring:
    """The changes of one stream."""

    def __init__(self, send: Callable[[str], Awaitable[None]], timeout_seconds: float) -> None:
        self._send = send
        self._timeout = timeout_seconds
        self._lock = asyncio.Lock()
        self._next: _Batch | None = None
        self._sent: tuple[dict[str, Any], asyncio.Future[None]] | None = None
        self._given_up = 0
        """Messages whose answer was awaited in vain, and may come yet."""
        self._over: ProviderError | None = None
        self._notices: list[Notice] = []

    async def ask(self, changes: Mapping[str, Any]) -> None:
        """Returns when the provider has taken the changes, or has said nothing in time.

        Raises: RequestRefused where they are wrong, or the provider says so (it goes on as it
        was); the error of the stream.
        """
        encode_configure(changes)  # what is wrong must not spoil a batch
        if self._over is not None:
            raise self._over
        if self._next is None:
            self._next = _Batch()
        batch = self._next
        batch.changes.update(changes)
        async with self._lock:
            if not batch.done:
                if self._next is batch:
                    self._next = None
                try:
                    await self._exchange(batch.changes)
                except ProviderError as error:
                    batch.error = error
                batch.done = True
        if batch.error is not None:
            raise batch.error

    async def _exchange(self, changes: dict[str, Any]) -> None:
        if self._over is not None:
            raise self._over
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sent = changes, answer
        try:
            try:
                async with asyncio.timeout(self._timeout):
                    await self._send(encode_configure(changes))
            except TimeoutError:
                raise Stalled(NAME, "send_blocked", "Configure could not be sent") from None
            await asyncio.wait([answer], timeout=self._timeout)
            if answer.done():
                answer.result()
            else:
                self._notices.append(_UNANSWERED)
        finally:
            self._sent = None
            if not answer.done():
                self._given_up += 1
            elif not answer.cancelled():
                answer.exception()  # seen, even where sending failed first

    def answered(self, answer: ConfigureAnswer) -> None:
        """The provider took or refused the changes on their way."""
        if self._sent is None or self._sent[1].done():
            self._given_up = max(0, self._given_up - 1)
            return
        changes, waiter = self._sent
        if answer.refusal is not None:
            waiter.set_exception(refused(f"configure: {answer.refusal or 'it was refused'}"))
        elif self._given_up and answer.keyterms not in (None, changes.get("keyterms")):
            self._given_up -= 1  # the late answer to one that was given up
        else:
            waiter.set_result(None)

    def notices(self) -> list[Notice]:
        """What is to be told since the last call."""
        notices, self._notices = self._notices, []
        return notices

    def finish(self) -> None:
        """Nothing may be sent any more; an answer may come."""
        self._over = self._over or refused("configure: the stream is being finished")

    def end(self) -> None:
        """The stream has ended in order, so that no answer will come."""
        self._over = self._over or Dropped(NAME, "the stream has ended")
        if self._sent is not None and not self._sent[1].done():
            self._notices.append(_UNANSWERED)
            self._sent[1].set_result(None)

    def fail(self, error: ProviderError) -> None:
        """The stream is over."""
        self._over = error
        if self._sent is not None and not self._sent[1].done():
            self._sent[1].set_exception(error)
