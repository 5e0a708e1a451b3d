"""Phrases are divided at sentences, and have nothing in them that the engine cannot take."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.searching import examples
from worker.voices.hibari.text import MAX_PIECE_CHARACTERS, MAX_WORD_CHARACTERS, pieces


def spoken(phrase: str) -> list[str]:
    return [" ".join(word.text for word in piece) for piece in pieces(phrase)]


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ('"Go." She went.', ['"Go."', "She went."]),
        ("Dr. Smith met J. Brown.", ["Dr. Smith met J. Brown."]),
        ("It costs $3.50 a kilo.", ["It costs $3.50 a kilo."]),
        ("Well... perhaps. Or not.", ["Well... perhaps.", "Or not."]),
        ("a\x00b\x1b[31mred\x07\r\n\tend", ["ab(31mred end"]),
        ("one \ud800 t\udcffwo", ["one two"]),
        ("fine \U0001f600 \u2764\ufe0f \U0001f468\u200d\U0001f467 then", ["fine then"]),
        ("[docs](/docs/) here", ["(docs)(/docs/) here"]),
        ("--help -f /etc/passwd; $(id) `id`", ["--help -f /etc/passwd; $(id) id"]),
        ("\uff28\uff49 \ufb01ne", ["Hi fine"]),
        ("", []),
        (" \n\x00\U0001f600 ", []),
    ],
)  # fmt: skip
def test_pieces(phrase: str, expected: list[str]) -> None:
    assert spoken(phrase) == expected


def test_a_long_sentence_is_divided_at_a_clause_or_between_words() -> None:
    clauses = "word " * 40 + "clause, " + "word " * 40
    first, second = spoken(clauses)
    assert first.endswith("clause,")
    assert second == "word " * 39 + "word"
    assert [len(piece) for piece in spoken("word " * 200)] == [299, 299, 299, 99]


def test_words_know_where_they_come_from() -> None:
    phrase = "  Hello,\tgood \U0001f600 world.\nBye"
    found = [word for piece in pieces(phrase) for word in piece]
    assert [(phrase[word.character :][:3], word.text) for word in found] == [
        ("Hel", "Hello,"), ("goo", "good"), ("wor", "world."), ("Bye", "Bye"),
    ]  # fmt: skip


@examples(100)
@given(st.text(st.characters(codec=None), max_size=400))
@example("\ufdfa" * 100)  # one character that normalization makes 18 of
@example("(" * 1000)
@example("x" * 1000)
def test_any_text_is_divided_within_the_limits(phrase: str) -> None:
    begins = []
    for piece in pieces(phrase):
        assert piece
        assert sum(len(word.text) + 1 for word in piece) <= MAX_PIECE_CHARACTERS + 1
        for word in piece:
            assert 0 < len(word.text) <= MAX_WORD_CHARACTERS
            assert not any(c.isspace() or unicodedata.category(c)[0] == "C" for c in word.text)
            begins.append(word.character)
    assert begins == sorted(set(begins))


@examples(100)
@given(st.lists(st.text("abcXYZ.,!?'\"-", min_size=1, max_size=20), max_size=80))
def test_no_word_is_lost_or_doubled(words: list[str]) -> None:
    assert " ".join(spoken(" ".join(words))) == " ".join(words)
