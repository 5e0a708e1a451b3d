"""The thread of a directory: what is said of a disk that does not answer, and that it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_capture.disk import thread as module
from edge_capture.disk.thread import DiskThread
from tests.waiting import soon, until

DIRECTORY = Path("/mnt/audio")


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Set when the disk answers."""
    monkeypatch.setattr(module, "HUNG_S", 0.05)
    monkeypatch.setattr(module, "_WATCH_S", 0.05)
    event = threading.Event()
    yield event
    event.set()


async def test_a_disk_that_does_not_answer_is_said_and_used_again(
    answer: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[str] = []
    disk = DiskThread("EDGE_SPOOL", DIRECTORY, "audio waits")
    disk.on_hung = lambda: disk.later(lambda: done.append("later"))
    running = asyncio.create_task(disk.run(answer.wait))
    await until(lambda: disk.hung, "it does not answer")
    assert "EDGE_SPOOL: the disk does not answer: audio waits;" in caplog.text
    assert caplog.records[0].__dict__["fields"] == {"directory": str(DIRECTORY)}
    answer.set()
    await soon(running, 30)
    # The thread says it after whoever waits has been woken.
    await until(lambda: "answers again" in caplog.text, "it answers again")
    assert not disk.hung
    await disk.run(lambda: done.append("next"))
    assert done == ["later", "next"]
    disk.close()


async def test_an_error_reaches_the_caller(answer: threading.Event) -> None:
    disk = DiskThread("EDGE_SPOOL", DIRECTORY, "audio waits")
    with pytest.raises(FileNotFoundError):
        await disk.run((DIRECTORY / "missing").stat)
    disk.close()


async def test_the_program_ends_although_the_disk_hangs(answer: threading.Event) -> None:
    disk = DiskThread("EDGE_SPOOL", DIRECTORY, "audio waits")
    running = asyncio.create_task(disk.run(answer.wait))
    assert not await soon(disk.or_hung(running), 30)
    disk.close()
    running.cancel()


async def test_an_event_loop_that_waits_for_the_disk_is_said(
    answer: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    disk = DiskThread("EDGE_SPOOL", DIRECTORY, "audio waits")
    await disk.run(lambda: None)
    with disk.watched():
        await until(lambda: "nothing is captured until it does" in caplog.text, "it is said")
    assert "EDGE_SPOOL: the disk answers again" in caplog.text
    disk.close()


async def test_work_that_nobody_waits_for(
    answer: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    disk = DiskThread("EDGE_KEEP", DIRECTORY, "nothing is kept")
    written: list[bool] = []
    disk.later(lambda: written.append(answer.wait()))

    def hangs() -> bool:
        disk.check()
        return disk.hung

    await until(hangs, "it does not answer")
    disk.catch_up()  # nobody waits for it
    answer.set()
    await until(lambda: "EDGE_KEEP: the disk answers again" in caplog.text, "it answers")
    disk.later(lambda: written.append(True))
    disk.catch_up()
    assert written == [True, True]
    assert not disk.hung
    disk.close()


def test_a_disk_that_answers_while_that_is_looked_at_does_not_hang_any_more(
    answer: threading.Event,
) -> None:
    """Else the program would end without a last look at the disk."""
    disk = DiskThread("EDGE_SPOOL", DIRECTORY, "audio waits")
    answered = threading.Event()
    disk.later(lambda: (answer.wait(), None)[1])
    disk.later(answered.set)
    lock, main = disk._lock, threading.current_thread()

    class Answering:
        """The disk answers as soon as `check` has found that it does not."""

        def __enter__(self) -> None:
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            hung = disk.hung
            lock.release()
            if hung and threading.current_thread() is main:
                answer.set()
                assert answered.wait(30)

    disk._lock = Answering()  # type: ignore[assignment]
    while not answer.is_set():
        disk.check()
    assert not disk.hung
    assert not disk._hangs.is_set()
    disk.close()


def test_work_that_raises_does_not_end_the_thread(
    answer: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    disk = DiskThread("EDGE_KEEP", DIRECTORY, "nothing is kept")
    done = threading.Event()

    def fails() -> None:
        raise ValueError

    disk.later(fails)
    disk.later(done.set)
    assert done.wait(30)
    assert "EDGE_KEEP: an operation on the disk failed" in caplog.text
    disk.close()
    assert not disk.hung


async def test_an_event_loop_that_waits_is_said_although_the_thread_waits_too(
    answer: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    disk = DiskThread("EDGE_SPOOL", DIRECTORY, "audio waits")
    disk.later(lambda: (answer.wait(), None)[1])
    with disk.watched():
        await until(lambda: "nothing is captured until it does" in caplog.text, "it is said")
    answer.set()
    disk.close()
