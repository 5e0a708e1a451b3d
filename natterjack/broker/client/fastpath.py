"""nats-py's client with a faster path for subscriptions and publications of high volume.

nats-py parses all headers of every message it receives and wakes a task for it; for every message
it sends, it validates each header and writes to the socket. docs/explanation/performance.md says
what that costs. The fast path decodes and encodes with `wire` instead.

Only this module and `parser` use private parts of nats-py. tests/test_dependencies.py checks that
each of them exists in the installed release.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import ParseResult

import nats.aio.client
import nats.aio.subscription
import nats.aio.transport
import nats.js.client
import nats.js.kv
from nats.aio.client import PING_PROTO, Srv
from nats.aio.client import Client as NatsClient
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from nats.errors import ConnectionClosedError, MaxPayloadError, OutboundBufferLimitError
from nats.errors import Error as NatsError

from natterjack.process.run import abort, end_tasks
from natterjack.process.waiting import keep_cancellations
from natterjack.telemetry.log import fields

from ..login.attempts import last_error
from ..login.credentials import Identity
from ..websocket import SCHEMES, open_websocket
from .parser import DirectParser, Receive
from .wire import encode_publish, headers_size, message_size

log = logging.getLogger(__name__)

keep_cancellations(
    nats.aio.client, nats.aio.subscription, nats.aio.transport, nats.js.client, nats.js.kv
)

_MAX_UNSENT_BYTES = 8 * 1024 * 1024
_TOO_LARGE = "maximum payload violation"


class MessageTooLarge(MaxPayloadError):
    """A message is larger than the server's current max_payload, and was not sent.

    The server counts headers and payload together, and disconnects a client that sends more.
    `size` and `limit` are in bytes.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__()
        self.size, self.limit = size, limit

    def __str__(self) -> str:
        return f"a message of {self.size} bytes exceeds the server's max_payload of {self.limit}"


class DirectSubscription:
    """A subscription whose messages are passed to a plain function as soon as they are read."""

    def __init__(self, client: Client, number: int, subscription: Subscription) -> None:
        self._client = client
        self._number = number
        self._subscription = subscription

    async def end(self) -> None:
        """Unsubscribe. Idempotent."""
        key = b"%d" % self._number
        if self._client.direct.pop(key, None) is not None and not self._client.is_closed:
            await self._subscription.unsubscribe()


class _WebSocketTransport(TcpTransport):
    """nats-py's streams, opened as a WebSocket."""

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        await self._open(uri, None, connect_timeout)

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,
        connect_timeout: int,
    ) -> None:
        if not isinstance(uri, str):  # else the server requires the TLS that there is already
            await self._open(uri, ssl_context, connect_timeout)

    async def _open(self, uri: ParseResult, tls: ssl.SSLContext | None, seconds: float) -> None:
        async with asyncio.timeout(seconds):
            self._io_reader, self._io_writer = await open_websocket(uri, tls)

    def __bool__(self) -> bool:
        return True  # or nats-py would make one of its own


class Client(NatsClient):
    """A NATS client with direct subscriptions (`listen`) and unchecked publications (`post`).

    If `batch_writes` is set, all messages published in one iteration of the event loop are written
    at once, at its end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.identify: Callable[[], Identity] | None = None
        """Returns what the next attempt to connect uses."""
        self.identity = Identity()
        """The identity of the current connection, or of the attempt being made."""
        self.pause: Callable[[int], float] | None = None
        """Returns the seconds to wait before the next attempt, given the number of servers."""
        self.batch_writes = False
        self.direct: dict[bytes, Receive] = {}
        """Receivers of direct subscriptions, by subscription ID as it is on the wire."""
        self._ps: DirectParser = DirectParser(self, self.direct)
        self._flushing: asyncio.Handle | None = None
        self.ending = False
        """Whether no other connection is to be made."""
        self._reconnections: set[asyncio.Task[Any] | None] = set()
        """Tasks that make another connection."""
        self.socket: asyncio.WriteTransport | None = None
        """The transport of the current connection; None for a WebSocket."""
        self._largest_command = self._largest_message = 0
        """The size of the largest publication on the current connection, in bytes: with its control
        line, but at most the limit, since the limit last changed; and as the server counts it."""
        self._known_limit: int | None = None
        """The limit that a violation on the previous connection has revealed."""
        self._next_known_limit: int | None = None
        """The limit that a violation on the current connection has revealed."""

    @property
    def inbox_prefix(self) -> str:
        """The prefix of this client's inbox subjects."""
        return self._inbox_prefix.decode()

    @property
    def subscription_count(self) -> int:
        """The number of subscriptions that are in place."""
        return len(self._subs)

    # ---- connecting -------------------------------------------------------------------------

    async def _connect_to_server(self, s: Srv) -> None:
        # nats-py forgets a connection to a server that did not answer; close it.
        self.abort()
        if self.pause is not None:
            await asyncio.sleep(self.pause(len(self.servers)))
        if self.identify is not None:
            # nats-py would use the TLS context and the public key of its first attempt for good.
            self.identity = self.identify()
            if self.identity.tls is not None:
                self.options["tls"] = self.identity.tls
            self._public_nkey = self.identity.public_key
            self._auth_configured |= self.identity.seed is not None
        if s.uri.scheme in SCHEMES:
            self._transport = _WebSocketTransport()  # type: ignore[no-untyped-call]
        self._stop_if_ending()
        await super()._connect_to_server(s)
        self._stop_if_ending()

    def _stop_if_ending(self) -> None:
        # nats-py must not miss that it is closed: it would go on to reconnect for good.
        if self.ending:
            raise asyncio.CancelledError

    async def _attempt_reconnect(self) -> None:
        self._reconnections.add(task := asyncio.current_task())
        try:
            # nats-py closes the old connection and waits until everything written to it is sent. If
            # the server reads nothing, that takes a quarter of an hour, until the kernel gives up.
            self.abort()
            if not self.ending:
                await super()._attempt_reconnect()
        finally:
            self._reconnections.discard(task)

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
            self._stop_if_ending()
            self._known_limit, self._next_known_limit = self._next_known_limit, None
            self._set_limit(int(self._max_payload))
        except (ConnectionError, RuntimeError):
            # The server has already closed the connection (uvloop raises RuntimeError). nats-py
            # retries after an OSError, and has not read why.
            raise await last_error(getattr(self._transport, "_io_reader", None)) from None
        except (NatsError, OSError, TimeoutError):
            raise
        except Exception as error:  # a task boundary: nats-py would never try again
            raise NatsError(f"nats: the server's answer cannot be used: {error!r}") from error
        self._largest_message = max(map(message_size, self._pending), default=0)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        await super()._process_info(info, initial_connection)
        current = self._current_server
        if current is not None and current.uri.scheme in SCHEMES:
            for server in self._server_pool:
                # nats-py would connect to the other servers of a cluster without WebSocket.
                if server.discovered and server.uri.scheme not in SCHEMES:
                    scheme, path = current.uri.scheme, current.uri.path
                    server.uri = server.uri._replace(scheme=scheme, path=path)
        # nats-py reads the limit only when it connects; it may change afterwards.
        limit = info.get("max_payload")
        if not initial_connection and isinstance(limit, int):
            self._set_limit(limit)

    def _set_limit(self, limit: int) -> None:
        """Refuse messages of more than `limit` bytes, and drop waiting ones that are larger."""
        if self._known_limit is not None:
            limit = min(limit, self._known_limit)
        self._max_payload = limit
        self._largest_command = 0
        waiting = [command for command in self._pending if message_size(command) <= limit]
        if len(waiting) < len(self._pending):
            self._pending = waiting
            self._pending_data_size = sum(map(len, waiting))

    async def _process_err(self, err_msg: str) -> None:
        # nats-py closes the client for good after most errors. The server itself closes the
        # connection if an error is fatal, and then nats-py reconnects. And nats-py lowercases the
        # message, but subjects are case-sensitive; the original is at the front of its buffer.
        line = self._ps.buf.partition(b"\r\n")[0].decode(errors="replace")
        _, quote, message = line.rstrip("'").partition("'")
        if not quote or message.lower() not in err_msg:
            message = err_msg.strip("'")
        if _TOO_LARGE in err_msg and self._largest_message:
            # The limit of the user's account may be lower than the one that the server announces.
            # The message that violated it was no larger than the largest, so this is not too low.
            self._next_known_limit = self._largest_message - 1
        await self._error_cb(NatsError(f"nats: {message}"))

    async def end_tasks(self) -> None:
        """End all tasks of this client, in whatever state nats-py has left them, and the
        connection. Call it after `close`. Idempotent."""
        tasks = {self._reading_task, self._ping_interval_task, self._flusher_task}
        tasks = (tasks | self._reconnections) - {asyncio.current_task()}
        try:
            await end_tasks(task for task in tasks if task is not None)
        finally:
            self.abort()
            self._status = Client.CLOSED

    def abort(self) -> None:
        """Abort the connection, if there is one, in whatever state nats-py is. Idempotent."""
        writer = getattr(self._transport, "_io_writer", None)
        if isinstance(writer, asyncio.StreamWriter):
            abort(writer.transport)

    # ---- receiving --------------------------------------------------------------------------

    async def listen(self, subject: str, receive: Receive) -> DirectSubscription:
        """Call `receive` with each message on `subject` until the subscription's `end`.

        `receive` runs in the read path and must return quickly.
        """
        number = self._sid + 1  # `subscribe` increments it before it sends anything
        self.direct[b"%d" % number] = receive
        unused: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            # With a future, nats-py starts no task for the subscription.
            subscription = await self.subscribe(subject, future=unused)
        except BaseException:  # including cancellation
            self.direct.pop(b"%d" % number, None)
            raise
        assert subscription._id == number
        # The queue stays empty, and takes more memory than the rest of the subscription.
        subscription._pending_queue = None  # type: ignore[assignment]
        return DirectSubscription(self, number, subscription)

    async def _read_loop(self) -> None:
        self._ps.reset()  # drop an incomplete message of the previous connection
        writer = getattr(self._transport, "_io_writer", None)
        self.socket = writer.transport if isinstance(writer, asyncio.StreamWriter) else None
        reader = getattr(self._transport, "_io_reader", None)
        if isinstance(reader, asyncio.StreamReader):
            self._ps.attach(reader)
        await super()._read_loop()

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        # Messages of direct subscriptions come here if they arrived behind something else.
        receive = self.direct.get(b"%d" % sid)
        if receive is None:
            await super()._process_msg(sid, subject, reply, data, headers)  # type: ignore[arg-type]
            return
        try:
            receive(subject, reply, headers, data)
        except Exception:  # a task boundary: nats-py's read loop must not end
            log.exception("message handler failed", extra=fields(subject=subject.decode()))

    # ---- publishing -------------------------------------------------------------------------

    async def publish(
        self,
        subject: str,
        payload: bytes = b"",
        reply: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        """Like nats-py's, but counts headers as the server does. Raises MessageTooLarge."""
        size = len(payload) + (headers_size(headers) if headers else 0)
        self._check_size(size)
        self._largest_message = max(self._largest_message, size)
        await super().publish(subject, payload, reply, headers)

    def _check_size(self, size: int) -> None:
        if size > self._max_payload and not self.is_closed:
            raise MessageTooLarge(size, self._max_payload)

    def post(
        self,
        subject: str,
        payload: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        reply: str = "",
    ) -> None:
        """Publish without waiting. Subject and headers are not validated.

        Raises: MessageTooLarge; OutboundBufferLimitError if there is no connection or too much is
        unsent; ConnectionClosedError.
        """
        if not self.is_connected:
            raise ConnectionClosedError if self.is_closed else OutboundBufferLimitError
        command = encode_publish(subject, payload, headers, reply)
        if len(command) > self._largest_command:  # rarely
            size = message_size(command)
            self._check_size(size)
            self._largest_command = min(len(command), self._max_payload)
            self._largest_message = max(self._largest_message, size)
        if self._pending_data_size + len(command) > _MAX_UNSENT_BYTES:
            raise OutboundBufferLimitError
        self._pending.append(command)
        self._pending_data_size += len(command)
        self._flush_later()

    def discard_unsent(self) -> None:
        """Discard publications that are not written to the socket yet."""
        self._pending.clear()
        self._pending_data_size = 0

    @property
    def _flusher_ended(self) -> bool:
        return self._flusher_task is None or self._flusher_task.done()

    def _flush_later(self) -> None:
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flushing = None
        socket = self.socket
        writable = self.is_connected and socket is not None and not socket.is_closing()
        if socket and writable and (not socket.get_write_buffer_size() or self._flusher_ended):
            # The transport's buffer is empty, so this write need not wait in nats-py's flusher. (If
            # the flusher was cancelled from outside, nats-py writes directly as well.)
            if self._pending:
                socket.write(b"".join(self._pending))
                self._pending.clear()
                self._pending_data_size = 0
            return
        if (queue := self._flush_queue) is not None and queue.empty():  # else a flush is due
            queue.put_nowait(asyncio.get_running_loop().create_future())

    async def _send_ping(self, future: asyncio.Future[Any] | None = None) -> None:
        # nats-py writes a PING at once, ahead of unsent publications. `flush` waits for its PONG,
        # which must confirm that they were received.
        self._pongs.append(future or asyncio.get_running_loop().create_future())
        self._pending.append(PING_PROTO)
        self._pending_data_size += len(PING_PROTO)
        await self._flush_pending()

    async def _process_pong(self) -> None:
        # The answer to a `flush` that was given up. Otherwise nats-py's read loop would end with an
        # error, and the connection would stay open, deaf.
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        if force_flush or not self.batch_writes or not self.is_connected or self._flusher_ended:
            try:
                return await super()._flush_pending(force_flush)
            except (OSError, RuntimeError):  # RuntimeError: uvloop's
                # Once its flusher has ended, nats-py writes directly, even to a connection whose
                # loss it has not noticed yet. Callers need not handle that.
                return None
        self._flush_later()
        return None
