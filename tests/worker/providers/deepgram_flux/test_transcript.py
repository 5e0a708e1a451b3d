"""Finals from the messages of turns: none lost or repeated, regardless of later messages."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from natterjack.audio import AudioFormat
from natterjack.plugin.provider import (
    Final,
    Interim,
    Notice,
    ProviderEvent,
    ProviderWord,
    Turn,
)
from tests.emulators import tones
from tests.emulators.deepgram_flux import FluxFaults, FluxSession
from tests.emulators.deepgram_flux_query import parse
from worker.providers.deepgram_flux.clock import Clock
from worker.providers.deepgram_flux.open_turn import Commit, OpenTurn
from worker.providers.deepgram_flux.protocol import TurnInfo, decode
from worker.providers.deepgram_flux.transcript import Transcript
from worker.providers.deepgram_flux.words import Word, split_text, timed

from .conftest import finals, said

LINEAR_16K = AudioFormat("linear16", 16000, 1)
NEVER = Commit(updates=0)
EAGER = Commit(updates=2, seconds=0.5, length_seconds=0.0)


def spoken(seconds: float) -> Clock:
    clock = Clock(LINEAR_16K)
    clock.audio(2 * round(16000 * seconds))
    return clock


def words(text: str, start: float = 0.0, each: float = 0.3, gap: float = 0.1) -> Any:
    """Words of a message, consecutive from `start`."""
    return tuple(
        ProviderWord(word, start + n * (each + gap), start + n * (each + gap) + each, 0.9)
        for n, word in enumerate(text.split())
    )


def info(event: str, window_end: float, text: str = "", index: int = 0, **more: Any) -> TurnInfo:
    made: dict[str, Any] = {"words": words(text), "confidence": 0.5, **more}
    return TurnInfo(event, index, window_end, text, **made)


def partition(events: list[ProviderEvent]) -> None:
    """Check that finals never overlap and contain their words."""
    frontier = 0.0
    for final in finals(events):
        assert final.start >= frontier - 1e-9
        assert final.end >= final.start
        frontier = final.end
        for before, after in itertools.pairwise(final.words):
            assert before.start is not None
            assert after.start is not None
            assert before.start <= after.start
        for word in final.words:
            assert word.end is not None
            assert word.end <= final.end + 1e-6


# ---- a turn ---------------------------------------------------------------------------------


def test_the_life_of_a_turn() -> None:
    """The vendor's example, condensed; times are those of its messages."""
    transcript = Transcript(spoken(5), NEVER)
    events: list[ProviderEvent] = []
    for message in (
        info("Update", 0.2),
        info("StartOfTurn", 0.8, "Hi I"),
        info("Update", 1.2, "Hi I need."),
        info("EagerEndOfTurn", 1.5, "Hi I need."),
        info("TurnResumed", 1.7, "Hi I need help"),
        info("EagerEndOfTurn", 2.0, "Hi I need help."),
        info("EndOfTurn", 2.3, "Hi I need help.", trigger="model", language="en"),
    ):
        events += transcript.receive(message)
    turns = [event for event in events if isinstance(event, Turn)]
    assert [turn.event for turn in turns] == [
        *("started", "eager_end", "resumed", "eager_end", "ended")
    ]
    assert turns[0].at == 0.0
    assert turns[1].text == "Hi I need."
    assert turns[1].at == pytest.approx(1.1)
    assert turns[2].at == pytest.approx(1.2), "where the new word begins"
    assert turns[-1].text == "Hi I need help."
    assert turns[-1].at == pytest.approx(1.5)
    assert turns[-1].confidence == 0.5
    texts = [event.text for event in events if isinstance(event, Interim)]
    assert texts == ["", "Hi I", "Hi I need.", "Hi I need.", "Hi I need help", "Hi I need help."]
    (final,) = finals(events)
    assert (final.text, final.start, final.confidence) == ("Hi I need help.", 0.0, 0.9)
    assert final.language == "en"
    # Half of the silence behind it: the other half may hold the beginning of a word.
    assert final.end == pytest.approx((1.5 + 2.3) / 2)
    assert events.index(final) < events.index(turns[-1])


@pytest.mark.parametrize(("trigger", "end"), [("timeout", 5.35), ("manual", 0.74), ("moon", 0.74)])
def test_a_turn_that_was_cut_ends_at_its_last_word(trigger: str, end: float) -> None:
    transcript = Transcript(spoken(20), NEVER)
    transcript.receive(info("StartOfTurn", 1, "Hi I"))
    (final, ended) = transcript.receive(info("EndOfTurn", 10, "Hi I", trigger=trigger))
    assert isinstance(final, Final)
    assert final.end == pytest.approx(end)
    assert isinstance(ended, Turn)
    assert ended.at == pytest.approx(0.7)


def test_silence_between_turns_moves_the_position_on() -> None:
    """Except for audio that may hold the start of a turn."""
    transcript = Transcript(spoken(30), NEVER)
    events: list[ProviderEvent] = []
    for quarter in range(1, 60):
        events += transcript.receive(info("Update", quarter / 4))
    partition(events)
    assert len(finals(events)) == 12
    assert not said(events)
    assert transcript.frontier == pytest.approx(59 / 4 - 2, abs=1)
    # Each message gives an event: only so can it be told that the provider lives.
    assert sum(isinstance(event, Interim) for event in events) == 59


@pytest.mark.parametrize("missing", ["StartOfTurn", "EndOfTurn"])
def test_turns_whose_boundary_got_lost(missing: str) -> None:
    transcript = Transcript(spoken(20), NEVER)
    events: list[ProviderEvent] = []
    for message in (
        info("StartOfTurn", 1, "Hi I"),
        info("EndOfTurn", 2, "Hi I", trigger="model"),
        info("StartOfTurn", 4, "Bye", index=1, words=words("Bye", 3)),
        info("EndOfTurn", 5, "Bye now", index=1, words=words("Bye now", 3)),
        info("Update", 6, index=2),
    ):
        if message.event == missing:
            message = replace(message, event="Update")
            if missing == "EndOfTurn":
                continue
        events += transcript.receive(message)
    turns = [event.event for event in events if isinstance(event, Turn)]
    assert turns == ["started", "ended"] * 2
    expected = ["hi", "i", "bye", "now"]
    # Without its last message a turn is what was last said of it.
    assert said(events) == (expected if missing == "StartOfTurn" else expected[:3])
    partition(events)


def test_a_turn_that_is_over_stays_as_it_is() -> None:
    transcript = Transcript(spoken(20), NEVER)
    transcript.receive(info("StartOfTurn", 1, "Hi I"))
    transcript.receive(info("EndOfTurn", 2, "Hi I", trigger="model"))
    (notice,) = transcript.receive(info("Update", 2.5, "Hi You"))
    assert isinstance(notice, Notice)
    assert notice.code == "stale"


def test_an_event_that_nobody_knows_is_an_update() -> None:
    transcript = Transcript(spoken(20), NEVER)
    kinds = [type(event) for event in transcript.receive(info("Musing", 1, "Hi"))]
    assert kinds == [Turn, Interim]


def test_text_that_vanishes_leaves_nothing() -> None:
    transcript = Transcript(spoken(20), NEVER)
    events = transcript.receive(info("StartOfTurn", 1, "Hi"))
    events += transcript.receive(info("EndOfTurn", 2, trigger="model"))
    events += transcript.end()
    assert not said(events)
    assert [event.event for event in events if isinstance(event, Turn)] == ["started", "ended"]


def test_the_end_of_a_stream_keeps_the_last_update() -> None:
    transcript = Transcript(spoken(3), NEVER)
    transcript.receive(info("StartOfTurn", 0.8, "Hi"))
    transcript.receive(info("Update", 3, "Hi there you"))
    events = transcript.end()
    assert said(events) == ["hi", "there", "you"]
    assert [type(event) for event in events] == [Final, Turn, Final]
    assert transcript.frontier == 3
    assert transcript.end() == []


def test_silence_of_our_own_is_taken_out_of_all_times() -> None:
    clock = spoken(1.0)
    clock.silence(2 * 16000 * 4)
    clock.audio(2 * 16000 * 5)
    transcript = Transcript(clock, NEVER)
    events = transcript.receive(info("StartOfTurn", 1, "Hi I"))
    # In the silence the window stands still.
    (interim,) = transcript.receive(info("Update", 4, "Hi I"))
    assert isinstance(interim, Interim)
    assert interim.end == 1.0
    later = (*words("Hi I"), ProviderWord("am", 5.5, 5.8, 0.9))
    events += transcript.receive(info("EndOfTurn", 6.5, "Hi I am", words=later, trigger="model"))
    (final,) = finals(events)
    assert final.words[-1] == ProviderWord("am", 1.5, 1.8, 0.9)
    assert final.end == pytest.approx((1.8 + 2.5) / 2)


# ---- the head of a long turn ----------------------------------------------------------------


def monologue(count: int, step: float = 0.25) -> list[TurnInfo]:
    """The messages of a turn that grows to `count` words."""
    text = [f"w{n}" for n in range(count)]
    messages: list[TurnInfo] = []
    at = step
    while at < count * 0.4 + 1:
        heard = [n for n in range(count) if n * 0.4 + 0.3 <= at]
        shown = " ".join(text[: len(heard)])
        messages.append(info("Update" if messages else "StartOfTurn", at, shown))
        at += step
    return [message for message in messages if message.text]


def test_the_head_of_a_long_turn_is_made_final() -> None:
    rules = Commit(updates=3, seconds=3, length_seconds=5)
    transcript = Transcript(spoken(100), rules)
    messages = monologue(100)
    events: list[ProviderEvent] = []
    for message in messages:
        for event in transcript.receive(message):
            events.append(event)
            if isinstance(event, Final):
                # Old enough, long enough, and in the middle of a gap.
                assert message.window_end - event.end >= 3 - 0.1
                assert event.end % 0.4 == pytest.approx(0.35)
                assert event.end - event.start >= 4.95
    assert len(finals(events)) == 7
    assert messages[-1].window_end - transcript.frontier < 3 + 5 + 0.6
    last = replace(messages[-1], event="EndOfTurn", trigger="model")
    events += transcript.receive(last)
    partition(events)
    assert said(events) == [f"w{n}" for n in range(100)]
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
    assert said(events) == ["a", "b"]
    events += transcript.receive(info("EndOfTurn", 41, "a b c", trigger="timeout"))
    assert said(events) == ["a", "b", "c"]
    partition(events)


def test_nothing_is_committed_when_it_is_off() -> None:
    transcript = Transcript(spoken(100), NEVER)
    events = [event for message in monologue(100) for event in transcript.receive(message)]
    assert not finals(events)


def test_words_that_change_wait() -> None:
    transcript = Transcript(spoken(60), EAGER)
    events: list[ProviderEvent] = []
    for n in range(1, 20):
        text = "a b c d e" if n % 2 else "a b C d e"
        events += transcript.receive(info("Update", 2 + n, text))
    # The word behind a boundary must be as stable as those before it.
    assert said(events) == ["a"]


def test_a_word_that_grows_into_the_next_waits() -> None:
    """The widest gap is after "twenty", but "five" is still new."""
    transcript = Transcript(spoken(60), Commit(updates=3, seconds=3, length_seconds=1))
    head = words("a b c twenty")
    both = (*head, ProviderWord("five", 2.5, 2.9, 0.9))
    events: list[ProviderEvent] = []
    for quarter in range(6, 30):
        now = head if quarter < 13 else both
        text = " ".join(word.text for word in now)
        events += transcript.receive(info("Update", quarter / 4, text, words=now))
        assert transcript.frontier == 0.0 or quarter >= 18
    assert "twenty" not in said(events)
    merged = (*words("a b c"), ProviderWord("25", 1.2, 2.9, 0.9))
    events += transcript.receive(info("EndOfTurn", 7.5, "a b c 25", words=merged, trigger="model"))
    assert said(events) == ["a", "b", "c", "25"]
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


def committed(text: str = "one two three four five six", head: int = 3) -> tuple[Transcript, Any]:
    """A transcript with a head of `head` words in its open turn, and the events so far."""
    transcript = Transcript(spoken(60), EAGER)
    events: list[ProviderEvent] = []
    made = [list(word) for word in words(text)]
    for index in range(head, len(made)):
        made[index][1] += 0.1
        made[index][2] += 0.1
    spread = tuple(ProviderWord(*word) for word in made)
    for n in range(2):
        events += transcript.receive(info("Update", 3 + n, text, words=spread))
    assert finals(events)[0].text.split() == text.split()[:head]
    return transcript, events


@pytest.mark.parametrize(
    ("later", "shift", "rest"),
    [
        # As it was, with other capitals and stops, and with times that have moved.
        ("one two three four five six", 0.0, "four five six"),
        ("One, two. Three four five six", 0.0, "four five six"),
        ("one two three four five six", 0.35, "four five six"),
        ("one two three four five six", -0.35, "four five six"),
        # Other words, as many.
        ("eins zwei drei four five six", 0.0, "four five six"),
        ("one two free four five six", 0.2, "four five six"),
        ("eins two three four five six", -0.2, "four five six"),
        ("one two three for five six", 0.0, "for five six"),
        # More or fewer.
        ("onetwo three four five six", 0.4, "four five six"),
        ("oh one two three four five six", -0.4, "four five six"),
        # All of it.
        ("a b c d e f", 0.0, "d e f"),
    ],
)
def test_a_committed_head_stands(later: str, shift: float, rest: str) -> None:
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
    assert said(events) == ["one", "two", "three", *rest.split()]
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
        # Two words on either side of the boundary have become one, wherever it is put.
        ([*BASE, word("25", 5.0, 7.0)], "five"),
        ([*BASE, word("25", 5.0, 6.6)], "five"),
        ([*BASE, word("25", 5.0, 5.9)], "five"),
        ([*BASE, word("25", 5.0, 7.0), word("people", 7.2, 7.5)], "five people"),
        ([*BASE, word("25", 5.0, 6.6), word("people", 7.2, 7.5)], "five people"),
        ([*BASE, word("25", 5.0, 6.6), word("persons", 7.2, 7.5)], "five persons"),
        ([*BASE, word("25", 5.0, 7.0), *words("people came", 7.2)], "five people came"),
        ([*BASE[:-1], word("925", 4.5, 7.0), word("people", 7.2, 7.5)], "five people"),
        # Three.
        ([*BASE, word("25people", 5.0, 7.5), word("came", 7.6, 7.9)], "five people came"),
        # The word behind it has another one in its place.
        ([*BASE, word("plenty", 5.0, 6.2), *words("fife people", 6.6)], "fife people"),
        # It has moved before the boundary.
        (
            [*BASE[:-1], word("W9b", 4.5, 4.95), TWENTY, word("five", 5.3, 5.9), *words("men", 7)],
            "five men",
        ),
    ],
)
def test_words_that_become_one_across_a_boundary(later: list[ProviderWord], rest: str) -> None:
    transcript = Transcript(spoken(60), Commit())
    said_before = (*BASE, TWENTY, FIVE, word("people", 7.2, 7.5))
    events: list[ProviderEvent] = []
    for quarter in range(31, 48):
        text = " ".join(word.text for word in said_before)
        events += transcript.receive(info("Update", quarter / 4, text, words=said_before))
    heads = [*(f"w{n}" for n in range(10)), "twenty"]
    assert finals(events)[0].text.split() == heads
    assert finals(events)[0].end == pytest.approx(6.0)
    # Again and again: what was kept stays.
    text = " ".join(word.text for word in later)
    for event in ("Update", "Update", "EndOfTurn"):
        events += transcript.receive(info(event, 12, text, words=tuple(later), trigger="model"))
    texts = [final.text for final in finals(events) if final.text]
    assert texts == [" ".join(heads), rest]
    ended = events[-1]
    assert isinstance(ended, Turn)
    assert ended.text == " ".join([*heads, rest])
    partition(events)


def test_a_head_that_is_all_that_is_left() -> None:
    transcript, events = committed()
    events += transcript.receive(info("EndOfTurn", 7, "one two three", trigger="model"))
    assert said(events) == ["one", "two", "three"]
    partition(events)


@pytest.mark.parametrize("seed", range(20))
def test_later_messages_lose_or_repeat_nothing(seed: int) -> None:
    """Words and their times are revised; each part of the audio appears in one final."""
    rng = random.Random(seed)
    transcript = Transcript(spoken(200), Commit(updates=2, seconds=1, length_seconds=1))
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
    assert [word.strip("xyz") for word in said(events)] == [f"w{n}" for n in range(120)]
    assert len(finals(events)) > 10
    partition(events)


@pytest.mark.parametrize("seed", range(5))
def test_committed_words_that_stay_are_not_worked_on_again(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not change the events."""
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
        transcript = Transcript(spoken(200), Commit(updates=2, seconds=1, length_seconds=1))
        return [event for message in messages for event in transcript.receive(message)]

    monkeypatch.setattr(OpenTurn, "unchanged", counted)
    found = events()
    assert max(skipped) > 60
    monkeypatch.setattr(OpenTurn, "unchanged", lambda *_: 0)
    assert events() == found


# ---- words without times --------------------------------------------------------------------


def untimed(text: str) -> tuple[ProviderWord, ...]:
    return tuple(ProviderWord(word, confidence=0.9) for word in text.split())


def test_times_are_those_of_the_message_before() -> None:
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
    assert not finals(events), "such words cannot be cut at a known place"
    events += transcript.receive(info("EndOfTurn", 8, text, words=untimed(text), trigger="model"))
    (final,) = finals(events)
    assert final.times_estimated
    assert final.text == text
    assert all(word.start is not None for word in final.words)
    partition(events)


def test_a_new_word_lies_between_its_neighbours() -> None:
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


# ---- against the emulator's turns -----------------------------------------------------------

SPOKEN = tones.sequence(60)


def through_the_emulator(audio: bytes, lag: float, commit: Commit) -> list[ProviderEvent]:
    query = {"model": ["flux-general-en"], "encoding": ["linear16"], "sample_rate": ["16000"]}
    session = FluxSession(parse(query), FluxFaults(decode_lag_seconds=lag))
    clock = Clock(LINEAR_16K)
    transcript = Transcript(clock, commit)
    events: list[ProviderEvent] = []
    for at in range(0, len(audio), 2560):
        clock.audio(len(audio[at : at + 2560]))
        for message in session.audio(audio[at : at + 2560]):
            decoded = decode(json.dumps(message)).message
            assert isinstance(decoded, TurnInfo)
            events += transcript.receive(decoded)
    return events + transcript.end()


@pytest.mark.parametrize("lag", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("phrase", [0, 7])
def test_every_word_at_its_time(lag: float, phrase: int) -> None:
    audio = tones.encode(SPOKEN, phrase_words=phrase, lead_seconds=0.3, tail_seconds=1)
    places = tones.places(SPOKEN, phrase_words=phrase, lead_seconds=0.3)
    events = through_the_emulator(audio, lag, Commit(3, 1, 2))
    assert said(events) == SPOKEN
    partition(events)
    heard = [word for final in finals(events) for word in final.words]
    errors = [abs((w.start or 0) - p.start) for w, p in zip(heard, places, strict=True)]
    assert max(errors) < 0.011
    for final in finals(events):
        assert not [p for p in places if p.start + 0.01 < final.end < p.end - 0.01], final
    assert len(finals(events)) > 8


@pytest.mark.parametrize("gap", [0.02, 0.08])
@pytest.mark.parametrize("phrase", [0, 7])
def test_at_every_final_a_new_stream_can_go_on(gap: float, phrase: int) -> None:
    """This happens after a crash. It also works when words follow each other closely."""
    how: dict[str, Any] = {"phrase_words": phrase, "lead_seconds": 3.5, "gap_seconds": gap}
    audio = tones.encode(SPOKEN[:40], tail_seconds=4, **how)
    events = through_the_emulator(audio, 0.1, Commit(2, 0.5, 0.3))
    assert said(events) == SPOKEN[:40]
    before = 0
    for final in finals(events):
        before += len(final.words)
        rest = audio[2 * round(final.end * 16000) :]
        assert said(through_the_emulator(rest, 0.1, NEVER)) == SPOKEN[before:40], final
    assert len(finals(events)) > 7
