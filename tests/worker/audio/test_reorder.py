"""The buffer of chunks that arrived early, and the choice between chunks with one number."""

from __future__ import annotations

import pytest

from worker.audio.reorder import LONGEST_LONE_GAP_S, Chunk, ReorderBuffer

RATE = 16_000
FRAMES = 1280
PATIENCE = 10.0


def chunk(seq: int, position: int | None = None, *, stored: int = 0, size: int = 8) -> Chunk:
    """Chunk `seq`, where it belongs unless `position` says otherwise."""
    at = seq * FRAMES if position is None else position
    return Chunk(seq, at, FRAMES, bytes(size), 0, 0.0, False, stored)


def buffer(*chunks: Chunk) -> ReorderBuffer:
    made = ReorderBuffer(RATE)
    for one in chunks:
        made.add(one)
    return made


def test_the_chunk_that_begins_where_the_last_one_ended_is_next() -> None:
    early = buffer(chunk(3), chunk(2))
    assert early.choose(2, 2 * FRAMES, None, PATIENCE) == chunk(2)
    assert (early.first, early.last, len(early)) == (2, 3, 2)


def test_a_missing_number_is_not_replaced_by_a_later_one() -> None:
    assert buffer(chunk(3)).choose(2, 2 * FRAMES, None, PATIENCE) is None


def test_the_same_chunk_from_the_stream_adds_only_its_sequence() -> None:
    early = buffer(chunk(2), chunk(2, stored=77))
    assert len(early) == 1
    assert early.versions(2) == [chunk(2, stored=77)]


@pytest.mark.parametrize("forged_stored", [0, 78])
def test_of_chunks_that_differ_only_in_content_the_one_stored_first_is_valid(
    forged_stored: int,
) -> None:
    """A chunk that found no room is read again, and a later one may have taken its place."""
    true, forged = chunk(2, stored=77), chunk(2, stored=forged_stored, size=12)._replace(end=True)
    early = buffer(forged, true)
    assert early.versions(2) == [true]
    early.add(forged)
    assert early.versions(2) == [true]
    early.drop(2)
    assert not early.full


def test_a_forged_chunk_that_arrives_first_does_not_displace_the_real_one() -> None:
    forged = chunk(2, position=50 * RATE)
    early = buffer(forged, chunk(2), chunk(3))
    assert early.choose(2, 2 * FRAMES, None, PATIENCE) == chunk(2)


def test_a_chunk_ahead_is_a_gap_when_the_next_one_confirms_it() -> None:
    ahead = chunk(2, position=9 * FRAMES)
    early = buffer(ahead, chunk(3, position=10 * FRAMES))
    assert early.choose(2, 2 * FRAMES, None, PATIENCE) == ahead


def test_a_lone_chunk_ahead_is_unconfirmed_for_a_while() -> None:
    ahead = chunk(2, position=9 * FRAMES)
    early = buffer(ahead)
    assert early.choose(2, 2 * FRAMES, None, PATIENCE) is None
    assert early.choose(2, 2 * FRAMES, 2.9, PATIENCE) is None
    assert early.choose(2, 2 * FRAMES, 3.1, PATIENCE) == ahead


def test_an_implausible_gap_is_unconfirmed_for_longer_but_no_longer_than_patience() -> None:
    ahead = chunk(2, position=2 * FRAMES + round(LONGEST_LONE_GAP_S * RATE) + 1)
    early = buffer(ahead)
    assert early.choose(2, 2 * FRAMES, 9.0, 60.0) is None
    assert early.choose(2, 2 * FRAMES, 12.1, 60.0) == ahead
    assert early.choose(2, 2 * FRAMES, 9.0, 5.0) == ahead


def test_later_chunks_contradict_one_that_lies_ahead() -> None:
    ahead = chunk(2, position=50 * RATE)
    early = buffer(ahead, chunk(3), chunk(4), chunk(5))
    assert early.contradicted(ahead, 2 * FRAMES)
    assert not buffer(ahead, chunk(3)).contradicted(ahead, 2 * FRAMES), "one may be forged too"


def test_it_is_full_by_number_and_by_bytes() -> None:
    early = ReorderBuffer(RATE)
    for seq in range(128):
        assert not early.full
        early.add(chunk(seq))
    assert early.full
    early.drop(5)
    assert not early.full
    assert buffer(*(chunk(seq, size=1024 * 1024) for seq in range(4))).full


def test_versions_of_one_number_are_bounded_and_dropped_together() -> None:
    early = buffer(*(chunk(2, position=at) for at in range(10)))
    assert len(early.versions(2)) == 4
    early.drop(2)
    assert early.versions(2) == []
    assert len(early) == 0
    with pytest.raises(ValueError, match="empty"):
        _ = early.last
