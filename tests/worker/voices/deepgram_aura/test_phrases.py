"""Which phrase audio and answers belong to, whatever order the answers to an interrupt have."""

from __future__ import annotations

import pytest

from natterjack.plugin import Interrupted, Notice, PhraseEnd, Speech, Unavailable, VoiceStreamEvent
from worker.voices.deepgram_aura.phrases import Phrases
from worker.voices.deepgram_aura.protocol import (
    Cleared,
    Failed,
    Flushed,
    Message,
    Metadata,
    Unknown,
    Warned,
)

TOO_MANY = Warned("EXCESSIVE_FLUSH", "Too many flush messages.")


def say(phrases: Phrases, text: str) -> None:
    phrases.sent(len(phrases.add(text)))
    phrases.flush()


def received(phrases: Phrases, *messages: bytes | Message) -> list[VoiceStreamEvent]:
    events: list[VoiceStreamEvent] = []
    for one in messages:
        events += phrases.audio(one) if isinstance(one, bytes) else phrases.receive(one)
    return events


@pytest.fixture
def phrases() -> Phrases:
    return Phrases(frame_bytes=2)


def test_answers_come_in_order(phrases: Phrases) -> None:
    say(phrases, "one")
    say(phrases, "three")
    assert received(phrases, b"aa", Flushed(), b"bb", b"cc", Flushed()) == [
        Speech(b"aa"), PhraseEnd(3), Speech(b"bb"), Speech(b"cc"), PhraseEnd(5),
    ]  # fmt: skip
    assert phrases.complete


def test_audio_may_come_before_the_flush(phrases: Phrases) -> None:
    phrases.sent(len(phrases.add("One. ")))
    assert received(phrases, b"aa") == [Speech(b"aa")]
    assert not phrases.complete
    phrases.flush()
    assert received(phrases, Flushed()) == [PhraseEnd(5)]


def test_bytes_of_a_frame_are_carried_within_a_phrase(phrases: Phrases) -> None:
    say(phrases, "one")
    assert received(phrases, b"abc", b"", b"d", b"e", b"f", b"g", Flushed()) == [
        Speech(b"ab"), Speech(b"cd"), Speech(b"ef"), PhraseEnd(3),
    ]  # fmt: skip
    say(phrases, "two")
    assert received(phrases, b"hi") == [Speech(b"hi")], "half a frame is no part of the next phrase"
    phrases.interrupt()
    received(phrases, b"x", Cleared())
    say(phrases, "two")
    assert received(phrases, b"hi") == [Speech(b"hi")]


@pytest.mark.parametrize("text", ["", " \n", "...", "“—”"])
def test_nothing_to_speak_is_not_sent_and_ends_in_its_place(phrases: Phrases, text: str) -> None:
    say(phrases, "one")
    assert phrases.add(text) == ""
    assert not phrases.unflushed
    phrases.flush()
    say(phrases, "three")
    assert phrases.due() == []
    assert received(phrases, b"aa", Flushed(), b"bb") == [
        Speech(b"aa"), PhraseEnd(3), PhraseEnd(0), Speech(b"bb"),
    ]  # fmt: skip


def test_text_that_begins_with_nothing_to_speak_is_sent_whole(phrases: Phrases) -> None:
    assert phrases.add(" ") == ""
    assert phrases.add("“") == ""
    assert phrases.has_text
    assert phrases.add("Yes") == " “Yes"
    phrases.sent(5)
    assert phrases.add(" ") == " "


@pytest.mark.parametrize(
    "answers",
    [
        [Cleared()],
        [Flushed(), Flushed(), Cleared()],
        [Flushed(), Cleared(), Flushed()],
        [Cleared(), Flushed(), Flushed()],
        [b"zz", b"z", Cleared(), Flushed()],
    ],
)
def test_flushes_that_an_interrupt_overtook_may_be_answered_or_not(
    phrases: Phrases, answers: list[bytes | Message]
) -> None:
    say(phrases, "one")
    say(phrases, "three")
    phrases.sent(len(phrases.add("seven")))
    received(phrases, b"aa")
    phrases.interrupt()
    assert phrases.clearing
    say(phrases, "new")
    say(phrases, "newer")
    events = received(phrases, *answers)
    assert events == [Interrupted(None, 13)]
    assert not phrases.clearing
    assert received(phrases, b"nn", Flushed(), b"mm", Flushed()) == [
        Speech(b"nn"), PhraseEnd(3), Speech(b"mm"), PhraseEnd(5),
    ]  # fmt: skip
    assert phrases.complete


def test_answered_flushes_do_not_hide_that_of_a_phrase_without_audio(phrases: Phrases) -> None:
    say(phrases, "one")
    phrases.interrupt()
    received(phrases, Flushed(), Cleared())
    phrases.flush()
    say(phrases, "*")
    assert received(phrases, Flushed()) == [PhraseEnd(0), PhraseEnd(1)]


def test_interrupts_in_a_row(phrases: Phrases) -> None:
    say(phrases, "one")
    phrases.interrupt()
    say(phrases, "two")
    phrases.interrupt()
    assert received(phrases, b"aa", Cleared(), b"bb", Flushed(), Cleared()) == [
        Interrupted(None, 3), Interrupted(None, 3),
    ]  # fmt: skip
    assert phrases.complete


def test_audio_without_text_is_dropped(phrases: Phrases) -> None:
    phrases.interrupt()
    assert received(phrases, Cleared(), b"aa") == [Interrupted(None, 0)]
    assert received(phrases, b"bb") == []


def test_an_empty_phrase_waits_for_the_answer_to_an_interrupt(phrases: Phrases) -> None:
    say(phrases, "one")
    phrases.interrupt()
    phrases.flush()
    assert phrases.due() == []
    assert received(phrases, Cleared()) == [Interrupted(None, 3)]
    assert phrases.due() == [PhraseEnd(0)]


def test_an_ignored_flush_is_an_error_when_its_turn_comes(phrases: Phrases) -> None:
    """The phrase has no answer; the audio of earlier ones is still returned."""
    say(phrases, "one")
    say(phrases, "three")
    (notice,) = received(phrases, TOO_MANY)
    assert notice == Notice("warning", "EXCESSIVE_FLUSH: Too many flush messages.", harmless=True)
    assert received(phrases, b"aa", Flushed()) == [Speech(b"aa"), PhraseEnd(3)]
    with pytest.raises(Unavailable) as caught:
        phrases.due()
    assert caught.value.cause == "rate_limit"


def test_an_interrupt_forgets_an_ignored_flush(phrases: Phrases) -> None:
    say(phrases, "one")
    received(phrases, TOO_MANY)
    phrases.interrupt()
    say(phrases, "two")
    assert received(phrases, Cleared(), b"aa", Flushed())[1:] == [Speech(b"aa"), PhraseEnd(3)]


def test_other_messages_change_nothing(phrases: Phrases) -> None:
    say(phrases, "one")
    events = received(phrases, Metadata("r-1"), Warned("W", "Careful."), Unknown("Weather"))
    assert [event.code for event in events if isinstance(event, Notice)] == ["warning", "unknown"]
    assert phrases.reference == "r-1"
    assert received(phrases, b"aa", Flushed()) == [Speech(b"aa"), PhraseEnd(3)]
    events = received(phrases, Flushed(), Cleared())
    assert [event.code for event in events if isinstance(event, Notice)] == ["unknown"] * 2
    with pytest.raises(Unavailable, match=r"No\."):
        received(phrases, Failed("E", "No."))
