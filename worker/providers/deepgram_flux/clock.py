"""Maps times of the provider's clock to times of the audio given to `send`.

The provider's clock also counts the silence that this plugin inserts. Pure: no sockets, time or
environment.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from natterjack.audio import AudioFormat


class _Silence(NamedTuple):
    """A stretch of inserted silence, in frames of all audio sent."""

    start: int
    end: int
    before: int
    """Frames of inserted silence before this stretch."""


class Clock:
    """Counts the audio of a connection, with and without inserted silence.

    Flux counts all of it; the worker counts only the audio that it gave.
    """

    def __init__(self, audio_format: AudioFormat) -> None:
        self._rate = audio_format.sample_rate
        self._frame_bytes = audio_format.frame_bytes
        self._sent = 0
        self._spoken = 0
        self._silence = 0
        self._pieces: list[_Silence] = []

    @property
    def sent(self) -> float:
        """Seconds of audio sent, including inserted silence."""
        return self._sent / self._rate

    @property
    def spoken(self) -> float:
        """End of the last audio given, on the provider's clock."""
        return self._spoken / self._rate

    @property
    def given(self) -> float:
        """Seconds of audio given."""
        return (self._sent - self._silence) / self._rate

    def audio(self, size_bytes: int) -> float:
        """Count `size_bytes` of audio that is sent next; return its seconds."""
        frames = size_bytes // self._frame_bytes
        self._sent += frames
        self._spoken = self._sent
        return frames / self._rate

    def silence(self, size_bytes: int) -> None:
        """Count `size_bytes` of inserted silence that is sent next."""
        start, end = self._sent, self._sent + size_bytes // self._frame_bytes
        if self._pieces and self._pieces[-1].end == start:
            self._pieces[-1] = self._pieces[-1]._replace(end=end)
        else:
            self._pieces.append(_Silence(start, end, self._silence))
        self._sent = end
        self._silence += end - start

    def to_given(self, seconds: float) -> float:
        """Convert a time of the provider's clock to seconds of the audio given, limited to its
        length.

        A time within inserted silence becomes the place where the silence was inserted.
        """
        if not self._pieces:
            return min(max(seconds, 0.0), self._sent / self._rate)
        sent = min(max(seconds * self._rate, 0.0), float(self._sent))
        index = bisect_right(self._pieces, sent, key=lambda piece: piece.start) - 1
        if index >= 0:
            piece = self._pieces[index]
            if sent <= piece.end:
                sent = piece.start - piece.before
            else:
                sent -= piece.before + piece.end - piece.start
        return round(sent / self._rate, 6)
