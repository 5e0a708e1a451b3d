"""The voice demo's account of a dialogue, and the problems that it counts as failures."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

import pytest

from natterjack.events import FinalEvent, StatusEvent, TurnEvent
from natterjack.local.dialogue import Dialogue, too_different, words_understood
from natterjack.voice.events import UtteranceEvent, VoiceStatusEvent
from natterjack.voice.spec import Played, PlayState

RATE = 24_000
FIRST, SECOND = "the first question has eight words in it", "and this is the second one"


def common(at: float) -> dict[str, Any]:
    return {
        "session_id": "session-1", "tenant": "t", "conversation": "c", "speaker": "s", "epoch": 1,
        "sequence": 1, "published_at": datetime.fromtimestamp(at, UTC),
    }  # fmt: skip


def final(text: str, at: float = 0) -> FinalEvent:
    return FinalEvent(**common(at), segment=0, text=text, start=0, end=1)


def turn(event: Literal["started", "ended"], at: float) -> TurnEvent:
    return TurnEvent(**common(at), turn=0, event=event)


def status(state: Any, reason: str | None = None) -> StatusEvent:
    return StatusEvent(**common(0), state=state, reason=reason, worker="w")


def finished(number: int, text: str) -> UtteranceEvent:
    return UtteranceEvent(**common(0), utterance=number, event="finished", text_spoken=text)


def interrupted(number: int, spoken: str, reason: str = "turn") -> UtteranceEvent:
    return UtteranceEvent(
        **common(0), utterance=number, event="interrupted", reason=reason, text_spoken=spoken
    )


def played(number: int, state: PlayState, seconds: float = 1) -> Played:
    return Played(
        session_id="session-2", utterance=number, position=int(seconds * RATE), state=state
    )


@pytest.fixture
def dialogue() -> Dialogue:
    """The whole demo: two questions, of which the second interrupts the first answer."""
    dialogue = Dialogue()
    dialogue.add(turn("started", 10))
    dialogue.add(final(FIRST))
    dialogue.add(turn("ended", 12))
    assert dialogue.answer()
    dialogue.add_played(played(0, "playing", 0), RATE, 12.25)
    dialogue.add_played(played(0, "playing", 2), RATE, 14.25)
    dialogue.began_talking_at = 14.5
    # The report arrives before the event, although it was published later.
    dialogue.add_played(played(0, "interrupted", 2.5), RATE, 14.93)
    dialogue.add(turn("started", 14.9))
    dialogue.add_speech(interrupted(0, "the first question"))
    dialogue.add(final(SECOND))
    dialogue.add(turn("ended", 18))
    assert dialogue.answer()
    dialogue.add_played(played(1, "playing", 2.5), RATE, 18.5)
    dialogue.add_speech(finished(1, SECOND))
    return dialogue


def test_the_account_of_a_dialogue(dialogue: Dialogue) -> None:
    assert dialogue.problems([FIRST, SECOND]) == []
    assert dialogue.heard == f"the first question {SECOND}"
    assert [line.strip() for line in dialogue.summary()] == [
        "answered     2 turns",
        "speech began at most 0.50 s after the end of the turn",
        "interrupted  after 3 of 8 words",
        "the player was silent 30 ms after the turn began, 430 ms after the voice",
    ]


def test_a_turn_is_answered_once_with_all_its_finals() -> None:
    dialogue = Dialogue()
    assert dialogue.answer() is None
    for text in ("one", " ", "two "):
        dialogue.add(final(text))
    assert not dialogue.unanswered
    dialogue.add(turn("ended", 1))
    dialogue.add(turn("ended", 2))
    answer = dialogue.answer()
    assert answer is not None
    assert answer.turn.text == "one two"
    assert dialogue.answer() is None


def test_the_end_of_a_session_ends_its_turn() -> None:
    dialogue = Dialogue()
    dialogue.add(final("one"))
    dialogue.add(status("closed"))
    assert dialogue.closing is not None
    assert dialogue.unanswered


def test_the_reason_why_nothing_happens_is_kept_until_something_does() -> None:
    dialogue = Dialogue()
    dialogue.add(status("recovering", "no provider"))
    assert (dialogue.problem, dialogue.can_hear) == ("no provider", False)
    dialogue.add(status("streaming"))
    assert (dialogue.problem, dialogue.can_hear) == (None, True)
    failed = VoiceStatusEvent(**common(0), state="failed", reason="no such voice", worker="w")
    dialogue.add_speech(failed)
    assert (dialogue.problem, dialogue.can_speak) == ("no such voice", False)


def test_a_question_that_was_not_understood_is_a_problem(dialogue: Dialogue) -> None:
    assert dialogue.problems([FIRST, "something else entirely"]) == [
        f"question 2 was not understood: {SECOND!r}"
    ]
    (problem,) = dialogue.problems([FIRST, SECOND, "a third"])
    assert problem == "question 3 was not understood: ''"


def test_an_answer_that_was_not_spoken_is_a_problem(dialogue: Dialogue) -> None:
    dialogue.add_speech(interrupted(1, "", "no_player"))
    assert dialogue.problems() == ["answer 2 was not spoken to its end: no_player"]
    dialogue.answers[1].end = None
    assert dialogue.problems() == ["answer 2 was not spoken to its end"]


def test_an_answer_that_was_not_interrupted_is_a_problem(dialogue: Dialogue) -> None:
    dialogue.add_speech(finished(0, FIRST))
    assert dialogue.problems([FIRST, SECOND]) == [
        "the second question did not interrupt the first answer"
    ]
    assert dialogue.problems() == []


def test_silence_is_a_problem() -> None:
    assert Dialogue().problems() == ["nothing was said, so nothing was answered"]


def test_an_interruption_before_the_first_word(dialogue: Dialogue) -> None:
    dialogue.add_speech(interrupted(0, ""))
    assert dialogue.summary()[2:] == ["interrupted  before a word was heard"]


def test_events_and_reports_of_other_utterances_are_left_out(dialogue: Dialogue) -> None:
    """Closing a session may end an utterance without text, which answers nothing."""
    dialogue.add_speech(finished(2, ""))
    dialogue.add_played(played(2, "idle"), RATE, 20)
    assert dialogue.problems([FIRST, SECOND]) == []


def test_words_that_were_understood() -> None:
    assert words_understood("One, two. Three!", "one two free") == (2, 3)
    assert words_understood("one", "two three four") == (0, 1)
    assert not too_different("a b c d e", "a b c d x")
    assert too_different("a b c d", "a b c x")
    assert too_different("", "")
