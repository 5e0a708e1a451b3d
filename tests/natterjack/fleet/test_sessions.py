"""Merging the records of workers with the requests in the queue."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from natterjack.fleet.roster import SessionRecord, WorkerPage
from natterjack.fleet.sessions import (
    GONE,
    WAITING,
    WITHOUT,
    KeyFilter,
    Request,
    Row,
    StoredPage,
    current,
    holders,
    merged,
    workers,
)
from natterjack.subjects import SessionKey
from natterjack.values import ProviderUsage

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


def stored(
    name: str, *sessions: SessionRecord, ago: float = 0, page: int = 0, pages: int = 1
) -> StoredPage:
    page_record = WorkerPage(
        instance=f"{name}-1", worker=name, page=page, pages=pages, at=NOW, started_at=NOW, slots=4,
        sessions=list(sessions),
    )  # fmt: skip
    return StoredPage(page_record, ago)


def request(session_id: str | None = "session-1", ago: float = 100) -> Request:
    return Request(SessionKey("t", "c", "s"), session_id, NOW, ago)


def rows(pages: list[StoredPage], requests: list[Request] | None) -> list[Row]:
    return merged(holders(current(pages), KeyFilter())[0], requests)


def row(pages: list[StoredPage], requests: list[Request] | None) -> Row:
    (found,) = rows(pages, requests)
    return found


def test_costs_by_currency() -> None:
    found = row([stored("w", record())], [request()])
    assert (found.state, found.worker) == ("streaming", "w")
    assert found.cost == {"USD": 0.75, "EUR": 1}
    assert found.behind_seconds == 0.5


def test_a_session_without_audio_is_not_waiting_in_the_queue() -> None:
    assert row([stored("w", record(state="waiting"))], [request()]).state == WITHOUT["transcribe"]


def test_a_session_without_a_holder_waits_since_its_request() -> None:
    found = row([], [request(ago=7)])
    assert (found.state, found.worker, found.waiting_seconds) == (WAITING, None, 7)
    assert found.behind_seconds == 7


def test_each_unreadable_request_is_shown() -> None:
    assert [r.session_id for r in rows([], [request(None), request(None)])] == [None, None]


def test_a_request_that_was_published_twice_is_one_session() -> None:
    assert row([], [request(ago=7), request(ago=3)]).waiting_seconds == 7


@pytest.mark.parametrize(
    "pages",
    [
        [stored("old", record(epoch=1)), stored("new", record(epoch=2))],
        [stored("old", record(epoch=2), ago=6), stored("new", record(epoch=1))],
        [stored("old", record(epoch=2, state="handed over")), stored("new", record(epoch=1))],
        [stored("old", record(), ago=1), stored("new", record())],
    ],
    ids=["older epoch", "silent", "released", "reported before"],
)
def test_the_holder_of_a_session_that_two_workers_report(pages: list[StoredPage]) -> None:
    for order in (pages, pages[::-1]):
        assert row(order, [request()]).worker == "new"


def test_the_session_of_a_silent_worker() -> None:
    found = row([stored("w", record(lag=2), ago=6)], [request()])
    assert (found.state, found.worker, found.behind_seconds) == (GONE, "w", 8)
    assert rows([stored("w", record(), ago=6)], []) == [], "it has ended elsewhere"
    assert row([stored("w", record(), ago=6)], None).state == GONE, "the queue is unknown"


def test_the_session_of_a_forgotten_worker_waits_since_its_last_report() -> None:
    found = row([stored("w", record(), ago=61)], [request(ago=500)])
    assert (found.state, found.worker, found.waiting_seconds) == (WAITING, None, 61)
    assert found.captured_seconds == 10, "its last report is kept"
    assert rows([stored("w", record(), ago=61)], []) == []
    assert rows([stored("w", record(), ago=61)], None) == []
    assert (
        row([stored("w", record(), ago=61), stored("x", record(epoch=2))], [request()]).worker
        == "x"
    )


def test_pages_left_over_from_a_longer_record_are_ignored() -> None:
    first, second = record("session-1"), record("session-2", key="t.c.z")
    stale = stored("w", second, page=1, pages=2, ago=3)
    both = [stored("w", first, pages=2), stale]
    assert {r.session_id for r in rows(both, None)} == {"session-1", "session-2"}
    assert row([stored("w", first, pages=1), stale], None).session_id == "session-1"
    assert rows([stale], None) == [], "without its first page"


def test_of_a_page_read_twice_the_latest_version_counts() -> None:
    twice = [stored("w", record(), record("session-2", key="t.c.z"), ago=1), stored("w", record())]
    assert row(twice, None).session_id == "session-1"
    assert row(twice[::-1], None).session_id == "session-1"


def test_invalid_keys_are_skipped_and_counted() -> None:
    pages = [stored("w", record(key="*.*.*"), record("session-2", key="a b"), record("session-3"))]
    held, invalid = holders(pages, KeyFilter())
    assert (list(held), invalid) == (["session-3"], 2)


def test_filters_by_the_tokens_of_keys() -> None:
    pages = [stored("w", record(key="t.c.s"), record("session-2", key="t.c.z"))]
    assert list(holders(pages, KeyFilter(speaker="z"))[0]) == ["session-2"]
    assert list(holders(pages, KeyFilter(tenant="t"))[0]) == ["session-1", "session-2"]
    assert KeyFilter("t", None, "z").requests("transcribe") == "stt.session.t.*.z"
    assert KeyFilter("t", None, "z").requests("speak") == "tts.session.t.*.z"


def test_workers_and_their_slots() -> None:
    pages = [
        stored("w", record("session-1"), pages=2),
        stored("w", record("session-2"), page=1, pages=2),
        stored("silent", ago=6),
        stored("forgotten", ago=61),
    ]
    seen = [(worker.name, worker.used, worker.gone) for worker in workers(current(pages))]
    assert sorted(seen) == [("silent", 0, True), ("w", 2, False)]
