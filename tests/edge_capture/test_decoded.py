"""Files that ffmpeg or PyAV decodes, each made by ffmpeg and read by both."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from edge_capture.errors import SourceError, SourceLost
from edge_capture.sources.decoded import DecodedSource, open_file
from edge_capture.sources.file import FileSource
from natterjack.broker.connection import Broker
from tests.edge_capture.conftest import RunEdge, StartEdge
from tests.edge_capture.media import DECODERS, long, make, sine, use_decoder, video
from tests.edge_capture.program import captured, loudest_hertz, only_recording, tone
from tests.waiting import until

pytestmark = pytest.mark.process
LENGTH_S = 3.0
FILES = {
    "a.m4a": [],
    "a.mp4": ["-c:v", "mpeg4"],
    "a.webm": ["-c:a", "libopus", "-c:v", "libvpx"],
    "a.mkv": ["-c:a", "flac", "-c:v", "mpeg4"],
    "a.aac": [],
    "a.amr": ["-c:a", "libopencore_amrnb", "-ar", "8000"],
    "a.3gp": ["-c:a", "libopencore_amrnb", "-ar", "8000"],
    "a.wma": [],
    "a.ts": ["-c:a", "aac"],
    "a.avi": ["-c:a", "adpcm_ima_wav", "-c:v", "mpeg4"],
    "a.wav": ["-c:a", "adpcm_yamaha"],
}
"""Files that libsndfile does not read, with the arguments that encode them."""


@pytest.fixture(params=DECODERS)
def decoder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The decoder that is found."""
    use_decoder(request.param, tmp_path / "bin", monkeypatch)
    return str(request.param)


async def samples(source: FileSource | DecodedSource) -> npt.NDArray[Any]:
    """All samples of a source, shape (frames, channels)."""
    blocks = [block.samples async for block in source.blocks()]
    source.close()
    return np.concatenate(blocks)


@pytest.mark.parametrize("name", FILES)
async def test_every_kind_of_file_is_read_whole(decoder: str, tmp_path: Path, name: str) -> None:
    picture = video(LENGTH_S) if "-c:v" in FILES[name] else []
    make(tmp_path / name, *picture, *sine(440, LENGTH_S), *FILES[name])
    source = await open_file(tmp_path / name, None, 80, None)
    assert isinstance(source, DecodedSource)
    assert source.seconds == pytest.approx(LENGTH_S, rel=0.1)
    (recording,) = (await captured(source)).values()
    source.close()
    recording.check_whole()
    assert recording.seconds == pytest.approx(LENGTH_S, abs=0.1)
    assert loudest_hertz(recording.samples[1600:40_000], 16000) == pytest.approx(440, abs=2)


async def test_channels_stay_apart(decoder: str, tmp_path: Path) -> None:
    make(tmp_path / "call.m4a", *sine(440, 2), *sine(1000, 2), "-filter_complex", "amerge=inputs=2")
    source = await open_file(tmp_path / "call.m4a", None, 80, None)
    found = await captured(source, "--split-channels", "agent,caller")
    source.close()
    for speaker, hertz in (("agent", 440), ("caller", 1000)):
        assert loudest_hertz(found[speaker].samples, 16000) == pytest.approx(hertz, abs=2)


async def test_the_name_of_a_file_does_not_matter(decoder: str, tmp_path: Path) -> None:
    make(tmp_path / "a.m4a", *sine(440, 1))
    soundfile.write(tmp_path / "b.wav", tone(440, 1, 16000), 16000)
    for name, as_name, kind in (
        ("a.m4a", "a.wav", DecodedSource),
        ("a.wav", "a.raw", DecodedSource),
        ("a.raw", "concat:a|b", DecodedSource),
        ("b.wav", "b.mp4", FileSource),
        ("b.mp4", "b.raw", FileSource),
        ("b.raw", "-i", FileSource),
    ):
        (tmp_path / name).rename(tmp_path / as_name)
        source = await open_file(tmp_path / as_name, None, 80, None)
        assert isinstance(source, kind)
        source.close()


async def test_a_source_starts_at_any_frame(decoder: str, tmp_path: Path) -> None:
    make(tmp_path / "a.m4a", *sine(440, 3))
    whole = await samples(await open_file(tmp_path / "a.m4a", None, 80, None))
    for frame in (1, 100_000, len(whole) - 1):
        source = await open_file(tmp_path / "a.m4a", None, 80, None)
        assert isinstance(source, DecodedSource)
        await source.start_at(frame, None)
        assert (await samples(source) == whole[frame:]).all()


async def test_one_of_many_tracks_is_read(
    decoder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make(
        tmp_path / "a.mkv", *video(2), *sine(440, 2), *sine(1000, 2), "-map", "0", "-map", "1",
        "-map", "2", "-c:a", "flac", "-c:v", "mpeg4", "-metadata:s:a:1", "language=deu",
    )  # fmt: skip
    for track, hertz in ((None, 440), (1, 440), (2, 1000)):
        source = await open_file(path, None, 80, track)
        heard = (await samples(source))[:, 0]
        assert loudest_hertz(heard.astype(np.int16), 44_100) == pytest.approx(hertz, abs=2)
    assert caplog.messages == [
        f"{path} has 2 audio tracks: 1 (flac), 2 (flac, deu); the first one is read, `track` "
        "(--track) chooses another"
    ]
    with pytest.raises(SourceError, match=r"has no audio track 3, only 1 \(flac\), 2 \(flac, deu"):
        await open_file(path, None, 80, 3)


async def test_audio_that_begins_late_keeps_its_time(decoder: str, tmp_path: Path) -> None:
    """Otherwise the subtitles of a video would be too early."""
    path = make(
        tmp_path / "a.mkv", *video(4), "-itsoffset", 1.5, *sine(440, 2), "-c:a", "flac",
        "-c:v", "mpeg4",
    )  # fmt: skip
    heard = (await samples(await open_file(path, None, 80, None)))[:, 0]
    assert np.flatnonzero(heard)[0] / 44_100 == pytest.approx(1.5, abs=0.05)
    assert len(heard) / 44_100 == pytest.approx(3.5, abs=0.05)


def page(text: str) -> bytes:
    return text.encode()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (bytes(range(256)) * 40, "is not a readable audio file: "),
        (b"\0\0\0\x20ftypisom" + bytes(8000), "is not a readable audio file: "),
        (page("<html>not found</html>"), "is a web page, which is not audio"),
        (page("#EXTM3U\n#EXTINF:9,\nsecret.wav\n"), "is a playlist, which is not audio"),
        (page("ffconcat version 1.0\nfile secret.wav\n"), "is not a readable audio file: "),
        (page("WEBVTT\n\n00:00.000 --> 00:01.000\nHello\n"), "is not a readable audio file: "),
    ],
)
async def test_what_is_no_recording_is_refused(
    decoder: str, tmp_path: Path, content: bytes, words: str
) -> None:
    soundfile.write(tmp_path / "secret.wav", tone(440, 1, 16000), 16000)
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(SourceError) as refused:
        await open_file(tmp_path / "a.mp4", None, 80, None)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_a_video_without_audio_is_refused(decoder: str, tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", *video(1), "-c:v", "mpeg4")
    with pytest.raises(SourceError, match="has no audio track"):
        await open_file(path, None, 80, None)


@pytest.mark.parametrize(
    ("name", "arguments"), [("a.webm", ["-c:a", "libopus"]), ("a.m4a", ["-movflags", "faststart"])]
)
async def test_a_file_that_is_cut_is_read_to_its_end(
    decoder: str, tmp_path: Path, name: str, arguments: list[str]
) -> None:
    path = make(tmp_path / name, *sine(440, 20), *arguments)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    source = await open_file(path, None, 80, None)
    with pytest.raises(SourceLost, match=r"can be read up to (8|9|10)\.\d s of 20\.\d s: \w+"):
        await captured(source)
    source.close()


async def test_a_file_whose_index_is_missing_is_refused(decoder: str, tmp_path: Path) -> None:
    path = make(tmp_path / "a.m4a", *sine(440, 20))
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(SourceError, match="is not a readable audio file: moov atom not found"):
        await open_file(path, None, 80, None)


async def test_what_is_damaged_is_left_out(
    decoder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make(tmp_path / "a.aac", *sine(440, 20))
    damaged = bytearray(path.read_bytes())
    for at in range(len(damaged) // 3, len(damaged) // 2, 97):
        damaged[at] ^= 0xFF
    path.write_bytes(damaged)
    heard = await samples(await open_file(path, None, 80, None))
    assert 10 < len(heard) / 44_100 < 40
    assert "is damaged in places: " in caplog.text or "its audio has" in caplog.text


def test_a_file_that_makes_its_decoder_crash_does_no_more(
    run_edge: RunEdge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "a.m4a", *sine(440, 1))
    use_decoder("PyAV", tmp_path / "bin", monkeypatch)
    (tmp_path / "bin" / "ffmpeg").write_text("#!/bin/sh\nkill -SEGV $$\n")
    (tmp_path / "bin" / "ffmpeg").chmod(0o755)
    edge = run_edge("probe", tmp_path / "a.m4a")
    assert json.loads(edge.stdout)["error"] == (
        f"{tmp_path / 'a.m4a'} makes ffmpeg crash (signal 11)"
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.m4a", "is an MP4 or M4A file, which is decoded by ffmpeg: install ffmpeg, or: pip "),
        ("a.webm", "is a WebM or Matroska file, which is decoded by ffmpeg: install ffmpeg, or"),
        ("a.wav", "is not a readable audio file: "),
    ],
)
def test_without_a_decoder_one_line_names_the_cure(
    run_edge: RunEdge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    make(tmp_path / name, *sine(440, 1), *FILES[name])
    use_decoder(None, tmp_path / "bin", monkeypatch)
    edge = run_edge("file", tmp_path / name)
    assert edge.code == 2
    assert edge.stderr.count("\n") == 1
    assert words in edge.stderr
    assert "pip install 'natterjack[media]'" in edge.stderr


def test_another_track_takes_a_decoder(
    run_edge: RunEdge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "a.wav", *sine(440, 1))
    use_decoder(None, tmp_path / "bin", monkeypatch)
    edge = run_edge("file", tmp_path / "a.wav", "--track", "2")
    assert edge.code == 2
    assert "a.wav: track 2 is read by ffmpeg; install ffmpeg, or: pip install" in edge.stderr


def test_a_decoder_that_cannot_be_started_is_named(
    run_edge: RunEdge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "a.m4a", *sine(440, 1))
    use_decoder("PyAV", tmp_path / "bin", monkeypatch)
    (tmp_path / "bin" / "ffmpeg").write_bytes(b"\x7fELF")
    (tmp_path / "bin" / "ffmpeg").chmod(0o755)
    edge = run_edge("file", tmp_path / "a.m4a")
    assert edge.code == 2
    assert edge.stderr == (
        f"natterjack-edge: {tmp_path}/bin/ffmpeg cannot be started: Exec format error\n"
    )


async def test_a_killed_edge_continues_a_decoded_file(
    decoder: str, ready_broker: Broker, start_edge: StartEdge, tmp_path: Path
) -> None:
    path = make(tmp_path / "a.m4a", *sine(440, 8, 16_000))
    arguments = ("file", path, "--spool", tmp_path / "spool", "--resume")
    environment = {"PATH": os.environ["PATH"]}
    first = start_edge(*arguments, environment=environment)
    js = ready_broker.client.jetstream()

    async def published() -> bool:
        return (await js.stream_info("STT_AUDIO")).state.messages > 10

    await until(published, "some audio is stored")
    first.kill()
    second = start_edge(*arguments, "--speed", "max", environment=environment)
    assert await second.exit_code() == 0, second.stderr
    assert "resuming the session where it stopped" in second.stderr
    recording = (await only_recording(ready_broker)).once_each()
    whole = await open_file(path, None, 80, None)
    (wanted,) = (await captured(whole)).values()
    whole.close()
    assert recording.payload == wanted.payload


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_ctrl_c_ends_a_decoded_file_and_its_decoder(
    decoder: str, ready_broker: Broker, start_edge: StartEdge, tmp_path: Path
) -> None:
    path = long(tmp_path / "a.m4a", 600)  # the decoder fills the pipe and waits
    edge = start_edge("file", path, environment={"PATH": os.environ["PATH"]})
    js = ready_broker.client.jetstream()

    async def published() -> bool:
        return (await js.stream_info("STT_AUDIO")).state.messages > 5

    await until(published, "some audio is stored")
    (decoding,) = children(edge.process.pid)  # the one that examined the file has ended
    assert os.getpgid(decoding) != os.getpgid(edge.process.pid)  # Ctrl-C does not reach it
    edge.process.send_signal(signal.SIGINT)
    assert await edge.exit_code() == 0, edge.stderr
    assert not Path(f"/proc/{decoding}").exists()
    (await only_recording(ready_broker)).check_whole()


def decoders(name: str) -> list[int]:
    """The processes of this one that decode a file."""
    return [pid for pid in children(os.getpid()) if name in command(pid)]


def most_kib(pid: int) -> int:
    """The most memory that a process has had, in KiB; 0 if it has ended. What getrusage says of
    children includes that of their parent, whose copy each of them is at first."""
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) if found else 0
    return 0


@pytest.mark.slow
async def test_the_memory_for_a_long_file_is_bounded(decoder: str, tmp_path: Path) -> None:
    """25 minutes of 48 kHz stereo are 288 MB of samples."""
    path = long(tmp_path / "long.m4a", 1500, "-ac", "2", "-ar", "48000")
    source = await open_file(path, None, 80, None)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    frames = peak_kib = 0
    async for block in source.blocks():
        frames += len(block.samples)
        if not frames % (60 * 48_000):
            peak_kib = max(peak_kib, *map(most_kib, decoders("long.m4a")), 0)
    source.close()
    assert frames / 48_000 == pytest.approx(1500, rel=0.01)
    used_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert used_kib < 64 * 1024
    assert 0 < peak_kib < 200 * 1024, peak_kib


def test_probe_tells_what_can_be_transcribed(
    run_edge: RunEdge, tmp_path: Path, decoder: str
) -> None:
    make(tmp_path / "a.m4a", *sine(440, 2), "-ac", "2")
    (tmp_path / "b.txt").write_text("words")
    edge = run_edge("probe", tmp_path / "a.m4a", tmp_path / "b.txt", tmp_path / "none.wav")
    good, bad, missing = map(json.loads, edge.stdout.splitlines())
    assert good == {
        "path": str(tmp_path / "a.m4a"),
        "seconds": pytest.approx(2, abs=0.1),
        "sample_rate": 44_100,
        "channels": 2,
        "tracks": 1,
    }
    assert bad["error"].startswith(f"{tmp_path / 'b.txt'} is not a readable audio file: ")
    assert missing["error"] == f"{tmp_path / 'none.wav'}: No such file or directory"
    assert edge.code == 2
    assert not edge.stderr


async def test_a_decoder_ends_when_its_source_is_closed(decoder: str, tmp_path: Path) -> None:
    source = await open_file(long(tmp_path / "a.m4a", 600), None, 80, None)
    reading = asyncio.ensure_future(anext(source.blocks()))
    await asyncio.sleep(0)
    source.close()
    await reading  # the first block was there before
    assert not decoders("a.m4a")


def command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""
