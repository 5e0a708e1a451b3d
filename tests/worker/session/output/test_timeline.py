from __future__ import annotations

from worker.session.output.timeline import Timeline


def test_stream_time_starts_at_the_resume_position() -> None:
    timeline = Timeline(16_000, 32_000)
    timeline.advance(16_000, 5.0, 1_000_000_000)
    assert timeline.to_position(0.5) == 40_000
    assert timeline.to_seconds(1.0) == 3.0
    assert timeline.sent_seconds == 1.0


def test_times_outside_what_was_sent_are_held_within() -> None:
    timeline = Timeline(8000, 800)
    timeline.advance(800, 0.0, 0)
    assert timeline.to_position(-1) == 800
    assert timeline.to_position(9) == 1600


def test_a_shortened_gap_moves_what_follows() -> None:
    timeline = Timeline(1000, 0)
    timeline.advance(1000, 0.0, 0)
    timeline.advance_gap(60_000, 2000)
    timeline.advance(1000, 0.0, 0)
    assert timeline.to_position(0.5) == 500
    assert timeline.to_position(2.5) == 2500
    assert timeline.to_position(3.5) == 61_500
    assert timeline.position == 62_000


def test_arrival_is_that_of_the_chunk_with_the_last_sample_covered() -> None:
    timeline = Timeline(1000, 0)
    for n in range(3):
        timeline.advance(100, 10.0 + n, n)
    assert timeline.arrived(100) == 10.0
    assert timeline.arrived(101) == 11.0
    assert timeline.arrived(300) == 12.0
    assert timeline.arrived(301) is None


def test_wall_clock_at_a_position_and_forgetting() -> None:
    timeline = Timeline(1000, 0)
    timeline.advance(100, 0.0, 5_000_000_000)
    timeline.advance(100, 0.0, 9_000_000_000)
    assert timeline.wall_clock_ns(50) == 5_050_000_000
    assert timeline.wall_clock_ns(100) == 9_000_000_000
    timeline.forget(100)
    assert timeline.wall_clock_ns(50) is None
    assert timeline.wall_clock_ns(199) == 9_099_000_000


def test_capture_of_the_last_frame_covered() -> None:
    timeline = Timeline(1000, 0)
    timeline.advance(100, 0.0, 5_000_000_000)
    timeline.advance(100, 0.0, 9_000_000_000)
    timeline.advance_gap(400, 50)
    timeline.advance(100, 0.0, 0)
    assert timeline.captured_ns(0) is None
    assert timeline.captured_ns(100) == 5_100_000_000
    assert timeline.captured_ns(101) == 9_001_000_000
    assert timeline.captured_ns(400) == 9_100_000_000, "the end of the chunk before the gap"
    assert timeline.captured_ns(650) is None, "the edge did not say"


def test_clocks_amid_a_gap() -> None:
    """The end of a transcript within a gap counts as arrived with the audio before the gap; the
    clock of a start within it comes from the audio after the gap."""
    timeline = Timeline(1000, 0)
    timeline.advance(100, 10.0, 5_000_000_000)
    timeline.advance_gap(400, 50)
    assert timeline.arrived(300) == 10.0
    assert timeline.wall_clock_ns(300) is None
    timeline.advance(100, 11.0, 5_500_000_000)
    assert timeline.arrived(300) == 10.0
    assert timeline.arrived(501) == 11.0
    assert timeline.wall_clock_ns(300) == 5_300_000_000
    timeline.forget(200)
    assert timeline.wall_clock_ns(199) is None
    assert timeline.wall_clock_ns(200) == 5_200_000_000
