"""A disk that is full for a while: a small file system of its own, filled by another file."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_capture.chunks import Chunk
from edge_capture.spool import Spool, SpooledBacklog
from natterjack.broker.connection import Broker
from natterjack.local.embedded import EmbeddedServer
from tests.edge_capture.conftest import StartEdge
from tests.edge_capture.program import only_recording
from tests.edge_capture.samples import chunk
from tests.edge_capture.test_spool import ORIGIN, opened, spec, taken
from tests.waiting import until

pytestmark = pytest.mark.process

DISK_BYTES = 4 * 1024 * 1024


class Disk:
    """A tmpfs of 4 MiB."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spool = path / "spool"
        self._ballast = path / "ballast"

    def fill(self, leaving: int = 0) -> None:
        """Leave so many bytes free."""
        with self._ballast.open("ab") as file:
            while (free := shutil.disk_usage(self.path).free - leaving) >= 4096:
                with contextlib.suppress(OSError):  # a program has taken room meanwhile
                    os.posix_fallocate(file.fileno(), file.tell(), free - free % 4096)
                file.seek(0, os.SEEK_END)

    def free(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path, processes: None) -> Iterator[Disk]:
    """Needs root, as `mount` does. Without, tests are skipped, or fail in CI."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},nr_inodes=500", "tmpfs", path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        if os.environ.get("CI"):
            pytest.fail(mounted.stderr)
        pytest.skip(mounted.stderr)
    yield Disk(path)
    subprocess.run(["umount", "--lazy", path], check=True)


class _Inodes:
    """Files that take up all the inodes of a disk."""

    def __init__(self, disk: Disk) -> None:
        self._directory = disk.path / "inodes"
        self._directory.mkdir()
        with contextlib.suppress(OSError):
            for number in itertools.count():
                (self._directory / str(number)).touch()

    def free(self) -> None:
        shutil.rmtree(self._directory)


def block_directories(disk: Disk) -> _Inodes:
    """Leave no room for another file or directory."""
    return _Inodes(disk)


async def kept(disk: Disk) -> tuple[Spool, SpooledBacklog]:
    keeper = opened(disk.spool)
    backlog = keeper.create(spec(), ORIGIN, "run")
    backlog.set_limits(60, can_wait=False)
    return keeper, backlog


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is tried again at once."""
    monkeypatch.setattr("edge_capture.spool.session._RETRY_S", 0.0)


async def killed(keeper: Spool, backlog: SpooledBacklog) -> None:
    """End without anything that a killed process does not do."""
    backlog.close()
    keeper._sessions.clear()
    await keeper.close()


async def test_a_full_disk_is_used_again_and_nothing_is_lost(disk: Disk) -> None:
    keeper, backlog = await kept(disk)
    for index in range(100):
        backlog.put(chunk(index))
    disk.fill()
    for index in range(100, 500):
        backlog.put(chunk(index))
    assert not backlog.durable
    assert not backlog.intact
    disk.free()
    for index in range(500, 520):
        backlog.put(chunk(index))
    assert backlog.durable
    await keeper.tidy()
    assert backlog.intact
    await killed(keeper, backlog)
    keeper = opened(disk.spool)
    (found,) = keeper.adopt()
    assert found.intact
    assert await taken(keeper, found) == [(index, chunk(index)) for index in range(520)]
    await keeper.close()


@pytest.mark.parametrize("sent", [0, 30, 200])
async def test_a_session_that_begins_on_a_full_disk_moves_to_it(disk: Disk, sent: int) -> None:
    """Not even the spool's directory can be created at first."""
    inodes = block_directories(disk)
    keeper, backlog = await kept(disk)
    assert keeper.adopt() == []
    for index in range(200):
        backlog.put(chunk(index))
    assert not backlog.durable
    assert await taken(keeper, backlog, sent) == [(n, chunk(n)) for n in range(sent)]
    await keeper.tidy()
    assert not disk.spool.exists()
    inodes.free()
    for index in range(200, 220):
        backlog.put(chunk(index))
    await keeper.tidy()
    assert backlog.durable
    assert backlog.intact
    assert [path.name for path in disk.spool.glob("*/*.json")] == ["session.json"]
    assert opened(disk.spool).adopt() == [], "it is locked"
    await killed(keeper, backlog)
    keeper = opened(disk.spool)
    (found,) = keeper.adopt()
    assert await taken(keeper, found) == [(n, chunk(n)) for n in range(sent, 220)]
    found.discard()
    await keeper.close()
    assert list(disk.spool.iterdir()) == []


async def test_a_session_that_ends_on_a_full_disk_leaves_nothing(disk: Disk) -> None:
    block_directories(disk)
    keeper, backlog = await kept(disk)
    for index in range(20):
        backlog.put(chunk(index, end=index == 19))
    assert len(await taken(keeper, backlog)) == 20
    backlog.acknowledge(20)
    backlog.discard()
    await keeper.close()
    assert not disk.spool.exists()


@pytest.mark.parametrize("sent", [0, 30])
async def test_a_session_that_is_resumed_on_a_full_disk_after_a_power_cut(
    disk: Disk, sent: int
) -> None:
    """The numbers that may have been used are skipped, on the disk and in memory."""
    keeper, backlog = await kept(disk)
    for index in range(100):
        backlog.put(chunk(index))
    await keeper.close()
    (description,) = disk.spool.glob("*/session.json")
    text = description.read_text()
    description.write_text(text.replace(backlog._description.boot, "another"))
    disk.fill()
    keeper = opened(disk.spool)
    (found,) = keeper.adopt()
    found.set_limits(60, can_wait=False)
    found.resume()
    for index in range(150, 200):
        found.put(chunk(index))
    received = await taken(keeper, found, 100 + sent)
    assert [seq for seq, _ in received] == [*range(100), *range(150, 150 + sent)]
    disk.free()
    for index in range(200, 210):
        found.put(chunk(index))
    await keeper.tidy()
    assert found.intact
    await killed(keeper, found)
    keeper = opened(disk.spool)
    (again,) = keeper.adopt()
    seqs = [seq for seq, _ in await taken(keeper, again)]
    assert seqs[-60 + sent :] == [*range(150 + sent, 210)]
    assert again.head.index == 210
    await keeper.close()


@pytest.mark.parametrize("sent", [50, 100, 250, 400])
async def test_numbers_that_were_used_from_memory_are_never_used_again(
    disk: Disk, sent: int
) -> None:
    """Chunks that were sent from memory are a hole on disk; the stream has them."""
    keeper, backlog = await kept(disk)
    for index in range(100):
        backlog.put(chunk(index))
    disk.fill()
    for index in range(100, 400):
        backlog.put(chunk(index))
    assert await taken(keeper, backlog, sent) == [(n, chunk(n)) for n in range(sent)]
    disk.free()
    for index in range(400, 450):
        backlog.put(chunk(index))
    await keeper.tidy()
    assert backlog.intact
    await killed(keeper, backlog)
    keeper = opened(disk.spool)
    (found,) = keeper.adopt()
    assert found.intact
    again = await taken(keeper, found)
    on_disk = [*range(100), *range(max(sent, 100), 450)]
    assert again == [(index, chunk(index)) for index in on_disk]
    assert found.head.index == 450
    found.resume()
    found.put(chunk(450))
    assert await taken(keeper, found) == [(450, chunk(450))]
    await keeper.close()


@pytest.mark.parametrize("synced", [False, True])
async def test_killed_while_the_disk_is_full_or_not_synced_yet(disk: Disk, synced: bool) -> None:
    """The session cannot be resumed, since numbers were used that the disk does not tell."""
    keeper, backlog = await kept(disk)
    for index in range(100):
        backlog.put(chunk(index))
    disk.fill()
    for index in range(100, 200):
        backlog.put(chunk(index))
    await taken(keeper, backlog, 150)
    if synced:
        disk.free()
        backlog.put(chunk(200))
        await keeper.tidy()
    await killed(keeper, backlog)
    keeper = opened(disk.spool)
    (found,) = keeper.adopt()
    assert found.intact is synced
    found.end()
    numbers = [seq for seq, _ in await taken(keeper, found)]
    assert numbers == ([*range(100), *range(150, 202)] if synced else [*range(100)])
    await keeper.close()


async def test_memory_is_bounded_and_what_it_drops_is_named(disk: Disk) -> None:
    keeper, backlog = await kept(disk)
    backlog.set_limits(5, can_wait=False)
    for index in range(100):
        backlog.put(chunk(index))
    disk.fill()
    for index in range(100, 300):
        backlog.put(chunk(index))
    assert len(backlog) == 100 + 50
    assert backlog.dropped_frames == 150 * 1600
    disk.free()
    for index in range(300, 310):
        backlog.put(chunk(index))
    found = await taken(keeper, backlog)
    left = [*range(100), *range(251, 310)]  # the first chunk after there is room drops another
    assert [(seq, one.pos) for seq, one in found] == [
        (seq, index * 1600) for seq, index in enumerate(left)
    ]
    assert [seq for seq, one in found if one.note] == [100]
    await keeper.close()


async def test_full_again_and_again(disk: Disk) -> None:
    """With any amount of room, and chunks taken at any moment, each keeps its number."""
    rng = np.random.default_rng(5)
    keeper, backlog = await kept(disk)
    found: list[tuple[int, Chunk]] = []
    index = 0
    for _ in range(60):
        disk.fill(leaving=int(rng.integers(0, 40_000)))
        for _ in range(int(rng.integers(1, 60))):
            backlog.put(chunk(index))
            index += 1
        found += await taken(keeper, backlog, int(rng.integers(0, 80)))
        backlog.acknowledge(len(found))
        disk.free()
        for _ in range(int(rng.integers(0, 20))):
            backlog.put(chunk(index))
            index += 1
        await keeper.tidy()
        if rng.random() < 0.2 and backlog.intact:
            await killed(keeper, backlog)
            keeper = opened(disk.spool)
            (backlog,) = keeper.adopt()
            backlog.set_limits(60, can_wait=False)
            again = await taken(keeper, backlog)
            assert [item for item in again if item[0] < len(found)] == [
                item for item in found if item[0] in {seq for seq, _ in again}
            ]
            found += [item for item in again if item[0] >= len(found)]
            backlog.acknowledge(len(found))
            backlog.resume()
    found += await taken(keeper, backlog)
    assert found == [(number, chunk(number)) for number in range(index)]
    await keeper.close()


async def test_a_program_whose_disk_was_full_resumes(
    ready_broker: Broker, nats_server: EmbeddedServer, start_edge: StartEdge, disk: Disk
) -> None:
    """With the broker away all the while."""
    audio = np.random.default_rng(1).integers(-9000, 9000, 16000 * 60, np.int16).tobytes()
    seconds = 32_000
    nats_server.kill()
    edge = start_edge("stdin", "--live", "--spool", disk.spool, stdin=subprocess.PIPE)
    source = edge.process.stdin
    assert source is not None
    source.write(audio[: 20 * seconds])
    source.flush()
    await until(lambda: list(disk.spool.glob("*/*.seg")), "some audio is on the disk", 20)
    disk.fill()
    source.write(audio[20 * seconds : 40 * seconds])
    source.flush()
    await edge.says("the spool failed (No space left on device)")
    assert "cannot be resumed until there is room again" in edge.stderr
    disk.free()
    source.write(audio[40 * seconds :])
    source.flush()
    await edge.says("the spool is used again")
    await until(lambda: list(disk.spool.glob("*/session.json")), "it can be resumed", 20)
    edge.process.send_signal(signal.SIGKILL)
    assert await edge.exit_code() == -signal.SIGKILL
    nats_server.start()
    edge = start_edge("send", "--spool", disk.spool)
    assert await edge.exit_code() == 0, edge.stderr
    await until(lambda: ready_broker.connected, "the test is connected")
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert len(recording.payload) >= len(audio) - 2560
    assert audio.startswith(recording.payload)


async def test_a_disk_that_stays_full_is_reported_once(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    keeper, backlog = await kept(disk)
    backlog.put(chunk(0))
    disk.fill()
    for index in range(1, 200):
        backlog.put(chunk(index))
        await taken(keeper, backlog)
        await keeper.tidy()
    assert len(caplog.records) == 1
    assert len(list(disk.spool.glob("*/*.se*"))) == 1
    await keeper.close()


async def test_a_disk_that_fails_otherwise_is_not_used_again(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper, backlog = await kept(disk)
    with monkeypatch.context() as patch:

        def broken(*_: object) -> int:
            raise OSError(errno.EIO, "Input/output error")

        patch.setattr("edge_capture.spool.session.write_whole", broken)
        backlog.put(chunk(0))
    for index in range(1, 50):
        backlog.put(chunk(index))
    assert not backlog.durable
    assert await taken(keeper, backlog) == [(index, chunk(index)) for index in range(50)]
    await keeper.close()


async def test_a_disk_that_fails_to_sync_is_not_used_again(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Afterwards, nobody knows what is on it."""
    keeper, backlog = await kept(disk)
    backlog.put(chunk(0))
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr("edge_capture.spool.session.sync_open", full)
        await keeper.tidy()
    for index in range(1, 50):
        backlog.put(chunk(index))
    await keeper.tidy()
    assert not backlog.durable
    assert not backlog.intact
    assert await taken(keeper, backlog) == [(index, chunk(index)) for index in range(50)]
    await keeper.close()


async def test_a_writer_that_waits_goes_on_when_there_is_room(disk: Disk) -> None:
    """Even if the source has to wait until then, and nothing is put."""
    keeper, backlog = await kept(disk)
    backlog.set_limits(60, can_wait=True)
    disk.fill()
    index = 0
    while not backlog.full:
        backlog.put(chunk(index))
        index += 1
    assert index < 200
    disk.free()
    await keeper.tidy()
    assert backlog.durable
    assert not backlog.full
    backlog.put(chunk(index, end=True))
    assert len(await taken(keeper, backlog)) == index + 1
    assert backlog.ended
    await keeper.close()
