"""What the spool keeps while the broker takes nothing, and what it does when the disk fails."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_capture.chunks import Chunk
from edge_capture.publish import Publisher
from edge_capture.settings import SpoolSettings
from edge_capture.spool import Origin, Spool, SpooledBacklog
from natterjack.audio import SESSION_ID, AudioFormat
from natterjack.connection import Broker
from natterjack.embedded import EmbeddedServer
from natterjack.spec import SessionSpec
from natterjack.streams import AUDIO
from tests.edge_capture.conftest import StartEdge
from tests.edge_capture.program import (
    Edge,
    Recording,
    only_recording,
    recordings,
    requests,
    stored,
)
from tests.edge_capture.test_faults import some_chunks
from tests.edge_capture.test_resume import gone, speech, spool, spooled, spooled_more
from tests.waiting import until

__all__ = ["speech", "spool"]  # fixtures

FRAMES = 1600
FORMAT = AudioFormat("linear16", 16000, 1)
ORIGIN = Origin(command="stdin", format=FORMAT, speakers=("s",), chunk_ms=100)


def spec() -> SessionSpec:
    return SessionSpec(tenant="t", conversation="c", speaker="s", sample_rate=16000)


def chunk(index: int, *, end: bool = False) -> Chunk:
    """The `index`th 100 ms of a session; no two are alike."""
    return Chunk(index * FRAMES, index * 100_000_000, index.to_bytes(2, "little") * FRAMES, end)


def opened(directory: Path, seconds: float = 2700, size: int = 2**29) -> Spool:
    return Spool(SpoolSettings(spool=directory, spool_seconds=seconds, spool_bytes=size))


def taken(backlog: SpooledBacklog, most: int = 10_000) -> list[tuple[int, Chunk]]:
    """What can be taken now."""
    found: list[tuple[int, Chunk]] = []
    while len(found) < most and (item := backlog.take()) is not None:
        found.append(item)
    return found


async def held_to_limits(spool: Spool) -> None:
    """Let the keeper do its work once."""
    keeping = asyncio.create_task(spool.keep())
    await until(lambda: not spool._over_limits(), "the limits are held")
    await asyncio.sleep(0)
    keeping.cancel()
    await asyncio.wait([keeping])
    await spool._tidy()


async def test_chunks_come_back_as_they_were(spool: Path) -> None:
    keeper = opened(spool)
    backlog = keeper.create(spec(), ORIGIN, "run")
    for index in range(500):
        backlog.put(chunk(index))
    assert len(backlog) == 500
    assert taken(backlog, 100) == [(index, chunk(index)) for index in range(100)]
    for index in range(500, 600):
        backlog.put(chunk(index, end=index == 599))
    assert taken(backlog) == [(index, chunk(index, end=index == 599)) for index in range(100, 600)]
    assert len(backlog) == 0
    await keeper.close()
    (left,) = opened(spool).adopt()
    assert taken(left) == [(index, chunk(index, end=index == 599)) for index in range(600)]
    assert left.ended


async def test_what_is_settled_is_deleted_and_the_newest_stays(spool: Path) -> None:
    keeper = opened(spool)
    backlog = keeper.create(spec(), ORIGIN, "run")
    for index in range(450):
        backlog.put(chunk(index))
    taken(backlog)
    backlog.settled(250)
    await keeper._tidy()
    assert len(list(spool.glob("*/*.sent"))) == 3
    backlog.settled(450)
    await keeper._tidy()
    assert spooled(spool) == 50
    await keeper.close()
    (left,) = opened(spool).adopt()
    assert (left.head.index, left.head.pos) == (450, 450 * FRAMES)


async def test_everything_is_for_its_owner_alone(spool: Path) -> None:
    keeper = opened(spool)
    backlog = keeper.create(spec(), ORIGIN, "run")
    backlog.put(chunk(0))
    for path in [spool, *spool.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    await keeper.close()


async def test_a_session_belongs_to_one(spool: Path) -> None:
    keeper = opened(spool)
    keeper.create(spec(), ORIGIN, "run").put(chunk(0))
    assert opened(spool).adopt() == []
    await keeper.close()
    assert len(opened(spool).adopt()) == 1


@pytest.mark.parametrize("limits", [{"seconds": 40.0}, {"size": 40 * 32_000}])
async def test_beyond_a_limit_the_oldest_that_was_not_sent_goes(
    spool: Path, limits: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    keeper = opened(spool, **limits)  # type: ignore[arg-type]
    backlog = keeper.create(spec(), ORIGIN, "run")
    for index in range(1000):
        backlog.put(chunk(index))
        if index == 500:
            sent = taken(backlog, 30)
            await held_to_limits(keeper)
    await held_to_limits(keeper)
    dropped = backlog.lost_frames // FRAMES
    assert 580 < dropped < 680
    assert sum("the spool is full" in record.message for record in caplog.records) == 1
    # A second agent numbers them the same, whether it is killed now or later.
    held = taken(backlog)
    indexes = [found.pos // FRAMES for _, found in sent + held]
    assert [seq for seq, _ in sent + held] == list(range(1000 - dropped))
    assert indexes[:30] == list(range(30))
    assert indexes[-1] == 999
    for _, found in sent + held:
        assert found == chunk(found.pos // FRAMES)
    await keeper.close()
    (left,) = opened(spool).adopt()
    assert taken(left) == sent + held


async def test_what_may_have_been_sent_is_never_dropped_by_a_later_run(spool: Path) -> None:
    keeper = opened(spool)
    backlog = keeper.create(spec(), ORIGIN, "run")
    for index in range(1000):
        backlog.put(chunk(index))
    sent = taken(backlog, 250)
    await keeper.close()
    later = opened(spool, seconds=20)
    (left,) = later.adopt()
    await held_to_limits(later)
    assert left.lost_frames
    assert taken(left, 250) == sent
    await later.close()


@pytest.mark.parametrize("cut", [1, 3000, 3232, 3233])
async def test_a_torn_tail(spool: Path, cut: int, caplog: pytest.LogCaptureFixture) -> None:
    """In the payload, in the header, after one byte, and just between two records."""
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
    assert taken(left) == [(index, chunk(index)) for index in range(149)]
    said = [record.message for record in caplog.records]
    whole = [] if cut == 3233 else [f"{3233 - cut} bytes in the spool are no whole chunk"]
    assert [line.partition(" and are")[0] for line in said] == whole
    await later.close()


async def test_garbage_in_the_middle_costs_its_segment(
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
    found = taken(left)
    assert [seq for seq, _ in found] == [*range(106), *range(200, 300)]  # none is used again
    assert all(item == chunk(seq) for seq, item in found)
    await later.close()


async def test_files_that_go_bad_while_they_wait(
    spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = opened(spool)
    backlog = keeper.create(spec(), ORIGIN, "run")
    for index in range(400):
        backlog.put(chunk(index))
    sorted(spool.glob("*/*.se*"))[1].unlink()
    with sorted(spool.glob("*/*.se*"))[1].open("r+b") as file:
        file.write(b"\0" * 50_000)
    found = taken(backlog)
    assert [seq for seq, _ in found] == [*range(100), *range(300, 400)]
    assert sum("cannot be read back" in record.message for record in caplog.records) == 2
    assert len(backlog) == 0
    await keeper.close()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Invalid JSON"),
        ('{"version": 1}', "spec: Field required"),
        (None, "No such file or directory"),
        ("99", "its version is 99"),
    ],
)
async def test_sessions_that_cannot_be_used_are_left_alone(
    spool: Path, caplog: pytest.LogCaptureFixture, text: str | None, words: str
) -> None:
    keeper = opened(spool)
    keeper.create(spec(), ORIGIN, "run").put(chunk(0))
    await keeper.close()
    (description,) = spool.glob("*/session.json")
    if text is None:
        description.unlink()
    elif text == "99":
        description.write_text(json.dumps(json.loads(description.read_text()) | {"version": 99}))
    else:
        description.write_text(text)
    assert opened(spool).adopt() == []
    (warning,) = [record.message for record in caplog.records]
    assert warning.startswith("a session in the spool cannot be used and is left alone: ")
    assert words in warning
    assert spooled(spool) == 1


async def test_a_file_whose_name_is_no_text_and_a_variable_that_is_empty(
    ready_broker: Broker, start_edge: StartEdge, speech: Path, spool: Path
) -> None:
    strange = speech.with_name("speech\udcff.wav")
    speech.rename(strange)
    edge = start_edge("file", strange, "--speed", "max", "--spool", spool)
    assert await edge.exit_code() == 0, edge.stderr
    edge = start_edge("file", strange, "--resume", environment={"EDGE_SPOOL": ""})
    assert await edge.exit_code() == 2
    assert "--resume needs a spool" in edge.stderr


async def test_no_directory(start_edge: StartEdge, speech: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    for directory, words in ((tmp_path / "taken", "is not a directory"), ("/proc/no", "No such")):
        edge = start_edge("file", speech, "--spool", directory)
        assert await edge.exit_code() == 2
        assert edge.stderr.startswith(f"natterjack-edge: EDGE_SPOOL: {directory}")
        assert words in edge.stderr
        assert edge.stderr.count("\n") == 1


def resident_bytes(edge: Edge) -> int:
    pages = Path(f"/proc/{edge.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


async def test_half_an_hour_without_network_is_kept_on_disk_alone(
    ready_broker: Broker, nats_server: EmbeddedServer, start_edge: StartEdge, spool: Path
) -> None:
    sound = np.random.default_rng(1).integers(-9000, 9000, 16000 * 1800, np.int16).tobytes()
    nats_server.kill()
    edge = start_edge("stdin", "--live", "--spool", spool, stdin=subprocess.PIPE)
    assert edge.process.stdin is not None
    minute = 16000 * 2 * 60
    await asyncio.to_thread(edge.process.stdin.write, sound[: 2 * minute])
    await until(lambda: spooled(spool) >= 1400, "two minutes are in the spool", 20)
    before = resident_bytes(edge)
    await asyncio.to_thread(edge.process.stdin.write, sound[2 * minute :])
    edge.process.stdin.close()
    await until(lambda: spooled(spool) >= 22501, "all is in the spool", 60)
    assert resident_bytes(edge) - before < 8 * 2**20
    nats_server.start()
    assert await edge.exit_code(60) == 0, edge.stderr
    await until(lambda: ready_broker.connected, "the test is connected")
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert recording.payload == sound
    assert gone(spool)


async def test_half_an_hour_without_network_is_kept_in_memory(
    ready_broker: Broker, nats_server: EmbeddedServer, start_edge: StartEdge
) -> None:
    sound = np.random.default_rng(1).integers(-9000, 9000, 16000 * 1800, np.int16).tobytes()
    nats_server.kill()
    edge = start_edge("stdin", "--live", stdin=subprocess.PIPE)
    assert edge.process.stdin is not None
    await asyncio.to_thread(edge.process.stdin.write, sound)
    edge.process.stdin.close()
    nats_server.start()
    assert await edge.exit_code(60) == 0, edge.stderr
    await until(lambda: ready_broker.connected, "the test is connected")
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert recording.payload == sound


@pytest.mark.parametrize("killed", [False, True])
async def test_beyond_the_limit_there_is_a_gap(
    ready_broker: Broker,
    nats_server: EmbeddedServer,
    start_edge: StartEdge,
    spool: Path,
    killed: bool,
) -> None:
    seconds = 120
    sound = np.random.default_rng(1).integers(-9000, 9000, 16000 * seconds, np.int16).tobytes()
    arguments = (
        "stdin", "--live", "--speed", "20", "--spool", spool, "--spool-seconds", "30",
    )  # fmt: skip
    edge = start_edge(*arguments, "--window-chunks", "10", stdin=subprocess.PIPE)
    assert edge.process.stdin is not None
    writing = asyncio.create_task(asyncio.to_thread(edge.process.stdin.write, sound))
    await some_chunks(ready_broker)
    nats_server.kill()
    await edge.says("the spool is full: the oldest sound is dropped")
    await writing
    edge.process.stdin.close()

    def over() -> bool:
        return max(int(path.stem) for path in spool.glob("*/*.se*")) > 1400

    await until(over, "all is captured", 30)
    if killed:
        edge.kill()
    nats_server.start()
    if killed:
        edge = start_edge("send", "--spool", spool)
    assert await edge.exit_code() == 0, edge.stderr
    await until(lambda: ready_broker.connected, "the test is connected")
    recording = (await only_recording(ready_broker)).once_each()
    check_gap(recording, sound, to_its_end=not killed)
    if not killed:
        lost = json.loads(edge.stderr.splitlines()[-1])["dropped_seconds"]
        assert lost == pytest.approx(seconds - recording.seconds)
    assert gone(spool)


def check_gap(recording: Recording, sound: bytes, *, to_its_end: bool) -> None:
    """Assert that numbers run on, that sound stands at its position, and that there is a gap."""
    assert [header.seq for header in recording.headers] == list(range(len(recording.headers)))
    for header, payload in zip(recording.headers, recording.payloads, strict=True):
        assert sound[header.pos * 2 : header.pos * 2 + len(payload)] == payload
    assert recording.headers[-1].end
    if to_its_end:
        assert recording.headers[-1].pos * 2 + len(recording.payloads[-1]) == len(sound)
    assert len(recording.payload) < len(sound) / 2


async def test_a_writer_that_can_wait_does_so_when_the_spool_is_full(
    ready_broker: Broker, nats_server: EmbeddedServer, start_edge: StartEdge, spool: Path
) -> None:
    sound = np.random.default_rng(1).integers(-9000, 9000, 16000 * 60, np.int16).tobytes()
    nats_server.kill()
    edge = start_edge("stdin", "--spool", spool, "--spool-seconds", "20", stdin=subprocess.PIPE)
    writing = asyncio.create_task(asyncio.to_thread(edge.process.communicate, sound))
    await until(lambda: spooled(spool) >= 225, "the spool is full", 20)
    nats_server.start()
    await writing
    assert edge.process.returncode == 0, edge.stderr
    await until(lambda: ready_broker.connected, "the test is connected")
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert recording.payload == sound


async def test_a_full_disk_in_mid_session(
    ready_broker: Broker,
    nats_server: EmbeddedServer,
    start_edge: StartEdge,
    tmp_path: Path,
    spool: Path,
) -> None:
    """No file may grow beyond 100 kB; the system says so as it does of a full disk."""
    (tmp_path / "sitecustomize.py").write_text(
        "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    )
    sound = np.random.default_rng(1).integers(-9000, 9000, 16000 * 10, np.int16).tobytes()
    nats_server.kill()
    edge = start_edge(
        "stdin", "--live", "--spool", spool, "--finish-seconds", "0.2", stdin=subprocess.PIPE,
        environment={"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert edge.process.stdin is not None
    edge.process.stdin.write(sound)
    edge.process.stdin.close()
    await edge.says("the spool fails (File too large): the session goes on from memory alone")
    nats_server.start()
    assert await edge.exit_code() == 0, edge.stderr
    assert "Traceback" not in edge.stderr
    await until(lambda: ready_broker.connected, "the test is connected")
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert recording.payload == sound
    assert gone(spool)


async def test_a_session_whose_disk_failed_is_not_gone_on_with(
    ready_broker: Broker, start_edge: StartEdge, tmp_path: Path, spool: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
    )
    edge = start_edge(
        "stdin", "--spool", spool, stdin=subprocess.PIPE,
        environment={"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert edge.process.stdin is not None
    edge.process.stdin.write(b"\1\0" * 1280 * 20)
    edge.process.stdin.flush()
    await edge.says("the spool fails")
    await some_chunks(ready_broker)
    edge.kill()
    edge = start_edge("stdin", "--spool", spool, "--resume", stdin=subprocess.PIPE)
    edge.process.communicate(b"\2\0" * 1280 * 20)
    assert await edge.exit_code() == 0, edge.stderr
    assert "a new one begins" in edge.stderr
    assert gone(spool)


async def test_a_spool_that_is_deleted_under_a_session(
    ready_broker: Broker, start_edge: StartEdge, speech: Path, spool: Path
) -> None:
    edge = start_edge("file", speech, "--speed", "10", "--spool", spool)
    await some_chunks(ready_broker)
    subprocess.run(["rm", "-r", str(spool)], check=True)
    assert await edge.exit_code() == 0, edge.stderr
    assert "the spool fails (No such file or directory)" in edge.stderr
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert (recording.samples == soundfile.read(speech, dtype="int16")[0]).all()


async def left_in(
    spool: Path, start_edge: StartEdge, nats_server: EmbeddedServer, speech: Path, speaker: str
) -> None:
    """Leave a session without an end in the spool; the broker is down afterwards."""
    nats_server.kill()
    edge = start_edge("file", speech, "--speed", "max", "--spool", spool, "--speaker", speaker)
    before = spooled(spool)
    await spooled_more(spool, before + 10)
    edge.kill()


async def test_leftovers_are_sent_while_a_new_session_runs(
    ready_broker: Broker,
    nats_server: EmbeddedServer,
    start_edge: StartEdge,
    speech: Path,
    spool: Path,
) -> None:
    for speaker in ("a", "b"):
        await left_in(spool, start_edge, nats_server, speech, speaker)
    nats_server.start()
    edge = start_edge("file", speech, "--speed", "max", "--spool", spool, "--speaker", "c")
    assert await edge.exit_code() == 0, edge.stderr
    said = "an earlier session in the spool is published and acknowledged"
    assert edge.stderr.count(said) == 2
    await until(lambda: ready_broker.connected, "the test is connected")
    found = await recordings(ready_broker)
    assert sorted(found) == ["a", "b", "c"]
    sound = soundfile.read(speech, dtype="int16")[0]
    for recording in found.values():
        recording.check_whole()
        assert (recording.samples == sound[: len(recording.samples)]).all()
    assert len(found["c"].samples) == len(sound)
    assert gone(spool)


async def test_a_leftover_goes_before_a_new_session_with_its_key(
    ready_broker: Broker,
    nats_server: EmbeddedServer,
    start_edge: StartEdge,
    speech: Path,
    spool: Path,
) -> None:
    """Its worker must not have two at a time."""
    arguments = ("file", speech, "--speed", "max", "--spool", spool, "--conversation", "same")
    nats_server.kill()
    edge = start_edge(*arguments)
    await spooled_more(spool, 10)
    edge.kill()
    nats_server.start()
    edge = start_edge(*arguments)
    assert await edge.exit_code() == 0, edge.stderr
    await until(lambda: ready_broker.connected, "the test is connected")
    ids = [message.headers[SESSION_ID] for message in await stored(ready_broker, AUDIO)]  # type: ignore[index]
    older, newer = (spec.session_id for spec in await requests(ready_broker))
    assert ids == [older] * ids.count(older) + [newer] * 376
    assert ids.count(older) > 10


async def test_send_sends_what_is_left(
    ready_broker: Broker,
    nats_server: EmbeddedServer,
    start_edge: StartEdge,
    speech: Path,
    spool: Path,
) -> None:
    nats_server.kill()
    edge = start_edge("file", speech, "--speed", "max", "--spool", spool, "--finish-seconds", "0.2")
    await spooled_more(spool, 10)
    edge.interrupt()
    assert await edge.exit_code() == 1
    assert f"the spool keeps them, this sends them: natterjack-edge send --spool {spool}" in (
        edge.stderr
    )
    edge = start_edge("send", "--spool", spool, "--once")
    assert await edge.exit_code() == 2
    assert edge.stderr.count("\n") == 1
    nats_server.start()
    edge = start_edge("send", "--spool", spool)
    assert await edge.exit_code() == 0, edge.stderr
    await until(lambda: ready_broker.connected, "the test is connected")
    (await only_recording(ready_broker)).check_whole()
    assert gone(spool)
    edge = start_edge("send", environment={"EDGE_SPOOL": str(spool)})
    assert await edge.exit_code() == 0
    assert "nothing in the spool is to be sent" in edge.stderr
    assert await start_edge("send").exit_code() == 2


async def test_an_error_before_any_sound_leaves_nothing(
    nats_server: EmbeddedServer, start_edge: StartEdge, speech: Path, spool: Path
) -> None:
    nats_server.kill()
    edge = start_edge("file", speech, "--once", "--spool", spool)
    assert await edge.exit_code() == 2
    assert gone(spool)


async def test_the_publisher_takes_from_it(ready_broker: Broker, spool: Path) -> None:
    keeper = opened(spool)
    publisher = Publisher(keeper.create(spec(), ORIGIN, "run"), window_chunks=8)
    for index in range(300):
        publisher.offer(chunk(index, end=index == 299))
    await asyncio.wait_for(publisher.run(ready_broker), 20)
    await keeper.close()
    recording = await only_recording(ready_broker)
    assert recording.headers[-1].end
    assert [header.seq for header in recording.headers] == list(range(300))
    assert gone(spool)
