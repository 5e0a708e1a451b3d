from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natterjack.notices import (
    CODES,
    GAP_CAUSES,
    MAX_NOTES,
    MUTED,
    OTHER,
    UNNAMED_GAP,
    Note,
    changes,
    checked_note,
    gap_cause,
    gap_note,
    join_notes,
    label,
    merge_notes,
    parse_notes,
    spread_notes,
    text_of,
)
from tests.searching import examples


@pytest.mark.parametrize("cause", GAP_CAUSES)
def test_a_note_tells_the_cause_of_a_gap(cause: str) -> None:
    note = gap_note(cause)
    assert gap_cause(note) == gap_cause(f"input_dead,other:end,{note}") == cause
    assert gap_cause(cause) == gap_cause("missing:end") == gap_cause("") == UNNAMED_GAP


def test_notes_are_read_in_order() -> None:
    notes = (Note("busy", True), Note("input_low"), Note("of_a_later_release", True))
    text = "busy:end,input_low,of_a_later_release:end"
    assert parse_notes(text) == notes
    assert join_notes(notes) == checked_note(text) == text
    assert parse_notes("") == ()
    assert join_notes([]) == ""


def test_a_condition_that_ends_and_begins_at_a_chunk_has_not_changed() -> None:
    assert changes(parse_notes("muted:end,muted,input_low,input_low")) == [Note("input_low")]
    assert gap_cause("muted:end,muted") == MUTED


def test_merging() -> None:
    dead, over = Note("input_dead"), Note("input_dead", True)
    assert merge_notes([dead], [over]) == merge_notes([over], [dead]) == []
    assert merge_notes([dead, Note("busy", True)], [Note("muted", True)]) == [
        dead,
        Note("muted", True),
    ]
    assert merge_notes([Note("muted")], [Note("muted", True)]) == [
        Note("muted"),
        Note("muted", True),
    ]


@examples(100)
@given(st.lists(st.sets(st.sampled_from(["input_dead", "input_low", "a", "b", "c", "busy"]))))
def test_all_conditions_are_known_once_there_was_room_for_their_notes(
    turns: list[set[str]],
) -> None:
    """In each chunk, some conditions begin or end, and `busy` is the cause of a gap before it."""
    holds: set[str] = set()
    known: set[str] = set()
    waiting: list[Note] = []
    for codes in [*turns, *[set[str]()] * 3]:
        own = [Note(code, code in holds or code == "busy") for code in sorted(codes)]
        holds ^= codes - {"busy"}
        taken, waiting = spread_notes(waiting, own)
        assert len(taken) <= MAX_NOTES
        assert (gap_cause(join_notes(taken)) == "busy") is ("busy" in codes)
        for note in changes(taken):
            if note.code != "busy":
                assert note.ended is (note.code in known)
                known ^= {note.code}
    assert not waiting
    assert known == holds


def test_unknown_codes_have_one_label_and_their_own_words() -> None:
    assert label("input_dead") == "input_dead"
    assert label("of_a_later_release") == OTHER
    assert text_of("of_a_later_release", ended=False) == "of a later release"
    assert text_of("of_a_later_release", ended=True) == "of a later release ended"
    assert text_of("input_dead", ended=True) == "the input has audio again"
    assert set(GAP_CAUSES) <= set(CODES)
