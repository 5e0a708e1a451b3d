from __future__ import annotations

import array
import asyncio
import fcntl
import io
import os
import subprocess
import sys
import termios
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import soundfile

from bench.processes import cpu_seconds
from edge_capture.input.samples import Coding
from edge_capture.settings import StdinSettings
from edge_capture.sources import boot_clock
from edge_capture.sources.stdin import StdinSource
from natterjack.broker.connection import Broker
from natterjack.broker.streams import AUDIO as AUDIO_STREAM
from natterjack.local.embedded import EmbeddedServer
from tests.edge_capture.conftest import RunEdge, StartEdge
from tests.edge_capture.input.wavs import chunk, wav_header
from tests.edge_capture.program import (
    Recording,
    captured,
    loudest_hertz,
    nothing_published,
    only_recording,
    tone,
)
from tests.waiting import soon, until


async def captured_from(
    audio: bytes, *arguments: str, piece_bytes: int = 65536, **settings: Any
) -> dict[str, Recording]:
    """Return what the program makes of a pipe into which `audio` is written in pieces."""
    readable, writable = os.pipe()

    def write() -> None:
        with os.fdopen(writable, "wb", buffering=0) as pipe:
            for start in range(0, len(audio), piece_bytes):
                pipe.write(audio[start : start + piece_bytes])

    writing = asyncio.create_task(asyncio.to_thread(write))
    try:
        source = StdinSource(readable, StdinSettings(**settings), None, 80)
        await source.open()
        return await captured(source, *arguments)
    finally:
        await writing
        os.close(readable)


async def test_a_pipe_is_mixed_and_resampled() -> None:
    left, right = tone(440, 3, 48000, 0.4), np.zeros(3 * 48000)
    pcm = (np.stack([left, right], axis=1) * 32767).astype("<i2").tobytes()
    (recording,) = (await captured_from(pcm, sample_rate=48000, channels=2)).values()
    recording.check_whole()
    assert recording.seconds == pytest.approx(3)
    assert loudest_hertz(recording.samples, 16000) == pytest.approx(440, abs=1)


async def test_chunks_are_published_as_they_arrive(
    ready_broker: Broker, start_edge: StartEdge
) -> None:
    edge = start_edge("stdin", stdin=subprocess.PIPE)
    pipe = edge.process.stdin
    assert pipe is not None
    js = ready_broker.client.jetstream()

    async def stored() -> int:
        return (await js.stream_info(AUDIO_STREAM)).state.messages

    for count in (1, 2, 3):
        pipe.write(b"\1\0" * 1280)
        pipe.flush()
        await until(lambda count=count: _equals(stored, count), f"{count} chunks are stored")
    pipe.close()
    assert await edge.exit_code() == 0
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert recording.payload == b"\1\0" * 3840


async def _equals(count: object, wanted: int) -> bool:
    return bool(await count() == wanted)  # type: ignore[operator]


async def test_an_incomplete_frame_at_the_end_is_ignored_with_a_warning(
    ready_broker: Broker, start_edge: StartEdge, tmp_path: Path
) -> None:
    audio = np.random.default_rng(1).bytes(40_003)
    (tmp_path / "raw").write_bytes(audio)
    with (tmp_path / "raw").open("rb") as file:
        edge = start_edge("stdin", stdin=file)
    assert await edge.exit_code() == 0
    ignored = "ignoring the last 1 bytes of standard input, which are not a whole frame of 2"
    assert ignored in edge.stderr
    assert (await only_recording(ready_broker)).payload == audio[:-1]


async def test_frames_may_arrive_in_odd_pieces() -> None:
    audio = np.random.default_rng(1).bytes(4 * 5000)
    found = await captured_from(audio, "--split-channels", "a,b", piece_bytes=997, channels=2)
    frames = np.frombuffer(audio, "<i2").reshape(-1, 2)
    assert (found["a"].samples == frames[:, 0]).all()
    assert (found["b"].samples == frames[:, 1]).all()


@pytest.mark.parametrize("encoding", ["mulaw", "alaw"])
async def test_telephone_audio_passes_unchanged(encoding: str) -> None:
    audio = np.random.default_rng(1).bytes(8001)
    (recording,) = (await captured_from(audio, encoding=encoding, sample_rate=8000)).values()
    recording.check_whole()
    assert recording.spec.audio_format == (encoding, 8000, 1)
    assert recording.payload == audio
    assert len(recording.payloads[0]) == 640


async def test_channels_of_telephone_audio_stay_together_or_are_split() -> None:
    audio = np.random.default_rng(1).bytes(4000)
    found: dict[str, Recording] = {}
    for extra in (["--speaker", "both"], ["--split-channels", "a,b"]):
        found |= await captured_from(audio, *extra, encoding="mulaw", sample_rate=8000, channels=2)
    assert found["both"].spec.channels == 2
    assert found["both"].payload == audio
    found["both"].check_whole()
    assert found["b"].spec.channels == 1
    assert found["b"].payload == audio[1::2]
    found["b"].check_whole()


@pytest.mark.parametrize(
    ("audio", "words"),
    [(b"", "standard input is empty"), (b"x", "empty: 1 bytes are not a whole frame")],
)
def test_without_audio_nothing_is_published(
    run_edge: RunEdge, monkeypatch: pytest.MonkeyPatch, audio: bytes, words: str
) -> None:
    check_refused(run_edge, monkeypatch, audio, words)


def check_refused(
    run_edge: RunEdge,
    monkeypatch: pytest.MonkeyPatch,
    audio: bytes,
    words: str,
    *arguments: str,
    environment: dict[str, str] | None = None,
) -> None:
    """Assert that the program refuses `audio` in one line with `words`, and publishes nothing."""
    readable, writable = os.pipe()
    os.write(writable, audio)
    os.close(writable)
    with os.fdopen(readable) as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        edge = run_edge("stdin", *arguments, environment=environment)
    assert edge.code == 2
    assert words in edge.stderr
    assert edge.stderr.count("\n") == 1


AUDIO = (tone(440, 2, 16000) * 32767).astype("<i2").tobytes()
LIST = chunk(b"LIST", b"INFOISFT\4\0\0\0edge")


@pytest.mark.parametrize(
    ("audio", "words", "arguments", "environment"),
    [
        (b"fLaC" + bytes(40), "a FLAC file, not raw audio", [], {}),
        (b"fLaC" + bytes(40), "natterjack-edge file PATH", ["--sample-rate", "16000"], {}),
        (
            b"\0\0\0\x1cftypM4A ",
            "an MP4 or M4A file, not raw audio (if it is raw nevertheless: --raw, or raw = true); "
            "use natterjack-",
            [],
            {},
        ),
        (wav_header(tag=0x11) + AUDIO, "but it is encoded as IMA ADPCM", [], {}),
        (wav_header(rate=16) + AUDIO, "but its header says 16 Hz", [], {}),
        (AUDIO, "EDGE_STDIN_SAMPLE_RATE: Input should be greater", ["--sample-rate", "16"], {}),
        (
            AUDIO,
            "EDGE_STDIN_SAMPLE_RATE: audio cannot be published at 768000 Hz; use a rate from",
            ["--encoding", "mulaw", "--sample-rate", "768000"],
            {},
        ),
        (wav_header()[:30], "ends within the header of a WAV file", [], {}),
        (wav_header(), "is empty", [], {}),
        (wav_header() + LIST, "a WAV file without samples", [], {}),
        (
            wav_header(rate=48_000, channels=2) + AUDIO,
            "a WAV file (48000 Hz, 2 channels, 16-bit PCM), but --sample-rate "
            "(EDGE_STDIN_SAMPLE_RATE) is 16000; leave it out "
            "(if it is raw nevertheless: --raw, or raw = true)",
            ["--sample-rate", "16000"],
            {},
        ),
        (
            wav_header(channels=2) + AUDIO,
            "but --channels (EDGE_STDIN_CHANNELS) is 1",
            [],
            {"EDGE_STDIN_CHANNELS": "1"},
        ),
        (
            wav_header(Coding("float", 4)) + AUDIO,
            "32-bit float), but --encoding (EDGE_STDIN_ENCODING) is linear16",
            ["--encoding", "linear16"],
            {},
        ),
    ],
)
def test_what_is_no_raw_audio_is_refused(
    run_edge: RunEdge,
    monkeypatch: pytest.MonkeyPatch,
    audio: bytes,
    words: str,
    arguments: list[str],
    environment: dict[str, str],
) -> None:
    check_refused(run_edge, monkeypatch, audio, words, *arguments, environment=environment)


@pytest.mark.parametrize("piece_bytes", [1, 7, 65536])
@pytest.mark.parametrize(
    ("header", "behind"),
    [
        (wav_header(data_bytes=len(AUDIO)), b""),
        (wav_header(data_bytes=len(AUDIO)), LIST),
        (wav_header(data_bytes=len(AUDIO), before=LIST, extensible=True), LIST + LIST),
        (wav_header(data_bytes=0xFFFF_FFFF, riff_bytes=0xFFFF_FFFF), b""),
        (wav_header(data_bytes=0x8000_0000), b""),
        (wav_header(), b""),
        (wav_header(data_bytes=0xFFFF_FFFF, long_bytes=len(AUDIO)), LIST),
    ],
)
async def test_a_wav_file_is_read_without_its_header(
    header: bytes, behind: bytes, piece_bytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    audio = AUDIO if piece_bytes > 100 else AUDIO[: piece_bytes * 2000]
    if audio is not AUDIO:
        header = header.replace(len(AUDIO).to_bytes(4, "little"), len(audio).to_bytes(4, "little"))
    found = await captured_from(header + audio + behind, piece_bytes=piece_bytes)
    (recording,) = found.values()
    recording.check_whole()
    assert recording.payload == audio
    assert not [record for record in caplog.records if record.levelname != "INFO"]


async def test_the_header_names_the_format(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    both = np.stack([tone(440, 1, 8000), tone(1000, 1, 8000)], axis=1)
    for coding, subtype in [
        (Coding("int", 1), "PCM_U8"),
        (Coding("int", 2), "PCM_16"),
        (Coding("int", 2, big_endian=True), "PCM_16"),
        (Coding("int", 3), "PCM_24"),
        (Coding("int", 3, big_endian=True), "PCM_24"),
        (Coding("int", 4), "PCM_32"),
        (Coding("float", 4), "FLOAT"),
        (Coding("float", 8, big_endian=True), "DOUBLE"),
        (Coding("mulaw", 1), "ULAW"),
        (Coding("alaw", 1), "ALAW"),
    ]:
        file = io.BytesIO()
        soundfile.write(file, both, 8000, subtype, "BIG" if coding.big_endian else "LITTLE", "RAW")
        found = await captured_from(
            wav_header(coding, 8000, 2) + file.getvalue(),
            *("--split-channels", "a,b", "--publish-sample-rate", "8000"),
        )
        assert f"standard input is a WAV file: 8000 Hz, 2 channels, {coding}" in caplog.text
        for speaker, samples in zip("ab", both.T, strict=True):
            found[speaker].check_whole()
            assert found[speaker].spec.audio_format == ("linear16", 8000, 1)
            assert np.abs(found[speaker].samples / 32768 - samples).max() < 0.03


async def test_settings_that_say_the_same_as_the_header_are_accepted() -> None:
    header = wav_header(rate=48_000, channels=2, data_bytes=len(AUDIO))
    found = await captured_from(header + AUDIO, sample_rate=48_000, channels=2, encoding="linear16")
    assert [round(recording.seconds, 3) for recording in found.values()] == [0.333]


async def test_raw_audio_may_begin_like_a_file() -> None:
    for audio in (wav_header() + AUDIO, b"fLaC" + AUDIO, b"OggS"):
        (recording,) = (await captured_from(audio, raw=True)).values()
        assert recording.payload == audio


async def test_audio_behind_the_announced_end_is_read(caplog: pytest.LogCaptureFixture) -> None:
    header = wav_header(data_bytes=len(AUDIO) // 4)
    (recording,) = (await captured_from(header + AUDIO)).values()
    assert recording.payload == AUDIO
    assert "continues after the 0.5 s that the header announces; all of it is read" in caplog.text


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        (wav_header(data_bytes=2 * len(AUDIO)) + AUDIO, "2.0 s of the audio that the header"),
        ((wav_header(data_bytes=len(AUDIO)) + AUDIO) * 2, "another WAV file follows; only the fi"),
    ],
)
async def test_a_wav_file_that_cannot_be_read_whole_ends_its_session(
    ready_broker: Broker, start_edge: StartEdge, tmp_path: Path, audio: bytes, words: str
) -> None:
    (tmp_path / "a.wav").write_bytes(audio)
    with (tmp_path / "a.wav").open("rb") as file:
        edge = start_edge("stdin", stdin=file)
    assert await edge.exit_code() == 1
    assert words in edge.stderr
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert recording.payload == AUDIO


async def test_a_slow_writer_of_a_wav_file(ready_broker: Broker, start_edge: StartEdge) -> None:
    """The header is awaited, nothing more, and the audio is published as it arrives."""
    edge = start_edge("stdin", stdin=subprocess.PIPE)
    pipe = edge.process.stdin
    assert pipe is not None
    whole = wav_header(before=LIST) + AUDIO[: 2 * 2560]
    js = ready_broker.client.jetstream()

    async def stored() -> int:
        return (await js.stream_info(AUDIO_STREAM)).state.messages

    for start, end in ((0, 3), (3, 30), (30, len(whole) - 2560)):
        assert await stored() == 0
        pipe.write(whole[start:end])
        pipe.flush()
        await until(lambda: _unread_bytes(pipe) == 0, "it is read")
    await until(lambda: _equals(stored, 1), "a chunk is stored")
    pipe.write(whole[-2560:])
    pipe.flush()
    await until(lambda: _equals(stored, 2), "another chunk is stored")
    pipe.close()
    assert await edge.exit_code() == 0
    assert (await only_recording(ready_broker)).payload == AUDIO[: 2 * 2560]


async def test_stopped_before_any_audio(ready_broker: Broker, start_edge: StartEdge) -> None:
    edge = start_edge("stdin", stdin=subprocess.PIPE)
    await until(lambda: _catches_interrupts(edge.process.pid), "the edge has its handlers")
    edge.interrupt()
    assert await edge.exit_code() == 0
    assert "nothing was published" in edge.stderr
    assert await nothing_published(ready_broker)


def _catches_interrupts(pid: int) -> bool:
    """Return whether SIGTERM has a handler, which Python itself does not install."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> 14 & 1)


async def test_an_incomplete_chunk_is_published_after_a_signal(
    ready_broker: Broker, start_edge: StartEdge
) -> None:
    audio = np.random.default_rng(1).bytes(2560 + 1001)
    edge = start_edge("stdin", stdin=subprocess.PIPE)
    pipe = edge.process.stdin
    assert pipe is not None
    pipe.write(audio[:2560])
    pipe.flush()
    js = ready_broker.client.jetstream()

    async def stored() -> int:
        return (await js.stream_info(AUDIO_STREAM)).state.messages

    await until(lambda: _equals(stored, 1), "a chunk is stored")
    pipe.write(audio[2560:])
    pipe.flush()
    await until(lambda: _unread_bytes(pipe) == 0, "the rest is read")
    edge.interrupt()
    assert await edge.exit_code() == 0, edge.stderr
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert recording.payload == audio[:-1]


def _unread_bytes(pipe: int | IO[bytes]) -> int:
    answer = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, answer)
    return answer[0]


async def test_the_pipe_stays_blocking_for_other_processes(
    ready_broker: Broker, start_edge: StartEdge
) -> None:
    ours, writable = os.pipe()
    try:
        edge = start_edge("stdin", stdin=ours)
        os.write(writable, b"\1\0" * 2000)
        await until(lambda: _unread_bytes(ours) == 0, "it is read")
        assert os.get_blocking(ours)
    finally:
        os.close(writable)
        os.close(ours)
    assert await edge.exit_code() == 0, edge.stderr
    (await only_recording(ready_broker)).check_whole()


async def test_a_writer_waits_while_the_broker_takes_nothing(
    ready_broker: Broker, nats_server: EmbeddedServer, start_edge: StartEdge
) -> None:
    nats_server.kill()
    audio = np.random.default_rng(1).bytes(1_000_000)
    edge = start_edge("stdin", stdin=subprocess.PIPE)
    pipe = edge.process.stdin
    assert pipe is not None
    writing = asyncio.create_task(asyncio.to_thread(edge.process.communicate, audio))
    await edge.says("no NATS at")
    await until(lambda: _unread_bytes(pipe) > 0, "the pipe is full")
    used = cpu_seconds(edge.process.pid)
    done, _ = await asyncio.wait({writing}, timeout=1)
    assert not done
    assert cpu_seconds(edge.process.pid) - used < 0.5  # it does not spin
    nats_server.start()
    await soon(writing, 20)
    assert await edge.exit_code() == 0, edge.stderr
    await until(lambda: ready_broker.connected, "the test is connected")
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert recording.payload == audio


@pytest.mark.parametrize("live", [True, False])
async def test_what_a_live_writer_missed_in_a_suspension_is_a_gap(
    live: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A writer that waits goes on where it stood."""
    asleep, now = 0.0, boot_clock.boot_time
    monkeypatch.setattr(boot_clock, "boot_time", lambda: now() + asleep)
    readable, writable = os.pipe()
    source = StdinSource(readable, StdinSettings(live=live), None, 80)
    try:
        os.write(writable, bytes(3200))
        await source.open()
        blocks = source.blocks()
        before = await anext(blocks)
        asleep = 150.0
        os.write(writable, bytes(3200))
        after = await anext(blocks)
        await blocks.aclose()
    finally:
        source.close()
        os.close(readable)
        os.close(writable)
    gap_s = after.lost_frames / 16_000
    assert gap_s == pytest.approx(150 * live, abs=0.1)
    passed_s = (after.time_ns - before.time_ns) / 1e9
    assert passed_s == pytest.approx(gap_s + len(before.samples) / 16_000, abs=0.001)
    assert after.cause == "suspended" or not live
    assert ("150.00 s of audio were lost: this machine was suspended" in caplog.text) is live
