"""Finals that never overlap, interims and turns, from segments."""

from __future__ import annotations

from typing import Any

import pytest

from natterjack.plugin.errors import RemoteProtocolError
from natterjack.plugin.provider import Final, Interim, ProviderEvent, Turn
from worker.providers.speechmatics_agent.messages import EndOfTurn, Segment, StartOfTurn
from worker.providers.speechmatics_agent.transcript import Segments

Message = Segment | StartOfTurn | EndOfTurn


def final(start: float | None, end: float | None, text: str, speaker: str | None = None) -> Segment:
    return Segment(True, text, start, end, speaker)


def partial(start: float | None, end: float | None, text: str) -> Segment:
    return Segment(False, text, start, end)


def events_of(state: Segments, *messages: Message) -> list[ProviderEvent]:
    events: list[ProviderEvent] = []
    for one in messages:
        match one:
            case Segment():
                events += state.segment(one)
            case StartOfTurn():
                events += state.start_of_turn(one)
            case EndOfTurn():
                events += state.end_of_turn(one)
    return events


def run(state: Segments, *messages: Message) -> list[Any]:
    """A short form of events for comparison."""
    shown: list[Any] = []
    for event in events_of(state, *messages):
        match event:
            case Final():
                shown.append(("final", event.text, event.start, event.end))
            case Interim():
                shown.append(("interim", event.text, event.start, event.end))
            case Turn():
                shown.append((event.event, event.at))
    return shown


def test_a_turn() -> None:
    state = Segments()
    assert run(
        state,
        StartOfTurn(1.02),
        partial(1.02, 1.4, "Hello"),
        partial(1.02, 2.0, "Hello, I'd like"),
        final(1.02, 3.24, "Hello, I'd like to check on my order."),
        EndOfTurn(3.24),
    ) == [
        ("started", 1.02),
        ("interim", "Hello", 1.02, 1.4),
        ("interim", "Hello, I'd like", 1.02, 2.0),
        ("final", "Hello, I'd like to check on my order.", 1.02, 3.24),
        ("ended", 3.24),
    ]
    assert state.frontier == 3.24
    assert state.pending is None
    assert state.end() == []


def test_words_are_spread_over_the_segment() -> None:
    (_, event) = events_of(Segments(), final(1.0, 2.2, "one three", "S2"))
    assert isinstance(event, Final)
    assert event.times_estimated
    assert [word.text for word in event.words] == ["one", "three"]
    assert {word.speaker for word in event.words} == {"S2"}
    first, second = event.words
    assert (first.start, second.end) == (1.0, 2.2)
    assert first.end == second.start == pytest.approx(1.48)
    assert event.confidence is None
    assert event.language is None


def test_turns_without_a_message() -> None:
    """A text is in a turn, and the end of the audio ends it."""
    state = Segments()
    assert run(state, final(0.5, 1.0, "yes"))[0] == ("started", 0.5)
    assert run(state, StartOfTurn(0.5)) == []
    assert state.end() == [Turn("ended", 1.0)]
    assert run(state, EndOfTurn(1.0)) == []


def test_times_that_cannot_be_read_are_estimated() -> None:
    state = Segments()
    events = run(state, StartOfTurn(None), partial(None, 1.0, "one two"), final(0.4, None, "one"))
    assert str(events[0][1]) == "nan"
    assert events[1:] == [("interim", "one two", 0.0, 1.0), ("final", "one", 0.4, 1.0)]
    (event,) = run(state, final(None, None, "two three"))
    assert event == ("final", "two three", 1.0, 1.6)


def test_segments_that_overlap_a_little_lose_no_word() -> None:
    state = Segments()
    run(state, final(1.0, 3.0, "one two three"))
    (event,) = events_of(state, final(2.5, 2.9, "well yes"))
    assert isinstance(event, Final)
    assert (event.text, event.start, event.end) == ("well yes", 3.0, 3.0)
    assert [(word.start, word.end) for word in event.words] == [(3.0, 3.0)] * 2
    assert run(state, final(2.8, 4.0, "more")) == [("final", "more", 3.0, 4.0)]


@pytest.mark.parametrize(
    "after", [final(8.0, 12.0, "late"), partial(0.3, 0.5, "so"), final(None, 0.5, "so")]
)
def test_a_clock_that_was_set_back_ends_the_stream(after: Segment) -> None:
    state = Segments()
    run(state, final(10.0, 10.9, "ten"))
    with pytest.raises(RemoteProtocolError, match=r"clock went back from 10\.9 s"):
        state.segment(after)


def test_a_segment_without_text_is_silence() -> None:
    state = Segments()
    assert run(state, partial(0.5, 0.8, "um"), final(0.5, 0.8, ""), final(0.5, 0.8, "")) == [
        ("started", 0.5),
        ("interim", "um", 0.5, 0.8),
        ("final", "", 0, 0.8),
    ]
    assert state.pending is None


def test_words_that_are_not_final_are_pending() -> None:
    state = Segments()
    run(state, partial(0.5, 5.0, "One two. Three four."))
    run(state, final(0.5, 2.0, "One two."))
    left = state.unfinalized
    assert left is not None
    assert left.end == 5.0
    run(state, final(2.5, 4.6, "Three four."))
    assert state.unfinalized is None
    run(state, partial(5.0, 6.0, "um"), EndOfTurn(6.0))
    assert state.unfinalized is None, "no segment of the turn follows"
