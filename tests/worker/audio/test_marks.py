"""Marks: the places in the stream from which a session can be read."""

from __future__ import annotations

from worker.audio.marks import Mark, Marks


def test_without_marks_everything_is_read() -> None:
    assert Marks(Mark()).before(10**9) == Mark(0, 0, 1)


def test_the_latest_mark_before_a_position_is_found() -> None:
    marks = Marks(Mark())
    for seq in (100, 200, 300):
        marks.add(Mark(seq * 10, seq, seq + 7))
    assert marks.before(2500) == Mark(2000, 200, 207)
    assert marks.before(2000) == Mark(2000, 200, 207)
    assert marks.before(1999) == Mark(1000, 100, 107)
    assert marks.before_chunk(299) == Mark(2000, 200, 207)


def test_older_marks_do_not_replace_newer_ones() -> None:
    marks = Marks(Mark(5000, 500, 600))
    marks.add(Mark(10, 1, 2))
    assert marks.before(10**6) == Mark(5000, 500, 600)


def test_marks_of_every_chunk_stay_few_and_the_first_one_stays() -> None:
    marks = Marks(Mark())
    for seq in range(1, 50_000):
        marks.add(Mark(seq * 10, seq, seq))
    assert len(marks._marks) <= 65
    assert marks.before(0) == Mark()
    assert marks.before(10**9) == Mark(499_990, 49_999, 49_999)
    newest = marks.before(499_000)
    assert 499_000 - newest.position <= 2 * 64 * 10, "near the head they lie close together"


def test_after_the_stream_was_lost_only_positions_count() -> None:
    marks = Marks(Mark())
    marks.add(Mark(1000, 100, 900))
    marks.forget_places()
    assert marks.before(5000) == Mark(1000, 100, 1)
