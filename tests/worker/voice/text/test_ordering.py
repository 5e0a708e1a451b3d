"""Putting pieces of text in order."""

from __future__ import annotations

import itertools
import random

from natterjack.voice.spec import TextPiece
from worker.voice.text.ordering import MAX_CHARACTERS, MISSING, Script


def piece(
    utterance: int, number: int, text: str = "", *, flush: bool = False, end: bool = False
) -> TextPiece:
    return TextPiece(
        session_id="session-1", utterance=utterance, piece=number, text=text, flush=flush, end=end
    )


PIECES = [
    piece(0, 0, "one "), piece(0, 1, "two"), piece(0, 2, flush=True), piece(1, 0, "three "),
    piece(1, 1, "four", flush=True, end=True),
]  # fmt: skip


def texts(script: Script) -> list[tuple[str, bool]]:
    return [(one.text, one.complete) for one in script.utterances.values()]


def test_pieces_in_any_order_and_twice_are_the_same_text() -> None:
    for order in itertools.islice(itertools.permutations(PIECES), 0, 120, 7):
        script = Script()
        for one in (*order, *random.Random(7).sample(PIECES, 3)):
            assert script.add(one, 5.0)
        assert texts(script) == [("one two", True), ("three four", True)]
        assert (script.last, script.newest, script.hole) == (1, 1, False)
        assert script.characters == len("one twothree four")


def test_text_after_a_missing_piece_waits_for_it() -> None:
    script = Script()
    script.add(PIECES[0], 1.0)
    script.add(PIECES[2], 2.0)
    assert texts(script) == [("one ", False)]
    assert script.hole
    script.add(PIECES[1], 3.0)
    assert texts(script) == [("one two", True)]
    assert script.utterances[0].arrived_at == 1.0


def test_pieces_that_are_lost_are_skipped_within_and_between_utterances() -> None:
    script = Script()
    script.add(PIECES[0], 1.0)
    script.add(PIECES[2], 1.0)
    script.skip_hole(2.0)
    assert texts(script) == [("one ", True)]
    script = Script()
    script.add(PIECES[0], 1.0)
    script.add(PIECES[4], 1.0)
    script.skip_hole(2.0)
    assert texts(script) == [("one ", True), ("four", True)]
    assert [u.problem for u in script.utterances.values()] == [MISSING, MISSING]


def test_what_was_dropped_does_not_come_back_and_the_next_utterance_follows() -> None:
    script = Script()
    script.add(PIECES[0], 1.0)
    script.add(PIECES[3], 1.0)
    script.drop(0, 2.0)
    script.add(PIECES[1], 2.0)
    assert texts(script) == [("three ", False)]
    script.drop(1, 2.0)
    script.add(PIECES[4], 2.0)
    assert texts(script) == []
    assert script.characters == 0
    assert script.last == 1, "the session still ends with it"
    script.add(piece(2, 0, "five"), 3.0)
    assert texts(script) == [("five", False)]


def test_a_script_that_is_full_takes_the_missing_piece_only() -> None:
    script, size = Script(), 100_000
    for number in range(1, MAX_CHARACTERS // size + 1):
        assert script.add(piece(0, number, "x" * size), 0.0)
    assert not script.add(piece(0, 99, "more"), 0.0)
    assert script.add(piece(0, 0, "y"), 0.0)
    assert script.characters == script.utterances[0].length == MAX_CHARACTERS, "the longest one"
    assert "longer than 2,000,000" in (script.utterances[0].problem or "")
    script.forget(0)
    assert script.characters == 0


def test_text_waits_in_its_stream_while_the_script_is_full() -> None:
    """Only the utterance that is spoken first takes more: it could never end otherwise."""
    script, size = Script(), 100_000
    for number in range(MAX_CHARACTERS // size):
        assert script.add(piece(0, number, "x" * size), 0.0)
    assert not script.add(piece(1, 0, "more", end=True), 0.0)
    assert script.add(piece(0, 20, flush=True), 0.0)
    assert not script.add(piece(1, 0, "more", end=True), 0.0)
    assert script.last is None
    script.forget(0)
    assert script.add(piece(1, 0, "more", end=True), 0.0)
    assert script.last == 1


def test_numbers_that_are_far_ahead_are_not_waited_for() -> None:
    script = Script(5)
    for far in (piece(2**53 - 1, 0, end=True), piece(1006, 0), piece(5, 2**53 - 1)):
        assert script.is_far(far)
        assert not script.add(far, 0.0)
    assert (script.hole, script.newest, script.last) == (False, 4, None)
    assert script.add(piece(1005, 0, "late", flush=True), 0.0)
    script.skip_hole(1.0)
    assert len(script.utterances) == 1001


def test_text_that_cannot_be_read_is_left_out_and_its_utterance_says_so() -> None:
    script = Script()
    script.add(piece(0, 0, "one "), 0.0)
    script.add(piece(0, 1, flush=True), 0.0, "not a text")
    script.add(piece(1, 0, "two", flush=True), 0.0)
    assert texts(script) == [("one ", True), ("two", True)]
    assert [u.problem for u in script.utterances.values()] == ["not a text", None]


def test_the_rest_of_an_utterance_whose_begun_text_is_missing_has_no_head() -> None:
    for begun in (0, None):
        script = Script()
        script.begun = begun
        script.add(piece(0, 3, "rest", flush=True), 0.0)
        script.skip_hole(1.0)
        assert script.utterances[0].headless is (begun == 0)
        assert script.utterances[0].problem == MISSING


def test_text_that_is_not_wanted_any_more_ends_where_it_is() -> None:
    script = Script()
    script.add(PIECES[0], 0.0)
    script.end_open()
    script.add(PIECES[1], 0.0)
    assert texts(script) == [("one ", True)]
    assert script.unspoken == "one "


def test_an_utterance_that_is_lost_has_no_text() -> None:
    script = Script()
    script.add(piece(2, 0, "late", flush=True), 0.0)
    assert script.following(0) is None
    script.skip_hole(1.0)
    found = [script.following(number) for number in (0, 1, 2, 3)]
    assert [None if one is None else (one.number, one.text) for one in found] == [
        (0, ""), (1, ""), (2, "late"), None,
    ]  # fmt: skip
