"""The spool after a power cut, with a failing disk, and beside files of other programs."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from edge_capture.chunks import Chunk
from edge_capture.delivery.publisher import Publisher
from edge_capture.errors import SpoolError
from edge_capture.settings import EdgeSettings, MicrophoneSettings, SpoolSettings
from edge_capture.spool import directory as spool_directory
from edge_capture.spool import disk
from edge_capture.spool import session as spool_session
from natterjack.broker.connection import Broker
from natterjack.errors import UsageError
from natterjack.settings import load
from natterjack.spec import SessionSpec
from tests.edge_capture.program import only_recording
from tests.edge_capture.samples import chunk
from tests.edge_capture.test_resume import gone, spool
from tests.edge_capture.test_spool import ORIGIN, held_to_limits, opened, spec, taken
from tests.waiting import soon, within

__all__ = ["spool"]  # a fixture


async def left(spool: Path, count: int, *, end: bool = False) -> None:
    """Leave a session with so many chunks in the spool."""
    keeper = opened(spool)
    backlog = keeper.create(spec(), ORIGIN, "run")
    for index in range(count):
        backlog.put(chunk(index, end=end and index == count - 1))
    await keeper.close()


def rebooted(spool: Path) -> None:
    """Change the session as if the machine had rebooted since."""
    (description,) = spool.glob("*/session.json")
    text = json.loads(description.read_text())
    description.write_text(json.dumps(text | {"boot": "another"}))


async def test_no_more_than_four_seconds_are_sent_before_they_are_synced(spool: Path) -> None:
    keeper = opened(spool)
    backlog = keeper.create(spec(), ORIGIN, "run")
    for index in range(300):
        backlog.put(chunk(index))
    sent = 0
    while backlog.take() is not None:
        sent += 1
    assert sent == 40  # 4 s
    await keeper.tidy()
    for index in range(300, 400):
        backlog.put(chunk(index))
    while backlog.take() is not None:
        sent += 1
    assert sent == 340
    await keeper.close()


async def test_audio_of_an_earlier_run_is_synced_before_it_is_sent(spool: Path) -> None:
    await left(spool, 300)
    later = opened(spool)
    (found,) = later.adopt()
    assert sum(found.take() is not None for _ in range(300)) == 40
    await later.tidy()
    assert found.take() is not None
    await later.close()


async def test_a_sync_is_requested_when_audio_waits_for_it(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_directory, "INTERVAL_S", 1000)
    monkeypatch.setattr(spool_directory, "_CALM_S", 1000)
    keeper = opened(spool)
    backlog = keeper.create(spec(), ORIGIN, "run")
    keeping = asyncio.create_task(keeper.maintain())
    for index in range(300):
        backlog.put(chunk(index))
    count = 0
    async with within(10):
        while count < 300:
            count += backlog.take() is not None
            await asyncio.sleep(0)
    keeping.cancel()
    await keeper.close()


@pytest.mark.parametrize("boot", ["another", ""])
async def test_a_power_cut_may_undo_the_renaming_of_sent_segments(
    spool: Path, boot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks that may have been sent are not dropped, or later chunks would reuse their numbers."""
    monkeypatch.setattr(spool_directory, "boot_id", lambda: boot)
    keeper = opened(spool)
    backlog = keeper.create(spec(), ORIGIN, "run")
    for index in range(1000):
        backlog.put(chunk(index))
    await keeper.tidy()
    sent = await taken(keeper, backlog, 300)
    await keeper.close()
    for path in spool.glob("*/*.sent"):
        path.rename(path.with_suffix(".seg"))
    monkeypatch.setattr(spool_session, "boot_id", lambda: "" if boot == "" else "a third")
    later = opened(spool, seconds=80)
    (found,) = later.adopt()
    assert found.chunks_missing
    await held_to_limits(later)
    assert dict(await taken(later, found)).items() >= dict(sent).items()
    await later.close()


async def test_skipped_numbers_stay_skipped_after_another_run(spool: Path) -> None:
    await left(spool, 100)
    newest = max(spool.glob("*/*.se*"))
    os.truncate(newest, newest.stat().st_size - 5)
    keeper = opened(spool)
    (found,) = keeper.adopt()
    found.resume()
    await keeper.close()
    keeper = opened(spool)
    (found,) = keeper.adopt()
    assert found.head.index == 99 + 50
    assert (found.chunks_missing, found.damaged_directory) == (False, None)
    await keeper.close()


async def test_dropped_numbers_are_not_used_again(spool: Path) -> None:
    keeper = opened(spool, seconds=20)
    backlog = keeper.create(spec(), ORIGIN, "run")
    for index in range(500):
        backlog.put(chunk(index))
    await held_to_limits(keeper)
    first, count = backlog._dropped[0]
    await keeper.close()
    for path in spool.glob("*/*.se*"):  # none of the audio reached the disk
        path.unlink()
    rebooted(spool)
    keeper = opened(spool)
    (found,) = keeper.adopt()
    assert found.head.index >= first + count
    await keeper.close()


@pytest.mark.parametrize("size", [0, 3])
async def test_killed_before_a_segment_has_its_first_bytes(
    spool: Path, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    await left(spool, 100)
    (directory,) = spool.iterdir()
    (directory / "000000000100.seg").write_bytes(disk.MAGIC[:size])
    keeper = opened(spool)
    (found,) = keeper.adopt()
    assert (found.head.index, found.intact, found.chunks_missing) == (100, True, False)
    assert not caplog.records
    await keeper.close()


async def test_only_directories_of_the_spool_are_deleted(spool: Path) -> None:
    spool.mkdir()
    long_ago = time.time() - 3600
    ours = [spool / f".{word}-{uuid4()}" for word in ("new", "old")]
    theirs = [spool / name for name in (".git", ".new-thing", "lost+found", f".old-{uuid4()}")]
    for directory in ours + theirs:
        directory.mkdir()
        (directory / "session.json").write_text("{}")
    (theirs[-1] / "precious").write_text("")
    link = spool / f".old-{uuid4()}"
    (spool / "elsewhere").mkdir()
    (spool / "elsewhere" / "session.json").write_text("{}")
    link.symlink_to(spool / "elsewhere")
    young = spool / f".new-{uuid4()}"
    young.mkdir()
    for directory in ours + theirs:
        os.utime(directory, (long_ago, long_ago))
    assert opened(spool).adopt() == []
    assert {path.name for path in spool.iterdir()} == {
        path.name for path in (*theirs, link, young, spool / "elsewhere")
    }
    assert (spool / "elsewhere" / "session.json").exists()
    assert (theirs[-1] / "session.json").exists()


async def test_files_of_other_programs_in_a_session_stay(spool: Path) -> None:
    keeper = opened(spool)
    backlog = keeper.create(spec(), ORIGIN, "run")
    backlog.put(chunk(0))
    (backlog.directory / "precious").write_text("")
    backlog.discard()
    await keeper.close()
    assert [path.name for path in spool.glob("*/*")] == ["precious"]


async def test_directories_of_other_programs_are_ignored_without_a_warning(
    spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("lost+found", "other-program", ".cache"):
        (spool / name).mkdir(parents=True)
    assert opened(spool).adopt() == []
    assert not caplog.records


async def test_a_directory_that_is_being_created_is_not_locked_by_another_agent(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper, other = opened(spool), opened(spool)
    make = Path.mkdir

    def made_and_looked_at(self: Path, *arguments: Any, **more: Any) -> None:
        make(self, *arguments, **more)
        other.adopt()

    monkeypatch.setattr(Path, "mkdir", made_and_looked_at)
    keeper.create(spec(), ORIGIN, "run")
    await keeper.close()


async def sent(keeper: Any, publisher: Publisher, broker: Broker) -> None:
    keeping = asyncio.create_task(keeper.maintain())
    await soon(publisher.run(broker), 20)
    keeping.cancel()
    await keeper.close()


def failing(monkeypatch: pytest.MonkeyPatch, name: str, number: int, times: int) -> None:
    """Make opening files of this name fail so many times."""
    fails = [number] * times
    opened_before = Path.open

    def fail(self: Path, *arguments: Any, **more: Any) -> Any:
        if fails and self.name.startswith(name):
            raise OSError(fails.pop(), os.strerror(number))
        return opened_before(self, *arguments, **more)

    monkeypatch.setattr(Path, "open", fail)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO])
async def test_a_read_that_fails_for_a_moment_is_retried(
    ready_broker: Broker,
    spool: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    await left(spool, 300, end=True)
    keeper = opened(spool)
    (found,) = keeper.adopt()
    failing(monkeypatch, "000000000100", number, 3)
    await sent(keeper, Publisher(found, window_chunks=8), ready_broker)
    (await only_recording(ready_broker)).check_whole()
    assert found.damaged_directory is None
    assert [record.message for record in caplog.records] == [
        f"cannot read the spool; retrying: {os.strerror(number)}"
    ]
    assert gone(spool)


@pytest.mark.parametrize("damage", ["overwritten", "unreadable", "found so"])
async def test_files_that_cannot_be_read_are_kept_in_a_directory_of_their_own(
    ready_broker: Broker, spool: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(spool_session, "_READ_PATIENCE_S", 0.3)
    await left(spool, 300, end=True)
    (second,) = spool.glob("*/000000000100.*")
    name, content = second.parent.name, second.read_bytes()
    broken = content[:20_000] + bytes(100) + content[20_100:]
    if damage == "found so":
        second.write_bytes(broken)
    keeper = opened(spool)
    (found,) = keeper.adopt()
    if damage == "overwritten":
        second.write_bytes(broken)
    elif damage == "unreadable":
        failing(monkeypatch, "000000000100", errno.EIO, 1000)
        broken = content
    await sent(keeper, Publisher(found, window_chunks=8), ready_broker)
    monkeypatch.undo()
    kept = spool / f"damaged-{name}"
    assert found.damaged_directory == kept
    assert [path.name for path in spool.iterdir()] == [kept.name]
    assert (kept / "000000000100.sent").read_bytes() == broken
    seqs = [header.seq for header in (await only_recording(ready_broker)).headers]
    readable = 100 if damage == "unreadable" else 106
    assert seqs == [*range(readable), *range(200, 300)]
    assert opened(spool).adopt() == []


async def test_a_shortage_of_files_is_not_a_disk_failure(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = opened(spool)
    backlog = keeper.create(spec(), ORIGIN, "run")
    for index in range(100):
        backlog.put(chunk(index))

    def none_left(paths: object) -> list[int]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(spool_session, "open_all", none_left)
    await keeper.tidy()
    assert backlog.intact
    monkeypatch.undo()
    assert len(await taken(keeper, backlog)) == 100
    await keeper.close()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_a_bounded_number_of_sessions_is_adopted_at_a_time(spool: Path) -> None:
    for number in range(70):
        keeper = opened(spool)
        one = SessionSpec(tenant="t", conversation=f"c{number}", speaker="s", sample_rate=16000)
        keeper.create(one, ORIGIN, "run").put(chunk(0))
        await keeper.close()
    keeper = opened(spool)
    before = open_files()
    found = keeper.adopt()
    assert len(found) == 64
    for backlog in found:
        backlog.end()
    assert open_files() - before == 64
    await keeper.tidy()
    for backlog in found:
        backlog.discard()
    await keeper.tidy()
    assert len(keeper.adopt()) == 6
    assert keeper.locked_by_others == 0
    assert opened(spool).adopt() == []
    await keeper.close()


async def test_sessions_of_other_agents_are_counted(spool: Path) -> None:
    keeper = opened(spool)
    keeper.create(spec(), ORIGIN, "run").put(chunk(0))
    other = opened(spool)
    assert other.adopt() == []
    assert other.locked_by_others == 1
    await keeper.close()


async def test_a_later_run_knows_what_was_sent_and_when(spool: Path) -> None:
    """This keeps a later run from publishing too much at once."""
    keeper = opened(spool)
    backlog = keeper.create(spec(), ORIGIN, "run")
    for index in range(1000):
        backlog.put(chunk(index))
    await taken(keeper, backlog, 250)
    await keeper.close()
    (directory,) = spool.iterdir()
    os.utime(directory, (time.time() - 500,) * 2)
    (found,) = opened(spool).adopt()
    assert found.sent_seconds == pytest.approx(30)
    assert found.sent_ago_s == pytest.approx(500, abs=60)


async def test_a_session_of_which_nothing_was_sent(spool: Path) -> None:
    await left(spool, 0)
    await left(spool, 150)
    for path in spool.glob("*/*.sent"):
        path.rename(path.with_suffix(".seg"))
    (found,) = opened(spool).adopt()
    assert found.sent_seconds == 0


async def test_the_size_limit_includes_record_headers(spool: Path) -> None:
    """A pipe waits before its audio exceeds the limit."""
    origin = ORIGIN.model_copy(update={"chunk_ms": 10})
    keeper = opened(spool, size=65_536)
    backlog = keeper.create(spec(), origin, "run")
    backlog.set_limits(1, can_wait=True)
    index = 0
    while not backlog.full:
        backlog.put(Chunk(index * 160, index * 10_000_000, bytes(320), False))
        index += 1
    assert backlog.size <= 65_536
    await keeper.close()


async def test_a_directory_that_cannot_be_listed(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = opened(spool)

    def refuse(self: Path) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(SpoolError, match="Permission denied"):
        keeper.adopt()


def test_a_spool_whose_name_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match="File name too long"):
        opened(tmp_path / ("x" * 300))


def test_the_spool_may_be_in_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_SPOOL", "~/spool")
    monkeypatch.setenv("HOME", "/home/ann")
    assert SpoolSettings().spool == Path("/home/ann/spool")


@pytest.mark.parametrize("name", ["buffer_seconds", "finish_seconds", "device_wait_seconds"])
def test_durations_are_finite(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"EDGE_{name.upper()}", "inf")
    model = MicrophoneSettings if name.startswith("device") else EdgeSettings
    with pytest.raises(UsageError, match="finite number"):
        load(model)
