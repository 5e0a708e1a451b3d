"""Finals that never overlap, interims and turns, from messages of the protocol."""

from __future__ import annotations

from typing import Any

import pytest

from natterjack.plugin.errors import RemoteProtocolError
from natterjack.plugin.provider import Final, Interim, ProviderEvent, Turn
from worker.providers.speechmatics.messages import (
    EndOfUtterance,
    LanguageInfo,
    Result,
    Transcript,
)
from worker.providers.speechmatics.transcript import Transcripts

Spoken = tuple[str, float, float]
YEAH, SO = ("yeah", 0.2, 0.5), ("so", 0.6, 0.9)
MY, CARD = ("my", 1.2, 1.4), ("card", 1.5, 1.9)


def message(final: bool, start: float, end: float, *words: Spoken) -> Transcript:
    results = tuple(Result(word[0] in ".?", *word, confidence=0.9) for word in words)
    results = tuple(
        Result(True, r.text, r.start, r.end, attaches="previous") if r.punctuation else r
        for r in results
    )
    return Transcript(final, start, end, results)


def final(start: float, end: float, *words: Spoken) -> Transcript:
    return message(True, start, end, *words)


def partial(start: float, end: float, *words: Spoken) -> Transcript:
    return message(False, start, end, *words)


def transcripts(margin: float = 0.0) -> Transcripts:
    return Transcripts(" ", margin)


def run(state: Transcripts, *messages: Transcript | EndOfUtterance) -> list[Any]:
    """A short form of events for comparison."""
    events: list[ProviderEvent] = []
    for one in messages:
        if isinstance(one, Transcript):
            events += state.transcript(one)
        else:
            events += state.end_of_utterance(one)
    return short(events)


def short(events: list[ProviderEvent]) -> list[Any]:
    shown: list[Any] = []
    for event in events:
        match event:
            case Final():
                shown.append(("final", event.text, event.start, event.end))
            case Interim():
                shown.append(("interim", event.text, event.start, event.end))
            case Turn():
                shown.append((event.event, event.at))
    return shown


@pytest.mark.parametrize(
    "after",
    [
        final(0.3, 1.2, YEAH, SO),
        final(0.3, 12.0, YEAH, ("late", 11.0, 11.5)),
        final(0.0, 1.0),
        partial(0.3, 1.2, YEAH, SO),
        partial(0.0, 0.5),
    ],
)
def test_a_clock_that_was_set_back_ends_the_stream(after: Transcript) -> None:
    state = transcripts()
    run(state, final(10.0, 10.9, ("ten", 10.0, 10.9)))
    with pytest.raises(RemoteProtocolError, match=r"clock went back from 10\.9 s"):
        state.transcript(after)


def test_transcripts_that_overlap_a_little_are_no_sign_of_a_lost_clock() -> None:
    state = transcripts()
    run(state, final(0.0, 10.9, ("ten", 10.0, 10.9)))
    run(state, partial(0.0, 10.4, ("ten", 10.0, 10.4)), final(0.0, 11.5, ("ten", 10.0, 11.5)))
    assert state.frontier == 11.5


def test_the_example_in_the_documentation() -> None:
    events = run(
        transcripts(),
        partial(0.2, 0.7, YEAH),
        partial(0.2, 1.3, YEAH, SO),
        final(0.2, 0.9, YEAH, SO),
        partial(1.2, 1.6, MY),
        final(1.2, 1.9, MY, CARD, (".", 1.9, 1.9)),
        EndOfUtterance(2.5),
        partial(1.9, 2.8),
    )
    assert events == [
        ("started", 0.2),
        ("interim", "yeah", 0.2, 0.7),
        ("interim", "yeah so", 0.2, 1.3),
        ("final", "yeah so", 0.2, 0.9),
        ("interim", "my", 1.2, 1.6),
        ("final", "my card.", 1.2, 1.9),
        ("ended", 1.9),
        ("interim", "", 1.9, 2.8),
    ]


def test_empty_finals_advance_the_frontier() -> None:
    state = transcripts()
    assert run(state, final(0, 3), final(3, 3), final(2, 2.5), final(3, 5)) == [
        ("final", "", 0, 3),
        ("final", "", 3, 5),
    ]
    assert state.frontier == 5


def test_a_final_begins_at_its_first_word_and_ends_with_its_last() -> None:
    """It excludes the silence before it, and the rest of its audio may hold the start of the next
    word."""
    assert run(transcripts(), final(0.2, 1.3, YEAH, SO), final(1.2, 2, MY)) == [
        ("started", 0.2),
        ("final", "yeah so", 0.2, 0.9),
        ("final", "my", 1.2, 1.4),
    ]


def test_an_empty_final_does_not_end_inside_a_word() -> None:
    state = transcripts()
    events = run(state, partial(0, 1.9, MY, CARD), final(0, 1.3), final(1.3, 1.7))
    finals = [event for event in events if event[0] == "final"]
    # According to the second interim, "my" is no word; "card" may still be one.
    assert finals == [("final", "", 0, 1.2), ("final", "", 1.2, 1.5)]
    assert run(state, final(1.5, 1.9, CARD))[-1] == ("final", "card", 1.5, 1.9)


def test_rounding_makes_no_overlap() -> None:
    late = ("so", 0.49, 0.9)
    events = run(transcripts(), final(0.2, 0.5, YEAH), final(0.49, 0.9, late))
    assert events[1:] == [("final", "yeah", 0.2, 0.5), ("final", "so", 0.5, 0.9)]


def test_final_words_are_left_out_of_interims() -> None:
    state = transcripts()
    events = run(
        state,
        final(0.2, 0.9, YEAH, SO),
        partial(0.2, 0.9, YEAH, SO),
        partial(0.2, 1.5, YEAH, SO, MY),
    )
    assert events[2:] == [("interim", "my", 0.9, 1.5)]
    assert [word.text for word in state.pending] == ["my"]
    run(state, final(1.2, 1.4, MY))
    assert state.pending == ()


def test_a_separate_mark_adds_no_text_and_loses_no_word() -> None:
    state = transcripts()
    events = run(
        state,
        final(0.2, 0.9, YEAH, SO),
        final(0.9, 0.9, (".", 0.9, 0.9)),
        final(1.2, 1.4, MY),
    )
    assert [event[1] for event in events if event[0] == "final"] == ["yeah so", "my"]


def test_silence_in_interims_advances_the_frontier_after_a_margin() -> None:
    state = transcripts(margin=5)
    assert run(state, partial(0, 5.5))[1:] == []
    assert run(state, partial(0, 6.5))[1:] == [("final", "", 0, 1.5)]
    assert run(state, partial(0, 7.0))[1:] == []
    assert run(state, partial(0, 8.0, ("hm", 7.6, 7.9))) == [
        ("started", 7.6),
        ("interim", "hm", 1.5, 8.0),
    ]
    # It arrives very late, and is not dropped.
    assert run(state, final(1.0, 1.4, MY))[-1] == ("final", "my", 1.5, 1.5)


def test_silence_is_not_guessed_without_a_margin() -> None:
    assert run(transcripts(), partial(0, 60)) == [("interim", "", 0, 60)]


# ---- turns ----------------------------------------------------------------------------------


def test_a_turn_starts_once_and_with_a_word() -> None:
    state = transcripts()
    events = run(state, partial(0, 0.1), final(0.2, 0.5, YEAH), partial(0.6, 1, SO))
    assert [event for event in events if event[0] == "started"] == [("started", 0.2)]
    assert run(state, EndOfUtterance(1.5), EndOfUtterance(1.6)) == [("ended", 0.5)]
    assert run(state, partial(1.2, 2, MY))[0] == ("started", 1.2)


def test_the_end_of_the_transcript_ends_the_turn() -> None:
    state = transcripts()
    run(state, final(0.2, 0.5, YEAH))
    assert short(state.end()) == [("ended", 0.5)]
    assert state.end() == []


def test_each_language_has_its_own_delimiter() -> None:
    state = transcripts()
    state.language(LanguageInfo("ja", ""))
    results = tuple(Result(False, text, 1, 2, language="ja") for text in "今日")
    (_, event) = state.transcript(Transcript(True, 1, 2, results))
    assert isinstance(event, Final)
    assert event.text == "今日"
    assert event.language == "ja"
