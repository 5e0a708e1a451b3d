"""The table of an edge's faults counts words as lost, doubled or in a gap. Nothing is started."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from natterjack.emulators import tones
from natterjack.events import DurableEvent, FinalEvent, StatusEvent
from natterjack.values import Account, Word

from .edge_table.balance import (
    Result,
    Sums,
    Words,
    add_up,
    compare,
    gaps_of,
    transcript,
)

WORDS = tones.sequence(40)
BOOT = 1234.5
"""When the session began, by the clock of the microphone's words."""


def spoken(*ranges: range, shift: float = 0.0) -> list[tones.TimedWord]:
    """Words of the sequence, one every half second."""
    return [
        tones.TimedWord(WORDS[n], shift + n / 2, shift + n / 2 + tones.WORD_SECONDS)
        for each in ranges
        for n in each
    ]


def test_each_word_once() -> None:
    found = compare(spoken(range(40), shift=BOOT), spoken(range(40)), [])
    assert (found.played, found.heard, found.lost, found.doubled) == (40, 40, 0, 0)
    assert found.worst_time_seconds == pytest.approx(0, abs=1e-9)


def test_a_missing_word_is_lost_unless_a_gap_is_named() -> None:
    played, received = spoken(range(40), shift=BOOT), spoken(range(10), range(14, 40))
    assert compare(played, received, []).lost == 4
    named = compare(played, received, [(5.0, 7.0)])
    assert (named.lost, named.in_gaps, named.heard) == (0, 4, 36)
    assert compare(played, received, [(5.1, 5.3)]).lost == 3, "the gap has only one of them"
    assert compare(played, received, [(15.0, 17.0)]).lost == 4, "the gap is somewhere else"


def test_what_is_wrong_says_where_it_is() -> None:
    played, received = spoken(range(40), shift=BOOT), spoken(range(10), range(11, 40), range(3, 4))
    lost, doubled = compare(played, received, [(1.0, 2.0), (5.5, 7.0)]).notes
    assert lost == f"{WORDS[10]!r} played and not heard, 5.000-5.240 s; gap 5.500-7.000"
    assert doubled == f"{WORDS[3]!r} heard more than once, 1.500-1.740 s; gap 1.000-2.000"
    row = Result("a", "row", words=compare(played, received, []))
    assert [line for line in row.details() if line.endswith("no gap")]


def test_a_gap_is_found_on_a_clock_that_has_moved() -> None:
    """Audio was lost without a name before the gap; what the gap has is named all the same."""
    played = spoken(range(40), shift=BOOT)
    received = [*spoken(range(10)), *spoken(range(12, 20), range(24, 40), shift=-1.0)]
    found = compare(played, received, [(9.0, 11.0)])
    assert (found.lost, found.in_gaps) == (2, 4)


def test_words_are_lost_at_the_beginning_and_at_the_end() -> None:
    played = spoken(range(40), shift=BOOT)
    found = compare(played, spoken(range(3, 30)), [(0.0, 1.5)])
    assert (found.in_gaps, found.lost) == (3, 10)
    assert compare(played, spoken(range(30)), [(15.0, 20.0)]).in_gaps == 10


def test_doubled_and_moved_words() -> None:
    played = spoken(range(40), shift=BOOT)
    assert compare(played, spoken(range(10), range(8, 40)), []).doubled == 2
    moved = compare(played, spoken(range(9), range(10, 12), range(9, 10), range(12, 40)), [])
    assert (moved.out_of_order, moved.lost, moved.doubled) == (1, 0, 0)


def test_a_word_that_only_the_edge_heard_before_the_server_died() -> None:
    played = spoken(range(10), range(15, 40), shift=BOOT)
    gaps = [(5.3, 7.4)]
    found = compare(played, spoken(range(11), range(15, 40)), gaps)
    assert (found.played, found.heard, found.doubled) == (36, 36, 0)
    doubled = spoken(range(10), range(9, 10), range(15, 40))
    assert compare(played, doubled, gaps).doubled == 1


def test_a_word_that_only_the_edge_heard_at_once_when_the_microphone_came_back() -> None:
    """The end of the gap and the beginning of the word are measured with different clocks."""
    played = spoken(range(10), range(15, 40), shift=BOOT)
    for end in (6.99, 7.0, 7.01):
        found = compare(played, spoken(range(10), range(14, 40)), [(5.3, end)])
        assert (found.played, found.heard, found.doubled) == (36, 36, 0)
    assert compare(played, spoken(range(10), range(14, 40)), [(5.3, 7.1)]).doubled == 1


def test_times_that_move_are_measured() -> None:
    received = [*spoken(range(20)), *spoken(range(20, 40), shift=-0.35)]
    found = compare(spoken(range(40), shift=BOOT), received, [])
    assert found.worst_time_seconds == pytest.approx(0.35)


# ---- accounts ------------------------------------------------------------------------------------


def _common(session: str, sequence: int) -> dict[str, Any]:
    return {
        "session_id": session, "tenant": "t", "conversation": "c", "speaker": "s", "epoch": 1,
        "published_at": datetime.now(UTC), "sequence": sequence,
    }  # fmt: skip


def _session(name: str, transcribed: float, **gaps: float) -> list[DurableEvent]:
    word = Word(text="one", start=1, end=1.2)
    account = Account.model_validate(
        {
            "transcribed_seconds": transcribed,
            "gap_seconds": gaps,
            "gaps": [{"start": 2, "end": 2 + s, "cause": cause} for cause, s in gaps.items()],
        }
    )
    return [
        FinalEvent(**_common(name, 0), segment=0, text="one", words=[word], start=1, end=2),
        StatusEvent(
            **_common(name, 1), state="closed", reason="budget", worker="w", account=account
        ),
    ]


def test_accounts_of_successors_are_added_up() -> None:
    events = [*_session("session-1", 5.0, edge=1.0), *_session("session-2", 7.0, edge=2, missing=3)]
    sums = add_up(events)
    assert (sums.transcribed, sums.gaps) == (12.0, {"edge": 3.0, "missing": 3.0})
    assert (sums.sessions, sums.problems) == (["closed: budget"] * 2, [])
    assert transcript(events) == [tones.TimedWord("one", 1.0, 1.2)] * 2
    assert gaps_of(events) == [(2, 3), (2, 4), (2, 5)]


def test_a_session_that_stays_open_is_a_problem() -> None:
    sums = add_up(_session("session-1", 5.0)[:1])
    assert sums.sessions == ["open"]
    assert sums.problems == ["session session-1 has 0 closing events"]


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({}, True),
        ({"wall": 12.3}, False),
        ({"words": Words(played=9, heard=8, lost=1)}, False),
        ({"words": Words(played=9, heard=9, doubled=1)}, False),
        ({"words": Words()}, False),  # a microphone without words shows nothing
        ({"problems": ["the edge does not end"]}, False),
        ({"sums": Sums(10, {"edge": 2.0}, problems=["open"])}, False),
    ],
)
def test_a_row_is_met_if_the_audio_adds_up_and_no_word_is_lost(
    changes: dict[str, Any], passes: bool
) -> None:
    row: dict[str, Any] = {
        "wall": 12.1, "sums": Sums(10, {"edge": 2.0}), "words": Words(played=9, heard=9)
    }  # fmt: skip
    result = Result("name", "title", **(row | changes))
    assert result.passed == passes
    assert ("**no**" in result.cells()) != passes
