"""The spool on a disk that does not answer, by a stand-in below its thread."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_capture.chunks import Chunk
from edge_capture.disk import thread
from edge_capture.spool import disk
from edge_capture.spool import session as spool_session
from tests.edge_capture.samples import chunk
from tests.edge_capture.test_resume import spool
from tests.edge_capture.test_spool import ORIGIN, opened, spec, taken
from tests.waiting import bound, soon, until

__all__ = ["spool"]  # a fixture


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Set when the disk answers. Until then, what is synced hangs."""
    monkeypatch.setattr(thread, "HUNG_S", 0.05)
    monkeypatch.setattr(spool_session, "_RETRY_S", 0.0)
    event = threading.Event()

    def sync_later(descriptors: list[int]) -> None:
        event.wait()
        disk.sync_open(descriptors)

    monkeypatch.setattr(spool_session, "sync_open", sync_later)
    yield event
    event.set()


async def test_audio_goes_on_in_memory_and_returns_to_the_disk(
    spool: Path, answer: threading.Event
) -> None:
    keeper = opened(spool)
    backlog = keeper.create(spec(), ORIGIN, "run")
    backlog.set_limits(60, can_wait=False)
    for index in range(200):  # more than are held in memory
        backlog.put(chunk(index))
    keeping = asyncio.create_task(keeper.maintain())
    await until(lambda: keeper._disk.hung, "the disk does not answer")
    assert not backlog.durable
    for index in range(200, 300):
        backlog.put(chunk(index))
    found: list[tuple[int, Chunk]] = []
    while (item := backlog.take()) is not None:
        found.append(item)
    assert len(found) == 64, "the rest waits for what is on the disk"
    other = keeper.create(spec(), ORIGIN, "another run")
    other.set_limits(60, can_wait=False)
    other.put(chunk(0))
    assert not other.directory.exists()
    answer.set()
    await until(lambda: backlog.durable and other.durable, "the disk is used again")
    await until(lambda: backlog.intact and other.intact, "what follows is synced")
    keeping.cancel()
    backlog.put(chunk(300))
    found += await taken(keeper, backlog)
    assert found == [(index, chunk(index)) for index in range(301)]
    keeper._sessions.clear()  # as if the process were killed
    backlog.close()
    other.close()
    await keeper.close()
    later = opened(spool)
    assert {each.run: each.head.index for each in later.adopt()} == {"run": 301, "another run": 1}
    await later.close()


async def test_a_session_is_not_resumed_if_the_program_ends_before_the_disk_answers(
    spool: Path, answer: threading.Event
) -> None:
    """Numbers were used from memory, which the disk does not know."""
    keeper = opened(spool)
    backlog = keeper.create(spec(), ORIGIN, "run")
    backlog.set_limits(60, can_wait=False)
    backlog.put(chunk(0))
    tidying = asyncio.create_task(keeper.tidy())
    await until(lambda: keeper._disk.hung, "the disk does not answer")
    backlog.put(chunk(1))
    assert [backlog.take() for _ in range(2)] == [(0, chunk(0)), (1, chunk(1))]
    await soon(keeper.close(), 30)
    answer.set()
    failed = backlog.directory / "failed.json"
    await until(failed.exists, "the session is said to have failed")
    tidying.cancel()
    backlog.close()
    later = opened(spool)
    (found,) = later.adopt()
    assert not found.intact
    await later.close()


async def test_a_disk_that_hangs_when_files_are_opened_is_said(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are opened in the event loop, since they may be renamed later."""
    monkeypatch.setattr(thread, "HUNG_S", 0.05)
    monkeypatch.setattr(thread, "_WATCH_S", 0.05)
    keeper = opened(spool)
    backlog = keeper.create(spec(), ORIGIN, "run")
    await keeper.tidy()
    said = threading.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "nothing is captured until it does" in record.getMessage():
                said.set()

    def open_late(paths: list[Path]) -> list[int]:
        said.wait(bound(30))
        return disk.open_all(paths)

    monkeypatch.setattr(spool_session, "open_all", open_late)
    backlog.put(chunk(0))
    handler = Handler()
    thread.log.addHandler(handler)
    try:
        await keeper.tidy()
    finally:
        thread.log.removeHandler(handler)
    assert said.is_set()
    await keeper.close()
