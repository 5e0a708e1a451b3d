"""The session's clock: converts the times of one provider stream to positions of the session.

A provider's clock starts at zero with each stream and counts the audio that was sent. Positions
count frames since the start of the session. The two advance together except where a long gap was
shortened, so the map is a short list of pieces.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Any, NamedTuple

from natterjack.plugin.provider import ProviderWord


class _Piece(NamedTuple):
    sent: int
    """The number of frames sent on this stream before the piece."""
    position: int


_MAX_ARRIVALS = 20_000
"""The most chunks that are remembered until they are final: about half an hour of audio."""


class Timeline:
    """Maps the clock of one provider stream to the session's clock."""

    __slots__ = ("_arrivals", "_known_from", "_pieces", "_position", "_rate", "_sent")

    def __init__(self, sample_rate: int, start: int) -> None:
        self._rate = sample_rate
        self._pieces = [_Piece(0, start)]
        self._sent = 0
        self._position = self._known_from = start
        self._arrivals: list[Any] = []
        """Four items for each chunk that was sent and is not final: its position, its end, the wall
        clock at the capture of its first frame in nanoseconds, and time.monotonic() at its arrival.
        A flat list takes less memory than a tuple for each chunk."""

    @property
    def position(self) -> int:
        """The position of the next frame to be sent."""
        return self._position

    @property
    def sent_seconds(self) -> float:
        """The length of the audio sent on this stream."""
        return self._sent / self._rate

    def advance(self, frames: int, arrived: float, time_ns: int) -> None:
        """Note that `frames` frames of captured audio were sent."""
        position = self._position
        self._sent += frames
        self._position = end = position + frames
        arrivals = self._arrivals
        arrivals += (position, end, time_ns, arrived)
        if len(arrivals) > 4 * _MAX_ARRIVALS:
            del arrivals[:_MAX_ARRIVALS]

    def advance_gap(self, frames: int, silence: int) -> None:
        """Note a gap of `frames` frames, for which `silence` <= `frames` frames were sent."""
        self._sent += silence
        self._position += frames
        if silence < frames:
            self._pieces.append(_Piece(self._sent, self._position))

    def to_position(self, stream_seconds: float) -> int:
        """Convert a time on the stream's clock to a position within the audio that was sent."""
        frames = stream_seconds * self._rate
        if len(self._pieces) == 1 and 0 <= frames <= self._sent:  # nearly always
            first = self._pieces[0]
            return first.position + max(0, round(frames) - first.sent)
        seconds = min(max(0.0, stream_seconds), self.sent_seconds)  # in this order NaN is 0
        sent = max(round(seconds * self._rate), self._pieces[0].sent)
        piece = self._pieces[bisect_right(self._pieces, sent, key=lambda p: p.sent) - 1]
        return min(piece.position + sent - piece.sent, self._position)

    def to_seconds(self, stream_seconds: float) -> float:
        """Convert a time on the stream's clock to seconds since the start of the session."""
        return round(self.to_position(stream_seconds) / self._rate, 6)

    def words(self, words: Iterable[ProviderWord]) -> list[dict[str, Any]]:
        """Convert words to the session's clock, as fields of natterjack.events.Word."""
        first = self._pieces[0]
        shift = (first.position - first.sent) / self._rate
        plain = len(self._pieces) == 1 and not first.sent
        last = self.sent_seconds
        made = []
        for text, start, end, confidence, speaker in words:
            if plain and start is not None and end is not None and 0 <= start <= end <= last:
                start, end = round(start + shift, 6), round(end + shift, 6)
            else:
                start = None if start is None else self.to_seconds(start)
                end = None if end is None else self.to_seconds(end)
            made.append(
                {
                    "text": text,
                    "start": start,
                    "end": end,
                    "confidence": confidence,
                    "speaker": speaker,
                }
            )
        return made

    def arrived(self, position: int) -> float | None:
        """When the last captured frame before `position` arrived; None if that is unknown."""
        if position > self._position:
            return None
        # Nearly always one of the newest: look from the right.
        arrivals = self._arrivals
        for at in range(len(arrivals) - 4, -1, -4):
            if arrivals[at] < position:
                return float(arrivals[at + 3])
        return None

    def captured_ns(self, position: int) -> int | None:
        """The wall clock at the capture of the last frame before `position`, in nanoseconds; None
        if that is unknown."""
        arrivals = self._arrivals
        for at in range(len(arrivals) - 4, -1, -4):
            if arrivals[at] < position:
                start, end, time_ns = arrivals[at : at + 3]
                if not time_ns:
                    return None
                frames = min(position, end) - start
                return int(time_ns + frames * 1_000_000_000 // self._rate)
        return None

    def wall_clock_ns(self, position: int) -> int | None:
        """The wall clock at the capture of the frame at `position`; None if that is unknown. For a
        frame in a gap it is derived from the chunk after the gap."""
        arrivals = self._arrivals
        for at in range(0, len(arrivals), 4):
            if position < arrivals[at + 1]:
                start, time_ns = arrivals[at], arrivals[at + 2]
                if position < self._known_from or not time_ns:
                    return None
                return int(time_ns + (position - start) * 1_000_000_000 // self._rate)
        return None

    def forget(self, position: int) -> None:
        """Drop what is known of positions before `position`."""
        self._known_from = max(self._known_from, position)
        arrivals, known = self._arrivals, 0
        while known < len(arrivals) and arrivals[known + 1] <= position:
            known += 4
        del arrivals[:known]
        while len(self._pieces) > 1 and self._pieces[1].position <= position:
            del self._pieces[0]
