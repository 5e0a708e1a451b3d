"""The spool where files behave as on Windows, and the disk as on macOS."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge_capture.spool import disk
from tests.edge_capture import test_spool, test_spool_damage, test_spool_faults
from tests.edge_capture.samples import chunk
from tests.edge_capture.test_resume import spool
from tests.edge_capture.test_spool import ORIGIN, opened, spec, taken
from tests.edge_capture.windows import windows

__all__ = ["spool", "windows"]  # fixtures


def test_the_stand_in_refuses_what_windows_refuses(tmp_path: Path, windows: None) -> None:
    """Otherwise the tests below would show nothing."""
    (tmp_path / "a").mkdir()
    with pytest.raises(PermissionError):
        os.open(tmp_path / "a", os.O_RDONLY)
    text = os.open(tmp_path / "a" / "text", os.O_WRONLY | os.O_CREAT)
    os.write(text, b"1\n")
    assert (tmp_path / "a" / "text").read_bytes() == b"1\r\n"
    for refused in (tmp_path / "a", tmp_path / "a" / "text"):
        with pytest.raises(PermissionError):
            os.rename(refused, tmp_path / "b")
    with pytest.raises(PermissionError):
        (tmp_path / "a" / "text").unlink()
    os.close(text)
    os.rename(tmp_path / "a", tmp_path / "b")
    (tmp_path / "c").touch()
    with pytest.raises(FileExistsError):
        os.rename(tmp_path / "b" / "text", tmp_path / "c")


@pytest.mark.parametrize(
    "test",
    [
        test_spool.test_the_session_that_continues_is_kept,
        test_spool.test_chunks_come_back_as_they_were,
        test_spool.test_notes_are_kept_in_the_description,
        test_spool.test_a_session_belongs_to_one_agent,
        test_spool.test_a_later_run_never_drops_what_may_have_been_sent,
        test_spool_faults.test_no_more_than_four_seconds_are_sent_before_they_are_synced,
        test_spool_faults.test_skipped_numbers_stay_skipped_after_another_run,
        test_spool_faults.test_dropped_numbers_are_not_used_again,
        test_spool_faults.test_files_of_other_programs_in_a_session_stay,
        test_spool_faults.test_sessions_of_other_agents_are_counted,
    ],
    ids=lambda test: test.__name__.removeprefix("test_"),
)
async def test_as_elsewhere(
    windows: None, spool: Path, test: Callable[[Path], Awaitable[None]]
) -> None:
    await test(spool)


async def test_any_value_in_a_description_is_used_or_kept_aside(windows: None, spool: Path) -> None:
    """Some of the values, which are read on Windows as elsewhere; a session with one is moved."""
    await test_spool_damage.used_or_kept_aside(spool, test_spool_damage.VALUES[::4])


async def test_a_session_that_is_sent_while_it_is_captured(windows: None, spool: Path) -> None:
    """Each of its files gets another name while it is open, and nothing is left of it."""
    keeper = opened(spool)
    backlog = keeper.create(spec(), ORIGIN, "run")
    received = []
    for index in range(350):
        backlog.put(chunk(index, end=index == 349))
        received += await taken(keeper, backlog, 1)
        if index % 50 == 0:
            backlog.acknowledge(len(received))
            await keeper.tidy()
    assert received == [(index, chunk(index, end=index == 349)) for index in range(350)]
    assert {path.suffix for path in spool.glob("*/*.se*")} == {".sent"}
    assert opened(spool).adopt() == []
    backlog.acknowledge(350)
    backlog.discard()
    await keeper.close()
    assert list(spool.iterdir()) == []


def test_macos_writes_through_the_cache_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another file system than its own, which refuses that, as fsync does."""
    asked: list[int] = []

    def full_sync(descriptor: int, command: int) -> int:
        asked.append(command)
        if len(asked) > 2:
            raise OSError(45, "Operation not supported")
        return 0

    plain: list[int] = []
    mac = SimpleNamespace(fcntl=full_sync, F_FULLFSYNC=51, flock=fcntl.flock)
    monkeypatch.setattr(disk, "fcntl", mac)
    monkeypatch.setattr(os, "fsync", plain.append)
    monkeypatch.delattr(os, "fdatasync")
    disk.save(tmp_path / "a", b"1")
    assert (asked, len(plain)) == ([51, 51], 0)
    disk.sync([tmp_path / "a", tmp_path])
    assert (asked, len(plain)) == ([51] * 4, 2)
