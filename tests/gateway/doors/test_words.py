"""The words of events: with times, and with the letters of the text."""

from __future__ import annotations

import pytest

from gateway.doors.words import delimiter, right_to_left, timed_words
from natterjack.values import Word

from .samples import final


def test_words_with_times_stay_as_they_are() -> None:
    event = final("Hello, world.", 1.0, 2.0)
    assert [(word.text, word.start, word.end) for word in timed_words(event)] == [
        ("Hello,", 1.0, 1.5),
        ("world.", 1.5, 2.0),
    ]


def test_a_text_without_words_is_spread_over_the_event() -> None:
    words = timed_words(final("one two three four", 1.0, 3.0, words=[], confidence=0.5))
    assert [(word.text, word.start, word.end, word.confidence) for word in words] == [
        ("one", 1.0, 1.5, 0.5),
        ("two", 1.5, 2.0, 0.5),
        ("three", 2.0, 2.5, 0.5),
        ("four", 2.5, 3.0, 0.5),
    ]


def test_the_text_counts_if_the_words_differ() -> None:
    event = final("twenty-five people", 0.0, 1.0, words=[Word(text="25", start=0, end=1)])
    assert [word.text for word in timed_words(event)] == ["twenty-five", "people"]


def test_missing_times_are_filled_between_the_neighbors() -> None:
    given = [Word(text="a", start=0.0, end=0.4), Word(text="b"), Word(text="c"),
             Word(text="d", start=1.0, end=1.2)]  # fmt: skip
    words = timed_words(final("a b c d", 0.0, 1.2, words=given))
    assert [(word.start, word.end) for word in words] == [
        (0.0, 0.4),
        (0.4, pytest.approx(0.7)),
        (pytest.approx(0.7), pytest.approx(1.0)),
        (1.0, 1.2),
    ]


def test_words_of_a_language_without_spaces() -> None:
    given = [Word(text="今日", start=0, end=1), Word(text="は", start=1, end=2)]
    assert [word.text for word in timed_words(final("今日は", 0, 2, words=given))] == ["今日", "は"]


def test_languages() -> None:
    assert (delimiter("ja-JP"), delimiter("cmn"), delimiter("en"), delimiter(None)) == (
        "",
        "",
        " ",
        " ",
    )
    assert right_to_left("ar")
    assert right_to_left("he-IL")
    assert not right_to_left(None)
