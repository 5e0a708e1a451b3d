"""A small storm on an agent with four sources, two hours of its rotation, and its account."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from natterjack.emulators.tones import TimedWord
from natterjack.events import Account as SessionAccount
from natterjack.events import DurableEvent, FinalEvent, Gap, StatusEvent, Word

from .agent.account import Take, account
from .agent.day import SOURCES as RECORDINGS
from .agent.day import day
from .agent.storm import storm

FAULTS = 8
SOUND = ("sound server killed", "microphone unloaded", "stop, start")
"""Faults after which words are lost or doubled: docs/explanation/faults.md."""


@pytest.mark.slow
@pytest.mark.sound
@pytest.mark.process
@pytest.mark.timeout(900)
async def test_faults_cost_no_more_than_single_words_beside_named_gaps(
    sound_packages: None,
) -> None:
    """Not all that is promised: docs/explanation/faults.md has what `make soak` finds."""
    outcome = await storm(FAULTS, 18, lambda line: None, without=SOUND)
    details = "\n".join([*outcome.lines(), *outcome.log[-200:]])
    assert outcome.faults.total() == FAULTS, details
    assert not outcome.problems, details
    words = [account.words for account in outcome.accounts]
    assert sum(each.lost + each.doubled for each in words) <= FAULTS // 2, details
    assert all(account.words.heard > 50 for account in outcome.accounts), details


@pytest.mark.slow
@pytest.mark.process
async def test_sessions_rotate_without_a_gap() -> None:
    outcome = await day(1.5, lambda line: None)
    assert not outcome.problems, outcome.lines()
    sessions = sum(map(len, outcome.sessions.values()))
    assert 2 * RECORDINGS <= sessions <= 3 * RECORDINGS
    assert len(outcome.log) < 100


# ---- the account ---------------------------------------------------------------------------------

RATE = 1000
SAID = [TimedWord(word, 100 + n, 100.4 + n) for n, word in enumerate("abcdefgh")]
"""Each second one, by a clock that is 900 s behind that of the agent."""


def take(key: str, start: float, *chunks: tuple[float, float]) -> Take:
    """A take whose position 0 is at `start`, with audio from and to these seconds."""
    found = Take(key, RATE)
    for begin, end in chunks:
        position, frames = round(begin * RATE), round((end - begin) * RATE)
        found.add(position, frames, round((start + begin) * 1e9))
    return found


def events(key: str, words: str, first: float, *gaps: tuple[float, float]) -> list[DurableEvent]:
    """The events of a session with these words, one each second from `first` on."""
    tenant, conversation, speaker = key.split(".")
    common = {
        "session_id": key, "tenant": tenant, "conversation": conversation, "speaker": speaker,
        "epoch": 1, "published_at": datetime.now(UTC),
    }  # fmt: skip
    end = first + len(words)
    spoken = tuple(Word(text=w, start=first + n, end=first + n + 0.4) for n, w in enumerate(words))
    final = FinalEvent(
        **common, sequence=0, segment=0, text=words, start=first, end=end, words=spoken
    )
    lost = tuple(Gap(start=start, end=stop, cause="muted") for start, stop in gaps)
    summary = SessionAccount(
        captured_seconds=end, received_seconds=end, sent_seconds=end, transcribed_seconds=end,
        gaps=lost,
    )  # fmt: skip
    closed = StatusEvent(**common, sequence=1, state="closed", worker="w", account=summary)
    return [final, closed]


def test_words_of_several_takes_are_put_on_one_clock() -> None:
    takes = [take("t.a-2.s", 1004.0, (0, 4)), take("t.a-1.s", 1000.0, (0, 4))]
    stored = [*events("t.a-2.s", "efgh", 0), *events("t.a-1.s", "abcd", 0)]
    found = account("a", SAID, takes, stored, (), exact=True)
    assert found.clean, found
    assert (found.words.heard, found.takes, found.absent_seconds) == (8, 2, 0)


def test_a_lost_word_is_lost_unless_a_gap_has_it() -> None:
    whole = [take("t.a-1.s", 1000.0, (0, 8))]
    stored = [*events("t.a-1.s", "ab", 0), *events("t.a-1.s", "efgh", 4)]
    for each in stored[2:]:
        object.__setattr__(each, "session_id", "another")
    lost = account("a", SAID, whole, stored, (), exact=True)
    assert (lost.words.lost, [w.word for w in lost.words.missing]) == (2, ["c", "d"])
    assert not lost.clean
    holed = [take("t.a-1.s", 1000.0, (0, 2), (4, 8))]
    assert account("a", SAID, holed, stored, (), exact=True).words.in_gaps == 2
    named = [*events("t.a-1.s", "ab", 0, (2.0, 4.0)), *stored[2:]]
    assert account("a", SAID, whole, named, (), exact=True).words.in_gaps == 2


def test_time_between_takes_needs_a_reason() -> None:
    takes = [take("t.a-1.s", 1000.0, (0, 2)), take("t.a-2.s", 1004.0, (0, 4))]
    stored = [*events("t.a-1.s", "ab", 0), *events("t.a-2.s", "efgh", 0)]
    found = account("a", SAID, takes, stored, [(1001.9, 1004.1)], exact=True)
    assert found.clean, found
    assert (found.words.in_gaps, found.absent_seconds) == (2, 2.0)
    found = account("a", SAID, takes, stored, [], exact=True)
    assert "2.00 s between t.a-1.s and t.a-2.s that no session names" in found.problems
