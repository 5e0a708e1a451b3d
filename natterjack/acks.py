"""Publishing to streams, with one inbox for all acknowledgements and no task for any.

As JetStreamContext.publish of nats-py, at about a third of its cost: docs/performance.md.
"""

from __future__ import annotations

import asyncio
import itertools
import json

from nats.errors import Error as NatsError
from nats.js.errors import APIError, NoStreamResponseError

from .client import Arrivals, Client

_NO_RESPONDERS = b"NATS/1.0 503"


class Acks:
    """What a process has published to streams and does not know to be stored yet."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inbox = ""
        self._starting: asyncio.Lock = asyncio.Lock()
        self._arrivals: Arrivals | None = None
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self._numbers = itertools.count(1)

    async def _start(self) -> None:
        async with self._starting:
            if self._arrivals is None:
                self._inbox = self._client.new_inbox()
                self._arrivals = await self._client.listen(f"{self._inbox}.*", self._received)

    async def publish(
        self, subject: str, payload: bytes, headers: dict[str, str], timeout: float
    ) -> asyncio.Future[int]:
        """Publish now; the stream's sequence of the message, once it is stored. Waits for nothing
        but the first time.

        The future raises: APIError (refused), NoStreamResponseError (no stream takes the subject),
        TimeoutError (after `timeout` seconds, or a reconnect: it may be stored or not),
        MaxPayloadError, another NatsError when it cannot be sent now.
        """
        if self._arrivals is None:
            await self._start()
        loop = asyncio.get_running_loop()
        stored: asyncio.Future[int] = loop.create_future()
        number = next(self._numbers)
        try:
            self._client.post(subject, payload, headers=headers, reply=f"{self._inbox}.{number}")
        except NatsError as error:
            stored.set_exception(error)
            return stored
        self._waiting[number] = stored
        timer = loop.call_later(timeout, self._late, number)

        def over(_: asyncio.Future[int]) -> None:
            self._waiting.pop(number, None)
            timer.cancel()

        stored.add_done_callback(over)
        return stored

    def _late(self, number: int) -> None:
        stored = self._waiting.get(number)
        if stored is not None and not stored.done():
            stored.set_exception(TimeoutError("no acknowledgement"))

    def lost(self) -> None:
        """The connection is another: the answers to what was asked on the old one will not come."""
        for number in list(self._waiting):
            self._late(number)

    def _received(self, subject: bytes, _reply: bytes, headers: bytes | None, data: bytes) -> None:
        number = int(subject.rpartition(b".")[2])
        stored = self._waiting.get(number)
        if stored is None or stored.done():
            return
        if headers is not None and headers.startswith(_NO_RESPONDERS):
            stored.set_exception(NoStreamResponseError())
            return
        answer = json.loads(data)
        if "error" in answer:
            stored.set_exception(_error(answer["error"]))
        else:
            stored.set_result(answer["seq"])


def _error(told: dict[str, object]) -> Exception:
    try:
        APIError.from_error(told)
    except APIError as error:
        return error
    return APIError(description="refused")
