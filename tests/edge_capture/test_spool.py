"""The spool: its order, its limits, and what it makes of damaged files."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
from pathlib import Path

import pytest

from edge_capture.chunks import Chunk
from edge_capture.delivery.publisher import Publisher
from edge_capture.settings import SpoolSettings
from edge_capture.spool import Origin, Spool, SpooledBacklog
from natterjack.audio import AudioFormat
from natterjack.broker.connection import Broker
from natterjack.spec import SessionSpec
from tests.edge_capture.program import (
    only_recording,
)
from tests.edge_capture.samples import FRAMES, chunk
from tests.edge_capture.test_resume import gone, speech, spool, spooled
from tests.waiting import soon, until

__all__ = ["speech", "spool"]  # fixtures

FORMAT = AudioFormat("linear16", 16000, 1)
ORIGIN = Origin(command="stdin", format=FORMAT, speakers=("s",), chunk_ms=100)


def spec() -> SessionSpec:
    return SessionSpec(tenant="t", conversation="c", speaker="s", sample_rate=16000)


def opened(directory: Path, seconds: float = 2700, size: int = 2**29) -> Spool:
    return Spool(SpoolSettings(spool=directory, spool_seconds=seconds, spool_bytes=size))


async def taken(
    keeper: Spool, backlog: SpooledBacklog, most: int = 10_000
) -> list[tuple[int, Chunk]]:
    """Take up to `most` chunks, syncing to the disk where that is needed."""
    found: list[tuple[int, Chunk]] = []
    while len(found) < most:
        item = backlog.take()
        if item is None:
            await keeper.tidy()
            item = backlog.take()
        if item is None:
            break
        found.append(item)
    return found


async def held_to_limits(spool: Spool) -> None:
    """Let the spool enforce its limits once."""
    keeping = asyncio.create_task(spool.maintain())
    await until(lambda: not spool._mark_excess(), "the limits are enforced")
    await asyncio.sleep(0)
    keeping.cancel()
    await asyncio.wait([keeping])
    await spool.tidy()


async def test_the_session_that_continues_is_kept(spool: Path) -> None:
    first = spec()
    second = first.model_copy(update={"session_id": "second-session", "start_position": 3200})
    keeper = opened(spool)
    backlog = keeper.create(first, ORIGIN, "run")
    backlog.put(chunk(0))
    assert backlog.current == first
    succeeding = asyncio.create_task(backlog.succeed(second))
    await asyncio.sleep(0)
    assert not succeeding.done(), "it is not on the disk yet"
    await keeper.tidy()
    await soon(succeeding, 10)
    keeper._sessions.clear()  # as if the process were killed
    backlog.close()
    keeper = opened(spool)
    (backlog,) = keeper.adopt()
    assert (backlog.spec, backlog.current) == (first, second)
    await keeper.close()


async def test_a_session_continues_although_the_disk_fails(spool: Path) -> None:
    second = spec().model_copy(update={"session_id": "second-session"})
    keeper = opened(spool)
    backlog = keeper.create(spec(), ORIGIN, "run")
    backlog.put(chunk(0))
    succeeding = asyncio.create_task(backlog.succeed(second))
    await asyncio.sleep(0)
    backlog._failed(OSError(5, "Input/output error"))
    await soon(succeeding, 10)
    await soon(backlog.succeed(second), 10)
    assert backlog.current == second
    await keeper.close()


async def test_chunks_come_back_as_they_were(spool: Path) -> None:
    keeper = opened(spool)
    backlog = keeper.create(spec(), ORIGIN, "run")
    for index in range(500):
        backlog.put(chunk(index))
    assert len(backlog) == 500
    assert await taken(keeper, backlog, 100) == [(index, chunk(index)) for index in range(100)]
    for index in range(500, 600):
        backlog.put(chunk(index, end=index == 599))
    assert await taken(keeper, backlog) == [
        (index, chunk(index, end=index == 599)) for index in range(100, 600)
    ]
    assert len(backlog) == 0
    await keeper.close()
    later = opened(spool)
    (left,) = later.adopt()
    assert await taken(later, left) == [
        (index, chunk(index, end=index == 599)) for index in range(600)
    ]
    assert left.ended
    await later.close()


async def test_notes_are_kept_in_the_description(spool: Path) -> None:
    keeper = opened(spool)
    backlog = keeper.create(spec(), ORIGIN, "run")
    chunks = [chunk(index, end=index == 499) for index in range(500)]
    for index in (150, 151, 300):
        chunks[index] = chunks[index]._replace(note="busy:end,input_low")
    for each in chunks:
        backlog.put(each)
    assert await taken(keeper, backlog, 200) == list(enumerate(chunks[:200]))
    backlog.acknowledge(200)
    await keeper.close()
    (about,) = spool.glob("*/session.json")
    assert list(json.loads(about.read_text())["notes"]) == ["150", "151", "300"]
    later = opened(spool)
    (left,) = later.adopt()
    assert await taken(later, left) == list(enumerate(chunks))[200:]
    await later.close()


async def test_acknowledged_segments_are_deleted_except_the_newest(spool: Path) -> None:
    keeper = opened(spool)
    backlog = keeper.create(spec(), ORIGIN, "run")
    for index in range(450):
        backlog.put(chunk(index))
    await taken(keeper, backlog)
    backlog.acknowledge(250)
    await keeper.tidy()
    assert len(list(spool.glob("*/*.sent"))) == 3
    backlog.acknowledge(450)
    await keeper.tidy()
    assert spooled(spool) == 50
    await keeper.close()
    later = opened(spool)
    (left,) = later.adopt()
    assert (left.head.index, left.head.pos) == (450, 450 * FRAMES)
    await later.close()


async def test_only_the_owner_can_read_the_spool(spool: Path) -> None:
    keeper = opened(spool)
    backlog = keeper.create(spec(), ORIGIN, "run")
    backlog.put(chunk(0))
    for path in [spool, *spool.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    await keeper.close()


async def test_a_session_belongs_to_one_agent(spool: Path) -> None:
    keeper = opened(spool)
    keeper.create(spec(), ORIGIN, "run").put(chunk(0))
    assert opened(spool).adopt() == []
    await keeper.close()
    assert len(opened(spool).adopt()) == 1


@pytest.mark.parametrize("limits", [{"seconds": 40.0}, {"size": 40 * 32_000}])
async def test_beyond_a_limit_the_oldest_unsent_audio_is_dropped(
    spool: Path, limits: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    keeper = opened(spool, **limits)  # type: ignore[arg-type]
    backlog = keeper.create(spec(), ORIGIN, "run")
    for index in range(1000):
        backlog.put(chunk(index))
        if index == 500:
            sent = await taken(keeper, backlog, 30)
            await held_to_limits(keeper)
    await held_to_limits(keeper)
    dropped = backlog.dropped_frames // FRAMES
    assert 580 < dropped < 680
    assert sum("the spool is full" in record.message for record in caplog.records) == 1
    # A second agent gives them the same numbers.
    held = await taken(keeper, backlog)
    indexes = [found.pos // FRAMES for _, found in sent + held]
    assert [seq for seq, _ in sent + held] == list(range(1000 - dropped))
    assert indexes[:30] == list(range(30))
    assert indexes[-1] == 999
    for before, index, (_, found) in zip([-1, *indexes], indexes, sent + held, strict=False):
        note = "" if index == before + 1 else "dropped:end"
        assert found == chunk(index)._replace(note=note)
    await keeper.close()
    later = opened(spool)
    (left,) = later.adopt()
    assert await taken(later, left) == sent + held
    await later.close()


async def test_notes_of_dropped_segments_go_to_the_chunk_that_follows(spool: Path) -> None:
    keeper = opened(spool, seconds=20)
    backlog = keeper.create(spec(), ORIGIN, "run")
    for index in range(1000):
        note = {101: "input_dead", 202: "input_low", 303: "input_low:end,muted"}.get(index, "")
        backlog.put(chunk(index)._replace(note=note))
    await held_to_limits(keeper)
    assert backlog.dropped_frames > 400 * FRAMES
    await keeper.close()
    (about,) = spool.glob("*/session.json")
    assert list(json.loads(about.read_text())["notes"].values()) == ["input_dead,muted"]
    later = opened(spool, seconds=20)
    (left,) = later.adopt()
    noted = [found.note for _, found in await taken(later, left) if found.note]
    assert noted == ["dropped:end,input_dead,muted"]
    await later.close()


async def test_a_later_run_never_drops_what_may_have_been_sent(spool: Path) -> None:
    keeper = opened(spool)
    backlog = keeper.create(spec(), ORIGIN, "run")
    for index in range(1000):
        backlog.put(chunk(index))
    sent = await taken(keeper, backlog, 250)
    await keeper.close()
    later = opened(spool, seconds=20)
    (left,) = later.adopt()
    await held_to_limits(later)
    assert left.dropped_frames
    assert await taken(later, left, 250) == sent
    await later.close()


@pytest.mark.parametrize("cut", [1, 3000, 3232, 3233])
async def test_an_incomplete_last_record_is_skipped(
    spool: Path, cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Cut in the payload, in the header, after one byte, and between two records."""
    keeper = opened(spool)
    backlog = keeper.create(spec(), ORIGIN, "run")
    for index in range(150):
        backlog.put(chunk(index))
    await keeper.close()
    newest = max(spool.glob("*/*.se*"))
    with newest.open("r+b") as file:
        file.truncate(newest.stat().st_size - cut)
    later = opened(spool)
    (left,) = later.adopt()
    assert await taken(later, left) == [(index, chunk(index)) for index in range(149)]
    skipped = f"skipping {3233 - cut} bytes in the spool that are not a complete chunk"
    assert [record.message for record in caplog.records] == ([] if cut == 3233 else [skipped])
    await later.close()


async def test_damage_in_the_middle_costs_the_rest_of_its_segment(
    spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = opened(spool)
    backlog = keeper.create(spec(), ORIGIN, "run")
    for index in range(300):
        backlog.put(chunk(index))
    await keeper.close()
    second = sorted(spool.glob("*/*.se*"))[1]
    with second.open("r+b") as file:
        file.seek(20_000)
        file.write(os.urandom(100))
    later = opened(spool)
    (left,) = later.adopt()
    found = await taken(later, left)
    assert [seq for seq, _ in found] == [*range(106), *range(200, 300)]  # none is used again
    assert all(item == chunk(seq) for seq, item in found)
    await later.close()


async def test_files_that_are_damaged_while_they_wait(
    spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = opened(spool)
    backlog = keeper.create(spec(), ORIGIN, "run")
    for index in range(400):
        backlog.put(chunk(index))
    sorted(spool.glob("*/*.se*"))[1].unlink()
    with sorted(spool.glob("*/*.se*"))[1].open("r+b") as file:
        file.write(b"\0" * 50_000)
    found = await taken(keeper, backlog)
    assert [seq for seq, _ in found] == [*range(100), *range(300, 400)]
    assert sum("that cannot be read" in record.message for record in caplog.records) == 2
    assert len(backlog) == 0
    await keeper.close()


async def test_a_session_of_another_release_stays(
    spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = opened(spool)
    keeper.create(spec(), ORIGIN, "run").put(chunk(0))
    await keeper.close()
    (description,) = spool.glob("*/session.json")
    description.write_text('{"version": 99}')
    later = opened(spool)
    assert later.adopt() == []
    assert [record.message for record in caplog.records] == [
        "ignoring an unusable session in the spool: its version is 99, this program supports 1"
    ]
    assert spooled(spool) == 1
    assert later.unusable == {description.parent.name}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("session.json", "", "Invalid JSON"),
        ("session.json", '{"version": 1}', "spec: Field required"),
        ("session.json", None, "session.json: No such file or directory"),
        ("session.json", "directory", "session.json: Is a directory"),
        ("dropped.json", "[[0", "Invalid JSON"),
        ("dropped.json", "[[0, 900]]", "dropped.json contradicts 000000000000.sent"),
        ("000000000000.sent", "directory", "000000000000.sent: Is a directory"),
        ("000000000000.sent", "no audio", "none of its audio can be read"),
    ],
)
async def test_a_session_that_cannot_be_used_is_kept_aside(
    spool: Path, caplog: pytest.LogCaptureFixture, name: str, text: str | None, words: str
) -> None:
    keeper = opened(spool)
    keeper.create(spec(), ORIGIN, "run").put(chunk(0))
    await keeper.close()
    (directory,) = spool.iterdir()
    (directory / name).unlink(missing_ok=name == "dropped.json")
    if text == "directory":
        (directory / name).mkdir()
    elif text is not None:
        (directory / name).write_text(text)
    files = {path.name for path in directory.iterdir()}
    later = opened(spool)
    assert later.adopt() == []
    error = caplog.records[-1].message
    assert error.startswith("a session in the spool is damaged and cannot be sent; its files are ")
    assert words in error
    assert later.unusable == {directory.name}
    await later.close()
    (kept,) = spool.iterdir()
    assert kept.name == f"damaged-{directory.name}"
    assert {path.name for path in kept.iterdir()} == files
    assert opened(spool).adopt() == []


@pytest.mark.parametrize("name", ["session.json", "dropped.json", "000000000000.sent"])
async def test_a_fifo_in_place_of_a_file_does_not_block(
    spool: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    keeper = opened(spool)
    keeper.create(spec(), ORIGIN, "run").put(chunk(0))
    await keeper.close()
    (directory,) = spool.iterdir()
    (directory / name).unlink(missing_ok=name == "dropped.json")
    os.mkfifo(directory / name)
    later = opened(spool)
    try:
        assert await soon(asyncio.to_thread(later.adopt), 30) == []
    finally:
        with contextlib.suppress(OSError):  # nobody waits for a writer
            os.close(os.open(directory / name, os.O_WRONLY | os.O_NONBLOCK))
    assert caplog.records[-1].message == (
        "ignoring an unusable session in the spool: Not a regular file"
    )
    assert later.unusable == {directory.name}
    await later.close()


async def test_a_publisher_sends_from_the_spool(ready_broker: Broker, spool: Path) -> None:
    keeper = opened(spool)
    publisher = Publisher(keeper.create(spec(), ORIGIN, "run"), window_chunks=8)
    for index in range(300):
        publisher.offer(chunk(index, end=index == 299))
    keeping = asyncio.create_task(keeper.maintain())
    await soon(publisher.run(ready_broker), 20)
    keeping.cancel()
    await keeper.close()
    recording = await only_recording(ready_broker)
    assert recording.headers[-1].end
    assert [header.seq for header in recording.headers] == list(range(300))
    assert gone(spool)
