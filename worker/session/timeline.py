"""The session's clock: times of one provider stream to positions of the session, and back.

A provider's clock starts at zero with each stream and counts the audio it was sent. Positions
count frames since the session's start. The two run side by side except where a long gap was
shortened, so the map is a short list of pieces.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Any, NamedTuple

from natterjack.plugin.provider import ProviderWord


class _Piece(NamedTuple):
    sent: int
    """Frames sent on this stream before the piece."""
    position: int


_MAX_ARRIVALS = 20_000
"""Chunks that were sent and are not final: about half an hour of them; older ones are forgotten."""


class Timeline:
    """One provider stream's place on the session's clock."""

    def __init__(self, sample_rate: int, start: int) -> None:
        self._rate = sample_rate
        self._pieces = [_Piece(0, start)]
        self._sent = 0
        self._position = self._known_from = start
        self._arrivals: list[Any] = []
        """Of each chunk that was sent and is not final, one after another: its position, its end,
        the wall clock at capture of its first frame in nanoseconds, time.monotonic() when it came
        in. Not a tuple for each: there is one for each chunk, in each session."""

    @property
    def position(self) -> int:
        """End of what was sent: the position of the next frame."""
        return self._position

    @property
    def sent_seconds(self) -> float:
        """Audio sent on this stream."""
        return self._sent / self._rate

    def advance(self, frames: int, arrived: float, time_ns: int) -> None:
        """`frames` frames of captured audio were sent next."""
        position = self._position
        self._sent += frames
        self._position = end = position + frames
        arrivals = self._arrivals
        arrivals += (position, end, time_ns, arrived)
        if len(arrivals) > 4 * _MAX_ARRIVALS:
            del arrivals[:_MAX_ARRIVALS]

    def advance_gap(self, frames: int, silence: int) -> None:
        """A gap of `frames` frames comes next, for which `silence` <= `frames` were sent."""
        self._sent += silence
        self._position += frames
        if silence < frames:
            self._pieces.append(_Piece(self._sent, self._position))

    def to_position(self, stream_seconds: float) -> int:
        """Position of a time on the stream's clock, held within what was sent."""
        frames = stream_seconds * self._rate
        if len(self._pieces) == 1 and 0 <= frames <= self._sent:  # nearly always
            first = self._pieces[0]
            return first.position + max(0, round(frames) - first.sent)
        seconds = min(max(0.0, stream_seconds), self.sent_seconds)  # in this order NaN is 0
        sent = max(round(seconds * self._rate), self._pieces[0].sent)
        piece = self._pieces[bisect_right(self._pieces, sent, key=lambda p: p.sent) - 1]
        return min(piece.position + sent - piece.sent, self._position)

    def to_seconds(self, stream_seconds: float) -> float:
        """The session's time of a time on the stream's clock."""
        return round(self.to_position(stream_seconds) / self._rate, 6)

    def words(self, words: Iterable[ProviderWord]) -> list[dict[str, Any]]:
        """Words on the session's clock, as fields of natterjack.events.Word."""
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
        """When the last captured frame before `position` came in, or None if that is not known."""
        if position > self._position:
            return None
        # Nearly always one of the newest: look from the right.
        arrivals = self._arrivals
        for at in range(len(arrivals) - 4, -1, -4):
            if arrivals[at] < position:
                return float(arrivals[at + 3])
        return None

    def wall_clock_ns(self, position: int) -> int | None:
        """Wall clock at capture of the frame at `position`, or None if that is not known. That of a
        frame in a gap is told by the chunk behind the gap."""
        arrivals = self._arrivals
        for at in range(0, len(arrivals), 4):
            if position < arrivals[at + 1]:
                start, time_ns = arrivals[at], arrivals[at + 2]
                if position < self._known_from or not time_ns:
                    return None
                return int(time_ns + (position - start) * 1_000_000_000 // self._rate)
        return None

    def forget(self, position: int) -> None:
        """Nothing before `position` will be asked for again."""
        self._known_from = max(self._known_from, position)
        arrivals, known = self._arrivals, 0
        while known < len(arrivals) and arrivals[known + 1] <= position:
            known += 4
        del arrivals[:known]
        while len(self._pieces) > 1 and self._pieces[1].position <= position:
            del self._pieces[0]
