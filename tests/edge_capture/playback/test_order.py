from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_capture.playback import order as module
from edge_capture.playback.order import Chunk, Order
from tests.searching import examples

from .chunks import RATE, SESSION, chunk, frames, positions


def taken(order: Order) -> list[Chunk]:
    found = []
    while (one := order.take()) is not None:
        found.append(one)
    return found


def numbers(order: Order) -> list[int]:
    return [one.header.seq for one in taken(order)]


def started() -> Order:
    order = Order(SESSION, RATE)
    order.start()
    return order


def test_chunks_are_taken_in_order_once_each() -> None:
    order = Order(SESSION, RATE)
    assert order.add(*chunk(0)) == "taken"
    assert order.add(*chunk(0)) == "duplicate"
    assert numbers(order) == [0]
    assert order.add(*chunk(0)) == "duplicate"  # late
    assert order.add(*chunk(2)) == "taken"
    assert (order.take(), order.missing) == (None, 1)
    assert order.add(*chunk(1)) == "taken"
    assert order.missing is None
    assert numbers(order) == [1, 2]
    assert order.position == 240


def test_a_session_that_is_joined_begins_with_the_first_chunk_that_has_come() -> None:
    order = Order(SESSION, RATE)
    order.add(*chunk(8))
    order.add(*chunk(7))
    assert (order.take(), order.missing) == (None, 0)
    order.start()
    assert (numbers(order), order.missing) == ([7, 8], None)


def test_a_session_that_is_joined_before_a_chunk_comes() -> None:
    order = started()
    assert order.missing is None
    order.add(*chunk(5))
    assert numbers(order) == [5]


def test_a_hole_that_is_given_up() -> None:
    order = started()
    for seq in (0, 3, 4):
        order.add(*chunk(seq))
    assert numbers(order) == [0]
    order.skip()
    first, second = taken(order)
    assert (first.header.pos, second.header.pos) == (240, 320)
    order.skip()  # there is none
    assert order.missing is None


def test_a_cut_drops_what_came_before_it_even_behind_a_hole() -> None:
    order = started()
    for seq in (0, 2, 3):
        order.add(*chunk(seq))
    assert numbers(order) == [0]
    assert order.add(*chunk(4, 320, cut=True)) == "taken"
    assert numbers(order) == [4]
    assert order.add(*chunk(1)) == "duplicate"
    order.add(*chunk(5, 320))
    (after,) = taken(order)
    assert positions(after.payload) == list(range(320, 400))


def test_the_later_of_two_cuts_comes_first() -> None:
    order = started()
    order.add(*chunk(0))
    order.add(*chunk(5, 400, cut=True))
    assert order.add(*chunk(3, 240, cut=True)) == "duplicate"
    assert order.position == 400
    assert numbers(order) == [5]


def test_speech_after_a_cut_may_begin_where_playback_stopped() -> None:
    order = started()
    for seq in range(4):
        order.add(*chunk(seq))
    taken(order)
    order.add(*chunk(4, 100, cut=True))
    order.add(*chunk(5, 100))
    assert positions(taken(order)[-1].payload) == list(range(100, 180))


def test_an_older_epoch_continues_the_sequence_only_before_the_newest() -> None:
    order = started()
    order.add(*chunk(0, epoch=1))
    order.add(*chunk(3, epoch=2))
    assert order.add(*chunk(4, epoch=1)) == "stale"
    assert order.add(*chunk(2, epoch=1)) == "taken"
    assert order.add(*chunk(1, epoch=1)) == "taken"
    assert numbers(order) == [0, 1, 2, 3]


def test_a_newer_epoch_replaces_what_waits() -> None:
    order = started()
    order.add(*chunk(0))
    taken(order)
    order.add(*chunk(2, epoch=1))
    order.add(*chunk(3, epoch=1))
    order.add(*chunk(2, count=40, pos=160, epoch=2))
    order.add(*chunk(1, epoch=1))
    assert [len(one.payload) for one in taken(order)] == [160, 80]
    assert order.missing == 3


def test_frames_that_a_worker_without_a_lease_has_published_are_not_played_again() -> None:
    order = started()
    for seq in range(3):
        order.add(*chunk(seq, epoch=1))
    taken(order)  # up to 240
    order.add(*chunk(1, 80, count=200, epoch=2))  # instead of 1 and 2
    (rest,) = taken(order)
    assert positions(rest.payload) == list(range(240, 280))
    assert order.add(*chunk(3, epoch=1)) == "stale"
    order.add(*chunk(2, 280, epoch=2))
    assert positions(taken(order)[0].payload) == list(range(280, 360))


def test_a_chunk_that_does_not_begin_where_the_one_before_ended() -> None:
    """The one before was published without a lease, and that of the newest lease was lost."""
    order = started()
    order.add(*chunk(0))
    order.add(*chunk(1, count=40, pos=80, epoch=1))
    assert numbers(order) == [0, 1]
    order.add(*chunk(2, pos=200, epoch=2))
    assert (order.take(), order.missing) == (None, 1)
    order.add(*chunk(1, pos=80, count=120, epoch=2))
    rest, after = taken(order)
    assert positions(rest.payload + after.payload) == list(range(120, 280))
    order.add(*chunk(3, pos=300, epoch=2))  # it is not asked for twice
    assert (order.take(), order.missing) == (None, 2)
    order.add(*chunk(2, pos=200, epoch=2))
    assert [each.header.pos for each in taken(order)] == [280, 300]


def test_another_rate_is_refused() -> None:
    order = started()
    assert order.add(*chunk(0, rate=16_000)) == "rate"
    assert order.missing is None


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    monkeypatch.setattr(module, "MAX_WAITING_BYTES", 1000)
    order = started()
    order.add(*chunk(0))
    taken(order)
    assert order.add(*chunk(2, count=600)) == "overflow"
    assert [order.add(*chunk(seq)) for seq in (3, 4, 5, 6)] == ["taken"] * 3 + ["overflow"]
    assert order.missing == 1
    assert order.add(*chunk(1)) == "taken"  # the next one is never refused
    assert numbers(order) == [1]
    assert order.missing == 2
    assert order.add(*chunk(2)) == "taken"
    assert numbers(order) == [2, 3, 4, 5]
    assert order.missing == 6


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[Chunk], list[Chunk]]:
    """Draw the chunks of two leases of a session as they arrive, and the chunks that the stream
    stores."""
    stored: list[Chunk] = []
    arriving: list[Chunk] = []
    for epoch in (1, 2):
        seq = len(stored)
        pos = stored[-1].header.pos + len(stored[-1].payload) // 2 if stored else 0
        for _ in range(draw(st.integers(1, 6))):
            count = draw(st.integers(1, 50))
            stored.append(chunk(seq, pos, count, epoch=epoch))
            seq, pos = seq + 1, pos + count
        arriving += stored[-6:]
        for _ in range(draw(st.integers(0, 3))):  # after it has lost its lease, to subscribers only
            count = draw(st.integers(1, 50))
            arriving.append(chunk(seq, pos, count, epoch=epoch))
            seq, pos = seq + 1, pos + count
    kept = draw(st.lists(st.sampled_from(arriving), max_size=40))
    if draw(st.booleans()):
        kept = [one for one in arriving if draw(st.booleans())]
    return kept, stored


@examples(100)
@given(deliveries(), st.booleans())
def test_every_frame_is_taken_once_whatever_arrives(
    arrival: tuple[list[Chunk], list[Chunk]], eager: bool
) -> None:
    """In the end, everything that is stored is published again."""
    arriving, stored = arrival
    order = started()
    order.add(*stored[0])
    found: list[Chunk] = []
    for one in arriving:
        order.add(*one)
        if eager:
            found += taken(order)
    found += taken(order)
    for one in stored:
        order.add(*one)
        found += taken(order)
    played = b"".join(one.payload for one in found)
    last = stored[-1]
    end = last.header.pos + len(last.payload) // 2
    assert positions(played)[:end] == list(range(end))
    assert played == frames(0, len(played) // 2)
