"""A WebSocket as an asyncio.StreamReader and an asyncio.StreamWriter."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from urllib.parse import ParseResult

from nats.errors import Error as NatsError

from natterjack.process.run import abort

from .frames import (
    BINARY,
    CLOSE,
    NORMAL,
    PING,
    PONG,
    Frames,
    Handshake,
    WebSocketError,
    encode_frame,
)

_PORTS = {"ws": 80, "wss": 443}
SCHEMES = frozenset(_PORTS)


async def open_websocket(
    url: ParseResult, tls: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Like asyncio.open_connection. Cancel-safe.

    Raises: OSError; NatsError if the other side is no WebSocket server.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, protocol = await loop.create_connection(
        lambda: _Protocol(reader, Handshake(url)),
        url.hostname or "",
        url.port or _PORTS[url.scheme],
        ssl=tls,
    )
    try:
        await protocol.opened
    except BaseException:  # including cancellation
        abort(transport)
        raise
    framed = _FramedTransport(transport, protocol)
    return reader, asyncio.StreamWriter(framed, protocol, reader, loop)


class _Protocol(asyncio.StreamReaderProtocol):
    """Feeds a reader with the payload of frames."""

    def __init__(self, reader: asyncio.StreamReader, handshake: Handshake) -> None:
        super().__init__(reader)
        self._reader = reader
        self._handshake: Handshake | None = handshake
        self._frames = Frames()
        self._transport: asyncio.WriteTransport
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the handshake is over."""
        self.closing = False
        """Whether this side has closed the connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self._handshake is not None
        self._transport = transport  # type: ignore[assignment]  # uvloop's has another class
        self._transport.write(self._handshake.request)

    def data_received(self, data: bytes) -> None:
        try:
            if self._handshake is not None:
                rest = self._handshake.receive(data)
                if rest is None:
                    return
                self._handshake, data = None, rest
                if not self.opened.done():
                    self.opened.set_result(None)
            payload, control = self._frames.decode(data)
        except WebSocketError as error:
            self._failed(error)
            return
        if payload:
            self._reader.feed_data(payload)
        for opcode, content in control:
            if opcode == PING:
                self._transport.write(encode_frame(PONG, content))
            elif opcode == CLOSE:
                self._reader.feed_eof()

    def eof_received(self) -> bool | None:
        self._not_opened(ConnectionResetError("the connection is gone"))
        return super().eof_received()

    def _failed(self, error: WebSocketError) -> None:
        self._not_opened(NatsError(f"nats: not a WebSocket server of NATS: {error}"))
        # nats-py reconnects after an OSError only.
        self._reader.set_exception(ConnectionResetError(f"the WebSocket is broken: {error}"))
        abort(self._transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._not_opened(error or ConnectionResetError("the connection is gone"))
        # Over TLS, the server's answer to CLOSE arrives after the end: an error that means nothing.
        super().connection_lost(None if self.closing else error)

    def _not_opened(self, error: Exception) -> None:
        if not self.opened.done():
            self.opened.set_exception(error)
            self.opened.exception()  # perhaps nobody waits any more


class _FramedTransport(asyncio.Transport):
    """Writes each piece of data as a frame."""

    def __init__(self, transport: asyncio.Transport, protocol: _Protocol) -> None:
        super().__init__()
        self._raw, self._protocol = transport, protocol
        self.is_closing = transport.is_closing  # type: ignore[method-assign]
        self.get_write_buffer_size = transport.get_write_buffer_size  # type: ignore[method-assign]
        self.abort = transport.abort  # type: ignore[method-assign]

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._raw.write(encode_frame(BINARY, data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        self._protocol.closing = True
        if not self._raw.is_closing():
            self._raw.write(encode_frame(CLOSE, NORMAL))
            self._raw.close()
