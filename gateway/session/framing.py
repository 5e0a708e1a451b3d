"""Cutting what a client sends into chunks of whole frames. Pure."""

from __future__ import annotations

from natterjack.audio import MAX_CHUNK_BYTES, AudioFormat


class Framer:
    """Makes chunks of a stream of bytes. What arrives in a suitable size is not copied."""

    def __init__(self, audio_format: AudioFormat, least_ms: int) -> None:
        """No chunk but a flushed one is shorter than `least_ms` milliseconds."""
        self._frame_bytes = audio_format.frame_bytes
        self._least_bytes = max(1, audio_format.sample_rate * least_ms // 1000) * self._frame_bytes
        self._most_bytes = MAX_CHUNK_BYTES // self._frame_bytes * self._frame_bytes
        self._pending = bytearray()

    @property
    def pending_frames(self) -> int:
        """Whole frames that wait for more."""
        return len(self._pending) // self._frame_bytes

    def feed(self, data: bytes) -> list[bytes]:
        """Return the chunks that `data` completes. The rest of a frame waits for the next call."""
        if not self._pending and len(data) >= self._least_bytes:
            rest = len(data) % self._frame_bytes
            if rest:
                self._pending += data[-rest:]
                data = data[:-rest]
            return self._cut(data)
        self._pending += data
        if len(self._pending) < self._least_bytes:
            return []
        return self.flush()

    def flush(self) -> list[bytes]:
        """Return the chunks of all whole frames that wait; none if there are none."""
        size = len(self._pending) // self._frame_bytes * self._frame_bytes
        if not size:
            return []
        data = bytes(self._pending[:size])
        del self._pending[:size]
        return self._cut(data)

    def _cut(self, data: bytes) -> list[bytes]:
        most = self._most_bytes
        if len(data) <= most:
            return [data]
        return [data[at : at + most] for at in range(0, len(data), most)]
