"""Finals from the messages of turns: none lost or repeated, regardless of later messages."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from natterjack.emulators import tones
from natterjack.emulators.deepgram.flux import FluxFaults, FluxSession
from natterjack.emulators.deepgram.flux_query import parse
from natterjack.plugin.errors import RemoteProtocolError
from natterjack.plugin.provider import (
    Final,
    Interim,
    Notice,
    ProviderEvent,
    ProviderWord,
    Turn,
)
from worker.providers.deepgram_flux.clock import Clock
from worker.providers.deepgram_flux.open_turn import CommitRules
from worker.providers.deepgram_flux.protocol import TurnInfo, decode
from worker.providers.deepgram_flux.transcript import Transcript
from worker.providers.guard import Guard

from ..emulated.streams import LINEAR_16K, final_words, finals, turns
from .messages import NEVER, info, partition, spoken, words

HI = words("Hi")[0]

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
    assert turns(events) == ["started", "eager_end", "resumed", "eager_end", "ended"]
    found = [event for event in events if isinstance(event, Turn)]
    assert found[0].at == 0.0
    assert found[1].text == "Hi I need."
    assert found[1].at == pytest.approx(1.1)
    assert found[2].at == pytest.approx(1.2), "where the new word begins"
    assert found[-1].text == "Hi I need help."
    assert found[-1].at == pytest.approx(1.5)
    assert found[-1].confidence == 0.5
    texts = [event.text for event in events if isinstance(event, Interim)]
    assert texts == ["", "Hi I", "Hi I need.", "Hi I need.", "Hi I need help", "Hi I need help."]
    (final,) = finals(events)
    assert (final.text, final.start, final.confidence) == ("Hi I need help.", 0.0, 0.9)
    assert final.language == "en"
    # The final has half of the silence; the other half may contain the start of a word.
    assert final.end == pytest.approx((1.5 + 2.3) / 2)
    assert events.index(final) < events.index(found[-1])


@pytest.mark.parametrize(("trigger", "end"), [("timeout", 5.35), ("manual", 0.74), ("moon", 0.74)])
def test_a_turn_that_was_cut_ends_at_its_last_word(trigger: str, end: float) -> None:
    transcript = Transcript(spoken(20), NEVER)
    transcript.receive(info("StartOfTurn", 1, "Hi I"))
    (final, ended) = transcript.receive(info("EndOfTurn", 10, "Hi I", trigger=trigger))
    assert isinstance(final, Final)
    assert final.end == pytest.approx(end)
    assert isinstance(ended, Turn)
    assert ended.at == pytest.approx(0.7)


def test_silence_between_turns_becomes_final() -> None:
    """Except for audio that may hold the start of a turn."""
    transcript = Transcript(spoken(30), NEVER)
    events: list[ProviderEvent] = []
    for quarter in range(1, 60):
        events += transcript.receive(info("Update", quarter / 4))
    partition(events)
    assert len(finals(events)) == 12
    assert not final_words(events)
    assert transcript.frontier == pytest.approx(59 / 4 - 2, abs=1)
    # Each message gives an event, which shows that the provider is not mute.
    assert sum(isinstance(event, Interim) for event in events) == 59


@pytest.mark.parametrize("missing", ["StartOfTurn", "EndOfTurn"])
def test_turns_without_a_start_or_an_end(missing: str) -> None:
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
    assert turns(events) == ["started", "ended"] * 2
    expected = ["hi", "i", "bye", "now"]
    # Without its last message, a turn has the text of the message before.
    assert final_words(events) == (expected if missing == "StartOfTurn" else expected[:3])
    partition(events)


def test_a_late_message_of_a_turn_is_stale() -> None:
    transcript = Transcript(spoken(20), NEVER)
    transcript.receive(info("StartOfTurn", 1, "Hi I"))
    transcript.receive(info("EndOfTurn", 2, "Hi I", trigger="model"))
    (notice,) = transcript.receive(info("Update", 2.5, "Hi You"))
    assert isinstance(notice, Notice)
    assert notice.code == "stale"


def test_new_words_of_a_turn_that_has_ended_are_kept_in_the_error() -> None:
    """The index may be wrong; the text is published if it comes again and again."""
    transcript, guard = Transcript(spoken(20), NEVER), Guard("flux")
    for message in (info("StartOfTurn", 1, "Hi"), info("Update", 1.5, "Hi", index=999)):
        for event in transcript.receive(message):
            guard.check(event, 20.0)
    late = info("EndOfTurn", 4, "Hi morning", words=(HI, ProviderWord("morning", 3.0, 3.4)))
    with pytest.raises(RemoteProtocolError) as caught:
        transcript.receive(late)
    left = guard.new_part(caught.value.readable, 20.0)
    assert left is not None
    assert (left.text, left.end) == ("morning", 3.4)


def test_an_unknown_event_is_an_update() -> None:
    transcript = Transcript(spoken(20), NEVER)
    kinds = [type(event) for event in transcript.receive(info("Musing", 1, "Hi"))]
    assert kinds == [Turn, Interim]


def test_text_that_vanishes_leaves_nothing() -> None:
    transcript = Transcript(spoken(20), NEVER)
    events = transcript.receive(info("StartOfTurn", 1, "Hi"))
    events += transcript.receive(info("EndOfTurn", 2, trigger="model"))
    events += transcript.end()
    assert not final_words(events)
    assert turns(events) == ["started", "ended"]


def test_the_end_of_a_stream_keeps_the_last_update() -> None:
    transcript = Transcript(spoken(3), NEVER)
    transcript.receive(info("StartOfTurn", 0.8, "Hi"))
    transcript.receive(info("Update", 3, "Hi there you"))
    events = transcript.end()
    assert final_words(events) == ["hi", "there", "you"]
    assert [type(event) for event in events] == [Final, Turn, Final]
    assert transcript.frontier == 3
    assert transcript.end() == []


def test_inserted_silence_is_removed_from_all_times() -> None:
    clock = spoken(1.0)
    clock.silence(2 * 16000 * 4)
    clock.audio(2 * 16000 * 5)
    transcript = Transcript(clock, NEVER)
    events = transcript.receive(info("StartOfTurn", 1, "Hi I"))
    # The window does not move during inserted silence.
    (interim,) = transcript.receive(info("Update", 4, "Hi I"))
    assert isinstance(interim, Interim)
    assert interim.end == 1.0
    later = (*words("Hi I"), ProviderWord("am", 5.5, 5.8, 0.9))
    events += transcript.receive(info("EndOfTurn", 6.5, "Hi I am", words=later, trigger="model"))
    (final,) = finals(events)
    assert final.words[-1] == ProviderWord("am", 1.5, 1.8, 0.9)
    assert final.end == pytest.approx((1.8 + 2.5) / 2)


# ---- against the emulator's turns -----------------------------------------------------------

SPOKEN = tones.sequence(60)


def through_the_emulator(audio: bytes, lag: float, commit: CommitRules) -> list[ProviderEvent]:
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
def test_every_word_has_its_time(lag: float, phrase: int) -> None:
    audio = tones.encode(SPOKEN, phrase_words=phrase, lead_seconds=0.3, tail_seconds=1)
    places = tones.places(SPOKEN, phrase_words=phrase, lead_seconds=0.3)
    events = through_the_emulator(audio, lag, CommitRules(3, 1, 2))
    assert final_words(events) == SPOKEN
    partition(events)
    timed = [word for final in finals(events) for word in final.words]
    errors = [abs((w.start or 0) - p.start) for w, p in zip(timed, places, strict=True)]
    assert max(errors) < 0.011
    for final in finals(events):
        assert not [p for p in places if p.start + 0.01 < final.end < p.end - 0.01], final
    assert len(finals(events)) > 8


@pytest.mark.parametrize("gap", [0.02, 0.08])
@pytest.mark.parametrize("phrase", [0, 7])
def test_a_new_stream_can_start_at_every_final(gap: float, phrase: int) -> None:
    """This happens after a crash. It also works when words follow each other closely."""
    how: dict[str, Any] = {"phrase_words": phrase, "lead_seconds": 3.5, "gap_seconds": gap}
    audio = tones.encode(SPOKEN[:40], tail_seconds=4, **how)
    events = through_the_emulator(audio, 0.1, CommitRules(2, 0.5, 0.3))
    assert final_words(events) == SPOKEN[:40]
    before = 0
    for final in finals(events):
        before += len(final.words)
        rest = audio[2 * round(final.end * 16000) :]
        assert final_words(through_the_emulator(rest, 0.1, NEVER)) == SPOKEN[before:40], final
    assert len(finals(events)) > 7
