"""Dividing text into phrases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.searching import examples
from worker.voice.text.phrases import Limits, boundary, limits, phrase_end, speakable

LIMITS = Limits(shortest=20, longest=60)


def divided(text: str, limits: Limits = LIMITS) -> list[str]:
    phrases, start = [], 0
    while (end := phrase_end(text, start, limits, complete=True)) is not None:
        phrases.append(text[start:end])
        start = end
    return phrases


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("", []),
        ("One two three. Four five six seven.", ["One two three.", " Four five six seven."]),
        ("Yes. Pi is 3.14 or so. It goes on.", ["Yes. Pi is 3.14 or so.", " It goes on."]),
        ("Dear J. Smith, welcome home! Sit.", ["Dear J. Smith, welcome home!", " Sit."]),
        ('He said "Go away now!" Then he left.', ['He said "Go away now!"', " Then he left."]),
        (
            "first item here\nsecond item here, then",
            ["first item here\n", "second item here, then"],
        ),
        ("これは最初の長い文章です。次の文です。", ["これは最初の長い文章です。", "次の文です。"]),
        ("هل أنت بخير اليوم؟ نعم أنا بخير.", ["هل أنت بخير اليوم؟", " نعم أنا بخير."]),
    ],
)
def test_a_phrase_ends_with_a_sentence(text: str, phrases: list[str]) -> None:
    assert divided(text, Limits(10, 60)) == phrases


def test_a_long_sentence_is_cut_after_a_clause_then_between_words_then_between_characters() -> None:
    clause = "a" * 20 + " " + "b" * 20 + ", " + "c " * 30
    assert divided(clause)[0].endswith("b,")
    assert divided("word " * 30)[0] == "word " * 12
    assert divided("x" * 150) == ["x" * 60, "x" * 60, "x" * 30]


@pytest.mark.parametrize(
    "character",
    [
        "e\u0301",
        "👩🏽\u200d🚀",
        "🇩🇪",
        "नि",
        "한",
        "\u1112\u1161\u11ab",
    ],
)
def test_a_visible_character_stays_whole(character: str) -> None:
    for phrase in divided(character * 100, Limits(20, 31)):
        assert phrase == character * (len(phrase) // len(character))


def test_a_character_that_is_longer_than_a_phrase_stays_whole() -> None:
    assert boundary("e" + "\u0301" * 50 + "x", 10, 0) == 51


def test_marks_and_flags_without_end_are_divided_too() -> None:
    for endless in ("e" + "\u0301" * 100_000, "🇩🇪" * 50_000, "a\u200d" * 50_000):
        phrases = divided(endless, Limits(40, 300))
        assert "".join(phrases) == endless
        assert max(map(len, phrases)) <= 364
    assert all(len(phrase) % 2 == 0 for phrase in divided("🇩🇪" * 1000, Limits(40, 299)))


def test_a_megabyte_without_spaces_is_divided() -> None:
    text = "x" * 1_000_000
    phrases = divided(text, Limits(40, 300))
    assert "".join(phrases) == text
    assert max(map(len, phrases)) == 300


def test_control_characters_become_spaces_in_their_places() -> None:
    assert speakable("a\x00b\r\nc\td\x9b\ud800e\u200fא\ufffd") == "a b \nc\td  e\u200fא "


def test_a_providers_limits_make_phrases_longer_or_shorter() -> None:
    assert limits(2000, None) == Limits(40, 300)
    assert limits(100, None) == Limits(40, 100)
    assert limits(2000, 20) == Limits(68, 300)
    assert limits(30, 1) == Limits(30, 30)


ALPHABET = st.sampled_from(["a", "bc", " ", ". ", "? ", "\n", ",", "。", "é", "e\u0301", "🇩🇪", "9"])


@examples(100)
@given(st.lists(ALPHABET, max_size=300), st.data())
def test_phrases_depend_on_the_text_alone(parts: list[str], data: st.DataObject) -> None:
    """However the text arrives, and wherever a later worker begins."""
    text = "".join(parts)
    whole = divided(text)
    assert "".join(whole) == text
    found, start, seen = [], 0, 0
    while start < len(text):
        end = phrase_end(text[:seen], start, LIMITS, complete=seen == len(text))
        if end is None:
            seen = min(len(text), seen + data.draw(st.integers(1, 40)))
            continue
        found.append(text[start:end])
        start = end
    assert found == whole
