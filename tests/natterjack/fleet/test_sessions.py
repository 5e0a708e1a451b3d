"""Who has what, from records and requests as they may come together."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from natterjack.events import ProviderUsage
from natterjack.fleet.roster import SessionRecord, WorkerPage
from natterjack.fleet.sessions import (
    GONE,
    NO_AUDIO,
    WAITING,
    KeyFilter,
    Request,
    Row,
    Told,
    current,
    holders,
    settled,
    workers,
)
from natterjack.subjects import SessionKey

NOW = datetime.now(UTC)


def record(
    session_id: str = "session-1", *, key: str = "t.c.s", epoch: int = 1, state: str = "streaming",
    lag: float = 0.5,
) -> SessionRecord:  # fmt: skip
    usage = {
        "a": ProviderUsage(cost=0.25, currency="USD"),
        "b": ProviderUsage(cost=0.5, currency="USD"),
        "c": ProviderUsage(cost=1, currency="EUR"),
    }
    return SessionRecord(
        key=key, session_id=session_id, epoch=epoch, holder="h", state=state, opened_at=NOW,
        lag_seconds=lag, captured_seconds=10, providers=usage,
    )  # fmt: skip


def told(
    name: str, *sessions: SessionRecord, ago: float = 0, page: int = 0, pages: int = 1
) -> Told:
    record = WorkerPage(
        instance=f"{name}-1", worker=name, page=page, pages=pages, at=NOW, started_at=NOW, slots=4,
        sessions=list(sessions),
    )  # fmt: skip
    return Told(record, ago)


def request(session_id: str | None = "session-1", ago: float = 100) -> Request:
    return Request(SessionKey("t", "c", "s"), session_id, NOW, ago)


def rows(pages: list[Told], requests: list[Request] | None) -> list[Row]:
    return settled(holders(current(pages), KeyFilter())[0], requests)


def row(pages: list[Told], requests: list[Request] | None) -> Row:
    (found,) = rows(pages, requests)
    return found


def test_a_session_and_its_money_by_currency() -> None:
    found = row([told("w", record())], [request()])
    assert (found.state, found.worker) == ("streaming", "w")
    assert found.cost == {"USD": 0.75, "EUR": 1}
    assert found.behind_seconds == 0.5


def test_a_worker_that_awaits_sound_is_not_taken_for_the_queue() -> None:
    assert row([told("w", record(state="waiting"))], [request()]).state == NO_AUDIO


def test_what_nobody_holds_waits_since_it_was_asked_for() -> None:
    found = row([], [request(ago=7)])
    assert (found.state, found.worker, found.waiting_seconds) == (WAITING, None, 7)
    assert found.behind_seconds == 7


def test_requests_that_cannot_be_read_are_shown_each() -> None:
    assert [r.session_id for r in rows([], [request(None), request(None)])] == [None, None]


def test_a_request_published_twice_is_one_session() -> None:
    assert row([], [request(ago=7), request(ago=3)]).waiting_seconds == 7


@pytest.mark.parametrize(
    "pages",
    [
        [told("old", record(epoch=1)), told("new", record(epoch=2))],
        [told("old", record(epoch=2), ago=6), told("new", record(epoch=1))],
        [told("old", record(epoch=2, state="handed over")), told("new", record(epoch=1))],
        [told("old", record(), ago=1), told("new", record())],
    ],
    ids=["older epoch", "silent", "has let go", "told before"],
)
def test_of_two_that_name_a_session_the_holder_is_shown(pages: list[Told]) -> None:
    for order in (pages, pages[::-1]):
        assert row(order, [request()]).worker == "new"


def test_a_silent_worker_and_what_became_of_its_session() -> None:
    found = row([told("w", record(lag=2), ago=6)], [request()])
    assert (found.state, found.worker, found.behind_seconds) == (GONE, "w", 8)
    assert rows([told("w", record(), ago=6)], []) == [], "it has ended elsewhere"
    assert row([told("w", record(), ago=6)], None).state == GONE, "the queue is unknown"


def test_a_session_of_a_long_gone_worker_waits_since_it_went() -> None:
    found = row([told("w", record(), ago=61)], [request(ago=500)])
    assert (found.state, found.worker, found.waiting_seconds) == (WAITING, None, 61)
    assert found.captured_seconds == 10, "what was known of it is kept"
    assert rows([told("w", record(), ago=61)], []) == []
    assert rows([told("w", record(), ago=61)], None) == []
    assert row([told("w", record(), ago=61), told("x", record(epoch=2))], [request()]).worker == "x"


def test_pages_that_a_record_has_no_more_do_not_count() -> None:
    first, second = record("session-1"), record("session-2", key="t.c.z")
    stale = told("w", second, page=1, pages=2, ago=3)
    both = [told("w", first, pages=2), stale]
    assert {r.session_id for r in rows(both, None)} == {"session-1", "session-2"}
    assert row([told("w", first, pages=1), stale], None).session_id == "session-1"
    assert rows([stale], None) == [], "without its first page"


def test_a_page_read_twice_counts_once_as_it_was_told_last() -> None:
    twice = [told("w", record(), record("session-2", key="t.c.z"), ago=1), told("w", record())]
    assert row(twice, None).session_id == "session-1"
    assert row(twice[::-1], None).session_id == "session-1"


def test_keys_that_are_none_are_left_out_and_counted() -> None:
    pages = [told("w", record(key="*.*.*"), record("session-2", key="a b"), record("session-3"))]
    held, odd = holders(pages, KeyFilter())
    assert (list(held), odd) == (["session-3"], 2)


def test_filters_by_the_parts_of_keys() -> None:
    pages = [told("w", record(key="t.c.s"), record("session-2", key="t.c.z"))]
    assert list(holders(pages, KeyFilter(speaker="z"))[0]) == ["session-2"]
    assert list(holders(pages, KeyFilter(tenant="t"))[0]) == ["session-1", "session-2"]
    assert KeyFilter("t", None, "z").requests == "stt.session.t.*.z"


def test_workers_and_their_slots() -> None:
    pages = [
        told("w", record("session-1"), pages=2),
        told("w", record("session-2"), page=1, pages=2),
        told("silent", ago=6),
        told("forgotten", ago=61),
    ]
    seen = [(worker.name, worker.used, worker.gone) for worker in workers(current(pages))]
    assert sorted(seen) == [("silent", 0, True), ("w", 2, False)]
