"""The client's side of the WebSocket protocol (RFC 6455) as bytes: handshake and frames.

Pure: no socket, no asyncio, no nats-py. To NATS, the payloads of all data frames are one stream of
bytes, so the payload of a frame is passed on as it arrives.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import struct
from urllib.parse import ParseResult

BINARY, CLOSE, PING, PONG = 0x2, 0x8, 0x9, 0xA
NORMAL = (1000).to_bytes(2, "big")
"""The payload of a CLOSE that has no fault as its reason."""
_CONTINUATION = 0x0
_FINAL, _MASKED, _RESERVED, _CONTROL = 0x80, 0x80, 0x70, 0x08
_MAX_CONTROL_BYTES = 125
_MAX_HEAD_BYTES = 16 * 1024
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class WebSocketError(Exception):
    """The other side does not speak the protocol. The message says what it does instead."""


def encode_frame(opcode: int, payload: bytes | bytearray | memoryview) -> bytes:
    """Return a final frame, masked as RFC 6455 section 5.3 demands of clients."""
    size, mask = len(payload), secrets.token_bytes(4)
    if size < 126:
        head = struct.pack(">BB", _FINAL | opcode, _MASKED | size)
    elif size < 1 << 16:
        head = struct.pack(">BBH", _FINAL | opcode, _MASKED | 126, size)
    else:
        head = struct.pack(">BBQ", _FINAL | opcode, _MASKED | 127, size)
    # As two numbers: a hundred times faster than byte by byte.
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "little")
    masked = (int.from_bytes(payload, "little") ^ key).to_bytes(size, "little")
    return b"%b%b%b" % (head, mask, masked)


class Handshake:
    """The opening handshake of one connection (RFC 6455 section 4.1)."""

    def __init__(self, url: ParseResult) -> None:
        self._key = base64.b64encode(secrets.token_bytes(16)).decode()
        self._received = b""
        # The user and the password in a URL are for NATS, which asks for them later.
        host = url.netloc.rpartition("@")[2]
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        self.request = (
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {self._key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode("ascii", "replace")

    def receive(self, data: bytes) -> bytes | None:
        """Return the bytes that follow the response, or None if it is incomplete.

        Raises: WebSocketError if it is no response, or another than "101 Switching Protocols".
        """
        self._received += data
        if not b"HTTP/1.".startswith(self._received[:7]):
            if self._received.startswith(b"INFO"):
                raise WebSocketError("its port is not for WebSocket; use nats:// or tls://")
            raise WebSocketError(f"its answer is not HTTP: {self._received[:40]!r}")
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            if len(head) > _MAX_HEAD_BYTES:
                raise WebSocketError("its answer does not end")
            return None
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (x.partition(":") for x in lines)
        }
        code, _, reason = status.partition(" ")[2].partition(" ")
        if code != "101":
            where = f", {headers['location']}" if "location" in headers else ""
            raise WebSocketError(
                f"it refuses a WebSocket with HTTP {code} {reason}{where}".rstrip()
            )
        digest = hashlib.sha1(f"{self._key}{_GUID}".encode(), usedforsecurity=False).digest()
        if headers.get("sec-websocket-accept") != base64.b64encode(digest).decode():
            raise WebSocketError("its answer to the WebSocket handshake is wrong")
        return rest


class Frames:
    """Decodes frames from a server."""

    def __init__(self) -> None:
        self._head = b""
        """The beginning of a frame whose header, or whole control frame, is incomplete."""
        self._left = 0
        """Bytes that are missing of the payload of the current data frame."""
        self._in_message = False
        """Whether the last data frame was not the last of its message."""
        self._closed = False
        """Whether CLOSE has arrived, after which everything is discarded (section 1.4)."""

    def decode(self, data: bytes) -> tuple[bytes, list[tuple[int, bytes]]]:
        """Return the payload of data frames, and the control frames with their payload.

        Raises: WebSocketError.
        """
        if self._closed:
            return b"", []
        if self._left >= len(data):  # most often, if frames are large
            self._left -= len(data)
            return data, []
        payload, control = [], []
        if self._left:
            payload.append(data[: self._left])
            data, self._left = data[self._left :], 0
        data, at = self._head + data if self._head else data, 0
        self._head = b""
        while at < len(data):
            start, size = self._begin(data, at)
            opcode = data[at] & 0x0F
            end = start + size
            if start > len(data) or (opcode & _CONTROL and end > len(data)):
                self._head = data[at:]
                break
            if opcode & _CONTROL:
                control.append((opcode, data[start:end]))
                if opcode == CLOSE:
                    self._closed = True
                    break
            else:
                self._in_message = not data[at] & _FINAL
                payload.append(data[start:end])
                self._left = max(0, end - len(data))
            at = end
        return payload[0] if len(payload) == 1 else b"".join(payload), control

    def _begin(self, data: bytes, at: int) -> tuple[int, int]:
        """Return where the payload of the frame at `at` starts, and its size.

        If the header is incomplete, it starts after the end of `data`.
        """
        first = data[at]
        opcode = first & 0x0F
        if first & _RESERVED:
            raise WebSocketError("a frame has reserved bits")
        if opcode & _CONTROL:
            if opcode not in (CLOSE, PING, PONG) or not first & _FINAL:
                raise WebSocketError(f"a control frame starts with {first:#x}")
        elif opcode != (_CONTINUATION if self._in_message else BINARY):
            raise WebSocketError(f"a data frame starts with {first:#x}")
        if at + 1 >= len(data):
            return len(data) + 1, 0
        length = data[at + 1]
        if length & _MASKED:
            raise WebSocketError("a frame of the server is masked")
        if length < 126:
            return at + 2, length
        if opcode & _CONTROL:
            raise WebSocketError(f"a control frame has more than {_MAX_CONTROL_BYTES} bytes")
        start = at + (4 if length == 126 else 10)
        return start, int.from_bytes(data[at + 2 : start], "big") if start <= len(data) else 0
