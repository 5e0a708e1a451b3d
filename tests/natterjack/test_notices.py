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

NOTES = st.lists(
    st.builds(
        Note, st.sampled_from(["input_dead", "input_low", "muted", "busy", "z"]), st.booleans()
    ),
    max_size=6,
)


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
@given(st.lists(NOTES, max_size=8))
def test_no_note_is_lost_on_the_way_to_chunks_that_have_room(chunks: list[list[Note]]) -> None:
    waiting: list[Note] = []
    sent = []
    for own in [*chunks, *[[]] * 20]:
        taken, waiting = spread_notes(waiting, own)
        assert len(taken) <= MAX_NOTES
        sent.append(taken)
        gaps = [note.code for note in own if note.ended and note.code in GAP_CAUSES]
        assert not gaps or gap_cause(join_notes(taken)) == gaps[0]
    assert not waiting
    for code in ("input_dead", "input_low", "z"):
        said = [note.ended for own in chunks for note in own if note.code == code]
        heard = [note.ended for taken in sent for note in taken if note.code == code]
        if said and heard:
            assert heard[-1] == said[-1] or said.count(True) != said.count(False)


def test_unknown_codes_have_one_label_and_their_own_words() -> None:
    assert label("input_dead") == "input_dead"
    assert label("of_a_later_release") == OTHER
    assert text_of("of_a_later_release", ended=False) == "of a later release"
    assert text_of("of_a_later_release", ended=True) == "of a later release ended"
    assert text_of("input_dead", ended=True) == "the input has audio again"
    assert set(GAP_CAUSES) <= set(CODES)
