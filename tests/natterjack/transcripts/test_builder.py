from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natterjack.events import FinalEvent
from natterjack.transcripts.builder import TranscriptBuilder
from natterjack.transcripts.transcript import Transcript
from natterjack.values import Gap
from natterjack.voice.events import UtteranceEvent
from tests.natterjack.transcripts.events import BEGIN, Session, at, words
from tests.searching import examples


def built(events: Sequence[object]) -> Transcript:
    builder = TranscriptBuilder()
    for event in events:
        builder.add(event)
    return builder.build()


def said(transcript: Transcript) -> list[tuple[str, float, str]]:
    return [(line.name, line.start, line.text) for line in transcript.lines]


def test_speakers_are_merged_by_the_wall_clock_of_their_audio() -> None:
    agent, caller = Session("session-a"), Session("session-c", "caller", begin=2)
    transcript = built(
        [
            caller.final("Hello?", 0.5, 1),
            caller.final("My name is Bo.", 3, 4),
            agent.final("Good morning.", 0.5, 1.5),
            agent.final("How can I help?", 3, 4),
        ]
    )
    assert said(transcript) == [
        ("agent", 0.5, "Good morning."),
        ("caller", 2.5, "Hello?"),
        ("agent", 3.0, "How can I help?"),
        ("caller", 5.0, "My name is Bo."),
    ]
    assert transcript.started_at == BEGIN
    assert transcript.speakers == ("agent", "caller")
    assert transcript.duration == 6.0


def calls(function: Callable[[], object]) -> int:
    """How many Python functions are called."""
    count = 0

    def profile(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("course", ["monologue", "interims", "dialog", "voice"])
def test_an_event_of_a_long_conversation_costs_no_more_than_one_of_a_short_one(course: str) -> None:
    one, two = Session("session-a"), Session("session-b", "caller")

    def events(n: int) -> list[object]:
        first = one.final(f"Number {n}.", 5 * n, 5 * n + 4.5)
        if course == "interims":
            return [one.interim(f"Number {n}", 5 * n, 5 * n + 2), first]
        if course == "dialog":
            return [first, two.final(f"Yes, {n}.", 5 * n + 1, 5 * n + 3)]
        if course == "voice":
            ended = two.utterance(n, "finished", 5 * n + 4.9, text_spoken="Yes.", start=0, end=1)
            return [first, two.utterance(n, "started", 5 * n + 4.6), ended]
        return [first]

    builder = TranscriptBuilder()

    def follow(n: int) -> None:
        for event in events(n):
            builder.add(event)
            builder.build()

    costs = [calls(lambda n=n: follow(n)) for n in range(1000)]  # type: ignore[misc]
    assert max(costs[-10:]) <= 2 * max(costs[5:15])


def test_labels_and_causes_of_gaps_are_on_one_line() -> None:
    nasty = "A\n\n2\n00:00:00,000 --> 00:00:09,000\n<b>"
    one = Session("session-a")
    transcript = built(
        [
            one.final("Yes", 0, 1, words=words(("Yes", 0, 1), speaker=nasty)),
            one.closed(3, gaps=[Gap(start=1, end=2, cause="x\n\ny")]),
        ]
    )
    flat = nasty.replace("\n\n", " ").replace("\n", " ")
    assert transcript.speakers == (f"agent ({flat})",)
    assert transcript.gaps[0].cause == "x y"
    assert len(transcript.to_txt().splitlines()) == 2


@pytest.mark.parametrize("request_", [{"sample_rate": 10**400}, {"sample_rate": 0},
    {"sample_rate": 16_000, "start_position": 10**400},
    {"sample_rate": 16_000, "start_position": "x"}])  # fmt: skip
def test_a_request_that_cannot_be_true_does_not_matter(request_: dict[str, object]) -> None:
    one = Session("session-a")
    transcript = built(
        [one.final("Yes.", 0, 1), one.status("failed", 2, account={}, request=request_, position=9)]
    )
    assert said(transcript) == [("agent", 0, "Yes.")]
    assert not transcript.open


def test_a_pause_begins_a_line() -> None:
    agent = Session("session-a")
    finals = [agent.final("One,", 0, 1), agent.final("two.", 2.9, 4), agent.final("Three.", 6.1, 7)]
    assert [line.text for line in built(finals).lines] == ["One, two.", "Three."]
    builder = TranscriptBuilder(pause_seconds=1)
    for final in finals:
        builder.add(final)
    assert len(builder.build().lines) == 3


def test_a_long_line_ends_with_a_sentence_or_after_two_minutes() -> None:
    agent = Session("session-a")
    sentences = [agent.final(f"{n}{'.' if n % 2 else ','}", n * 15, n * 15 + 15) for n in range(6)]
    assert [line.text for line in built(sentences).lines] == ["0, 1. 2, 3.", "4, 5."]
    caller = Session("session-c")
    without = [caller.final(str(n), n * 15, n * 15 + 15) for n in range(10)]
    assert [line.text for line in built(without).lines] == ["0 1 2 3 4 5 6 7", "8 9"]


def test_people_whom_the_provider_tells_apart_have_lines_of_their_own() -> None:
    spoken = [
        *words(("Well,", 0, 1), ("no.", 1, 2), speaker="S1"),
        *words(("Yes!", 2, 3), speaker="S2"),
    ]
    transcript = built([Session("session-a").final("Well, no. Yes!", 0, 3, words=spoken)])
    assert said(transcript) == [("agent (S1)", 0, "Well, no."), ("agent (S2)", 2, "Yes!")]


def test_an_interim_lasts_until_its_final_its_closing_or_another_worker() -> None:
    agent = Session("session-a")
    builder = TranscriptBuilder()
    first = agent.interim("Good", 0, 1)
    assert builder.add(first)
    assert [line.text for line in builder.build().interims] == ["Good"]
    assert builder.add(agent.final("Good morning.", 0, 1.5))
    assert not builder.build().interims
    assert not builder.add(first)
    builder.add(agent.status("assigned", epoch=2))
    assert not builder.add(agent.interim("How", 2, 3))
    assert builder.add(agent.interim("How", 2, 3, epoch=2))
    late = agent.interim("How are", 2, 3, epoch=2)
    assert builder.add(agent.closed(3))
    assert not builder.build().interims
    assert not builder.add(late)
    assert said(builder.build()) == [("agent", 0, "Good morning.")]


def test_without_a_change_the_same_value_is_built() -> None:
    agent = Session("session-a")
    builder = TranscriptBuilder()
    final = agent.final("Good morning.", 0, 1)
    builder.add(final)
    before = builder.build()
    assert not builder.add(final)
    assert not builder.add(final.model_copy())
    assert builder.build() is before
    assert not builder.add(object())


def test_an_event_of_another_conversation_is_refused() -> None:
    builder = TranscriptBuilder("acme", "call-7")
    with pytest.raises(ValueError, match="another conversation"):
        builder.add(Session("session-a", conversation="call-8").status("assigned"))


def test_a_conversation_is_open_until_its_sessions_have_closed_and_none_is_queued() -> None:
    agent, caller = Session("session-a"), Session("session-c", "caller")
    builder = TranscriptBuilder()
    builder.add(agent.status("assigned"))
    assert builder.build().open
    builder.wait_for(["session-a", "session-c"])
    builder.add(agent.closed(3, continued_by="session-b"))
    assert builder.build().open
    builder.add(caller.status("assigned"))
    builder.add(caller.closed(3, "failed"))
    assert not builder.build().open
    assert builder.successors == {"session-b"}
    assert [s.state for s in builder.build().sessions] == ["closed", "failed"]


# ---- sessions that repeat or continue others -----------------------------------------------------


def test_a_session_that_repeats_another_replaces_its_text_as_far_as_it_has_come() -> None:
    first = Session("session-a")
    again = Session("session-r", repeats="session-a")
    builder = TranscriptBuilder()
    for event in (first.final("Won.", 0, 1), first.final("Too.", 1, 2), first.final("Free.", 2, 3),
                  first.closed(3)):  # fmt: skip
        builder.add(event)
    builder.add(again.status("assigned"))
    assert builder.build().open
    assert builder.build().to_txt(times=False) == "Won. Too. Free.\n"
    builder.add(again.final("One.", 0, 1))
    assert builder.build().to_txt(times=False) == "One. Too. Free.\n"
    builder.add(again.final("Two.", 1, 2))
    builder.add(again.closed(3))
    assert builder.build().to_txt(times=False) == "One. Two.\n"
    assert not builder.build().open


def test_a_repetition_that_failed_replaces_the_part_that_it_has_transcribed() -> None:
    first, again = Session("session-a"), Session("session-r", repeats="session-a")
    spoken = words(("Won", 0, 1), ("too", 1, 2), ("free", 2, 3))
    transcript = built(
        [
            first.final("Won too free", 0, 3, words=spoken),
            first.closed(3),
            again.final("One two", 0, 2),
            again.closed(2, "failed", captured=3),
        ]
    )
    assert transcript.to_txt(times=False) == "One two free\n"
    assert not transcript.gaps


def test_text_stays_where_a_repetition_has_a_gap() -> None:
    first, again = Session("session-a"), Session("session-r", repeats="session-a")
    gone = [Gap(start=0, end=1, cause="missing")]
    transcript = built(
        [
            first.final("Won", 0, 1),
            first.closed(1, "failed", captured=3),
            again.final("two three", 1, 3),
            again.closed(3, gaps=gone),
        ]
    )
    assert transcript.to_txt(times=False) == "Won two three\n"
    assert not transcript.gaps


def test_a_session_continues_on_the_clock_of_another() -> None:
    first = Session("session-a", begin=5)
    rest = Session("session-b", begin=5, continues="session-a")
    transcript = built(
        [
            first.final("One", 1, 2),
            first.closed(2, continued_by="session-b"),
            rest.final("two", 2, 3, started_at=at(6.995)),
            rest.closed(3, start=2),
        ]
    )
    assert said(transcript) == [("agent", 1, "One two")]
    assert not transcript.gaps
    assert transcript.started_at == at(5)


# ---- gaps ----------------------------------------------------------------------------------------


def test_gaps_are_those_of_the_account_the_rest_of_a_failed_session_and_expired_finals() -> None:
    agent = Session("session-a", begin=10)
    caller = Session("session-c", "caller")
    caller.segment = 3
    transcript = built(
        [
            agent.final("Well.", 0, 1),
            caller.final("So.", 8, 9),
            agent.closed(4, "failed", captured=6, gaps=[Gap(start=1, end=4, cause="missing")]),
        ]
    )
    assert [(g.speaker, g.start, g.end, g.cause) for g in transcript.gaps] == [
        ("caller", 0, 8, "expired"),
        ("agent", 11, 14, "missing"),
        ("agent", 14, 16, "failed"),
    ]
    assert transcript.to_txt() == (
        "[0:00:00] caller: [gap of 8.0 s: expired]\n"
        "[0:00:08] caller: So.\n"
        "[0:00:10] agent: Well.\n"
        "[0:00:11] agent: [gap of 3.0 s: missing]\n"
        "[0:00:14] agent: [gap of 2.0 s: failed]\n"
    )


def test_a_session_whose_predecessor_has_expired_has_a_gap_before_it() -> None:
    rest = Session("session-b", continues="session-a")
    transcript = built([rest.final("So.", 3600, 3601)])
    assert [(g.start, g.end, g.cause) for g in transcript.gaps] == [(0, 3600, "expired")]
    assert said(transcript) == [("agent", 3600, "So.")]
    assert transcript.stored_from == at(3600)
    before = Session("session-a")
    whole = built(
        [before.final("Well.", 0, 1), before.closed(3600, continued_by="session-b"),
         Session("session-b", continues="session-a").final("So.", 3600, 3601)]
    )  # fmt: skip
    assert not whole.gaps
    assert whole.stored_from is None


# ---- clocks --------------------------------------------------------------------------------------


def test_a_wall_clock_that_is_set_back_does_not_turn_the_order_of_a_session() -> None:
    agent = Session("session-a")
    finals = [
        agent.final("One.", 0, 1),
        agent.final("Two.", 5, 6, started_at=at(-3600)),
        agent.final("Three.", 10, 11, started_at=at(70)),
        agent.final("Four.", 15, 16, started_at=at(75.2)),
    ]
    assert [line.start for line in built(finals).lines] == [0, 5, 70, 75]


def test_without_a_wall_clock_it_is_estimated_from_the_time_of_publication() -> None:
    agent, caller = Session("session-a"), Session("session-c", "caller")
    finals = [
        agent.final("One.", 0, 1),
        caller.final("Two.", 2, 3, started_at=None, published_at=at(13), latency=1),
    ]
    assert [(line.speaker, line.start) for line in built(finals).lines] == [
        ("agent", 0),
        ("caller", 11),
    ]


# ---- voice sessions ------------------------------------------------------------------------------


def test_what_was_heard_of_a_voice_session_has_lines() -> None:
    caller, assistant = Session("session-c", "caller"), Session("session-v", "assistant")
    transcript = built(
        [
            assistant.voice_status("assigned"),
            assistant.utterance(0, "started", 1),
            assistant.utterance(0, "finished", 3, text_spoken="Hello!", end=2),
            caller.final("Hi. Can you", 4, 5),
            assistant.utterance(1, "started", 6, start=2),
            assistant.utterance(2, "started", 6.5, start=3),
            assistant.utterance(1, "interrupted", 7, text_spoken="Of", text_remaining="course"),
            assistant.utterance(2, "interrupted", 7, text_remaining="What"),
        ]
    )
    assert [(line.speaker, line.kind, line.start, line.end) for line in transcript.lines] == [
        ("assistant", "spoken", 1, 3),
        ("caller", "transcribed", 4, 5),
        ("assistant", "spoken", 6, 7),
    ]
    assert transcript.to_txt(times=False) == (
        "assistant: Hello!\ncaller: Hi. Can you\nassistant: Of [interrupted]\n"
    )
    assert transcript.open


# ---- building bit by bit -------------------------------------------------------------------------

_Part = tuple[str, float, float]


@st.composite
def _voices(draw: st.DrawFn) -> list[object]:
    """The events of a voice session, in order."""
    voice = Session("session-v", "assistant")
    course: list[object] = []
    clock = draw(st.integers(-3, 3))
    for number in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            course.append(voice.utterance(number, "started", clock))
        clock += draw(st.integers(0, 4))
        spoken = draw(st.sampled_from([f"v{number}", None]))
        course.append(voice.utterance(number, "finished", clock, text_spoken=spoken))
    return course


@st.composite
def _conversations(draw: st.DrawFn) -> list[object]:
    """The events of some sessions, those of each in order."""
    courses: list[list[object]] = []
    count = draw(st.integers(1, 4))
    for n in range(count):
        links: dict[str, str] = {}
        if n and draw(st.booleans()):
            links[draw(st.sampled_from(["repeats", "continues"]))] = f"session-{n - 1}"
        speaker = draw(st.sampled_from(["agent", "caller"]))
        session = Session(f"session-{n}", speaker, begin=draw(st.integers(0, 5)), **links)
        course: list[object] = []
        clock = 0.0
        for _ in range(draw(st.integers(0, 5))):
            start = clock + draw(st.sampled_from([0, 0.5, 4]))
            clock = start + draw(st.sampled_from([0.5, 2]))
            lost = draw(st.integers(0, 9)) == 0
            shift = draw(st.sampled_from([0, 0, 0, 0.01, -0.01, 3, -3]))
            started = draw(st.sampled_from([at(session.begin + start + shift)] * 3 + [None]))
            course.append(session.interim("maybe", start, clock))
            final = session.final(f"t{n}-{session.segment}", start, clock, started_at=started)
            course += [] if lost else [final]
        if draw(st.booleans()):
            gaps = [Gap(start=0, end=1, cause="missing")] if draw(st.booleans()) else []
            course.append(session.closed(clock, draw(st.sampled_from(["closed", "failed"])),
                                         captured=clock + 1, gaps=gaps))  # fmt: skip
        courses.append(course)
    if draw(st.booleans()):
        courses.append(draw(_voices()))
    order = random.Random(draw(st.integers(0, 999)))
    events: list[object] = []
    while any(courses):
        course = order.choice([c for c in courses if c])
        events.append(course.pop(0))
    return events


@given(_conversations())
@examples(300)
def test_built_bit_by_bit_it_is_what_it_is_when_built_at_once(events: list[object]) -> None:
    builder = TranscriptBuilder()
    for n, event in enumerate(events, 1):
        builder.add(event)
        assert builder.build() == built(events[:n])


@given(_conversations())
@examples(300)
def test_lines_are_in_order_and_have_all_text_once(events: list[object]) -> None:
    transcript = built(events)
    starts = [line.start for line in transcript.lines]
    assert starts == sorted(starts)
    texts = [s.text for line in transcript.lines for s in line.segments]
    assert len(texts) == len(set(texts))
    repeated = {s.repeats for s in transcript.sessions}
    for session in transcript.sessions:
        own = [
            text
            for event in events
            if isinstance(event, FinalEvent | UtteranceEvent)
            and event.session_id == session.session_id
            and (text := event.text if isinstance(event, FinalEvent) else event.text_spoken)
        ]
        if session.session_id not in repeated:
            found = [s.text for line in transcript.lines for s in line.segments
                     if s.session_id == session.session_id]  # fmt: skip
            assert found == own


def test_an_hour_is_built_at_each_event_without_making_all_lines_again() -> None:
    """The lines that are not at the end are the same objects."""
    agent, caller = Session("session-a"), Session("session-c", "caller")
    builder = TranscriptBuilder()
    before = builder.build()
    for n in range(200):
        speaker = (agent, caller)[n % 2]
        builder.add(speaker.final(f"Sentence {n}.", n * 3, n * 3 + 2))
        after = builder.build()
        assert all(a is b for a, b in zip(before.lines[:-1], after.lines, strict=False))
        before = after
    assert len(before.lines) == 200
    assert before.started_at == BEGIN + timedelta(0)
