"""The timeline against a model that remembers each frame: random audio, gaps, clocks and times."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from tests.searching import examples
from worker.session.output.timeline import Timeline

NS = 1_000_000_000
RATES = st.sampled_from([8000, 16_000, 44_100, 1000])


class Audio(NamedTuple):
    """A chunk. `clock` is the error of the capture clock; None if the clock is unknown."""

    frames: int
    clock: int | None


class Silence(NamedTuple):
    """A gap, and how much of it is sent as silence."""

    frames: int
    per_mille: int

    @property
    def sent(self) -> int:
        return self.frames * self.per_mille // 1000


class Forget(NamedTuple):
    per_mille: int


class Reconnect(NamedTuple):
    """A new stream, some frames before the end of the old one."""

    back: int


clocks = st.sampled_from([0, 0, 0, None, -3600 * NS, NS]) | st.integers(0, 10**18)
audio = st.builds(Audio, st.integers(1, 300), clocks)
gaps = st.builds(Silence, st.integers(1, 5000), st.sampled_from([1000, 0, 500, 1]))
steps = st.lists(
    audio
    | audio
    | gaps
    | st.builds(Forget, st.integers(0, 1000))
    | st.builds(Reconnect, st.integers(0, 400)),
    max_size=40,
)


class Model:
    """Remembers for each sent frame its position, and for each position when it arrived."""

    def __init__(self, rate: int, start: int) -> None:
        self.rate = rate
        self.timeline = Timeline(rate, start)
        self.start = start
        self.sent: list[int] = []
        """The position of each frame that was sent on this stream."""
        self.arrived: dict[int, float] = {}
        self.clock: dict[int, int] = {}
        self.forgotten = start
        self.position = start
        self.now = 0.0

    def run(self, step: Audio | Silence | Forget | Reconnect) -> None:
        self.now += 1
        if isinstance(step, Audio):
            time_ns = 0 if step.clock is None else 2 * 10**18 + step.clock
            self.timeline.advance(step.frames, self.now, time_ns)
            for n in range(step.frames):
                self.arrived[self.position + n] = self.now
                if time_ns:
                    self.clock[self.position + n] = time_ns + n * NS // self.rate
            self.sent += range(self.position, self.position + step.frames)
            self.position += step.frames
        elif isinstance(step, Silence):
            self.timeline.advance_gap(step.frames, step.sent)
            self.sent += range(self.position, self.position + step.sent)
            self.position += step.frames
        elif isinstance(step, Forget):
            reach = self.position - self.forgotten
            self.forgotten += reach * step.per_mille // 1000
            self.timeline.forget(self.forgotten)
        else:
            fresh = Model(self.rate, max(self.start, self.position - step.back))
            fresh.now = self.now
            self.__dict__.update(fresh.__dict__)

    def check(self) -> None:
        timeline, rate = self.timeline, self.rate
        assert timeline.position == self.position
        assert timeline.sent_seconds == len(self.sent) / rate
        # Audio that was sent maps to its place in the session, unless that is forgotten.
        for n, position in enumerate(self.sent):
            if position >= self.forgotten:
                assert timeline.to_position(n / rate) == position
                assert timeline.to_position((n + 0.4) / rate) == position
                assert timeline.to_seconds(n / rate) == round(position / rate, 6)
        steps = [timeline.to_position(n / 2 / rate) for n in range(-3, 2 * len(self.sent) + 5)]
        assert steps == sorted(steps)
        assert self.start <= steps[0]
        assert steps[-1] <= self.position
        captured = [p for p in self.arrived if p >= self.forgotten]
        for position in range(self.forgotten, self.position):
            before = [p for p in captured if p <= position]
            if before:
                assert timeline.arrived(position + 1) == self.arrived[before[-1]]
            # The clock of a gap is that of the chunk behind it.
            behind = next((p for p in captured if p >= position), None)
            clock = None
            if behind is not None and behind in self.clock:
                clock = self.clock[behind] - (behind - position) * NS // self.rate
            said = timeline.wall_clock_ns(position)
            assert (said is None) == (clock is None)
            assert said is None or abs(said - (clock or 0)) <= 1
        assert timeline.arrived(self.position + 1) is None
        assert timeline.wall_clock_ns(self.position) is None


@examples(250)
@given(rate=RATES, start=st.integers(0, 10**12), script=steps)
def test_every_frame_keeps_its_place(
    rate: int, start: int, script: list[Audio | Silence | Forget | Reconnect]
) -> None:
    model = Model(rate, start)
    for step in script:
        model.run(step)
    model.check()


@examples(100)
@given(
    rate=RATES,
    script=steps,
    seconds=st.floats(),
)
def test_any_time_is_held_within_what_was_sent(
    rate: int, script: list[Audio | Silence | Forget | Reconnect], seconds: float
) -> None:
    model = Model(rate, 7)
    for step in script:
        model.run(step)
    assert model.start <= model.timeline.to_position(seconds) <= model.position


@examples(20)
@given(pause=st.integers(1, 10**6), sent=st.sampled_from([0, 1]))
def test_it_does_not_grow_with_what_is_final(pause: int, sent: int) -> None:
    timeline = Timeline(8000, 0)
    for n in range(300):
        timeline.advance(80, float(n), n)
        timeline.advance_gap(pause + 1, sent)
        timeline.forget(timeline.position - 100)
    assert len(timeline._arrivals) <= 2 * 4
    assert len(timeline._pieces) <= 3
