"""The wall clock of audio that others capture and that arrives over a pipe or a network. Pure."""

from __future__ import annotations

_NS = 1_000_000_000
_WINDOW_S = 60.0
"""The time follows the least delay of so much audio: single deliveries may be late."""


class ArrivalClock:
    """Gives each block the time at which it was captured, as far as its arrival tells.

    The time follows from the number of frames, so that late or early deliveries do not change it.
    The sender's clock differs a little from that of this machine, and may have stood still: once a
    minute, the time is moved by the least delay since the last time.
    """

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._start_ns: int | None = None
        self._frames = 0
        self._late_ns: int | None = None
        """The least delay in this window."""
        self._window_ends = round(_WINDOW_S * sample_rate)

    @property
    def end_ns(self) -> int | None:
        """The time after the last frame, or None before the first one."""
        return None if self._start_ns is None else self._start_ns + self._ns(self._frames)

    def feed(self, frames: int, arrived_ns: int) -> int:
        """Return the wall clock of the first of `frames` that have arrived by `arrived_ns`."""
        length = self._ns(frames)
        if self._start_ns is None:
            self._start_ns = arrived_ns - length
        late = arrived_ns - (self._start_ns + self._ns(self._frames + frames))
        self._late_ns = late if self._late_ns is None else min(self._late_ns, late)
        if self._frames >= self._window_ends:
            self._start_ns += self._late_ns
            self._late_ns = None
            self._window_ends = self._frames + round(_WINDOW_S * self._rate)
        time_ns = self._start_ns + self._ns(self._frames)
        self._frames += frames
        return time_ns

    def gap(self, arrived_ns: int, frames: int) -> int:
        """The next `frames` come after a pause, in which audio was lost: return how many frames,
        and count them."""
        if self._start_ns is None:
            return 0
        begin_ns = arrived_ns - self._ns(frames)
        lost = max(0, begin_ns - self._start_ns - self._ns(self._frames)) * self._rate // _NS
        self.skip(lost)
        return lost

    def skip(self, frames: int) -> None:
        """So many frames were lost before the next ones."""
        if frames:
            self._frames += frames
            self._late_ns = None

    def _ns(self, frames: int) -> int:
        return frames * _NS // self._rate
