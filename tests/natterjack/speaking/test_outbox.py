"""Which pieces of text are published, without a broker."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from natterjack.speaking.outbox import Outbox
from natterjack.voice.spec import TextPiece
from tests.searching import examples


def drain(outbox: Outbox) -> list[TextPiece]:
    """Publish everything."""
    pieces = []
    while piece := outbox.take():
        pieces.append(piece)
        outbox.stored()
    assert outbox.empty
    assert outbox.characters == 0
    return pieces


def shown(pieces: list[TextPiece]) -> list[tuple[int, int, str, str]]:
    marks = {(False, False): "", (True, False): "flush", (True, True): "end"}
    return [(p.utterance, p.piece, p.text, marks[p.flush, p.end]) for p in pieces]


def test_an_utterance_is_one_piece_if_it_is_there_at_once() -> None:
    outbox = Outbox("a-session")
    outbox.add("One ")
    outbox.add("two.")
    outbox.flush()
    outbox.add("Three.")
    outbox.end()
    assert shown(drain(outbox)) == [(0, 0, "One two.", "flush"), (1, 0, "Three.", "end")]


def test_text_that_comes_while_a_piece_is_published_is_the_next_piece() -> None:
    outbox = Outbox("a-session")
    outbox.add("One ")
    first = outbox.take()
    outbox.add("two ")
    outbox.add("three.")
    assert outbox.take() is first, "until it is stored"
    assert outbox.characters == 14
    outbox.stored()
    assert shown(drain(outbox)) == [(0, 1, "two three.", "")]
    outbox.flush()
    assert shown(drain(outbox)) == [(0, 2, "", "flush")]
    outbox.flush()
    outbox.add("")
    assert outbox.empty, "there is no utterance to end"


def test_the_end_after_all_was_published_is_an_utterance_without_text() -> None:
    outbox = Outbox("a-session")
    outbox.add("One.")
    outbox.flush()
    drain(outbox)
    outbox.end()
    outbox.end()
    assert shown(drain(outbox)) == [(1, 0, "", "end")]


def test_long_text_is_divided() -> None:
    outbox = Outbox("a-session")
    text = "word " * 5000
    outbox.add(text)
    outbox.flush()
    pieces = drain(outbox)
    assert len(pieces) == 4
    assert [piece.flush for piece in pieces] == [False, False, False, True]
    assert "".join(piece.text for piece in pieces) == text


def test_dropped_text_is_not_published_and_its_utterance_ends() -> None:
    outbox = Outbox("a-session")
    outbox.add("One ")
    drain(outbox)
    outbox.add("two.")
    outbox.flush()
    outbox.add("Three.")
    outbox.drop()
    outbox.add("Four.")
    outbox.flush()
    assert shown(drain(outbox)) == [(0, 1, "", "flush"), (1, 0, "Four.", "flush")]


def test_text_of_an_utterance_that_was_not_begun_leaves_no_trace() -> None:
    outbox = Outbox("a-session")
    outbox.add("One.")
    outbox.drop()
    outbox.add("Two.")
    outbox.end()
    outbox.drop()
    assert shown(drain(outbox)) == [(0, 0, "", "end")]


STEPS = st.lists(
    st.one_of(
        st.text("ab ", min_size=1, max_size=5),
        st.sampled_from(["/flush", "/take", "/stored", "/drop"]),
    ),
    max_size=60,
)


@examples(100)
@given(STEPS)
def test_numbers_have_no_holes_and_utterances_end_once(steps: list[str]) -> None:
    outbox = Outbox("a-session")
    published: list[TextPiece] = []
    said, dropped = "", False
    for step in steps:
        if step == "/flush":
            outbox.flush()
        elif step == "/take":
            if (piece := outbox.take()) and piece not in published:
                published.append(piece)
        elif step == "/stored":
            outbox.stored()
        elif step == "/drop":
            outbox.drop()
            dropped = True
        else:
            outbox.add(step)
            said += step
    outbox.end()
    if (piece := outbox.take()) and piece in published:
        outbox.stored()
    published += drain(outbox)
    expected = (0, 0)
    for piece in published:
        assert (piece.utterance, piece.piece) == expected
        expected = (piece.utterance + 1, 0) if piece.flush else (piece.utterance, piece.piece + 1)
    assert [piece.end for piece in published] == [*[False] * (len(published) - 1), True]
    assert published[-1].flush
    if not dropped:
        assert "".join(piece.text for piece in published) == said
