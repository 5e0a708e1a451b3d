"""The state of a stream: what is sent when, and what is returned for what is received."""

from __future__ import annotations

import json
from typing import Any

import pytest

from natterjack.emulators.mutations import mutations
from natterjack.plugin.errors import (
    Dropped,
    ProviderError,
    RemoteProtocolError,
    Stalled,
    Unavailable,
)
from natterjack.plugin.provider import Notice
from natterjack.plugin.voice import Interrupted, PhraseEnd, Speech, VoiceStreamEvent
from worker.providers import wire
from worker.voices.deepgram_flux_voice import protocol
from worker.voices.deepgram_flux_voice.clock import SessionClock
from worker.voices.deepgram_flux_voice.protocol import (
    FatalError,
    Flushed,
    SessionMetadata,
    SpeechInterrupted,
    SpeechMetadata,
    SpeechStarted,
    Warned,
)
from worker.voices.deepgram_flux_voice.turns import Turns

SECOND = bytes(48_000)
METADATA = {
    "type": "SpeechMetadata",
    "speech_id": "dg_sp_a1b2c3d4e5f6",
    "audio_duration_ms": 3200,
    "input_character_count": 47,
    "billable_character_count": 47,
    "controls_applied": {"pronunciations_applied": 0, "breaks_applied": 0},
}
INTERRUPTED = {
    "type": "SpeechInterrupted",
    "audio_played_ms": 2340,
    "text_spoken": "Sure, I can",
    "text_remaining": " help you.",
    "metadata": {name: value for name, value in METADATA.items() if name != "type"},
}
IGNORED = ["NO_AUDIO_GENERATED", "INTERRUPT_IN_PROGRESS", "INVALID_INTERRUPT_OFFSET"]


class Stream:
    """Turns, with what they send in short form."""

    def __init__(self, message_characters: int = 2000) -> None:
        self.turns = Turns(SessionClock(24_000, 2), 2, message_characters)

    def sent(self) -> list[Any]:
        """Return what is sent now: the text of a Speak, the offset of an Interrupt, or the type."""
        found: list[Any] = []
        while (message := self.turns.next_message()) is not None:
            content = json.loads(message)
            found.append(content.get("text", content["type"]))
            if "playback_offset" in content:
                found[-1] = content["playback_offset"]["value"]
        return found

    def got(self, *received: bytes | protocol.Message) -> list[VoiceStreamEvent]:
        """The events for what is received."""
        for one in received:
            if isinstance(one, bytes):
                self.turns.audio(one)
            else:
                self.turns.receive(one)
        return list(self.turns.take_events())

    def say(self, *texts: str) -> list[Any]:
        """Send one phrase, and return what is sent."""
        for text in texts:
            self.turns.speak(text)
        self.turns.flush()
        return self.sent()

    def interrupt(self, played: float | None) -> list[Any]:
        self.turns.interrupt(played)
        return self.sent()


def notices(events: list[VoiceStreamEvent]) -> list[str]:
    return [event.code for event in events if isinstance(event, Notice)]


def others(events: list[VoiceStreamEvent]) -> list[VoiceStreamEvent]:
    return [event for event in events if not isinstance(event, Notice)]


# ---- turns ----------------------------------------------------------------------------------


def test_the_text_of_a_phrase_is_sent_as_it_comes() -> None:
    stream = Stream()
    stream.turns.speak("Sure, ")
    assert stream.sent() == ["Sure, "]
    assert stream.got(SpeechStarted(), SECOND) == [Speech(SECOND)], "before the flush"
    assert stream.say("I can.") == ["I can.", "Flush"]
    assert stream.got(SECOND, SpeechMetadata(13)) == [Speech(SECOND), PhraseEnd(13)]


def test_turns_are_serialized() -> None:
    """The next phrase is sent when the turn before it has ended."""
    stream = Stream()
    assert stream.say("One.") == ["One.", "Flush"]
    assert stream.say("Two.", " And") == []
    assert stream.say("Three.") == []
    assert stream.got(SpeechStarted(), SECOND, Flushed()) == [Speech(SECOND)]
    assert stream.sent() == [], "Flushed is not the end of a turn"
    assert stream.got(SECOND, SpeechMetadata(4)) == [Speech(SECOND), PhraseEnd(4)]
    assert stream.sent() == ["Two.", " And", "Flush"]
    assert stream.got(Flushed(), SpeechStarted(), SpeechMetadata(8)) == [PhraseEnd(8)]
    assert stream.sent() == ["Three.", "Flush"]


def test_flushed_after_the_end_of_its_turn_is_ignored() -> None:
    stream = Stream()
    stream.say("One.")
    stream.say("Two.")
    stream.got(SpeechStarted(), SpeechMetadata(4))
    stream.sent()
    assert stream.got(Flushed(), SpeechStarted(), SECOND, Flushed()) == [Speech(SECOND)]


def test_a_phrase_without_text_needs_no_turn() -> None:
    """A Flush without a turn would be a no-op, and no end would come."""
    stream = Stream()
    assert stream.say() == []
    assert stream.got() == [PhraseEnd(0)]
    assert stream.say("One.") == ["One.", "Flush"]
    assert stream.say() == stream.say() == []
    assert stream.got() == [], "in its place"
    assert stream.got(SpeechMetadata(4)) == [PhraseEnd(4)]
    assert stream.sent() == []
    assert stream.got() == [PhraseEnd(0), PhraseEnd(0)]


def test_a_phrase_of_nothing_that_can_be_spoken() -> None:
    stream = Stream()
    stream.say("...")
    events = stream.got(SpeechStarted(), Warned("NO_SYNTHESIZABLE_TEXT", ""), SpeechMetadata(0))
    assert events == [
        Notice("nothing_to_speak", "NO_SYNTHESIZABLE_TEXT", harmless=True), PhraseEnd(0),
    ]  # fmt: skip


def test_a_flush_that_found_no_turn_ends_its_phrase() -> None:
    stream = Stream()
    stream.say(" ")
    events = stream.got(Warned("NO_ACTIVE_SPEECH", "why"))
    assert others(events) == [PhraseEnd(0)]
    stream.say("One.")
    events = stream.got(SpeechStarted(), Warned("NO_ACTIVE_SPEECH", "why"))
    assert others(events) == [], "a turn that has started ends with SpeechMetadata"


def test_a_turn_that_ends_without_a_flush_leaves_the_rest_of_the_phrase() -> None:
    stream = Stream()
    stream.turns.speak("One. ")
    stream.sent()
    assert stream.got(SpeechStarted(), SECOND, SpeechMetadata(5)) == [Speech(SECOND)]
    assert stream.say("Two.") == ["Two.", "Flush"]
    assert stream.got(SpeechStarted(), SpeechMetadata(4)) == [PhraseEnd(9)]


def test_frames_are_whole() -> None:
    stream = Stream()
    stream.say("One.")
    events = stream.got(SpeechStarted(), b"\1", b"\2\3", b"", b"\4\5\6", b"\7", SpeechMetadata(4))
    assert events == [Speech(b"\1\2"), Speech(b"\3\4\5\6"), PhraseEnd(4)]
    stream.say("Two.")
    assert stream.got(SpeechStarted(), b"\1\2")[0] == Speech(b"\1\2"), "nothing is carried over"


def test_audio_without_a_turn_is_dropped() -> None:
    assert notices(Stream().got(SECOND)) == ["malformed"]


@pytest.mark.parametrize(
    ("code", "notice"),
    [
        ("INPUT_MARKUP_STRIPPED", "markup_stripped"),
        ("SYNTHESIS_RETRYING", "retrying"),
        ("PRONUNCIATION_WARNINGS", "warning"),
        ("SOMETHING_NEW", "warning"),
        ("NO_AUDIO_GENERATED", "interrupt_ignored"),
    ],
)
def test_warnings_leave_the_turn_as_it_is(code: str, notice: str) -> None:
    stream = Stream()
    stream.say("One.")
    (event,) = stream.got(SpeechStarted(), Warned(code, "why"))
    assert event == Notice(notice, f"{code}: why", harmless=True)
    assert stream.got(SECOND, SpeechMetadata(4)) == [Speech(SECOND), PhraseEnd(4)]


def test_long_texts_are_divided_between_words() -> None:
    stream = Stream(message_characters=20)
    text = "The quick brown fox jumps over thelazydogwithoutanyspaces and on."
    assert stream.say(text) == [
        "The quick brown fox ", "jumps over ", "thelazydogwithoutany", "spaces and on.", "Flush",
    ]  # fmt: skip


# ---- interrupts -----------------------------------------------------------------------------


def speaking(received: bytes = SECOND) -> Stream:
    stream = Stream()
    stream.say("Sure, I can help you.")
    stream.say("And more.")
    assert stream.got(SpeechStarted(), received) == [Speech(received)]
    return stream


def test_an_interrupt_drops_all_phrases() -> None:
    stream = speaking()
    assert stream.interrupt(0.5) == [500]
    assert stream.got(SECOND, SECOND) == [], "audio of the cancelled turn"
    assert stream.say("New.") == [], "not before the answer"
    answer = SpeechInterrupted(500, "Sure,", 21)
    assert stream.got(SECOND, answer) == [Interrupted("Sure,", 21)]
    assert stream.sent() == ["New.", "Flush"]
    assert stream.got(SpeechStarted(), SECOND, SpeechMetadata(4)) == [Speech(SECOND), PhraseEnd(4)]
    assert stream.say("Newer.") == ["Newer.", "Flush"]
    stream.got(SpeechStarted(), SECOND)
    assert stream.interrupt(2.25) == [2250], "rebased on 500 ms: 3 s that nobody heard are gone"


def test_an_interrupt_of_a_phrase_that_is_not_flushed() -> None:
    stream = Stream()
    stream.turns.speak("Sure, ")
    stream.sent()
    stream.got(SpeechStarted(), SECOND)
    assert stream.interrupt(None) == ["Interrupt"]
    assert stream.got(SpeechInterrupted(1000, None, 6)) == [Interrupted(None, 6)]
    assert stream.say("New.") == ["New.", "Flush"]


@pytest.mark.parametrize("spoken", [False, True])
def test_an_interrupt_without_a_turn_is_not_sent(spoken: bool) -> None:
    stream = Stream()
    if spoken:
        stream.say("One.")
        stream.got(SpeechStarted(), SECOND, SpeechMetadata(4))
    assert stream.interrupt(0.0) == []
    assert stream.got() == [Interrupted()]
    assert stream.say("New.") == ["New.", "Flush"]
    stream.got(SpeechStarted(), SECOND)
    assert stream.interrupt(0.5) == [1500 if spoken else 500], "the provider counts what it sent"


def test_text_that_was_not_sent_is_dropped_without_a_trace() -> None:
    stream = Stream()
    stream.turns.speak("One.")
    stream.turns.flush()
    stream.turns.interrupt(None)
    assert stream.sent() == []
    assert stream.got() == [Interrupted()]


def test_each_interrupt_has_an_answer() -> None:
    stream = speaking()
    assert stream.interrupt(0.5) == [500]
    stream.say("Never sent.")
    assert stream.interrupt(0.5) == [], "at most one is handled at a time"
    stream.say("New.")
    answer = SpeechInterrupted(500, "Sure,", 21)
    assert stream.got(answer) == [Interrupted("Sure,", 21), Interrupted()]
    assert stream.sent() == ["New.", "Flush"]


def test_a_turn_that_ends_before_the_interrupt_arrives() -> None:
    stream = speaking()
    assert stream.interrupt(0.5) == [500]
    assert stream.got(SECOND, SpeechMetadata(21)) == [Interrupted(None, 21)]
    assert stream.say("New.") == [], "the answer could be taken for one to a later interrupt"
    assert notices(stream.got(Warned("NO_ACTIVE_SPEECH", ""))) == ["interrupt_ignored"]
    assert stream.sent() == ["New.", "Flush"]
    stream.got(SpeechStarted(), SECOND)
    assert stream.interrupt(1) == [2500], "the provider ignored it, and counts all audio"


def test_a_turn_that_ends_and_is_interrupted_nevertheless() -> None:
    stream = speaking()
    stream.interrupt(0.5)
    assert stream.got(SpeechMetadata(21)) == [Interrupted(None, 21)]
    assert stream.got(SpeechInterrupted(500, "Sure,", 21)) == []
    assert stream.say("New.") == ["New.", "Flush"]


@pytest.mark.parametrize("code", IGNORED)
def test_an_ignored_interrupt_ends_the_discarding_with_the_turn(code: str) -> None:
    """No SpeechInterrupted comes after these warnings."""
    stream = speaking()
    stream.interrupt(0.5)
    events = stream.got(SECOND, Warned(code, "why"))
    assert others(events) == [Interrupted()]
    assert notices(events) == ["interrupt_ignored"]
    assert stream.say("New.") == ([] if code != "INVALID_INTERRUPT_OFFSET" else ["Interrupt"])
    assert stream.got(SECOND, SpeechMetadata(21)) == [], "it was interrupted"
    if stream.turns.interrupting:  # a second Interrupt was sent
        assert notices(stream.got(Warned("NO_ACTIVE_SPEECH", ""))) == ["interrupt_ignored"]
    assert stream.sent()[-2:] == ["New.", "Flush"]
    assert stream.got(SpeechStarted(), SECOND) == [Speech(SECOND)]


def test_an_interrupt_before_any_audio_is_repeated_with_the_first() -> None:
    stream = Stream()
    stream.turns.speak("Sure, ")
    stream.sent()
    assert stream.interrupt(0) == [1]
    assert others(stream.got(Warned("NO_AUDIO_GENERATED", ""))) == [Interrupted()]
    assert stream.sent() == ["Flush"], "else the turn would not end"
    assert stream.got(SpeechStarted(), SECOND) == []
    assert stream.sent() == [2]
    assert stream.got(SECOND, SpeechInterrupted(2, "", 6)) == []
    assert stream.say("New.") == ["New.", "Flush"]


def test_an_offset_that_is_refused_is_left_out() -> None:
    stream = speaking()
    stream.interrupt(0.5)
    stream.got(Warned("INVALID_INTERRUPT_OFFSET", ""))
    assert stream.sent() == ["Interrupt"]
    assert stream.got(SECOND, SpeechInterrupted(2080, None, 21)) == []
    assert stream.say("New.") == ["New.", "Flush"]


def test_an_interrupt_is_repeated_once() -> None:
    stream = speaking()
    stream.interrupt(0.5)
    stream.got(Warned("INVALID_INTERRUPT_OFFSET", ""))
    assert stream.sent() == ["Interrupt"]
    stream.got(Warned("INVALID_INTERRUPT_OFFSET", ""), SECOND)
    assert stream.sent() == []
    stream.got(SpeechMetadata(1))
    assert not stream.turns.interrupting


def test_no_turn_to_interrupt() -> None:
    stream = Stream()
    stream.turns.speak(" ")
    stream.sent()
    assert stream.interrupt(0) == [1]
    assert others(stream.got(Warned("NO_ACTIVE_SPEECH", ""))) == [Interrupted()]
    assert stream.say("New.") == ["New.", "Flush"]


def test_an_interrupt_that_is_not_answered() -> None:
    stream = speaking()
    stream.interrupt(0.5)
    with pytest.raises(Stalled) as caught:
        stream.turns.give_up()
    assert caught.value.cause == "mute"
    stream = speaking()
    stream.interrupt(0.5)
    stream.got(SpeechMetadata(21))
    stream.turns.give_up()
    assert notices(stream.got()) == ["interrupt_unanswered"]
    assert stream.say("New.") == ["New.", "Flush"], "the turn has ended"


def test_an_interrupt_that_nobody_sent() -> None:
    stream = Stream()
    assert notices(stream.got(SpeechInterrupted(0, "", 0))) == ["malformed"]
    assert notices(stream.got(SpeechMetadata(0))) == ["malformed"]
    stream.say("One.")
    with pytest.raises(RemoteProtocolError):
        stream.got(SpeechStarted(), SpeechInterrupted(0, "", 0))


@pytest.mark.parametrize("message", [METADATA, INTERRUPTED], ids=["metadata", "interrupted"])
def test_the_end_of_a_turn_is_never_missed(message: dict[str, Any]) -> None:
    """The message ends the turn, or the stream, whichever part of it is wrong."""
    tried = 0
    for what, changed in mutations(message):
        if isinstance(changed, bytes):
            continue  # a binary frame is audio, whatever it contains
        stream = speaking()
        if message is INTERRUPTED:
            stream.interrupt(0.5)
        tried += 1
        try:
            events = others(stream.got(protocol.decode(changed)))
        except wire.Harmless:
            pytest.fail(f"{what} is skipped")
        except ProviderError:
            continue
        kind = Interrupted if message is INTERRUPTED else PhraseEnd
        assert [type(event) for event in events] == [kind], what
        assert stream.sent() == (["And more.", "Flush"] if kind is PhraseEnd else [])
    assert tried > 50


# ---- the end, settings, errors --------------------------------------------------------------


def test_close_is_sent_when_all_turns_have_ended() -> None:
    stream = Stream()
    stream.say("One.")
    stream.turns.speak("Two.")
    stream.turns.finish()
    assert stream.sent() == []
    stream.got(SpeechMetadata(4))
    assert stream.sent() == ["Two.", "Flush"], "text without a flush is spoken, too"
    assert stream.got(SpeechMetadata(4)) == [PhraseEnd(4)]
    assert stream.sent() == ["Close"]
    assert not stream.turns.complete
    assert stream.got(SessionMetadata()) == []
    assert stream.turns.complete


def test_close_waits_for_the_end_of_an_interrupt() -> None:
    stream = speaking()
    stream.turns.interrupt(0.1)
    stream.turns.finish()
    assert stream.sent() == [100]
    stream.got(SpeechInterrupted(100, "", 1))
    assert stream.sent() == ["Close"]
    assert stream.interrupt(0.1) == []
    assert stream.got() == [Interrupted()]


def test_the_end_of_the_connection_after_close_is_the_end() -> None:
    stream = Stream()
    assert not stream.turns.closed()
    stream.got(SessionMetadata())
    assert not stream.turns.complete, "nobody has sent Close"
    stream.turns.finish()
    assert stream.sent() == ["Close"]
    stream.got(FatalError("NET-0003", ""))
    assert stream.turns.complete, "all turns had ended"


def test_configure_is_sent_before_text() -> None:
    stream = speaking()
    stream.turns.configure({"speed": 1.15})
    assert stream.sent() == ["Configure"], "in a turn, too"


def test_errors_end_the_stream() -> None:
    for code, kind in (("NET-0000", Unavailable), ("NET-0004", Dropped)):
        with pytest.raises(kind):
            speaking().got(FatalError(code, "why"))
    assert notices(speaking().got(protocol.Connected(None))) == ["malformed"]
    assert notices(speaking().got(Notice("unknown"))) == ["unknown"]
