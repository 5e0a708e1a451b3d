"""Checks the position of live audio against the time since boot: audio that never came is a gap.

A block is late by the time since its last frame was due, if frames come at the sample rate from the
first one on. A busy machine makes blocks late for a while, until everything that waited has come in
a burst. Audio that was lost makes all later blocks late for good. So the
least lateness over a while counts:

- While a block is late by more than 0.2 s, it and those after it are held back. If they catch up,
  nothing was lost. If they arrive at the normal pace for a second and are still late, so much audio
  is missing, before the first of them that was not later than that. On a machine that is too busy
  for either, they are held for 5 s.
- Smaller steps that last for 8 s are summed up, and become a gap when they make 0.2 s.
- Anything slower is the drift of the device's clock, which is followed and never becomes a gap.

Blocks may come early, if a device had more audio than estimated. Gaps are not taken back then:
positions are ahead, by no more than the gaps so far, and later losses make up for that first.

What is owed, or was named too much, is handed on to a recording that continues this one. Where
positions begin again, at the time of a block, it is settled.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from natterjack.notices import BUSY, DEVICE_LOST, SUSPENDED

from ..input.samples import Samples
from . import Block

_STEP_S = 0.2
"""The shortest gap."""
_LEAST_SUSPECT_S = 0.1
_SMALL_STEP_S = 0.04
_BUCKET_S = 0.25
"""The least lateness is taken over the blocks that arrive within this time."""
_STEADY, _STEADY_SMALL = 4, 32
"""How many buckets in a row confirm a step, and a small one."""
_STEADY_SPREAD_S = 0.06
_PLACE_S = 0.1
"""A block that is later or earlier than the rest by more belongs to the audio before a gap."""
_LONGEST_HOLD_S = 5.0
_LONGEST_DOUBT_S = 30.0
"""Blocks that have been late for longer are not held. A machine may be too busy to catch up for
minutes, and all of the audio may yet come."""
_OPENING_S, _OPENING_SPREAD_S = 0.75, 0.01
"""A recording that continues another one has its first blocks held until none of the next was
earlier."""
_SETTLE_S = 3.0
"""At first, earlier blocks show that the ones before were late."""
_MAX_DRIFT = 1e-3
"""Seconds per second. Clocks of sound cards differ by less than half of it."""


class Captured(NamedTuple):
    """Audio as a device has delivered it."""

    samples: Samples
    now: float
    """Time since boot, suspensions included, in seconds, at the delivery."""
    asleep: float
    """The part of it in which the machine was suspended; only its changes count."""
    now_ns: int
    """Wall clock at the delivery, in nanoseconds since the epoch."""
    latency_s: float
    """How long before the delivery its first frame was captured."""
    lost_frames: int = 0
    """Number of frames known to be lost just before it."""


class _Held(NamedTuple):
    """A block that waits for a decision."""

    captured: Captured
    late_s: float


class CaptureClock:
    """Gives the blocks of one recording their times, and the gaps between them.

    It reads no clock: each block has its times.
    """

    def __init__(self, sample_rate: int, now: float, earlier: CaptureClock | None = None) -> None:
        """Start a recording at the time `now` since boot.

        With `earlier`, it goes on where that one ended, and the time between is lost.
        """
        self._rate = sample_rate
        self._opened = now
        self._earlier: CaptureClock | None = earlier
        if earlier is not None and earlier._earlier is not None:
            self._earlier = earlier._earlier  # that one had no audio
        self._frames = 0
        """Frames so far, gaps included."""
        self._start = 0.0
        """When frame 0 was due to be delivered, by the estimate so far."""
        self._age_s = 0.0
        """How old the last frame of a block is at its delivery, if it is not late."""
        self._first_at: float | None = None
        self._settling_at = 0.0
        """When a block came that was earlier than those before, at first."""
        self._held: deque[_Held] = deque()
        self._late_since: float | None = None
        """Since when blocks have been late."""
        self._asleep: float | None = None
        """`Captured.asleep` of the last block that was not late."""
        self._owed_s = 0.0
        """Seconds of audio that are missing and in no gap yet, found in small steps. Negative: the
        positions are ahead."""
        self._gaps_s = 0.0
        """Seconds of audio that are missing and in a gap."""
        self._bucket = 0
        self._bucket_low_s = 0.0
        self._lows: deque[float] = deque(maxlen=_STEADY_SMALL)
        """Least lateness in the last buckets, without a bucket between them that had no block."""
        self._drift_s = 0.0
        self._now = 0.0
        self._opening: list[Captured] = []
        """The first blocks of a recording that continues an earlier one, while it settles."""

    @property
    def end(self) -> float:
        """Time since boot at which the audio so far ends."""
        if self._earlier is not None:
            return self._earlier.end
        if self._first_at is None:
            return self._opened
        return self._start - self._age_s + self._frames / self._rate

    @property
    def drift_ppm(self) -> float:
        """How much slower than the boot clock the device's clock is, in parts per million."""
        elapsed_s = self._now - (self._first_at or 0.0) - _SETTLE_S
        return 1e6 * self._drift_s / elapsed_s if elapsed_s > 0 else 0.0

    @property
    def drift_seconds(self) -> float:
        """Seconds over which the drift was measured."""
        return max(0.0, self._now - (self._first_at or 0.0) - _SETTLE_S)

    def add(self, captured: Captured) -> list[Block]:
        """Take the next block. Returns the blocks that are decided, in order."""
        frames, self._now = len(captured.samples), captured.now
        self._frames += frames + captured.lost_frames
        if self._first_at is None:
            self._first_at, self._asleep = captured.now, captured.asleep
            self._settling_at = captured.now
            self._bucket = int(captured.now / _BUCKET_S)
            self._earliest(captured, frames)
        late_s = captured.now - self._frames / self._rate - self._start
        if late_s < 0 and captured.now - self._first_at < _SETTLE_S:
            if late_s < -_OPENING_SPREAD_S:
                self._settling_at = captured.now
            self._earliest(captured, frames)
            late_s = 0.0
        if self._earlier is not None:
            self._opening.append(captured)
            settled = captured.now - self._settling_at >= _OPENING_S
            return self._opened_at() if settled else []
        bucket = int(captured.now / _BUCKET_S)
        closed = bucket != self._bucket
        if closed:
            self._lows.append(self._bucket_low_s)
            if bucket > self._bucket + 1:
                self._lows.clear()
            self._bucket, self._bucket_low_s = bucket, late_s
        else:
            self._bucket_low_s = min(self._bucket_low_s, late_s)
        if self._late_since is None:
            if late_s <= self._suspect_s:
                return self._on_time(captured, closed)
            self._late_since = captured.now
            self._lows.clear()
        self._held.append(_Held(captured, late_s))
        return self._while_held(late_s, closed)

    def flush(self) -> list[Block]:
        """Return the blocks that are held back, because no more will come.

        There is a gap if they have arrived at the normal pace.
        """
        if self._opening:
            return self._opened_at()
        if not self._held:
            return []
        recent = self._recent()
        steady = max(recent) - min(recent) <= _STEADY_SPREAD_S
        return self._confirm(min(recent)) if steady else self._release()

    def settle(self) -> float:
        """Positions begin again, at the time of a block. Returns the seconds that are missing
        before it and in no gap. Nothing is owed after that, and no position is ahead."""
        if self._earlier is not None:
            return self._earlier.settle()
        owed_s, self._owed_s = self._owed_s, 0.0
        self._gaps_s += max(0.0, owed_s)
        return max(0.0, owed_s)

    @property
    def _suspect_s(self) -> float:
        """Lateness from which blocks are held back."""
        return max(_STEP_S - self._owed_s, _LEAST_SUSPECT_S)

    def _opened_at(self) -> list[Block]:
        """Return the first blocks, after the gap since the earlier recording."""
        assert self._earlier is not None
        earlier, self._earlier = self._earlier, None
        lost_s = self._start - self._age_s - earlier.end + earlier._owed_s
        self._owed_s = min(0.0, lost_s)
        self._gaps_s = earlier._gaps_s + max(0.0, lost_s)
        self._asleep = earlier._asleep
        suspended = self._cause(self._opening[0], lost_s) == SUSPENDED
        self._asleep = self._opening[0].asleep  # it may have slept since, which is not found yet
        end = self._frames - sum(len(each.samples) + each.lost_frames for each in self._opening)
        blocks = []
        for captured in self._opening:
            end += len(captured.samples) + captured.lost_frames
            blocks.append(self._timed(captured, end))
        self._opening.clear()
        blocks[0] = blocks[0]._replace(
            lost_frames=max(0, round(lost_s * self._rate)),
            cause=SUSPENDED if suspended else DEVICE_LOST,
        )
        return blocks

    def _earliest(self, captured: Captured, frames: int) -> None:
        """Treat a block as one that is not late."""
        self._start = captured.now - self._frames / self._rate
        self._age_s = max(0.0, captured.latency_s - frames / self._rate)

    def _on_time(self, captured: Captured, closed: bool) -> list[Block]:
        if closed and self._lows:
            self._follow(self._lows[-1])
        gap_s = 0.0
        if self._owed_s >= _STEP_S:
            gap_s = self._owed_s
            self._insert(gap_s, shift_s=-gap_s)
        block = self._timed(captured, self._frames, round(gap_s * self._rate))
        if gap_s:
            block = block._replace(cause=self._cause(captured, gap_s))
        self._asleep = captured.asleep
        return [block]

    def _follow(self, low_s: float) -> None:
        """Follow the drift, and count a small step that lasts."""
        if len(self._lows) == _STEADY_SMALL:
            least, most = min(self._lows), max(self._lows)
            step_s = least if least > _SMALL_STEP_S else most if most < -_SMALL_STEP_S else 0.0
            if step_s:
                self._start += step_s
                # Frames that came early may only make up for gaps that were found.
                self._owed_s = max(self._owed_s + step_s, -self._gaps_s)
                self._lows.clear()
                return
        most_s = _MAX_DRIFT * _BUCKET_S
        followed_s = max(-most_s, min(most_s, low_s))
        self._start += followed_s
        self._drift_s += followed_s

    def _while_held(self, late_s: float, closed: bool) -> list[Block]:
        if late_s <= self._suspect_s:
            return self._on_time_again()
        if closed:
            recent = list(self._lows)[-_STEADY:]
            if len(recent) == _STEADY and max(recent) - min(recent) <= _STEADY_SPREAD_S:
                return self._confirm(min(recent))
        assert self._late_since is not None
        held_s = self._now - self._held[0].captured.now
        if held_s >= _LONGEST_HOLD_S or self._now - self._late_since >= _LONGEST_DOUBT_S:
            return self._release()
        return []

    def _on_time_again(self) -> list[Block]:
        self._late_since = None
        self._lows.clear()
        self._asleep = self._held[-1].captured.asleep
        return self._release()

    def _recent(self) -> list[float]:
        """The lateness of the blocks that are held, within the last second."""
        since = self._now - _STEADY * _BUCKET_S
        return [held.late_s for held in self._held if held.captured.now >= since]

    def _confirm(self, low_s: float) -> list[Block]:
        """Insert the gap that the lateness `low_s` shows, and return what was held."""
        gap_s = self._owed_s + low_s
        if gap_s < _STEP_S:
            return self._on_time_again()
        lates = [held.late_s for held in self._held]
        earlier = [i for i, late_s in enumerate(lates) if late_s < low_s - _PLACE_S]
        first = earlier[-1] + 1 if earlier else 0
        at = next((i for i in range(first, len(lates)) if lates[i] <= low_s + _PLACE_S), first)
        cause = self._cause(self._held[-1].captured, gap_s)
        self._insert(gap_s, shift_s=low_s - gap_s)
        self._late_since, self._asleep = None, self._held[-1].captured.asleep
        return self._release(at, round(gap_s * self._rate), cause)

    def _insert(self, gap_s: float, shift_s: float) -> None:
        self._frames += round(gap_s * self._rate)
        self._start += shift_s
        self._gaps_s += gap_s
        self._owed_s = 0.0
        self._lows.clear()

    def _release(self, at: int = 0, gap_frames: int = 0, cause: str = BUSY) -> list[Block]:
        """Return the blocks that are held, with a gap before number `at`."""
        blocks: list[Block] = []
        end = self._frames
        for index in range(len(self._held) - 1, -1, -1):
            captured = self._held[index].captured
            if index == at and gap_frames:
                blocks.append(self._timed(captured, end, gap_frames)._replace(cause=cause))
                end -= gap_frames
            else:
                blocks.append(self._timed(captured, end))
            end -= len(captured.samples) + captured.lost_frames
        self._held.clear()
        blocks.reverse()
        return blocks

    def _timed(self, captured: Captured, end: int, gap_frames: int = 0) -> Block:
        """Return a block whose last frame is number `end`, with the time of its first."""
        first_at = self._start - self._age_s + (end - len(captured.samples)) / self._rate
        time_ns = captured.now_ns - int((captured.now - first_at) * 1e9)
        lost_frames, settle = captured.lost_frames + gap_frames, self.settle
        return Block(captured.samples, time_ns, lost_frames, settle=settle)

    def _cause(self, captured: Captured, gap_s: float) -> str:
        slept_s = 0.0 if self._asleep is None else captured.asleep - self._asleep
        return SUSPENDED if slept_s > gap_s / 2 else BUSY
