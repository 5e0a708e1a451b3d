"""Changes of settings on an open stream: one message in flight, later changes merged.

Deepgram docs, "Configure": the server responds to each in order, with ConfigureSuccess or
ConfigureFailure; a failed one changes nothing; only one may be in flight. Servers from before
October 2026 do not confirm a success, and send Error for a failure.
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
"""How long to wait for a response. A change that waits behind another takes up to twice as long,
which is still less than a client waits."""
_UNANSWERED: Final = Notice(
    "configure_unanswered", "no response to Configure; assuming that it succeeded"
)


@dataclass
class _Batch:
    """Changes that are sent in one message."""

    changes: dict[str, Any] = field(default_factory=dict)
    done: bool = False
    error: ProviderError | None = None


class Configuring:
    """Sends the changes of one stream and waits for the responses."""

    def __init__(self, send: Callable[[str], Awaitable[None]], timeout_seconds: float) -> None:
        self._send = send
        self._timeout = timeout_seconds
        self._lock = asyncio.Lock()
        self._next: _Batch | None = None
        self._sent: tuple[dict[str, Any], asyncio.Future[None]] | None = None
        self._given_up = 0
        """Number of messages whose responses did not come in time but still may."""
        self._over: ProviderError | None = None
        self._notices: list[Notice] = []

    async def ask(self, changes: Mapping[str, Any]) -> None:
        """Apply changes; return once the provider confirms them or the timeout passes.

        If it is cancelled, the changes may or may not be applied.

        Raises: RequestRefused if the changes are invalid or the provider rejects them (the stream
        continues unchanged); the error of the stream.
        """
        encode_configure(changes)  # invalid changes must not fail the batch
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
                answer.exception()  # mark as retrieved, even if sending failed first

    def answered(self, answer: ConfigureAnswer) -> None:
        """Handle the provider's response to the message in flight."""
        if self._sent is None or self._sent[1].done():
            self._given_up = max(0, self._given_up - 1)
            return
        changes, waiter = self._sent
        if answer.refusal is not None:
            waiter.set_exception(
                refused(f"configure: {answer.refusal or 'rejected by the provider'}")
            )
        elif self._given_up and answer.keyterms not in (None, changes.get("keyterms")):
            self._given_up -= 1  # a late response to an earlier message
        else:
            waiter.set_result(None)

    def notices(self) -> list[Notice]:
        """Return the notices since the last call."""
        notices, self._notices = self._notices, []
        return notices

    def finish(self) -> None:
        """Refuse further changes; the message in flight may still be confirmed."""
        self._over = self._over or refused("configure: the stream is being finished")

    def end(self) -> None:
        """End the wait after a normal end of the stream: no response will come."""
        self._over = self._over or Dropped(NAME, "the stream has ended")
        if self._sent is not None and not self._sent[1].done():
            self._notices.append(_UNANSWERED)
            self._sent[1].set_result(None)

    def fail(self, error: ProviderError) -> None:
        """Fail the change in flight and all later ones with `error`."""
        self._over = error
        if self._sent is not None and not self._sent[1].done():
            self._sent[1].set_exception(error)
