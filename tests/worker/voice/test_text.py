"""Putting pieces of text in order."""

from __future__ import annotations

import itertools
import random

from natterjack.voice.spec import TextPiece
from worker.voice.text import MAX_CHARACTERS, Script


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
    assert script.utterances[0].length == MAX_CHARACTERS + 1
    script.forget(0)
    assert not script.full


def test_text_that_is_not_wanted_any_more_ends_where_it_is() -> None:
    script = Script()
    script.add(PIECES[0], 0.0)
    script.end_open()
    script.add(PIECES[1], 0.0)
    assert texts(script) == [("one ", True)]
    assert script.unspoken == "one "


def test_the_utterance_after_one_that_is_lost_follows() -> None:
    script = Script()
    script.add(piece(2, 0, "late", flush=True), 0.0)
    assert script.following(0) is None
    script.skip_hole(1.0)
    found = script.following(0)
    assert found is not None
    assert (found.number, found.text) == (2, "late")
    assert script.following(3) is None
