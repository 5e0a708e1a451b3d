"""The account of a voice session: it finds every kind of fault, and none where there is none."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from natterjack.voice.events import UtteranceEvent, VoiceEvent, VoiceStatusEvent

from .account import CALM_WORDS, DISTURBED_WORDS, LEAD, WORDS, Account, Said, account

TEXT = f"{LEAD} {' '.join(WORDS[:10])}."
FIRST = list(WORDS[:10])


def events(*utterances: dict[str, Any]) -> list[VoiceEvent]:
    """The events of a session with these utterances, and its end."""
    common: dict[str, Any] = {
        "session_id": "session-1", "tenant": "t", "conversation": "c", "speaker": "s", "epoch": 1,
        "published_at": datetime.now(UTC),
    }  # fmt: skip
    found: list[VoiceEvent] = []
    for fields in utterances:
        sequence = len(found)
        found.append(UtteranceEvent(**common, sequence=sequence, **{"utterance": 0, **fields}))
    closed: Any = {"state": "closed", "worker": "w"}
    return [*found, VoiceStatusEvent(**common, sequence=len(found), **closed)]


STARTED = {"event": "started"}
FINISHED = {"event": "finished", "text_spoken": TEXT}


def interrupted(words: int, *, estimated: bool = False, **fields: Any) -> dict[str, Any]:
    at = len(" ".join([LEAD, *WORDS[:words]])) + 1
    return {
        "event": "interrupted", "text_spoken": TEXT[:at], "text_remaining": TEXT[at:],
        "reason": "request", "estimated": estimated, **fields,
    }  # fmt: skip


def found(heard: list[str], *ends: dict[str, Any], cut: bool = False, **how: Any) -> Account:
    return account([Said(TEXT, cut=cut)], events(STARTED, *ends), [LEAD, *heard], **how)


def test_what_was_said_and_heard_is_clean() -> None:
    one = found(FIRST, FINISHED)
    assert one.clean, one
    assert (one.words, one.heard, one.interrupted) == (10, 10, 0)


def test_lost_doubled_and_misplaced_words_are_counted() -> None:
    assert found(FIRST[:4] + FIRST[5:], FINISHED).lost == 1
    assert found([*FIRST, FIRST[3]], FINISHED).doubled == 1
    assert found([FIRST[1], FIRST[0], *FIRST[2:]], FINISHED).out_of_order == 1
    assert found([*FIRST, WORDS[50]], FINISHED).problems


def test_an_interrupt_that_is_reported_as_exact_is_exact() -> None:
    assert found(FIRST[:4], interrupted(4)).clean
    for count in (3, 5):
        assert found(FIRST[:count], interrupted(4)).misreported == 1
    assert found([*FIRST[:2], FIRST[3]], interrupted(4)).lost == 1


def test_a_word_that_was_nearly_whole_may_be_heard() -> None:
    """The lead and four words take 1.6 s, of which the last 0.08 s are silent."""
    assert found(FIRST[:4], interrupted(3, start=2, end=2 + 1.518)).clean
    assert found(FIRST[:4], interrupted(3, start=2, end=2 + 1.5)).misreported == 1
    assert found(FIRST[:4], interrupted(5, start=2, end=2 + 1.518)).misreported == 1
    assert found(FIRST[:4], interrupted(2, start=2, end=2 + 1.518)).misreported == 2


def test_an_estimate_has_a_bound_that_is_wider_while_the_player_is_away() -> None:
    end = interrupted(4, estimated=True)
    one = found(FIRST[: 4 + CALM_WORDS], end)
    assert one.clean, one
    assert one.calm_estimates == [CALM_WORDS]
    assert found(FIRST[: 4 + CALM_WORDS + 1], end).misreported == CALM_WORDS + 1
    one = found(FIRST[: 4 + CALM_WORDS + 1], end, calm=lambda at: False)
    assert one.clean, one
    assert (one.estimates, one.calm_estimates) == ([CALM_WORDS + 1], [])
    assert DISTURBED_WORDS > 10 / 0.32, "what is ahead of playback"


def test_each_utterance_ends_once() -> None:
    assert any("has 2 ends" in problem for problem in found(FIRST, FINISHED, FINISHED).problems)
    assert any("started 2 times" in problem for problem in found(FIRST, STARTED, FINISHED).problems)
    assert found(FIRST).problems
    assert found(FIRST).lost == 0


def test_text_that_the_application_has_dropped_may_have_no_end_but_is_not_heard() -> None:
    assert account([Said(TEXT, cut=True)], events(), []).clean
    assert account([Said(TEXT, cut=True)], events(), FIRST[:1]).misreported == 1
    assert account([Said(TEXT)], events(), []).lost == 10
