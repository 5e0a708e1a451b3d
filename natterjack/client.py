"""nats-py's client, with short ways in and out for what there is much of.

Its own ways are made for comfort: for each message in, all headers are parsed and a task is woken;
for each message out, headers are checked one by one and the socket is written to. What that costs
is told in docs/performance.md. This is the one place that touches what nats-py keeps to itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from nats.aio.client import Client as NatsClient
from nats.aio.subscription import Subscription
from nats.errors import ConnectionClosedError, MaxPayloadError, OutboundBufferLimitError
from nats.protocol.parser import AWAITING_CONTROL_LINE, MAX_CONTROL_LINE_SIZE, Parser

from .log import fields

log = logging.getLogger(__name__)

_MAX_UNSENT_BYTES = 8 * 1024 * 1024

Receive = Callable[[bytes, bytes | None, bytes], None]
"""Is given a message's subject, its headers as they are on the wire, and its payload."""


class Arrivals:
    """A subscription whose messages go to a plain function, the moment they are read."""

    def __init__(self, client: Client, number: int, subscription: Subscription) -> None:
        self._client = client
        self._number = number
        self._subscription = subscription

    async def end(self) -> None:
        """No more messages. Idempotent."""
        if self._client.direct.pop(self._number, None) is not None and not self._client.is_closed:
            await self._subscription.unsubscribe()


def _give(receive: Receive, subject: bytes, headers: bytes | None, data: bytes) -> None:
    try:
        receive(subject, headers, data)
    except Exception:  # a task boundary: what nats-py calls must not end its reading
        log.exception("a message was not taken", extra=fields(subject=subject.decode()))


class _Parser(Parser):
    """Takes messages of `direct` subscriptions off the front of what comes; the rest is nats-py's.

    Without a regular expression a line, and without moving what is behind a message to the front.
    """

    nc: Client

    async def parse(self, data: bytes = b"") -> None:
        if self.state != AWAITING_CONTROL_LINE:
            await super().parse(data)
            return
        if self.buf:
            data = bytes(self.buf) + data
            self.buf.clear()
        at, size, direct = 0, len(data), self.nc.direct
        while at < size:
            # NATS protocol: HMSG <subject> <sid> [reply] <bytes of headers> <bytes in all>, or
            # MSG <subject> <sid> [reply] <bytes>.
            if data.startswith(b"HMSG ", at):
                begin, headed = at + 5, True
            elif data.startswith(b"MSG ", at):
                begin, headed = at + 4, False
            else:
                break
            end = data.find(b"\r\n", begin)
            if end < 0:
                if size - at > MAX_CONTROL_LINE_SIZE:
                    break  # nats-py says what is wrong
                self.buf += data[at:]
                return
            words = data[begin:end].split()
            try:
                receive = direct.get(int(words[1]))
                begin, stop = end + 2, end + 2 + int(words[-1])
                head = begin + int(words[-2]) if headed else begin
            except (ValueError, IndexError):
                break
            if receive is None:
                break
            if stop + 2 > size:
                self.buf += data[at:]
                return
            at = stop + 2
            try:
                receive(words[0], data[begin:head] or None, data[head:stop])
            except Exception:  # a task boundary: see `_give`
                log.exception("a message was not taken")
        if at < size:
            await super().parse(data[at:])


class Client(NatsClient):
    """`flush_seconds`: how long what is published may wait for more, to be written together."""

    def __init__(self) -> None:
        super().__init__()
        self._ps = _Parser(self)
        self.flush_seconds = 0.0
        self.direct: dict[int, Receive] = {}
        """Where messages of a subscription go that do not go nats-py's way."""
        self._flush_timer: asyncio.Handle | None = None

    # ---- in ---------------------------------------------------------------------------------

    async def listen(self, subject: str, receive: Receive) -> Arrivals:
        """Give what comes on `subject` to `receive`, which must be quick, until `end` is called."""
        number = self._sid + 1  # the next subscription's; it is counted before anything is sent
        self.direct[number] = receive
        nothing: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        subscription = await self.subscribe(subject, future=nothing)  # a future: without a task
        assert subscription._id == number
        # Nothing comes to it, and it is as large as all the rest of a subscription.
        subscription._pending_queue = None  # type: ignore[assignment]
        return Arrivals(self, number, subscription)

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        receive = self.direct.get(sid)
        if receive is None:
            await super()._process_msg(sid, subject, reply, data, headers)  # type: ignore[arg-type]
        else:
            _give(receive, subject, headers, data)

    # ---- out --------------------------------------------------------------------------------

    def post(
        self,
        subject: str,
        payload: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        reply: str = "",
    ) -> None:
        """Publish without waiting for anything. Subject and headers are ours: not checked.

        Raises: MaxPayloadError; OutboundBufferLimitError when there is no connection, or it takes
        no more; ConnectionClosedError.
        """  # fmt: skip
        if self.is_closed:
            raise ConnectionClosedError
        size = len(payload)
        if size > self._max_payload:
            raise MaxPayloadError
        if not self.is_connected or self._pending_data_size + size > _MAX_UNSENT_BYTES:
            raise OutboundBufferLimitError
        if headers:
            lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
            head = f"NATS/1.0\r\n{lines}\r\n".encode()
            about = f"HPUB {subject} {reply} {len(head)} {len(head) + size}\r\n".encode()
            command = b"%b%b%b\r\n" % (about, head, payload)
        else:
            command = b"%b%b\r\n" % (f"PUB {subject} {reply} {size}\r\n".encode(), payload)
        self._pending.append(command)
        self._pending_data_size += len(command)
        self._flush_later()

    def _flush_later(self) -> None:
        if self._flush_timer is None:
            loop = asyncio.get_running_loop()
            self._flush_timer = loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flush_timer = None
        queue = self._flush_queue
        if queue is not None and queue.empty():  # else it is about to be written
            queue.put_nowait(asyncio.get_running_loop().create_future())

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        if force_flush or not self.flush_seconds or not self.is_connected:
            return await super()._flush_pending(force_flush)
        self._flush_later()
        return None

    def forget_unsent(self) -> None:
        """What was published and not written yet is not to be written."""
        self._pending.clear()
        self._pending_data_size = 0
