"""Words without times."""

from __future__ import annotations

import pytest

from natterjack.plugin.provider import (
    ProviderEvent,
    ProviderWord,
)
from worker.providers.deepgram_flux.open_turn import OpenTurn
from worker.providers.deepgram_flux.transcript import Transcript
from worker.providers.deepgram_flux.words import Word, split_text, timed

from ..emulated.streams import finals
from .messages import EAGER, committed, info, partition, spoken


def untimed(text: str) -> tuple[ProviderWord, ...]:
    return tuple(ProviderWord(word, confidence=0.9) for word in text.split())


def test_times_come_from_the_message_before() -> None:
    """The vendor's sample of a manually ended turn has no word times, either."""
    transcript, events = committed()
    text = "one two three four five six"
    events += transcript.receive(info("EndOfTurn", 7, text, words=untimed(text), trigger="manual"))
    final = finals(events)[-1]
    assert final.text == "four five six"
    assert not final.times_estimated
    assert final.words[0].start == pytest.approx(1.3)
    assert final.end == pytest.approx(2.44)
    partition(events)


def test_words_that_never_had_times_are_spread() -> None:
    transcript = Transcript(spoken(60), EAGER)
    events: list[ProviderEvent] = []
    for n in range(1, 20):
        text = " ".join("abcdefghij"[: n // 2 + 1])
        events += transcript.receive(info("Update", 2 + n / 4, text, words=untimed(text)))
    assert not finals(events), "words without times cannot be committed"
    events += transcript.receive(info("EndOfTurn", 8, text, words=untimed(text), trigger="model"))
    (final,) = finals(events)
    assert final.times_estimated
    assert final.text == text
    assert all(word.start is not None for word in final.words)
    partition(events)


def test_a_new_word_lies_between_its_neighbors() -> None:
    known = [Word("a", 0, 1, None), Word("c", 2, 3, None)]
    found = timed(untimed("A b c."), known, float, 0, 9)
    assert [(w.text, w.start, w.end, w.estimated) for w in found] == [
        ("A", 0, 1, False),
        ("b", 1, 2, True),
        ("c.", 2, 3, False),
    ]


def test_text_is_cut_where_the_words_are() -> None:
    made = [Word(text, 0, 0, None) for text in ("今日", "は", "雨")]
    assert split_text("今日は雨", made, 1) == ("今日", "は雨")
    assert split_text("今日は雨", made, 3) == ("今日は雨", "")
    assert split_text("ganz anders", made, 2) == ("今日 は", "雨")


def test_an_empty_turn_has_no_head() -> None:
    turn = OpenTurn()
    turn.update([], "", 1)
    assert turn.commit(EAGER, 9) is None
