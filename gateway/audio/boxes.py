"""The boxes of an MP4 stream, each kept together.

FFmpeg steps back a few bytes within the boxes that describe a track. In a stream it can do so only
within what it has read at once, and fails if a network has divided a box there. So a box is handed
on when all of it is there; only the audio itself (`mdat`) is handed on as it arrives.
"""

from __future__ import annotations

from .errors import UndecodableAudio

MAX_BOX_BYTES = 1 << 20
"""The index of a file of two hours has as much."""
_HEADER_BYTES, _LONG_HEADER_BYTES = 8, 16


class Boxes:
    """Divides a stream into pieces that FFmpeg can read."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._media_left: int | None = 0
        """Bytes of an `mdat` that are still to come; None if it lasts to the end."""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the pieces that `data` completes. Raises: UndecodableAudio."""
        self._rest += data
        pieces = []
        while self._rest and (piece := self._next()):
            pieces.append(piece)
        return pieces

    def rest(self) -> bytes:
        """Return what is left at the end of the stream: a box that was cut."""
        return bytes(self._rest)

    def _next(self) -> bytes:
        """The next piece, or nothing if it is not complete."""
        if self._media_left is None:
            return self._take(len(self._rest))
        if self._media_left:
            piece = self._take(min(self._media_left, len(self._rest)))
            self._media_left -= len(piece)
            return piece
        if len(self._rest) < _LONG_HEADER_BYTES:
            return b""
        size, header = int.from_bytes(self._rest[:4]), _HEADER_BYTES
        if size == 1:
            size, header = int.from_bytes(self._rest[8:16]), _LONG_HEADER_BYTES
        if self._rest[4:8] == b"mdat":
            self._media_left = size - header if size else None
            if self._media_left is not None and self._media_left < 0:
                raise UndecodableAudio("the MP4 has a box of an impossible size")
            return self._take(header)
        if not header <= size <= MAX_BOX_BYTES:
            raise UndecodableAudio(
                f"the MP4 has a box of {size} bytes, and at most {MAX_BOX_BYTES} are read"
            )
        return self._take(size) if len(self._rest) >= size else b""

    def _take(self, size: int) -> bytes:
        piece = bytes(self._rest[:size])
        del self._rest[:size]
        return piece
