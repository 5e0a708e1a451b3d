from __future__ import annotations

import pytest

from edge_capture.delivery.backlog import Backlog
from natterjack.spec import SessionSpec

from .samples import FRAMES, chunk

SPEC = SessionSpec(tenant="t", conversation="c", speaker="s", sample_rate=16000)


def filled(count: int, *, max_seconds: float = 1000, ahead_chunks: int | None = None) -> Backlog:
    backlog = Backlog(SPEC, max_seconds=max_seconds, ahead_chunks=ahead_chunks)
    for index in range(count):
        backlog.put(chunk(index))
    return backlog


def test_chunks_come_out_in_order_with_consecutive_numbers() -> None:
    backlog = filled(3)
    assert len(backlog) == 3
    assert [backlog.take() for _ in range(3)] == [(index, chunk(index)) for index in range(3)]
    assert backlog.take() is None
    backlog.put(chunk(3))
    assert backlog.take() == (3, chunk(3))


def test_live_audio_beyond_the_limit_drops_the_oldest(caplog: pytest.LogCaptureFixture) -> None:
    backlog = filled(60, max_seconds=2)
    assert len(backlog) == 20
    assert backlog.dropped_frames == 40 * FRAMES
    taken = [backlog.take() for _ in range(20)]
    first = chunk(40)._replace(note="dropped:end")
    assert taken == [(0, first), *((number, chunk(40 + number)) for number in range(1, 20))]
    messages = [record.message for record in caplog.records]
    assert messages == [
        "the buffer is full: the oldest audio is dropped until the broker accepts chunks",
        "the buffer is empty again; 4.0 s of audio were dropped in total",
    ]


def test_notes_of_dropped_chunks_go_to_those_that_follow() -> None:
    backlog = Backlog(SPEC, max_seconds=2)
    notes = {0: "input_dead", 1: "input_low", 2: "input_low:end,a,b", 3: "busy:end", 5: "c"}
    for index in range(60):
        backlog.put(chunk(index)._replace(note=notes.get(index, "")))
    found = [taken[1].note for taken in (backlog.take() for _ in range(4)) if taken is not None]
    assert found == ["dropped:end,input_dead,a", "b,c", "", ""]


def test_a_gap_has_one_cause() -> None:
    backlog = Backlog(SPEC, max_seconds=2)
    for index in range(60):
        backlog.put(chunk(index)._replace(note="muted:end,input_low" if index == 40 else ""))
    taken = backlog.take()
    assert taken is not None
    assert taken[1].note == "muted:end,input_low"


def test_a_chunk_longer_than_the_limit_is_kept() -> None:
    backlog = filled(1, max_seconds=0.01)
    assert len(backlog) == 1
    assert backlog.dropped_frames == 0


def test_a_source_that_can_wait_is_paused_and_loses_nothing() -> None:
    backlog = filled(3, max_seconds=0.01, ahead_chunks=4)
    assert not backlog.full
    backlog.put(chunk(3))
    assert backlog.full
    assert backlog.dropped_frames == 0
    backlog.take()
    assert not backlog.full


def test_live_audio_never_waits() -> None:
    assert not filled(1000).full


def test_the_end_mark_is_the_last_chunk() -> None:
    backlog = filled(1)
    assert not backlog.ended
    backlog.put(chunk(1, end=True))
    assert backlog.ended
