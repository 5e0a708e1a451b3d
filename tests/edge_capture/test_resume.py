"""An agent that is killed resumes from its spool."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_capture.session import file_start, make_keys, make_sessions, resume_sessions
from edge_capture.settings import EdgeSettings, PublishSettings, RequestSettings, SpoolSettings
from edge_capture.sources.file import FileSource
from edge_capture.spool import Origin, Spool
from edge_capture.spool.disk import read_records
from natterjack.audio import AUDIO_END, SESSION_ID
from natterjack.broker.connection import Broker
from natterjack.broker.streams import AUDIO
from natterjack.fleet.edge_reader import EdgesReader
from natterjack.local.embedded import EmbeddedServer
from tests.edge_capture.conftest import RunEdge, SoundServer, StartEdge
from tests.edge_capture.program import (
    Edge,
    Recording,
    captured,
    feed_all,
    only_recording,
    recordings,
    requests,
    stored,
)
from tests.edge_capture.test_faults import chunks, some_chunks
from tests.waiting import bound, until


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """30 s of noise, in which all chunks differ."""
    noise = np.random.default_rng(1).integers(-9000, 9000, 480_000, np.int16)
    soundfile.write(tmp_path / "speech.wav", noise, 16000)
    return tmp_path / "speech.wav"


def spooled(spool: Path) -> int:
    """Return the number of complete records in the spool."""
    count = 0
    with contextlib.suppress(FileNotFoundError):  # a directory is being created or removed
        for path in spool.glob("*/*.se*"):
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                file.seek(8)
                count += sum(1 for _ in read_records(file, int(path.stem)))
    return count


async def spooled_more(spool: Path, than: int) -> None:
    await until(lambda: spooled(spool) > than, f"more than {than} chunks are in the spool", 20)


def gone(spool: Path) -> bool:
    """Return whether no session is left in the spool."""
    return not any(path.is_dir() for path in spool.iterdir())


async def test_killed_while_it_publishes_flac(
    ready_broker: Broker, start_edge: StartEdge, speech: Path, spool: Path
) -> None:
    """The spool has encoded chunks. A resumed session keeps its encoding, whatever is set now."""
    flags = ("--spool", spool, "--resume", "--publish-chunk-ms", "200")
    edge = start_edge("file", speech, "--speed", "5", *flags, "--publish-encoding", "flac")
    await some_chunks(ready_broker)
    edge.kill()
    edge = start_edge("file", speech, "--speed", "max", *flags)
    assert await edge.exit_code() == 0, edge.stderr
    recording = (await only_recording(ready_broker)).once_each()
    assert recording.spec.encoding == "flac"
    recording.check_whole()
    assert np.array_equal(recording.samples, soundfile.read(speech, dtype="int16")[0])
    assert all(payload.startswith(b"fLaC") for payload in recording.payloads[:-1])
    assert gone(spool)


async def test_killed_several_times_with_the_broker_up(
    ready_broker: Broker, start_edge: StartEdge, speech: Path, spool: Path
) -> None:
    dice = random.Random(7)
    for kill in range(5):
        before = await chunks(ready_broker)
        edge = start_edge("file", speech, "--speed", "5", "--spool", spool, "--resume")
        more = before + dice.randrange(1, 60)

        async def far_enough(more: int = more) -> bool:
            return await chunks(ready_broker) >= more

        await until(far_enough, f"{more} chunks are stored", 20)
        edge.kill()
        assert ("resuming the session where it stopped" in edge.stderr) == (kill > 0)
    edge = start_edge("file", speech, "--speed", "max", "--spool", spool, "--resume")
    assert await edge.exit_code() == 0, edge.stderr
    recording = (await only_recording(ready_broker)).once_each()
    recording.check_whole()
    assert (recording.samples == soundfile.read(speech, dtype="int16")[0]).all()
    assert gone(spool)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_session_that_is_left_open_is_continued(
    ready_broker: Broker, start_edge: StartEdge, speech: Path, spool: Path, number: signal.Signals
) -> None:
    """Otherwise a signal would end the session, where the file has not ended."""
    arguments = ("file", speech, "--spool", spool, "--resume", "--leave-open")
    edge = start_edge(*arguments)
    await some_chunks(ready_broker)
    edge.process.send_signal(number)
    assert await edge.exit_code() == 128 + number
    edge = start_edge(*arguments, "--speed", "max")
    assert await edge.exit_code() == 0, edge.stderr
    assert "resuming the session where it stopped" in edge.stderr
    recording = (await only_recording(ready_broker)).once_each()
    recording.check_whole()
    assert recording.seconds == 30


def test_only_a_session_in_a_spool_can_be_left_open(run_edge: RunEdge, speech: Path) -> None:
    edge = run_edge("file", speech, "--leave-open")
    assert edge.code == 2
    assert edge.stderr == "natterjack-edge: --leave-open needs a spool: --spool DIR\n"


async def test_killed_several_times_with_the_broker_down(
    ready_broker: Broker,
    nats_server: EmbeddedServer,
    start_edge: StartEdge,
    speech: Path,
    spool: Path,
) -> None:
    arguments = ("file", speech, "--speed", "10", "--spool", spool, "--resume")
    edge = start_edge(*arguments)
    await some_chunks(ready_broker)
    nats_server.kill()
    edge.kill()
    for _ in range(3):
        before = spooled(spool)
        edge = start_edge(*arguments, "--window-chunks", "10")
        if before < 25:  # the window and backlog of a file hold no more
            await spooled_more(spool, before)
        else:
            await edge.says("resuming the session where it stopped")
        edge.kill()
    nats_server.start()
    edge = start_edge(*arguments)
    assert await edge.exit_code() == 0, edge.stderr
    await until(lambda: ready_broker.connected, "the test is connected")
    recording = (await only_recording(ready_broker)).once_each()
    recording.check_whole()
    assert (recording.samples == soundfile.read(speech, dtype="int16")[0]).all()
    assert gone(spool)


async def test_killed_when_everything_is_captured_but_not_stored(
    ready_broker: Broker,
    nats_server: EmbeddedServer,
    start_edge: StartEdge,
    speech: Path,
    spool: Path,
) -> None:
    nats_server.kill()
    edge = start_edge("file", speech, "--speed", "max", "--spool", spool)
    await edge.says("no NATS at")
    await spooled_more(spool, 10)
    edge.interrupt()  # it puts the end mark
    await edge.says("stopping; signal again to abort")
    edge.interrupt()
    assert await edge.exit_code() == 130
    held = spooled(spool)
    nats_server.start()
    edge = start_edge("file", speech, "--speed", "max", "--spool", spool, "--resume")
    assert await edge.exit_code() == 0, edge.stderr
    assert "the session has ended" in edge.stderr
    await until(lambda: ready_broker.connected, "the test is connected")
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert len(recording.headers) == held
    assert gone(spool)


@pytest.mark.parametrize(("name", "rate"), [("a.flac", 44100), ("a.mp3", 48000), ("a.wav", 8000)])
async def test_resampled_channels_resume_at_the_exact_frame(
    tmp_path: Path, spool: Path, name: str, rate: int
) -> None:
    path = tmp_path / name
    soundfile.write(path, np.random.default_rng(1).normal(0, 0.1, (20 * rate, 2)), rate)
    edge, publish = EdgeSettings(split_channels="a,b"), PublishSettings()
    source = FileSource(path, None, 80)
    origin = Origin(
        command="file", path=str(path), format=source.format, speakers=("a", "b"), chunk_ms=80
    )
    keeper = Spool(SpoolSettings(spool=spool))
    keys = make_keys(edge)
    sessions = make_sessions(
        keys, source.format, True, edge, publish, RequestSettings(), keeper, origin
    )
    blocks = source.blocks()
    for _ in range(15):  # 7.5 s
        block = await anext(blocks)
        for session in sessions:
            session.feed(block)
    await blocks.aclose()
    source.close()
    await keeper.close()

    keeper = Spool(SpoolSettings(spool=spool))
    found = keeper.adopt()
    source = FileSource(path, None, 80)
    frame, time_ns = file_start(found, rate)
    assert 0 < frame < 7.5 * rate
    source.start_at(frame, time_ns)
    sessions = resume_sessions(found, source.format, True, edge, publish, frame)
    await feed_all(sessions, source)
    expected = await captured(FileSource(path, None, 80), "--split-channels", "a,b")
    for session, backlog in zip(sessions, found, strict=True):
        recording = Recording(session.spec, [], [])
        while len(backlog):
            if (taken := backlog.take()) is None:
                await keeper.tidy()  # the rest must be synced first
            else:
                recording.add(*taken)
        recording.check_whole()
        uncut = expected[session.spec.speaker].samples.astype(int)
        assert len(recording.samples) == len(uncut)
        assert np.abs(recording.samples - uncut).max() <= 1
        backlog.discard()
    await keeper.close()
    assert gone(spool)


async def test_a_killed_run_with_split_channels_resumes(
    ready_broker: Broker, start_edge: StartEdge, tmp_path: Path, spool: Path
) -> None:
    name, rate = "a.flac", 44100
    noise = np.random.default_rng(1).normal(0, 0.1, (20 * rate, 2))
    soundfile.write(tmp_path / name, noise, rate)
    arguments = ("file", tmp_path / name, "--split-channels", "a,b", "--spool", spool, "--resume")
    edge = start_edge(*arguments, "--speed", "8")
    await some_chunks(ready_broker)
    edge.kill()
    edge = start_edge(*arguments, "--speed", "max")
    assert await edge.exit_code() == 0, edge.stderr
    found = await recordings(ready_broker)
    whole = start_edge("file", tmp_path / name, "--split-channels", "c,d", "--speed", "max")
    assert await whole.exit_code() == 0
    reference = await recordings(ready_broker)
    for speaker, uncut in (("a", "c"), ("b", "d")):
        recording = found[speaker].once_each()
        recording.check_whole()
        expected = reference[uncut].samples.astype(int)
        assert len(recording.samples) == len(expected)
        assert np.abs(recording.samples - expected).max() <= 1
    assert gone(spool)


async def feed(edge: Edge, value: int, count: int) -> None:
    """Write `count` chunks of samples with one value to standard input."""
    assert edge.process.stdin is not None
    edge.process.stdin.write(value.to_bytes(2, "little") * 1280 * count)
    edge.process.stdin.flush()


async def test_standard_input_resumes_after_a_gap(
    ready_broker: Broker, start_edge: StartEdge, spool: Path
) -> None:
    started = time.monotonic()
    edge = start_edge("stdin", "--live", "--spool", spool, stdin=subprocess.PIPE)
    await feed(edge, 1, 2)  # 0.16 s

    async def stored(count: int) -> bool:
        return await chunks(ready_broker) >= count

    await until(lambda: stored(2), "all is stored", 20)
    edge.kill()
    killed_ns = time.time_ns()
    await until(lambda: time.monotonic() > started + 1, "more time has passed than audio was fed")
    edge = start_edge("stdin", "--live", "--spool", spool, "--resume", stdin=subprocess.PIPE)
    await feed(edge, 2, 10)
    await until(lambda: stored(12), "the rest is stored", 20)
    fed_ns = time.time_ns()
    edge.process.stdin.close()  # type: ignore[union-attr]
    assert await edge.exit_code() == 0, edge.stderr
    recording = (await only_recording(ready_broker)).once_each()
    assert [header.seq for header in recording.headers] == list(range(13))
    assert recording.payload == b"\1\0" * 2560 + b"\2\0" * 12800
    positions = [header.pos for header in recording.headers]
    assert positions[:2] == [0, 1280]
    assert positions[2:] == [positions[2] + 1280 * index for index in range(11)]
    last, first = recording.headers[1], recording.headers[2]
    assert first.pos > 2560
    jump_ns = (first.pos - last.pos) * 1e9 / 16000
    assert jump_ns == pytest.approx(first.time_ns - last.time_ns, abs=1e6)
    assert killed_ns - 2e9 < first.time_ns < fed_ns


async def test_a_clock_that_was_set_back_gives_no_gap(
    ready_broker: Broker, start_edge: StartEdge, tmp_path: Path, spool: Path
) -> None:
    (tmp_path / "ahead").mkdir()
    (tmp_path / "ahead" / "sitecustomize.py").write_text(
        "import time\nnow = time.time_ns\ntime.time_ns = lambda: now() + 600_000_000_000\n"
    )
    edge = start_edge(
        "stdin", "--spool", spool, stdin=subprocess.PIPE,
        environment={"PYTHONPATH": str(tmp_path / "ahead")},
    )  # fmt: skip
    await feed(edge, 1, 6)
    await some_chunks(ready_broker)
    edge.kill()
    edge = start_edge("stdin", "--spool", spool, "--resume", stdin=subprocess.PIPE)
    await feed(edge, 2, 2)
    edge.process.stdin.close()  # type: ignore[union-attr]
    assert await edge.exit_code() == 0, edge.stderr
    recording = (await only_recording(ready_broker)).once_each()
    assert [header.pos for header in recording.headers] == [1280 * index for index in range(9)]


async def test_no_number_is_reused_after_a_reboot(
    ready_broker: Broker, start_edge: StartEdge, spool: Path
) -> None:
    """A power cut may lose chunks that were sent, so their numbers are skipped."""
    edge = start_edge("stdin", "--spool", spool, stdin=subprocess.PIPE)
    await feed(edge, 1, 10)

    async def stored() -> bool:
        return await chunks(ready_broker) == 10

    await until(stored, "all is stored", 20)
    edge.kill()
    (description,) = spool.glob("*/session.json")
    (segment,) = spool.glob("*/*.sent")
    with segment.open("r+b") as file:
        file.truncate(segment.stat().st_size - 3000)
    text = json.loads(description.read_text())
    description.write_text(json.dumps(text | {"boot": "another"}))
    for value in (2, 3):  # after another kill, the same numbers are skipped and no others
        edge = start_edge("stdin", "--spool", spool, "--resume", stdin=subprocess.PIPE)
        before = await chunks(ready_broker)
        await feed(edge, value, 1)

        async def more(before: int = before) -> bool:
            return await chunks(ready_broker) > before

        await until(more, "one more is stored", 20)
        edge.kill()
    recording = (await only_recording(ready_broker)).once_each()
    seqs = [header.seq for header in recording.headers]
    assert seqs == [*range(10), 8 + 62, 8 + 63]
    assert recording.headers[10].pos - 8 * 1280 >= 5 * 16000


async def test_without_a_session_to_resume_a_new_one_begins(
    ready_broker: Broker, start_edge: StartEdge, speech: Path, spool: Path
) -> None:
    edge = start_edge("file", speech, "--speed", "max", "--spool", spool, "--resume")
    assert await edge.exit_code() == 0, edge.stderr
    assert "no session to resume; starting a new one" in edge.stderr
    (await only_recording(ready_broker)).check_whole()


def test_resuming_needs_a_spool(run_edge: RunEdge) -> None:
    edge = run_edge("file", "a.wav", "--resume")
    assert edge.code == 2
    assert edge.stderr == "natterjack-edge: --resume needs a spool: --spool DIR\n"


@pytest.mark.parametrize(
    "other",
    [
        ["--tenant", "other"],
        ["--spool-seconds", "10"],
    ],
)
async def test_a_session_that_does_not_fit_is_ended_beside_a_new_one(
    ready_broker: Broker,
    start_edge: StartEdge,
    tmp_path: Path,
    spool: Path,
    other: list[str],
) -> None:
    arguments = ("stdin", "--spool", spool)
    edge = start_edge(*arguments, stdin=subprocess.PIPE)
    await feed(edge, 1, 8)
    await some_chunks(ready_broker)
    edge.kill()
    environment = {}
    if other[0] == "--spool-seconds":  # too old
        (tmp_path / "sitecustomize.py").write_text(
            "import time\nnow = time.time_ns\ntime.time_ns = lambda: now() + 60_000_000_000\n"
        )
        environment["PYTHONPATH"] = str(tmp_path)
    edge = start_edge(
        *arguments, "--resume", *other, stdin=subprocess.PIPE, environment=environment
    )
    await feed(edge, 2, 8)
    edge.process.stdin.close()  # type: ignore[union-attr]
    assert await edge.exit_code() == 0, edge.stderr
    assert "starting a new one" in edge.stderr
    ids = [spec.session_id for spec in await requests(ready_broker)]
    assert len(set(ids)) == 2
    last = {headers[SESSION_ID]: headers async for headers in stored_headers(ready_broker)}
    assert [last[session_id].get(AUDIO_END) for session_id in ids] == ["1", "1"]
    assert gone(spool)


async def stored_headers(broker: Broker) -> AsyncIterator[dict[str, str]]:
    """Yield the headers of every chunk in the order of the stream."""
    for message in await stored(broker, AUDIO):
        assert message.headers is not None
        yield message.headers


@pytest.mark.sound
async def test_a_microphone_that_is_not_there_yet_resumes_its_session(
    ready_broker: Broker,
    nats_server: EmbeddedServer,
    start_edge: StartEdge,
    sound_server: SoundServer,
    spool: Path,
) -> None:
    """The rest of the last run is sent before, and the center sees what the edge waits for."""
    arguments = ("mic", "--spool", spool, "--resume", "--agent", "room")
    edge = start_edge(*arguments, environment=sound_server.environment)
    await some_chunks(ready_broker)
    nats_server.kill()
    await spooled_more(spool, spooled(spool) + 3)
    edge.kill()
    sound_server.kill()
    nats_server.start()
    await until(lambda: ready_broker.connected, "the test is connected")
    before = await chunks(ready_broker)
    edge = start_edge(*arguments, environment=sound_server.environment)
    await edge.says("waiting for a microphone")

    async def more() -> bool:
        return await chunks(ready_broker) > before + 2

    await until(more, "the rest is stored without a microphone", 20)
    reader = EdgesReader(ready_broker)
    await reader.start()

    async def waits() -> bool:
        rows = (await reader.read("default")).rows
        sources = rows[0].presence.sources if rows else []
        return bool(sources) and sources[0].error == "a microphone"

    await until(waits, "the center sees that it waits", 20)
    before = await chunks(ready_broker)
    await sound_server.start()
    await until(more, "the session goes on", 20)
    edge.interrupt()
    assert await edge.exit_code() == 0, edge.stderr
    recording = (await only_recording(ready_broker)).once_each()
    assert [header.note for header in recording.headers if "resumed" in header.note] == [
        "resumed:end"
    ]
    first, last = recording.headers[0], recording.headers[-1]
    passed_s = (last.time_ns - first.time_ns) / 1e9
    assert (last.pos - first.pos) / 16000 == pytest.approx(passed_s, abs=bound(0.5))


@pytest.mark.sound
async def test_a_microphone_resumes_after_a_gap_of_the_right_length(
    ready_broker: Broker, start_edge: StartEdge, sound_server: SoundServer, spool: Path
) -> None:
    arguments = ("mic", "--spool", spool, "--resume")
    edge = start_edge(*arguments, environment=sound_server.environment)
    await some_chunks(ready_broker)
    edge.kill()
    killed = time.monotonic()
    before = await chunks(ready_broker)
    await asyncio.sleep(0.5)  # the length of the gap
    away_s = time.monotonic() - killed
    edge = start_edge(*arguments, environment=sound_server.environment)

    async def more() -> bool:
        return await chunks(ready_broker) > before + 5

    await until(more, "more is stored", 20)
    edge.interrupt()
    assert await edge.exit_code() == 0, edge.stderr
    recording = (await only_recording(ready_broker)).once_each()
    assert [header.seq for header in recording.headers] == list(range(len(recording.headers)))
    jumps = [
        (following, following.pos - header.pos - len(payload) // 2)
        for header, payload, following in zip(
            recording.headers, recording.payloads, recording.headers[1:], strict=False
        )
    ]
    header, frames = max(jumps, key=lambda jump: jump[1])
    assert frames / 16000 > away_s - 0.1  # the first block was captured before it is delivered
    first = recording.headers[0]
    passed_s = (header.time_ns - first.time_ns) / 1e9
    assert (header.pos - first.pos) / 16000 == pytest.approx(passed_s, abs=bound(0.5))
