"""nats-py's client, with short ways in and out for what there is much of.

Its own ways are made for comfort: for each message in, all headers are parsed and a task is woken;
for each message out, headers are checked one by one and the socket is written to. What that costs
is told in docs/explanation/performance.md. This is the one place that touches what nats-py keeps
to itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from nats.aio.client import PING_PROTO, Srv
from nats.aio.client import Client as NatsClient
from nats.aio.subscription import Subscription
from nats.errors import ConnectionClosedError, MaxPayloadError, OutboundBufferLimitError
from nats.errors import Error as NatsError
from nats.protocol.parser import (
    AWAITING_CONTROL_LINE,
    MAX_CONTROL_LINE_SIZE,
    PERMISSIONS_ERR,
    Parser,
)

from natterjack.telemetry.log import fields

log = logging.getLogger(__name__)

_MAX_UNSENT_BYTES = 8 * 1024 * 1024

Receive = Callable[[bytes, bytes, bytes | None, bytes], None]
"""Is given a message's subject, where it asks for an answer (else nothing), its headers as they are
on the wire, and its payload."""


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


class _Parser(Parser):
    """Takes messages of `direct` subscriptions off the front of what comes, the moment it comes;
    all else goes through asyncio's reader to nats-py.

    Without a task to wake, a regular expression a line, or moving what lies behind a message to the
    front.
    """

    nc: Client

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self._behind = 0
        """Bytes that the reader was given and that were not parsed yet: all later ones have to wait
        their turn."""
        self._reader: asyncio.StreamReader | None = None
        """Of the connection that is in use."""

    def watch(self, reader: asyncio.StreamReader) -> None:
        """Look at what is given to `reader` before it has it."""
        give = reader.feed_data
        self._reader = reader
        self._behind = len(getattr(reader, "_buffer", b""))

        def feed_data(data: bytes) -> None:
            if self._reader is not reader:
                return  # an old connection's last words
            if not self._behind:
                data = self._take(data)
                if not data:
                    return
            self._behind += len(data)
            give(data)

        reader.feed_data = feed_data  # type: ignore[method-assign, assignment]

    async def parse(self, data: bytes = b"") -> None:
        rest = self._take(data)
        if rest:
            await super().parse(rest)
        self._behind -= len(data)

    def _take(self, data: bytes) -> bytes:
        """What is left behind the messages of `direct` subscriptions. A part of one is kept."""
        if self.state != AWAITING_CONTROL_LINE:
            return data
        if self.buf:
            data = bytes(self.buf) + data
            self.buf.clear()
        at, size, direct = 0, len(data), self.nc.direct
        while at < size:
            # NATS protocol: HMSG <subject> <sid> [reply] <bytes of headers> <bytes in all>, or
            # MSG <subject> <sid> [reply] <bytes>.
            if data.startswith(b"HMSG ", at):
                begin, sizes = at + 5, 2
            elif data.startswith(b"MSG ", at):
                begin, sizes = at + 4, 1
            else:
                break
            end = data.find(b"\r\n", begin)
            if end < 0:
                if size - at > MAX_CONTROL_LINE_SIZE:
                    break  # nats-py says what is wrong
                self.buf += data[at:]
                return b""
            words = data[begin:end].split()
            try:
                receive = direct.get(int(words[1]))
                begin, stop = end + 2, end + 2 + int(words[-1])
                head = begin if sizes == 1 else begin + int(words[-2])
                reply = words[2] if len(words) > 2 + sizes else b""
            except (ValueError, IndexError):
                break
            if receive is None:
                break
            if stop + 2 > size:
                self.buf += data[at:]
                return b""
            at = stop + 2
            try:
                receive(words[0], reply, data[begin:head] or None, data[head:stop])
            except Exception:  # a task boundary: what nats-py calls must not end its reading
                log.exception("a message was not taken", extra=fields(subject=words[0].decode()))
        return data[at:] if at else data


class Client(NatsClient):
    """`together`: what is published in one turn of the event loop is written at its end."""

    def __init__(self) -> None:
        super().__init__()
        self._ps: _Parser = _Parser(self)
        self.together = False
        self.direct: dict[int, Receive] = {}
        """Where messages of a subscription go that do not go nats-py's way."""
        self._flushing: asyncio.Handle | None = None
        self._wire: asyncio.WriteTransport | None = None
        """What is written to goes there."""

    async def _connect_to_server(self, s: Srv) -> None:
        self.abort()  # the server that was tried before, and said nothing: nats-py would forget it
        await super()._connect_to_server(s)

    async def _attempt_reconnect(self) -> None:
        # nats-py closes it, and waits until all that was written has gone: to a server that takes
        # nothing more that is a quarter of an hour, until the kernel gives up.
        self.abort()
        await super()._attempt_reconnect()

    @property
    def inbox_prefix(self) -> str:
        """What subjects of answers to us begin with."""
        return self._inbox_prefix.decode()

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
        except RuntimeError:
            # uvloop's, when the server is gone already. nats-py tries again after an OSError, which
            # asyncio raises; it has no address, or each would be another complaint.
            raise ConnectionResetError("the connection is gone") from None

    async def _process_err(self, err_msg: str) -> None:
        # nats-py makes small letters of it, and subjects are none. The line itself is still at the
        # front of what it reads.
        line = self._ps.buf.partition(b"\r\n")[0].decode(errors="replace")
        _, quote, said = line.rstrip("'").partition("'")
        if PERMISSIONS_ERR in err_msg and quote and said.lower() in err_msg:
            await self._error_cb(NatsError(f"nats: {said}"))
            return
        await super()._process_err(err_msg)

    # ---- in ---------------------------------------------------------------------------------

    async def listen(self, subject: str, receive: Receive) -> Arrivals:
        """Give what comes on `subject` to `receive`, which must be quick, until `end` is called."""
        number = self._sid + 1  # the next subscription's; it is counted before anything is sent
        self.direct[number] = receive
        nothing: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            subscription = await self.subscribe(subject, future=nothing)  # a future: without a task
        except BaseException:  # cancelled too
            self.direct.pop(number, None)
            raise
        assert subscription._id == number
        # Nothing comes to it, and it is as large as all the rest of a subscription.
        subscription._pending_queue = None  # type: ignore[assignment]
        return Arrivals(self, number, subscription)

    async def _read_loop(self) -> None:
        self._ps.reset()  # what is left of a message was the old connection's
        writer = getattr(self._transport, "_io_writer", None)
        self._wire = writer.transport if isinstance(writer, asyncio.StreamWriter) else None
        reader = getattr(self._transport, "_io_reader", None)
        if isinstance(reader, asyncio.StreamReader):
            self._ps.watch(reader)
        await super()._read_loop()

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        # One that came behind something else.
        receive = self.direct.get(sid)
        if receive is None:
            await super()._process_msg(sid, subject, reply, data, headers)  # type: ignore[arg-type]
            return
        try:
            receive(subject, reply, headers, data)
        except Exception:  # a task boundary
            log.exception("a message was not taken", extra=fields(subject=subject.decode()))

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
        """
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

    @property
    def _flusher_ended(self) -> bool:
        return self._flusher_task is None or self._flusher_task.done()

    def _flush_later(self) -> None:
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flushing = None
        wire = self._wire
        if (
            self.is_connected
            and wire is not None
            and not wire.is_closing()
            and (self._flusher_ended or not wire.get_write_buffer_size())
        ):
            # Nothing waits to be written: neither need this. (The flusher has ended when it was
            # cancelled from outside; then nats-py writes so too.)
            if self._pending:
                wire.write(b"".join(self._pending))
            self.forget_unsent()
            return
        queue = self._flush_queue
        if queue is not None and queue.empty():  # else it is about to be written
            queue.put_nowait(asyncio.get_running_loop().create_future())

    async def _send_ping(self, future: asyncio.Future[Any] | None = None) -> None:
        # nats-py writes it at once, ahead of what waits to be written: its answer, which `flush`
        # waits for, would say nothing of that.
        self._pongs.append(future or asyncio.get_running_loop().create_future())
        self._pending.append(PING_PROTO)
        self._pending_data_size += len(PING_PROTO)
        await self._flush_pending()

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        if force_flush or not self.together or not self.is_connected or self._flusher_ended:
            try:
                return await super()._flush_pending(force_flush)
            except (OSError, RuntimeError):  # uvloop's
                # nats-py writes by itself once its flusher has ended, as it does with a connection
                # that is lost. It has yet to notice that; no caller has to.
                return None
        self._flush_later()
        return None

    def abort(self) -> None:
        """Cut the connection, if it stands, whatever nats-py is doing with it. Idempotent."""
        writer = getattr(self._transport, "_io_writer", None)
        if isinstance(writer, asyncio.StreamWriter):
            writer.transport.abort()

    def forget_unsent(self) -> None:
        """What was published and not written yet is not to be written."""
        self._pending.clear()
        self._pending_data_size = 0
