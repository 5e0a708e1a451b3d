"""Word times, estimated and from tokens."""

from __future__ import annotations

from itertools import pairwise

import pytest

from natterjack.plugin.provider import ProviderWord
from worker.providers.estimate import estimated_words, spoken_text, timed_words


def test_estimates_follow_the_voiced_spans() -> None:
    words = estimated_words("abc abcdefg a bcdef", [(1.0, 2.2), (5.0, 5.8)])
    assert words == (
        ProviderWord("abc", 1.0, 1.4),
        ProviderWord("abcdefg", 1.4, 2.2),
        ProviderWord("a", 5.0, 5.2),
        ProviderWord("bcdef", 5.2, 5.8),
    )


def test_estimates_never_run_backwards() -> None:
    text = "It was the best of times, it was the worst of times"
    words = estimated_words(text, [(0.5, 0.9), (1.1, 1.2), (3.0, 4.4)])
    assert " ".join(word.text for word in words) == text
    times = [time for word in words for time in (word.start, word.end) if time is not None]
    assert all(a <= b for a, b in pairwise(times))
    assert times[0] == 0.5
    assert times[-1] == 4.4


def test_no_words() -> None:
    assert estimated_words("", [(0, 1)]) == ()
    assert timed_words([], [], [(0, 1)]) == ()


@pytest.mark.parametrize("mark", [" ", "\u2581"])
def test_words_from_tokens(mark: str) -> None:
    tokens = [f"{mark}And", f"{mark}so", ",", f"{mark}my", f"{mark}fel", "low"]
    words = timed_words(tokens, [0.1, 0.4, 0.6, 2.0, 2.3, 2.5], [(0.05, 0.8), (1.9, 3.0)])
    assert words == (
        ProviderWord("And", 0.1, 0.4),
        ProviderWord("so,", 0.4, 0.8),
        ProviderWord("my", 2.0, 2.3),
        ProviderWord("fellow", 2.3, 3.0),
    )


def test_tokens_that_are_not_text() -> None:
    assert spoken_text("\u266a\u266a\u266a") == ""
    assert spoken_text(" ... ") == ""
    assert spoken_text(" Only. ") == "Only."
