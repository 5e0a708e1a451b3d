from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_capture.errors import SourceError, SourceLost
from edge_capture.input.samples import Coding
from edge_capture.sources.file import _SUBTYPES, FileSource
from natterjack.broker.connection import Broker
from tests.edge_capture.conftest import RunEdge, StartEdge
from tests.edge_capture.input.wavs import chunk, wav_header
from tests.edge_capture.program import (
    captured,
    loudest_hertz,
    only_recording,
    recordings,
    requests,
    tone,
)
from tests.waiting import bound


def write(
    path: Path, channels: int, rate: int, seconds: float = 2.0, subtype: str | None = None
) -> None:
    """Write a file with 440 Hz on its first channel and silence on the others."""
    samples = np.zeros((round(seconds * rate), channels))
    samples[:, 0] = tone(440, seconds, rate)
    soundfile.write(path, samples, rate, subtype)


@pytest.mark.parametrize(
    ("name", "rate", "channels", "subtype"),
    [
        ("a.wav", 44100, 1, "PCM_16"),
        ("a.wav", 48000, 6, "PCM_24"),
        ("a.wav", 8000, 2, "ULAW"),
        ("a.wav", 11025, 3, "FLOAT"),
        ("a.flac", 96000, 2, None),
        ("a.ogg", 22050, 2, None),
        ("a.mp3", 44100, 2, None),
    ],
)
async def test_every_format_is_captured_whole(
    tmp_path: Path, name: str, rate: int, channels: int, subtype: str | None
) -> None:
    write(tmp_path / name, channels, rate, subtype=subtype)
    (recording,) = (await captured(FileSource(tmp_path / name, None, 80))).values()
    recording.check_whole()
    assert recording.spec.audio_format == ("linear16", 16000, 1)
    assert recording.seconds == pytest.approx(2.0, abs=0.001)
    samples = recording.samples
    assert loudest_hertz(samples, 16000) == pytest.approx(440, abs=1)
    live = soundfile.read(tmp_path / name, always_2d=True)[0][:, 0]
    assert samples.std() / 32768 == pytest.approx(live.std(), rel=0.01)


@pytest.mark.parametrize("name", ["a.mp3", "a.ogg", "a.flac"])
async def test_reading_in_blocks_changes_nothing(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(1)
    audio = tone(440, 4, 16000, 0.3) + rng.normal(0, 0.05, 64000)
    soundfile.write(tmp_path / name, audio, 16000)
    # With a pace, blocks are no longer than a chunk.
    source = FileSource(tmp_path / name, 1000, 10)
    (recording,) = (await captured(source, "--publish-chunk-ms", "10")).values()
    samples = recording.samples
    whole = soundfile.read(tmp_path / name)[0]
    assert len(samples) == len(whole)
    assert np.abs(samples / 32768 - whole).max() < 0.001


async def test_sixteen_bits_at_the_published_rate_do_not_change(tmp_path: Path) -> None:
    samples = np.random.default_rng(1).integers(-32768, 32767, 20_001, np.int16, endpoint=True)
    soundfile.write(tmp_path / "a.wav", samples, 16000, "PCM_16")
    (recording,) = (await captured(FileSource(tmp_path / "a.wav", None, 80))).values()
    assert (recording.samples == samples).all()
    assert [len(payload) for payload in recording.payloads] == [2560] * 15 + [1602]


async def test_the_rate_of_the_source_can_be_kept(
    ready_broker: Broker, start_edge: StartEdge, tmp_path: Path
) -> None:
    write(tmp_path / "a.flac", 1, 44100)
    edge = start_edge(
        "file", tmp_path / "a.flac", "--speed", "max", "--publish-chunk-ms", "20",
        environment={"EDGE_SAMPLE_RATE": "0"},
    )  # fmt: skip
    assert await edge.exit_code() == 0, edge.stderr
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert recording.spec.sample_rate == 44100
    assert len(recording.samples) == 88200
    assert len(recording.payloads[0]) == 2 * 882


async def test_channels_become_sessions(
    ready_broker: Broker, start_edge: StartEdge, tmp_path: Path
) -> None:
    both = np.stack([tone(440, 1.5, 48000), tone(1000, 1.5, 48000)], axis=1)
    soundfile.write(tmp_path / "call.wav", both, 48000)
    edge = start_edge(
        "file", tmp_path / "call.wav", "--split-channels", "agent,caller", "--speed", "max",
        "--tenant", "acme", "--conversation", "call-7",
    )  # fmt: skip
    assert await edge.exit_code() == 0, edge.stderr
    found = await recordings(ready_broker)
    assert sorted(found) == ["agent", "caller"]
    for speaker, hertz in (("agent", 440), ("caller", 1000)):
        recording = found[speaker]
        recording.check_whole()
        assert recording.seconds == pytest.approx(1.5)
        assert loudest_hertz(recording.samples, 16000) == pytest.approx(hertz, abs=1)
    ids = {recording.spec.session_id for recording in found.values()}
    assert len(ids) == 2
    assert all(session_id in edge.stdout for session_id in ids)
    assert "acme.call-7.agent" in edge.stdout


@pytest.mark.interpreter
async def test_the_request_has_every_setting(
    ready_broker: Broker, start_edge: StartEdge, tmp_path: Path
) -> None:
    write(tmp_path / "a.wav", 1, 16000, 0.2)
    edge = start_edge(
        "file", tmp_path / "a.wav", "--speed", "max", "--language", "en-GB",
        "--provider", "deepgram, sherpa", "--keyterm", "natterjack", "--keyterm", "toad, the",
        "--option", "numerals=true", "--option", "tier=gold", "--label", "room=7",
        "--max-seconds", "60",
        environment={
            "EDGE_TENANT": "acme", "EDGE_SPEAKER": "ann", "EDGE_MODEL": "nova-3",
            "EDGE_OPTIONS": json.dumps({"lost": "to the flags"}),
        },
    )  # fmt: skip
    assert await edge.exit_code() == 0, edge.stderr
    (spec,) = await requests(ready_broker)
    assert (spec.tenant, spec.speaker) == ("acme", "ann")
    assert (spec.language, spec.model, spec.max_seconds) == ("en-GB", "nova-3", 60)
    assert spec.providers == ["deepgram", "sherpa"]
    assert spec.keyterms == ["natterjack", "toad, the"]
    assert spec.options == {"numerals": True, "tier": "gold"}
    assert spec.labels == {"room": "7"}
    assert spec.conversation in edge.stdout


async def test_lists_come_from_the_environment_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(tmp_path / "a.wav", 1, 16000, 0.2)
    environment = {
        "EDGE_KEYTERMS": "heron, natterjack toad",
        "EDGE_OPTIONS": '{"tier": 2}',
        "EDGE_LABELS": '{"room": "7"}',
        "EDGE_PROVIDER": "deepgram",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (recording,) = (await captured(FileSource(tmp_path / "a.wav", None, 80))).values()
    spec = recording.spec
    assert spec.keyterms == ["heron", "natterjack toad"]
    assert (spec.options, spec.labels, spec.provider) == ({"tier": 2}, {"room": "7"}, "deepgram")


@pytest.mark.interpreter
async def test_a_file_is_played_at_the_given_speed(
    ready_broker: Broker, start_edge: StartEdge, tmp_path: Path
) -> None:
    write(tmp_path / "a.wav", 1, 16000, 4.0)
    started = datetime.now(UTC)
    assert await start_edge("file", tmp_path / "a.wav", "--speed", "4").exit_code() == 0
    js = ready_broker.client.jetstream()
    first = await js.get_msg("STT_AUDIO", 1)
    last = await js.get_msg("STT_AUDIO", 51)
    assert first.time is not None
    assert last.time is not None
    # 4 s of audio in one second; a chunk is sent when a microphone would have filled it.
    assert (last.time - started).total_seconds() >= 1
    assert (last.time - first.time).total_seconds() < bound(2)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.wav", None, "No such file or directory"),
        ("empty.wav", b"", "is empty"),
        ("text.wav", b"no audio at all, only words", "is not a readable audio file"),
        ("a.raw", b"\0" * 1000, "is raw audio; use: natterjack-edge stdin"),
        ("", None, "is a directory"),
        ("x" * 300, None, "File name too long"),
    ],
)
@pytest.mark.process
def test_a_wrong_file_is_reported_in_one_line(
    run_edge: RunEdge, tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    edge = run_edge("file", tmp_path / name)
    assert edge.code == 2
    assert edge.stderr.startswith("natterjack-edge: ")
    assert edge.stderr.count("\n") == 1
    assert words in edge.stderr


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_a_rate_too_low_for_speech_is_refused(run_edge: RunEdge, tmp_path: Path, name: str) -> None:
    """From a header with a rate of 1 Hz, a few kilobytes would become gigabytes."""
    soundfile.write(tmp_path / name, np.zeros(40_000), 16)
    edge = run_edge("file", tmp_path / name)
    assert edge.code == 2
    assert edge.stderr == (
        f"natterjack-edge: {tmp_path / name} has a sample rate of 16 Hz, and speech needs 4000 Hz "
        "or more\n"
    )


def test_a_file_without_samples_publishes_nothing(run_edge: RunEdge, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((0, 1)), 16000)
    edge = run_edge("file", tmp_path / "a.wav")
    assert edge.code == 2
    assert edge.stderr == f"natterjack-edge: {tmp_path / 'a.wav'} has no samples\n"


async def test_a_file_that_breaks_off_ends_its_session(
    ready_broker: Broker, start_edge: StartEdge, tmp_path: Path
) -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, 16000 * 4)
    soundfile.write(tmp_path / "a.flac", noise, 16000)
    whole = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(whole[: len(whole) // 2])
    edge = start_edge("file", tmp_path / "a.flac", "--speed", "max")
    code = await edge.exit_code()
    recording = await only_recording(ready_broker)
    recording.check_whole()
    assert 1 < recording.seconds < 2.2
    assert code == 1
    assert "cannot be read further" in edge.stderr


AUDIO = (tone(440, 2, 16000) * 32767).astype("<i2").tobytes()
JUNK = chunk(b"JUNK", b"data" * 1000) + chunk(b"FLLR", bytes(70_001))


@pytest.mark.parametrize(
    "header",
    [
        wav_header(riff_bytes=0),
        wav_header(riff_bytes=36),
        wav_header(before=JUNK),
        wav_header(data_bytes=16_000),
        wav_header(data_bytes=0xFFFF_FFFF, riff_bytes=0xFFFF_FFFF),
        wav_header(data_bytes=0x8000_0000),
        wav_header(data_bytes=0xFFFF_FFFF, long_bytes=0),
        wav_header(data_bytes=0xFFFF_FFFF, long_bytes=2**64 - 1),
        wav_header(extensible=True),
    ],
)
async def test_all_audio_behind_a_header_that_was_never_finished_is_read(
    tmp_path: Path, header: bytes
) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(header + AUDIO + b"x")
    (recording,) = (await captured(FileSource(path, None, 80))).values()
    recording.check_whole()
    assert recording.payload == AUDIO
    source = FileSource(path, None, 80)
    source.start_at(20_000, None)
    (recording,) = (await captured(source)).values()
    assert recording.payload == AUDIO[40_000:]


@pytest.mark.parametrize("name", ["int 1", "int 3", "int 4", "float 4", "float 8", "mulaw", "alaw"])
@pytest.mark.parametrize("big_endian", [False, True])
async def test_unfinished_files_of_any_encoding_are_read(
    tmp_path: Path, name: str, big_endian: bool
) -> None:
    kind, _, size = name.partition(" ")
    coding = Coding(kind, int(size or 1), big_endian)  # type: ignore[arg-type]
    subtype = _SUBTYPES[coding.kind, coding.size]
    endian = "BIG" if big_endian else "LITTLE"
    both = np.stack([tone(440, 1, 8000), tone(1000, 1, 8000)], axis=1)
    audio = io.BytesIO()
    soundfile.write(audio, both, 8000, subtype, endian, "RAW")
    (tmp_path / "a.wav").write_bytes(wav_header(coding, 8000, 2) + audio.getvalue())
    found = await captured(
        FileSource(tmp_path / "a.wav", None, 80),
        *("--split-channels", "a,b", "--publish-sample-rate", "8000"),
    )
    for speaker, samples in zip("ab", both.T, strict=True):
        assert np.abs(found[speaker].samples / 32768 - samples).max() < 0.02


async def test_what_is_odd_about_a_file_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav_header(data_bytes=len(AUDIO)) + AUDIO + chunk(b"LIST", b"comment"))
    (recording,) = (await captured(FileSource(path, None, 80))).values()
    assert recording.payload == AUDIO
    assert not caplog.messages
    path.write_bytes(wav_header(data_bytes=len(AUDIO) // 4) + AUDIO)
    await captured(FileSource(path, None, 80))
    assert "1.5 s more follow the 0.5 s that its header announces" in caplog.text
    path.write_bytes(wav_header(data_bytes=2 * len(AUDIO)) + AUDIO)
    with pytest.raises(SourceLost, match=r"announces 4\.0 s of audio, of which 2\.0 s are missing"):
        await captured(FileSource(path, None, 80))
    path.write_bytes(wav_header(data_bytes=len(AUDIO)))
    with pytest.raises(SourceError, match=r"no samples: its header announces 2\.0 s"):
        FileSource(path, None, 80)


@pytest.mark.parametrize("long_bytes", [2**40, 2**50, 2**63 - 1])
async def test_a_header_that_announces_more_than_a_file_can_have(
    tmp_path: Path, long_bytes: int
) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav_header(data_bytes=2**32 - 1, long_bytes=long_bytes) + AUDIO)
    source = FileSource(path, None, 80)
    read = []

    async def read_all() -> None:
        async for block in source.blocks():
            read.append(len(block.samples))

    with pytest.raises(SourceLost, match="s are missing"):
        await read_all()
    source.close()
    assert sum(read) == len(AUDIO) // 2


async def test_an_mp3_that_is_cut_says_how_much_is_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "a.mp3", 1, 16000, 4.0)
    whole = (tmp_path / "a.mp3").read_bytes()
    await captured(FileSource(tmp_path / "a.mp3", None, 80))
    assert not caplog.messages
    (tmp_path / "a.mp3").write_bytes(whole[: len(whole) // 2])
    await captured(FileSource(tmp_path / "a.mp3", None, 80))
    assert "of the 4.0 s that its header announces could be read" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tenant", "a.b"], "tenant 'a.b' is not valid: use 1 to 64 of the characters"),
        (["--split-channels", "a,b c"], "speaker 'b c' is not valid"),
        (["--split-channels", "a,a"], "each channel needs a speaker of its own"),
        (["--split-channels", "a,b,c"], "names 3 speakers, the audio has 2 channels"),
        (["--split-channels", "a"], "names 1 speakers, the audio has 2 channels"),
        (["--publish-chunk-ms", "5"], "EDGE_CHUNK_MS: Input should be greater than or equal to 10"),
        (
            ["--publish-sample-rate", "1000"],
            "EDGE_SAMPLE_RATE: audio cannot be published at 1000 Hz; use a rate from 4000 to",
        ),
        (["--publish-sample-rate", "768000"], "EDGE_SAMPLE_RATE: audio cannot be published at 768"),
        (
            ["--publish-sample-rate", "384000", "--publish-chunk-ms", "1000"],
            "lower it, or EDGE_SAM",
        ),
        (["--language", "x" * 99], "language: String should have at most 35"),
        (["--keyterm", "x" * 70_000], "fewer keyterms"),
        (["--nats-creds", "/nowhere"], "NATS_CREDS: there is no file /nowhere"),
    ],
)
def test_a_mistake_is_reported_in_one_line(
    run_edge: RunEdge, tmp_path: Path, arguments: list[str], words: str
) -> None:
    write(tmp_path / "a.wav", 2, 16000, 0.2)
    edge = run_edge("file", tmp_path / "a.wav", *arguments)
    assert edge.code == 2
    assert words in edge.stderr
    assert edge.stderr.startswith("natterjack-edge: ")
    assert edge.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [["--speed", "-1"], ["--speed", "fast"], ["--option", "x"], ["--label", "=1"], ["--no-such"]],
)
def test_wrong_flags_are_refused(run_edge: RunEdge, tmp_path: Path, arguments: list[str]) -> None:
    edge = run_edge("file", tmp_path / "a.wav", *arguments)
    assert edge.code == 2
    assert "error: " in edge.stderr


def test_wrong_json_in_the_environment(run_edge: RunEdge, tmp_path: Path) -> None:
    write(tmp_path / "a.wav", 1, 16000, 0.2)
    edge = run_edge("file", tmp_path / "a.wav", environment={"EDGE_OPTIONS": "tier=2"})
    assert edge.code == 2
    assert edge.stderr == "natterjack-edge: EDGE_OPTIONS: not a JSON object\n"
