"""Messages between the gateway and the process of a decoder.

Each has a header of five bytes: its type, and the number of bytes that follow, big-endian.

    from the gateway
        O  the options as JSON: once, first
        A  audio as the client sent it
        E  no more audio
    to the gateway
        H  the process is there
        F  what it found, for people, and the channels of the output, as JSON
        P  decoded audio: linear16
        W  all audio sent so far has been used: one for each A
        D  the end: everything has been decoded
        X  the audio cannot be decoded; why, for the client
"""

from __future__ import annotations

import signal
import socket
import struct

HEADER = struct.Struct(">cI")
_CPU_S = 10.0
"""Processor time within which a decoder must return audio, or ask for more."""
_BATCH_BYTES = 32 << 10


class Gone(Exception):
    """The gateway has closed the socket."""


class Link:
    """The decoder's end of the socket. The kernel ends a process that has computed for too long
    since its last message."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._batch = bytearray()

    def receive(self) -> tuple[bytes, bytes]:
        """Wait for a message. Raises: Gone."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        try:
            kind, size = HEADER.unpack(self._exactly(HEADER.size))
            return kind, self._exactly(size)
        finally:  # also when the gateway has closed the socket: FFmpeg may go on for ever
            signal.setitimer(signal.ITIMER_PROF, _CPU_S)

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self._connection.recv(size - len(data))
            if not part:
                raise Gone
            data += part
        return bytes(data)

    def send(self, kind: bytes, data: bytes = b"") -> None:
        """Send a message after the audio that waits. Raises: Gone."""
        self._flush()
        self._write(kind, data)

    def audio(self, pcm: bytes) -> None:
        """Send audio, at the latest before the next message."""
        self._batch += pcm
        if len(self._batch) >= _BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        for start in range(0, len(self._batch), _BATCH_BYTES):
            self._write(b"P", bytes(self._batch[start : start + _BATCH_BYTES]))
        self._batch.clear()

    def _write(self, kind: bytes, data: bytes) -> None:
        signal.setitimer(signal.ITIMER_PROF, _CPU_S)
        try:
            self._connection.sendall(HEADER.pack(kind, len(data)) + data)
        except OSError:
            raise Gone from None
