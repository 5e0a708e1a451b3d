"""The server side of a WebSocket, for emulators that have to be cheap. Nothing is checked."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from typing import cast
from urllib.parse import urlsplit

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
BINARY, TEXT, CLOSE, PING, PONG = 2, 1, 8, 9, 10


def frame(kind: int, content: bytes) -> bytes:
    """Return a message as a server sends it. Raises ValueError for 64 KiB or more."""
    size = len(content)
    if size >= 2**16:
        raise ValueError(f"{size} bytes are too many")
    length = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
    return bytes([0x80 | kind]) + length + content


class Connection(asyncio.Protocol):
    """A connection: an HTTP request, then WebSocket frames."""

    def __init__(self) -> None:
        self._buffer = b""
        self._upgraded = False
        self._transport: asyncio.Transport

    # ---- what an emulator does ------------------------------------------------------------------

    def opened(self, target: str) -> bool:
        """Take a WebSocket request for `target`, a path with its query; False refuses it."""
        raise NotImplementedError

    def begin(self) -> None:
        """Send what comes first."""

    def answer(self, path: str) -> object:
        """Return the answer to a plain request, for JSON; None if there is no such path."""
        raise NotImplementedError

    def binary(self, length: int, stamp: int | None) -> None:
        """Receive a binary message: its length, and its first eight bytes as a number, if it has
        so many."""

    def text(self, message: str) -> None:
        """Receive a text message."""
        raise NotImplementedError

    def lost(self) -> None:
        """Note the end of a WebSocket."""

    # ---- messages -------------------------------------------------------------------------------

    def send(self, kind: int, content: bytes) -> None:
        self._transport.write(frame(kind, content))

    def send_text(self, message: str) -> None:
        self.send(TEXT, message.encode())

    def close(self, code: int = 1000) -> None:
        self.send(CLOSE, code.to_bytes(2, "big"))
        self._transport.close()

    # ---- the wire -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have asyncio's methods but not its class.
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._upgraded:
            self.lost()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        if not self._upgraded:
            head, end, buffer = buffer.partition(b"\r\n\r\n")
            if not end:
                self._buffer = head
                return
            self._request(head.decode())
        at, size = 0, len(buffer)
        while size - at >= 2:
            length = buffer[at + 1] & 0x7F
            head_size = at + 2
            if length == 126:
                length = int.from_bytes(buffer[at + 2 : at + 4], "big")
                head_size = at + 4
            elif length == 127:
                length = int.from_bytes(buffer[at + 2 : at + 10], "big")
                head_size = at + 10
            begin = head_size + 4  # a client's frames are masked
            if begin + length > size:
                break
            self._frame(buffer[at] & 0x0F, buffer, head_size, begin, length)
            at = begin + length
        self._buffer = buffer[at:]

    def _frame(self, kind: int, buffer: bytes, mask_at: int, begin: int, length: int) -> None:
        if kind == BINARY:
            stamp = None
            if length >= 8:
                mask = int.from_bytes(buffer[mask_at:begin] * 2, "big")
                stamp = mask ^ int.from_bytes(buffer[begin : begin + 8], "big")
            self.binary(length, stamp)
            return
        mask_bytes = buffer[mask_at:begin]
        content = bytes(
            byte ^ mask_bytes[index % 4] for index, byte in enumerate(buffer[begin:begin + length])
        )  # fmt: skip
        if kind == TEXT:
            self.text(content.decode())
        elif kind == PING:
            self.send(PONG, content)
        elif kind == CLOSE:
            self.send(CLOSE, content[:2])
            self._transport.close()

    def _request(self, head: str) -> None:
        lines = head.split("\r\n")
        target = lines[0].split(" ")[1]
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
        key = headers.get("sec-websocket-key")
        if key is None or not self.opened(target):
            self._answer(urlsplit(target).path)
            return
        self._upgraded = True
        accept = base64.b64encode(
            hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
        ).decode()
        upgrade = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept}",
            "dg-request-id: bench",
        ]
        self._transport.write(("\r\n".join(upgrade) + "\r\n\r\n").encode())
        self.begin()

    def _answer(self, path: str) -> None:
        found = self.answer(path)
        body = json.dumps(found).encode()
        status = "404 Not Found" if found is None else "200 OK"
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        self._transport.write(head.encode() + body)
        self._transport.close()
