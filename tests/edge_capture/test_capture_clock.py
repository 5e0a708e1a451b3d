"""The clock of live audio, with a simulated device: what is lost is found, and nothing else."""

from __future__ import annotations

import random
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_capture.sources import Block
from edge_capture.sources.capture_clock import CaptureClock, Captured

from ..searching import examples, tried

RATE = 1000
"""A low rate, so that a day can be simulated."""
EPOCH = 1_700_000_000.0


class Event(NamedTuple):
    """Something that happens at a time of the boot clock, and lasts."""

    kind: str
    """`late`: nothing is delivered, and everything comes afterwards. `lost`: the same, but nothing
    of that time comes. `asleep`: the same, while the machine is suspended."""
    at: float
    seconds: float

    @property
    def end(self) -> float:
        return self.at + self.seconds


class Device:
    """Delivers blocks of silence for `seconds`, and says what came of them."""

    def __init__(
        self,
        *,
        seconds: float,
        events: tuple[Event, ...] = (),
        drift_ppm: float = 0,
        jitter_s: float = 0.01,
        block_s: float = 0.02,
        seed: int = 1,
        clock: CaptureClock | None = None,
        start: float = 5000.0,
        asleep: float = 0.0,
    ) -> None:
        self.clock = clock or CaptureClock(RATE, start)
        self.events = [event._replace(at=event.at + start) for event in events]
        self.start = start
        self.blocks: list[Block] = []
        self.truth: list[float] = []
        """When each block's first frame was captured, in seconds since boot."""
        chance, frames = random.Random(seed), round(RATE * block_s)
        silence = np.zeros((frames, 1), np.int16)
        captured, delivered = start, start
        while captured < start + seconds:
            first_at, captured = captured, captured + block_s * (1 + drift_ppm / 1e6)
            at = captured + 0.03 + chance.random() * jitter_s
            for event in self.events:
                if event.at < captured <= event.end:
                    if event.kind == "late":
                        at = max(at, event.end)
                    else:
                        first_at, captured = event.end, event.end + block_s
                        at, asleep = (
                            captured + 0.03,
                            asleep + (event.kind == "asleep") * event.seconds,
                        )
            delivered = max(delivered + 1e-5, at)
            self.truth.append(first_at)
            self.blocks += self.clock.add(
                Captured(silence, delivered, asleep, round((EPOCH + delivered) * 1e9), 0.05)
            )
            self.delivered = delivered
            self.most_held = max(getattr(self, "most_held", 0), len(self.truth) - len(self.blocks))
        self.blocks += self.clock.flush()

    @property
    def gaps(self) -> list[tuple[float, float, str]]:
        """Position in seconds, seconds and cause of each gap."""
        found, position = [], 0
        for block in self.blocks:
            if block.lost_frames:
                found.append((position / RATE, block.lost_frames / RATE, block.cause))
            position += block.lost_frames + len(block.samples)
        return found

    def check(self, *, within: float = 0.05) -> None:
        """Assert that all blocks come out, at positions and times that are right.

        What is within 0.2 s of a loss may be on the other side of the gap.
        """
        assert len(self.blocks) == len(self.truth)
        position = 0
        for block, truth in zip(self.blocks, self.truth, strict=True):
            position += block.lost_frames
            edges = (edge for event in self.events for edge in (event.at, event.end))
            if all(abs(truth - edge) > 0.2 for edge in edges):
                assert abs(position / RATE - (truth - self.start)) < within
                assert abs(block.time_ns / 1e9 - EPOCH - truth) < within
            position += len(block.samples)


def test_audio_that_comes_in_time_has_no_gap() -> None:
    device = Device(seconds=60)
    device.check()
    assert device.gaps == []


@pytest.mark.parametrize(("ppm", "hours"), [(-500, 6), (0, 6), (500, tried(24))])
def test_hours_with_drift_have_no_gap(ppm: float, hours: int) -> None:
    device = Device(seconds=hours * 3600, drift_ppm=ppm, jitter_s=0.08, block_s=0.2)
    assert device.gaps == []
    assert device.clock.drift_ppm == pytest.approx(ppm, abs=5)
    assert device.clock.drift_seconds == pytest.approx(hours * 3600, abs=5)


@pytest.mark.parametrize("kind", ["lost", "asleep"])
@pytest.mark.parametrize("seconds", [0.25, 1.0, 30.0, 7200.0])
def test_audio_that_never_comes_is_a_gap_at_its_place(kind: str, seconds: float) -> None:
    device = Device(seconds=30 + seconds, events=(Event(kind, 10.0, seconds),))
    device.check()
    ((at, gap, cause),) = device.gaps
    assert at == pytest.approx(10, abs=0.05)
    assert gap == pytest.approx(seconds, abs=0.05)
    assert cause == ("busy" if kind == "lost" else "suspended")
    assert device.most_held * 0.02 < 2, "it is found within seconds"


@pytest.mark.parametrize("seconds", [0.15, 0.3, 1.0, 60.0])
def test_late_audio_is_no_gap_and_keeps_its_time(seconds: float) -> None:
    device = Device(seconds=90, events=(Event("late", 10.0, seconds), Event("late", 75, seconds)))
    device.check()
    assert device.gaps == []


def test_a_full_buffer_loses_what_comes_after_it() -> None:
    """The device keeps the first 40 s of a minute in which nobody reads it."""
    device = Device(seconds=100, events=(Event("late", 10.0, 60.0), Event("lost", 50.0, 20.0)))
    device.check()
    ((at, gap, _),) = device.gaps
    assert at == pytest.approx(50, abs=0.2)
    assert gap == pytest.approx(20, abs=0.1)


@pytest.mark.parametrize("lost_s", [0.0, 3.0])
def test_a_machine_that_is_busy_for_minutes(lost_s: float) -> None:
    """It reads too slowly for 150 s, then too fast: audio is late by up to 40 s, and comes, but for
    what is lost on the way."""
    clock, silence = CaptureClock(RATE, 10.0), np.zeros((20, 1), np.int16)
    blocks: list[Block] = []
    most_held_s = 0.0
    for index in range(15_000):
        at = index * 0.02
        late_s = max(0.0, 40 - abs(at - 150) / 3.5)
        burst_s = at % 0.4 if late_s else 0.0
        now = 10 + at + late_s + 0.4 - burst_s + (lost_s if at > 150 else 0.0)
        blocks += clock.add(Captured(silence, now, 0.0, 0, 0.05))
        most_held_s = max(most_held_s, (index + 1 - len(blocks)) * 0.02)
    assert len(blocks) == 15_000
    gaps = [block.lost_frames / RATE for block in blocks if block.lost_frames]
    assert sum(gaps) == pytest.approx(lost_s, abs=0.05)
    assert len(gaps) == (lost_s > 0)
    assert most_held_s < 8


def test_small_losses_are_summed_up() -> None:
    events = tuple(Event("lost", at, 0.12) for at in (100, 250, 400))
    device = Device(seconds=530, events=events)
    device.check(within=0.25)
    ((at, gap, cause),) = device.gaps
    assert 249.5 < at < 260
    assert gap == pytest.approx(0.24, abs=0.05)
    assert cause == "busy"


def test_what_is_owed_is_settled_where_positions_begin_again() -> None:
    """It is named there, and no part of a gap after that."""
    device = Device(seconds=40, events=(Event("lost", 10, 0.12),))
    assert device.gaps == []
    settle = device.blocks[-1].settle
    assert settle is not None
    assert settle() == pytest.approx(0.12, abs=0.03)
    assert settle() == 0.0
    ends = device.start + 40.02
    later = Device(seconds=60, start=ends, clock=device.clock, events=(Event("lost", 10, 0.12),))
    assert later.gaps == []


def test_what_was_named_too_much_is_forgotten_where_positions_begin_again() -> None:
    """The machine is still busy when the length of a suspension is found. If positions begin again
    after that, at the right time, the next suspension is named in full."""
    clock, silence = CaptureClock(RATE, 10.0), np.zeros((20, 1), np.int16)
    gaps: list[float] = []
    for index in range(3000):
        at = 10 + index * 0.02
        asleep = 150.0 * ((index > 500) + (index > 2500))
        late_s = 0.25 if 500 < index <= 700 else 0.0
        for block in clock.add(Captured(silence, at + asleep + late_s, asleep, 0, 0.02)):
            gaps += [block.lost_frames / RATE] * bool(block.lost_frames)
            if index == 2000 and block.settle is not None:
                assert block.settle() == 0.0  # positions are ahead
    assert gaps == [pytest.approx(150.25, abs=0.02), pytest.approx(150.0, abs=0.02)]


def test_a_latency_that_changes_to_and_fro_is_no_gap() -> None:
    """As when other programs make the sound server change it."""
    clock, silence = CaptureClock(RATE, 10.0), np.zeros((20, 1), np.int16)
    for index in range(50_000):
        now = 10 + index * 0.02 + (0.12 if index // 1000 % 2 else 0.0)
        for block in clock.add(Captured(silence, now, 0.0, 0, 0.05)):
            assert not block.lost_frames


def test_known_losses_are_counted_once() -> None:
    clock = CaptureClock(RATE, 10.0)
    silence = np.zeros((20, 1), np.int16)
    blocks = []
    for index in range(1000):
        after = index >= 500
        now = 10 + index * 0.02 + after * 5
        blocks += clock.add(Captured(silence, now, 0.0, 0, 0.05, 5000 if index == 500 else 0))
    assert [block.lost_frames for block in blocks if block.lost_frames] == [5000]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["late", "lost", "asleep"]),
            st.floats(4, 30),
            st.floats(0.01, 0.1) | st.floats(0.26, 20),
        ),
        max_size=6,
    ),
    st.integers(-500, 500),
    st.floats(0, 0.1),
    st.integers(0, 99),
)
@examples(60)
def test_every_loss_is_found_once_and_nothing_else(
    script: list[tuple[str, float, float]], ppm: int, jitter_s: float, seed: int
) -> None:
    events, at = [], 0.0
    for kind, pause, seconds in script:
        events.append(Event(kind, at + pause, seconds))
        at = events[-1].end
    device = Device(
        seconds=at + 30, events=tuple(events), drift_ppm=ppm, jitter_s=jitter_s, seed=seed
    )
    # Up to 0.2 s of small losses and one more of them are not named yet, and positions drift.
    device.check(within=0.4)
    lost = [event.seconds for event in events if event.kind != "late"]
    large = sum(seconds > 0.2 for seconds in lost)
    blocks_s = 0.02 * len(lost)  # a device loses whole blocks
    small_s = sum(seconds for seconds in lost if seconds <= 0.2) + blocks_s
    assert large <= len(device.gaps) <= large + int((small_s + 0.05) / 0.2)
    named = sum(gap for _, gap, _ in device.gaps)
    assert -0.25 - 0.02 < named - sum(lost) < blocks_s + 0.05


@pytest.mark.parametrize("kind", ["lost", "asleep"])
@pytest.mark.parametrize("failed", [0, 3])
def test_another_recording_goes_on_after_a_gap(kind: str, failed: int) -> None:
    first = Device(seconds=20)
    clock = first.clock
    ends = first.truth[-1] + 0.02
    assert clock.end == pytest.approx(ends, abs=0.02)
    for _ in range(failed):  # recordings that deliver nothing
        clock = CaptureClock(RATE, clock.end + 1, clock)
    clock = CaptureClock(RATE, ends + 60, clock)
    assert clock.end == first.clock.end
    asleep = 60.0 if kind == "asleep" else 0.0
    second = Device(
        seconds=20, clock=clock, start=ends + 60, asleep=asleep,
        events=(Event("late", 0.0, 0.3), Event("late", 0.35, 0.55), Event("late", 0.95, 0.5)),
    )  # fmt: skip
    gaps = [(index, block) for index, block in enumerate(second.blocks) if block.lost_frames]
    ((index, block),) = gaps
    assert index == 0
    assert block.lost_frames / RATE == pytest.approx(60, abs=0.03)
    assert block.cause == ("device_lost" if kind == "lost" else "suspended")
    assert block.time_ns / 1e9 - EPOCH == pytest.approx(ends + 60, abs=0.03)


def test_what_is_owed_is_part_of_the_gap_before_another_recording() -> None:
    first = Device(seconds=40, events=(Event("lost", 10, 0.12),))
    ends = first.truth[-1] + 0.02
    second = Device(seconds=20, clock=CaptureClock(RATE, ends + 60, first.clock), start=ends + 60)
    frames = sum(block.lost_frames + len(block.samples) for block in first.blocks)
    assert first.gaps == []
    assert frames / RATE + second.gaps[0][1] == pytest.approx(ends + 60 - first.start, abs=0.03)


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9, 3.0])
def test_a_suspension_just_after_another_recording_began_is_named(at: float) -> None:
    before = Device(seconds=20)
    after = Device(
        seconds=160, start=5030.0, clock=CaptureClock(RATE, 5029.8, before.clock),
        events=(Event("asleep", at, 140),),
    )  # fmt: skip
    (_, lost_s, away), (_, slept_s, cause) = after.gaps
    assert (away, cause) == ("device_lost", "suspended")
    assert lost_s == pytest.approx(10, abs=0.3)
    assert slept_s == pytest.approx(140, abs=0.3)


def test_a_recording_that_never_delivered_ends_where_it_began() -> None:
    clock = CaptureClock(RATE, 77.0)
    assert (clock.end, clock.drift_seconds, clock.flush()) == (77.0, 0.0, [])
    later = Device(seconds=5, clock=CaptureClock(RATE, 90.0, clock), start=90.0, asleep=1234.0)
    assert later.blocks[0].lost_frames / RATE == pytest.approx(13, abs=0.05)
    assert later.blocks[0].cause == "device_lost"


@pytest.mark.parametrize(("kind", "gap"), [("late", 0.0), ("lost", 1.0)])
def test_what_is_held_back_comes_out_at_the_end(kind: str, gap: float) -> None:
    device = Device(seconds=10.5 + (kind == "lost"), events=(Event(kind, 10.0, 1.0),))
    assert len(device.blocks) == len(device.truth)
    assert sum(lost for _, lost, _ in device.gaps) == pytest.approx(gap, abs=0.05)
