"""One WebSocket connection to a provider."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import aiohttp

from ..errors import Dropped, ProviderError, RemoteProtocolError

CLOSE_SECONDS: Final = 0.5
"""Longest closing handshake; after it the connection is aborted."""
_UNSENT_BYTES: Final = 32 * 1024
"""Unsent data after which `send` waits for the peer; aiohttp adds up to 64 kB. With less, a blocked
connection is noticed earlier and loses less audio."""
_UNREADABLE: Final = (
    aiohttp.WSCloseCode.PROTOCOL_ERROR,
    aiohttp.WSCloseCode.INVALID_TEXT,
    aiohttp.WSCloseCode.MESSAGE_TOO_BIG,
)
"""Close codes that aiohttp sends for a message that it cannot receive."""


class Closed(NamedTuple):
    """The end of a connection."""

    code: int | None
    """Close code; None if the connection ended without a close frame (RFC 6455, 7.1.5: 1006)."""
    reason: str = ""


class Socket:
    """One WebSocket connection to a provider. One task receives; several tasks may send."""

    def __init__(
        self,
        provider: str,
        connection: aiohttp.ClientWebSocketResponse,
        response: aiohttp.ClientResponse,
    ) -> None:
        """Only a Connector makes sockets."""
        self.provider = provider
        """Name of the provider, as in the errors that the socket raises."""
        self.headers: Mapping[str, str] = response.headers
        """Headers of the handshake's response."""
        self._connection = connection
        opened = response.connection
        # uvloop's transports have the methods of asyncio.Transport, but not the class.
        self._transport: Any = None if opened is None else opened.transport
        self._closed = False
        self._pings: asyncio.TimerHandle | None = None
        self._close_given = False
        """`receive` has returned the peer's close frame."""
        if self._transport is not None:
            self._transport.set_write_buffer_limits(high=_UNSENT_BYTES)
            raw = self._transport.get_extra_info("socket")
            if raw is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
                with contextlib.suppress(OSError, NotImplementedError):
                    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)

    async def send(self, data: bytes | str) -> None:
        """Send bytes as a binary frame or text as a text frame.

        Waits while the peer reads too slowly. Raises Dropped, or RemoteProtocolError as `receive`
        does. A cancelled `send` may or may not have sent the frame, but never a part of it.
        """
        try:
            await self._sending(data)
        except (aiohttp.ClientError, OSError) as error:
            raise self._dropped(error) from error

    def send_nowait(self, data: bytes | str) -> bool:
        """Send a frame without waiting, and return True.

        Returns False, and sends nothing, while earlier frames wait to be written: call `send`
        then. Raises as `send`.
        """
        if self._transport is None or self._transport.get_write_buffer_size():
            return False
        # As `_sending`, which would be one more call for each chunk.
        out = self._connection
        sending: Any = out.send_str(data) if isinstance(data, str) else out.send_bytes(data)
        try:
            sending.send(None)
        except StopIteration:
            return True
        except (aiohttp.ClientError, OSError) as error:
            raise self._dropped(error) from error
        # The frame is written. aiohttp would wait until the buffer is empty; the next send does.
        sending.close()
        return True

    async def receive(self) -> str | bytes | Closed:
        """Return the next message, or how the connection ended. Cancelling loses no message.

        Raises RemoteProtocolError if the next message cannot be received: it is too large, or
        is not valid text.
        """
        message = await self._connection.receive()
        if message.type is aiohttp.WSMsgType.TEXT or message.type is aiohttp.WSMsgType.BINARY:
            data: str | bytes = message.data
            return data
        if message.type is aiohttp.WSMsgType.CLOSE:
            # aiohttp reports 0 for a frame without a status, which is 1005 (RFC 6455, 7.4.1).
            self._close_given = True
            return Closed(message.data or 1005, message.extra or "")
        # Not `close_code`: aiohttp reports the end of TCP without a close frame as 1000.
        error = message.data if message.type is aiohttp.WSMsgType.ERROR else None
        if isinstance(error, aiohttp.WebSocketError):
            raise self._unreadable(error) from error
        error = error or self._connection.exception()
        return Closed(None, "" if error is None else str(error))

    def ping_every(self, seconds: float) -> None:
        """Send a ping each `seconds` until the connection ends, without waiting for the answers.

        Where the system can (Linux), it breaks the connection if the peer's host acknowledges
        nothing for twice as long.
        """
        self._ping_later(seconds)
        raw = None if self._transport is None else self._transport.get_extra_info("socket")
        if raw is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            with contextlib.suppress(OSError, NotImplementedError):
                milliseconds = round(2000 * seconds)
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)

    def _ping_later(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._pings = loop.call_later(seconds, self._send_ping, seconds)

    def _send_ping(self, seconds: float) -> None:
        if self._connection.closed or self._transport is None or self._transport.is_closing():
            return
        if not self._transport.get_write_buffer_size():  # else unsent frames serve as well
            pinging: Any = self._connection.ping()
            try:
                pinging.send(None)  # writes the frame
            except StopIteration:
                pass
            except (aiohttp.ClientError, OSError):
                return  # the connection is broken: `receive` and `send` report it
            else:
                pinging.close()
        self._ping_later(seconds)

    @property
    def close_received(self) -> bool:
        """Whether the peer's close frame has arrived, even if `receive` has not returned it yet."""
        if self._close_given or self._connection.closed:
            return True
        # aiohttp has no public way to look at messages that are not received yet, and `receive`
        # belongs to another task. A close that arrived before we ended the stream must not count as
        # the answer to it: the provider would seem to have transcribed audio that it never read.
        unread = self._connection._reader._buffer
        # Before aiohttp 3.11 the queue holds pairs of a message and its size.
        messages: Iterable[Any] = (item if hasattr(item, "type") else item[0] for item in unread)
        return any(message.type is aiohttp.WSMsgType.CLOSE for message in messages)

    def abort(self) -> None:
        """Cut the connection at once; `receive` then returns Closed."""
        if self._pings is not None:
            self._pings.cancel()
        if self._transport is not None:
            # Up to Python 3.11.3, asyncio's transport for TLS raises this if it was closed twice.
            with contextlib.suppress(AttributeError):
                self._transport.abort()

    async def close(self) -> None:
        """Close the connection, with a closing handshake of half a second at most. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._connection.close()
        finally:
            # A transport with unsent data would live for as long as the peer does not read.
            self.abort()

    def _sending(self, data: bytes | str) -> Any:
        connection = self._connection
        return connection.send_str(data) if isinstance(data, str) else connection.send_bytes(data)

    def _dropped(self, error: Exception) -> ProviderError:
        if self._connection.close_code in _UNREADABLE and not self._close_given:
            return self._unreadable(error)  # `receive` is closing the connection
        return Dropped(self.provider, f"the connection broke: {error}")

    def _unreadable(self, error: Exception) -> RemoteProtocolError:
        return RemoteProtocolError(
            self.provider, f"a message that cannot be received: {error}",
            str(self._connection.close_code),
        )  # fmt: skip
