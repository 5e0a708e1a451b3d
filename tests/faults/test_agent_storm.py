"""A small storm on an agent with four sources, two hours of its rotation, and its account."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from natterjack.emulators.tones import TimedWord
from natterjack.events import DurableEvent, FinalEvent, StatusEvent
from natterjack.values import Account as SessionAccount
from natterjack.values import Gap, Word

from ..waiting import bound
from .agent.account import Take, account
from .agent.day import SOURCES as RECORDINGS
from .agent.day import day
from .agent.storm import storm
from .agent.voices import Pipe

FAULTS = 17
"""Each kind once."""


@pytest.mark.slow
@pytest.mark.sound
@pytest.mark.process
@pytest.mark.timeout(900)
async def test_no_fault_costs_a_word_beside_named_gaps(sound_packages: None) -> None:
    """Each kind for a short time: docs/explanation/faults.md has what `make soak` finds."""
    outcome = await storm(FAULTS, 18, lambda line: None, pace=5)
    details = "\n".join([*outcome.lines(), *outcome.log[-200:]])
    assert outcome.faults.total() == FAULTS, details
    assert outcome.clean, details
    assert outcome.unread_seconds < bound(5), details
    assert all(account.words.heard > 20 for account in outcome.accounts), details


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


def take(
    key: str, start: float, *chunks: tuple[float, float], session_id: str | None = None
) -> Take:
    """A take whose position 0 is at `start`, with audio from and to these seconds."""
    found = Take(key, session_id or key, RATE)
    for begin, end in chunks:
        position, frames = round(begin * RATE), round((end - begin) * RATE)
        found.add(position, frames, round((start + begin) * 1e9))
    return found


def events(
    key: str, words: str, first: float, *gaps: tuple[float, float], session_id: str | None = None
) -> list[DurableEvent]:
    """The events of a session with these words, one each second from `first` on."""
    tenant, conversation, speaker = key.split(".")
    common = {
        "session_id": session_id or key, "tenant": tenant, "conversation": conversation,
        "speaker": speaker, "epoch": 1, "published_at": datetime.now(UTC),
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


def test_sessions_of_one_second_share_a_key() -> None:
    first, last = take("t.a-1.s", 1000.0, (0, 2)), take("t.a-2.s", 1006.0, (0, 2))
    seconds = [(n, n + 1.0) for n in range(4)]
    second = take("t.a-1.s", 1002.0, *seconds, session_id="another")
    stored = [
        *events("t.a-1.s", "ab", 0),
        *events("t.a-1.s", "cdef", 0, session_id="another"),
        *events("t.a-2.s", "gh", 0),
    ]
    found = account("a", SAID, [first, second, last], stored, (), exact=True)
    assert found.clean, found
    assert (found.words.heard, found.takes, found.sessions) == (8, 3, 3)
    late = take("t.a-1.s", 1002.2, *seconds, session_id="another")
    found = account("a", SAID, [first, late, last], stored, (), exact=True)
    assert found.problems == ["0.20 s between t.a-1.s and t.a-1.s that no session names"]


def test_a_lost_word_is_lost_unless_a_gap_has_it() -> None:
    successor = take("t.a-1.s", 1000.0, (4, 8), session_id="another")
    whole = [take("t.a-1.s", 1000.0, (0, 4)), successor]
    stored = [
        *events("t.a-1.s", "ab", 0),
        *events("t.a-1.s", "efgh", 4, session_id="another"),
    ]
    lost = account("a", SAID, whole, stored, (), exact=True)
    assert (lost.words.lost, [w.word for w in lost.words.missing]) == (2, ["c", "d"])
    assert not lost.clean
    for holed in (
        [take("t.a-1.s", 1000.0, (0, 2)), successor],
        [
            take("t.a-1.s", 1000.0, (0, 2), (4, 5)),
            take("t.a-1.s", 1000.0, (5, 8), session_id="another"),
        ],
    ):
        found = account("a", SAID, holed, stored, (), exact=True)
        assert (found.words.in_gaps, found.words.lost, found.problems) == (2, 0, [])
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


def test_an_agent_that_was_away_as_briefly_as_times_are_known_may_miss_words() -> None:
    takes = [take("t.a-1.s", 1000.0, (0, 4)), take("t.a-2.s", 1004.2, (0, 3.8))]
    stored = [*events("t.a-1.s", "abcd", 0), *events("t.a-2.s", "fgh", 0.8)]
    found = account("a", SAID, takes, stored, [(1004.0, 1004.3)], exact=False)
    assert (found.words.in_gaps, found.words.lost, found.problems) == (1, 0, [])
    for away, exact in (((), False), ([(1004.0, 1004.3)], True)):
        found = account("a", SAID, takes, stored, away, exact=exact)
        assert (found.words.in_gaps, found.words.lost) == (int(exact), int(not exact))


def test_a_word_that_the_recorder_missed_is_not_doubled() -> None:
    whole = [take("t.a-1.s", 1000.0, (0, 8))]
    stored = events("t.a-1.s", "abcdefgh", 0)
    said = [word for word in SAID if word.word not in "de"]
    assert account("a", said, whole, stored, (), exact=True).words.doubled == 2
    away = [(102.6, 105.0)]
    found = account("a", said, whole, stored, (), exact=True, unheard=away)
    assert (found.words.doubled, found.words.played, found.words.heard) == (0, 8, 8)
    twice = events("t.a-1.s", "abccdefgh", 0)
    found = account("a", said, whole, twice, (), exact=True, unheard=[(102.6, 106.0)])
    assert found.words.doubled == 1


def test_a_pipe_waits_for_a_slow_reader_and_notes_when_there_is_none(tmp_path: Path) -> None:
    now = 100.0
    pipe = Pipe(tmp_path / "pipe", lambda: now)
    pipe.write(b"nobody reads it")
    now = 102.0
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    blocks = [bytes([number]) * 1280 for number in range(80)]  # more than it holds
    for block in blocks:
        pipe.write(block)
    ((since, until),) = pipe.unread
    assert (round(since), until) == (100, 102.0)
    read = b"".join(iter(lambda: _read_and_write(reader, pipe), b""))
    assert read.startswith(b"".join(blocks))
    os.close(reader)
    now = 105.0
    pipe.write(b"nobody reads it any more")
    now = 106.0
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    pipe.write(b"again")
    assert [round(end - begin) for begin, end in pipe.unread] == [2, 1]
    pipe.close()
    os.close(reader)


def _read_and_write(reader: int, pipe: Pipe) -> bytes:
    """Read from the pipe, and then let the writer write on. Return the bytes that were read."""
    try:
        found = os.read(reader, 65_536)
    except BlockingIOError:
        return b""
    if pipe.waiting:
        pipe.write(b"")
    return found
