"""Parts of long turns that become final before the turn ends."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from natterjack.plugin.provider import (
    Final,
    Interim,
    ProviderEvent,
    ProviderWord,
    Turn,
)
from tests.searching import tried
from worker.providers.deepgram_flux.open_turn import CommitRules, OpenTurn
from worker.providers.deepgram_flux.protocol import TurnInfo
from worker.providers.deepgram_flux.transcript import Transcript

from ..emulated.streams import final_words, finals
from .messages import EAGER, NEVER, committed, info, partition, spoken, words


def monologue(count: int, step: float = 0.25) -> list[TurnInfo]:
    """The messages of a turn that grows to `count` words."""
    text = [f"w{n}" for n in range(count)]
    messages: list[TurnInfo] = []
    at = step
    while at < count * 0.4 + 1:
        ended = [n for n in range(count) if n * 0.4 + 0.3 <= at]
        shown = " ".join(text[: len(ended)])
        messages.append(info("Update" if messages else "StartOfTurn", at, shown))
        at += step
    return [message for message in messages if message.text]


def test_the_head_of_a_long_turn_is_made_final() -> None:
    rules = CommitRules(updates=3, seconds=3, length_seconds=5)
    transcript = Transcript(spoken(100), rules)
    messages = monologue(100)
    events: list[ProviderEvent] = []
    for message in messages:
        for event in transcript.receive(message):
            events.append(event)
            if isinstance(event, Final):
                # The final is old and long enough, and ends in the middle of a gap.
                assert message.window_end is not None
                assert message.window_end - event.end >= 3 - 0.1
                assert event.end % 0.4 == pytest.approx(0.35)
                assert event.end - event.start >= 4.95
    assert len(finals(events)) == 7
    assert messages[-1].window_end is not None
    assert messages[-1].window_end - transcript.frontier < 3 + 5 + 0.6
    last = replace(messages[-1], event="EndOfTurn", trigger="model")
    events += transcript.receive(last)
    partition(events)
    assert final_words(events) == [f"w{n}" for n in range(100)]
    turns = [event for event in events if isinstance(event, Turn)]
    assert [turn.event for turn in turns] == ["started", "ended"]
    assert turns[-1].text == last.text
    for event in events:
        if isinstance(event, Interim):
            assert len(event.words) < 25


def test_the_last_word_of_a_turn_is_never_committed() -> None:
    """A stream resumed there would receive only silence, and the turn would never end."""
    transcript = Transcript(spoken(60), EAGER)
    events = transcript.receive(info("StartOfTurn", 1.2, "a b c"))
    for second in range(2, 40):
        events += transcript.receive(info("Update", second, "a b c"))
    assert final_words(events) == ["a", "b"]
    events += transcript.receive(info("EndOfTurn", 41, "a b c", trigger="timeout"))
    assert final_words(events) == ["a", "b", "c"]
    partition(events)


def test_nothing_is_committed_with_the_setting_off() -> None:
    transcript = Transcript(spoken(100), NEVER)
    events = [event for message in monologue(100) for event in transcript.receive(message)]
    assert not finals(events)


def test_words_that_change_are_not_committed() -> None:
    transcript = Transcript(spoken(60), EAGER)
    events: list[ProviderEvent] = []
    for n in range(1, 20):
        text = "a b c d e" if n % 2 else "a b C d e"
        events += transcript.receive(info("Update", 2 + n, text))
    # The word after a boundary must be as stable as those before it.
    assert final_words(events) == ["a"]


def test_a_word_that_merges_with_the_next_is_not_committed() -> None:
    """The widest gap is after "twenty", but "five" is still new."""
    transcript = Transcript(spoken(60), CommitRules(updates=3, seconds=3, length_seconds=1))
    head = words("a b c twenty")
    both = (*head, ProviderWord("five", 2.5, 2.9, 0.9))
    events: list[ProviderEvent] = []
    for quarter in range(6, 30):
        now = head if quarter < 13 else both
        text = " ".join(word.text for word in now)
        events += transcript.receive(info("Update", quarter / 4, text, words=now))
        assert transcript.frontier == 0.0 or quarter >= 18
    assert "twenty" not in final_words(events)
    merged = (*words("a b c"), ProviderWord("25", 1.2, 2.9, 0.9))
    events += transcript.receive(info("EndOfTurn", 7.5, "a b c 25", words=merged, trigger="model"))
    assert final_words(events) == ["a", "b", "c", "25"]
    partition(events)


@pytest.mark.parametrize("last", ["5", "five", "Fünf,", "twenty-five", "[NUMBER_1]", "****", "三"])
@pytest.mark.parametrize("rewrites", [False, True])
def test_no_head_ends_next_to_what_may_be_a_number(last: str, rewrites: bool) -> None:
    transcript = Transcript(spoken(60), EAGER, rewrites_numbers=rewrites)
    text = f"a b {last} c"
    events: list[ProviderEvent] = []
    spread = (*words(f"a b {last}"), *words("c", 2.5))
    for n in range(4, 8):
        events += transcript.receive(info("Update", n, text, words=spread))
    assert finals(events)[0].text == ("a" if rewrites else f"a b {last}")
    events += transcript.end()
    assert " ".join(final.text for final in finals(events) if final.text) == text


def test_the_widest_gap_is_cut() -> None:
    transcript = Transcript(spoken(60), EAGER)
    spread = tuple(
        ProviderWord(text, at, at + 0.3, 0.9)
        for text, at in (("a", 0.0), ("b", 0.4), ("c", 1.5), ("d", 1.8), ("e", 2.1))
    )
    events: list[ProviderEvent] = []
    for n in range(3):
        events += transcript.receive(info("Update", 3 + n, "a b c d e", words=spread))
    assert finals(events)[0].text == "a b"
    assert finals(events)[0].end == pytest.approx((0.7 + 1.5) / 2)


def test_no_cut_inside_a_word() -> None:
    transcript = Transcript(spoken(60), EAGER)
    overlapping = tuple(ProviderWord(t, n * 0.2, n * 0.2 + 0.3, 0.9) for n, t in enumerate("abcd"))
    events: list[ProviderEvent] = []
    for n in range(4):
        events += transcript.receive(info("Update", 3 + n, "a b c d", words=overlapping))
    assert not finals(events)


@pytest.mark.parametrize(
    ("later", "shift", "rest"),
    [
        # Unchanged, with other capitals and punctuation, and with shifted times.
        ("one two three four five six", 0.0, "four five six"),
        ("One, two. Three four five six", 0.0, "four five six"),
        ("one two three four five six", 0.35, "four five six"),
        ("one two three four five six", -0.35, "four five six"),
        # As many words, but others.
        ("eins zwei drei four five six", 0.0, "four five six"),
        ("one two free four five six", 0.2, "four five six"),
        ("eins two three four five six", -0.2, "four five six"),
        ("one two three for five six", 0.0, "for five six"),
        # More or fewer words.
        ("onetwo three four five six", 0.4, "four five six"),
        ("oh one two three four five six", -0.4, "four five six"),
        # All words are others.
        ("a b c d e f", 0.0, "d e f"),
    ],
)
def test_a_committed_head_does_not_change(later: str, shift: float, rest: str) -> None:
    transcript, events = committed()
    count = len(later.split())
    moved = tuple(
        ProviderWord(text, max(0, at + shift), at + shift + 0.3, 0.9)
        for text, at in zip(
            later.split(), (n * 0.4 + (0.1 if n >= count - 3 else 0) for n in range(count)),
            strict=True,
        )
    )  # fmt: skip
    events += transcript.receive(info("Update", 6, later, words=moved))
    events += transcript.receive(info("EndOfTurn", 7, later, words=moved, trigger="model"))
    assert final_words(events) == ["one", "two", "three", *rest.split()]
    partition(events)
    ended = events[-1]
    assert isinstance(ended, Turn)
    assert ended.text == f"one two three {rest}"


BASE = tuple(ProviderWord(f"w{n}", n * 0.5, n * 0.5 + 0.45, 0.9) for n in range(10))
TWENTY = ProviderWord("twenty", 5.0, 5.4, 0.9)
FIVE = ProviderWord("five", 6.6, 7.0, 0.9)


def word(text: str, start: float, end: float) -> ProviderWord:
    return ProviderWord(text, start, end, 0.9)


@pytest.mark.parametrize(
    ("later", "rest"),
    [
        # Two words around the boundary have become one, at any time.
        ([*BASE, word("25", 5.0, 7.0)], "five"),
        ([*BASE, word("25", 5.0, 6.6)], "five"),
        ([*BASE, word("25", 5.0, 5.9)], "five"),
        ([*BASE, word("25", 5.0, 7.0), word("people", 7.2, 7.5)], "five people"),
        ([*BASE, word("25", 5.0, 6.6), word("people", 7.2, 7.5)], "five people"),
        ([*BASE, word("25", 5.0, 6.6), word("persons", 7.2, 7.5)], "five persons"),
        ([*BASE, word("25", 5.0, 7.0), *words("people came", 7.2)], "five people came"),
        ([*BASE[:-1], word("925", 4.5, 7.0), word("people", 7.2, 7.5)], "five people"),
        # Three words have become one.
        ([*BASE, word("25people", 5.0, 7.5), word("came", 7.6, 7.9)], "five people came"),
        # The word after the boundary is another one.
        ([*BASE, word("plenty", 5.0, 6.2), *words("fife people", 6.6)], "fife people"),
        # That word has moved before the boundary.
        (
            [*BASE[:-1], word("W9b", 4.5, 4.95), TWENTY, word("five", 5.3, 5.9), *words("men", 7)],
            "five men",
        ),
    ],
)
def test_words_that_become_one_across_a_boundary(later: list[ProviderWord], rest: str) -> None:
    transcript = Transcript(spoken(60), CommitRules())
    said_before = (*BASE, TWENTY, FIVE, word("people", 7.2, 7.5))
    events: list[ProviderEvent] = []
    for quarter in range(31, 48):
        text = " ".join(word.text for word in said_before)
        events += transcript.receive(info("Update", quarter / 4, text, words=said_before))
    heads = [*(f"w{n}" for n in range(10)), "twenty"]
    assert finals(events)[0].text.split() == heads
    assert finals(events)[0].end == pytest.approx(6.0)
    # The kept words stay, however often.
    text = " ".join(word.text for word in later)
    for event in ("Update", "Update", "EndOfTurn"):
        events += transcript.receive(info(event, 12, text, words=tuple(later), trigger="model"))
    texts = [final.text for final in finals(events) if final.text]
    assert texts == [" ".join(heads), rest]
    ended = events[-1]
    assert isinstance(ended, Turn)
    assert ended.text == " ".join([*heads, rest])
    partition(events)


def test_only_the_head_remains() -> None:
    transcript, events = committed()
    events += transcript.receive(info("EndOfTurn", 7, "one two three", trigger="model"))
    assert final_words(events) == ["one", "two", "three"]
    partition(events)


@pytest.mark.parametrize("seed", range(tried(20)))
def test_later_messages_lose_or_repeat_nothing(seed: int) -> None:
    """Words and their times are revised; each part of the audio appears in one final."""
    rng = random.Random(seed)
    transcript = Transcript(spoken(200), CommitRules(updates=2, seconds=1, length_seconds=1))
    events: list[ProviderEvent] = []
    for message in monologue(120):
        revised = tuple(
            ProviderWord(
                word.text + (rng.choice("xyz") if rng.random() < 0.05 else ""),
                max(0.0, (word.start or 0) + rng.uniform(-0.08, 0.08)),
                (word.end or 0) + rng.uniform(-0.08, 0.08),
            )
            for word in message.words
        )
        text = " ".join(word.text for word in revised)
        events += transcript.receive(replace(message, text=text, words=revised))
    events += transcript.end()
    assert [word.strip("xyz") for word in final_words(events)] == [f"w{n}" for n in range(120)]
    assert len(finals(events)) > 10
    partition(events)


@pytest.mark.parametrize("seed", range(tried(5)))
def test_unchanged_committed_words_are_not_processed_again(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The events are the same."""
    rng = random.Random(seed)
    messages: list[TurnInfo] = []
    for message in monologue(80):
        texts = [word.text + ("x" if rng.random() < 0.005 else "") for word in message.words]
        revised = tuple(
            word._replace(text=text) for word, text in zip(message.words, texts, strict=True)
        )
        messages.append(replace(message, text=" ".join(texts), words=revised))
    skipped: list[int] = []
    unchanged = OpenTurn.unchanged

    def counted(turn: OpenTurn, words: Sequence[ProviderWord], text: str) -> int:
        skipped.append(unchanged(turn, words, text))
        return skipped[-1]

    def events() -> list[ProviderEvent]:
        transcript = Transcript(spoken(200), CommitRules(updates=2, seconds=1, length_seconds=1))
        return [event for message in messages for event in transcript.receive(message)]

    monkeypatch.setattr(OpenTurn, "unchanged", counted)
    found = events()
    assert max(skipped) > 60
    monkeypatch.setattr(OpenTurn, "unchanged", lambda *_: 0)
    assert events() == found
