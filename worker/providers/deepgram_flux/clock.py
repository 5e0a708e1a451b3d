"""The stream's clock: where the audio given to `send` lies in all that went out, silence included.

Pure: no sockets, time or environment.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from natterjack.audio import AudioFormat


class _Silence(NamedTuple):
    """Silence of our own, in frames of all that was sent."""

    start: int
    end: int
    before: int
    """Frames of such silence before this one."""


class Clock:
    """Flux counts all audio of a connection; the worker counts what it gave. Silence that is put in
    between belongs to the first count alone."""

    def __init__(self, audio_format: AudioFormat) -> None:
        self._rate = audio_format.sample_rate
        self._frame_bytes = audio_format.frame_bytes
        self._sent = 0
        self._spoken = 0
        self._silence = 0
        self._pieces: list[_Silence] = []

    @property
    def sent(self) -> float:
        """Seconds that went out, silence of our own included."""
        return self._sent / self._rate

    @property
    def spoken(self) -> float:
        """Where the last audio that was given ends, on the provider's clock."""
        return self._spoken / self._rate

    @property
    def given(self) -> float:
        """Seconds of audio that were given."""
        return (self._sent - self._silence) / self._rate

    def audio(self, size_bytes: int) -> float:
        """Audio of so many bytes goes out next; its seconds."""
        frames = size_bytes // self._frame_bytes
        self._sent += frames
        self._spoken = self._sent
        return frames / self._rate

    def silence(self, size_bytes: int) -> None:
        """Silence of our own, of so many bytes, goes out next."""
        start, end = self._sent, self._sent + size_bytes // self._frame_bytes
        if self._pieces and self._pieces[-1].end == start:
            self._pieces[-1] = self._pieces[-1]._replace(end=end)
        else:
            self._pieces.append(_Silence(start, end, self._silence))
        self._sent = end
        self._silence += end - start

    def to_given(self, seconds: float) -> float:
        """A time of the provider in seconds of the audio given, held within it. What lies within
        silence of our own is where that was put in."""
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
