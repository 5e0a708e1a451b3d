"""Conversations, made of what workers report and of what the stream tells."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.api.activity import Past
from gateway.api.summaries import ConversationSummary, conversations, with_words
from natterjack.fleet.sessions import GONE, Row
from natterjack.subjects import SessionKey

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def row(key: str, session_id: str | None = None, state: str = "streaming", **more: Any) -> Row:
    return Row(key=key, session_id=session_id, state=state, **more)


def past(key: str, session_id: str, minutes: float, *, ended: bool = True, **more: Any) -> Past:
    """A session whose last event came so many minutes ago."""
    last = NOW - timedelta(minutes=minutes)
    opened = last - timedelta(minutes=5)
    state = more.pop("state", "closed" if ended else "streaming")
    return Past(
        SessionKey.parse(key), session_id, state, opened, last, ended_at=last if ended else None,
        **more,
    )  # fmt: skip


def made(rows: list[Row], before: list[Past], limit: int = 100) -> list[ConversationSummary]:
    return conversations(rows, before, limit, NOW)


def test_open_conversations_come_first_and_then_the_newest() -> None:
    rows = [row("t.old.s", "1", opened_at=NOW - timedelta(hours=5))]
    before = [past("t.a.s", "2", 10), past("t.b.s", "3", 1)]
    assert [each.conversation for each in made(rows, before)] == ["old", "b", "a"]


def test_a_session_that_is_reported_and_stored_counts_once() -> None:
    found = made(
        [row("t.c.s", "1", worker="w", cost={"USD": 0.5})], [past("t.c.s", "1", 1, ended=False)]
    )
    assert len(found) == 1
    assert [(s.worker, s.cost) for s in found[0].sessions] == [("w", {"USD": 0.5})]
    assert found[0].open


def test_a_session_that_has_just_ended_is_not_open_though_its_worker_still_reports_it() -> None:
    found = made([row("t.c.s", "1", state="closed")], [past("t.c.s", "1", 0.01)])
    assert not found[0].open
    assert found[0].state == "closed"


def test_a_session_that_no_worker_reports_yet_is_open_and_later_not() -> None:
    assert made([], [past("t.c.s", "1", 0.1, ended=False)])[0].open
    assert not made([], [past("t.c.s", "1", 60, ended=False)])[0].open


def test_the_sum_of_a_conversation() -> None:
    before = [past("t.c.a", "1", 3, cost={"USD": 1.0}, captured_seconds=60)]
    rows = [
        row("t.c.b", "2", lag_seconds=0.5, cost={"USD": 0.25}, captured_seconds=30),
        row("t.c.c", "3", state=GONE, lag_seconds=1, told_seconds_ago=8),
        row("t.c.d", state="waiting", waiting_seconds=4),
    ]
    (found,) = made(rows, before)
    assert found.cost == {"USD": 1.25}
    assert found.captured_seconds == 90
    assert found.state == GONE
    assert found.lag_seconds == 9
    assert len(found.sessions) == 4


def test_the_limit_leaves_out_ended_conversations_alone() -> None:
    rows = [row(f"t.open{n}.s", str(n)) for n in range(3)]
    before = [past("t.ended.s", "9", 1)]
    assert len(made(rows, before, limit=2)) == 3
    assert len(made(rows, before, limit=4)) == 4


def test_last_words_are_those_of_the_newest_session_that_has_some() -> None:
    found = made([row("t.c.a", "1"), row("t.c.b", "2")], [])
    with_words(found, {"1": "hello"})
    assert found[0].last_words == "hello"
