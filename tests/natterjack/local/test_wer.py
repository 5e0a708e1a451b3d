"""Word error rate, by which tests and the demo judge transcripts."""

from __future__ import annotations

from importlib.resources import files

import pytest

from natterjack.local.wer import normalized_words, word_error_rate, word_errors


def test_normalization() -> None:
    assert normalized_words(
        "It's  10 o\N{RIGHT SINGLE QUOTATION MARK}clock \N{EM DASH} Light, well-read!"
    ) == [
        "its",
        "10",
        "oclock",
        "light",
        "well",
        "read",
    ]
    assert normalized_words("\N{EIGHTH NOTE} ... _ ") == []


@pytest.mark.parametrize(
    ("reference", "hypothesis", "errors"),
    [
        ("a b c", "a b c", 0),
        ("a b c", "", 3),
        ("", "a b", 2),
        ("a b c", "a x c", 1),
        ("a b c", "a c", 1),
        ("a b c", "a b b c", 1),
        ("a b c d", "b c d e", 2),
        ("a b", "c d e", 3),
    ],
)
def test_word_errors(reference: str, hypothesis: str, errors: int) -> None:
    assert word_errors(reference.split(), hypothesis.split()) == errors


def test_word_error_rate() -> None:
    assert word_error_rate("Go forward, ten meters.", "go forward ten meters") == 0
    assert word_error_rate("go forward ten meters", "No forward ten") == 0.5
    assert word_error_rate("go", "one two three") == 3
    with pytest.raises(ValueError, match="no words"):
        word_error_rate("...", "word")


def test_bundled_text() -> None:
    text = files("natterjack").joinpath("data/two_cities.txt").read_text("utf-8")
    words = normalized_words(text)
    assert words[:6] == ["it", "was", "the", "best", "of", "times"]
    assert words[-3:] == ["of", "comparison", "only"]
    assert len(words) == 119
