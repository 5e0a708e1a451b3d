"""Raw audio and WAV: encodings, channels, sample rates, and bytes that are cut anywhere."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_capture.input.samples import Coding
from gateway.audio.convert import ENCODINGS, Converter, Output, RawFormat
from gateway.audio.errors import UndecodableAudio
from gateway.audio.raw import RawDecoder, WavDecoder
from natterjack.emulators import tones
from natterjack.emulators.pcm import from_linear16
from tests.gateway.audio.files import WORDS, cut, pcm, wav, words
from tests.searching import examples

SOURCES = [
    RawFormat(ENCODINGS["linear16"], 16_000),
    RawFormat(ENCODINGS["linear16"], 24_000),
    RawFormat(ENCODINGS["linear16"], 48_000, 2),
    RawFormat(ENCODINGS["linear32"], 44_100, 3),
    RawFormat(ENCODINGS["mulaw"], 8000),
    RawFormat(ENCODINGS["alaw"], 8000, 2),
]


def decode(decoder: RawDecoder | WavDecoder, parts: list[bytes]) -> bytes:
    return b"".join(map(decoder.decode, parts)) + decoder.finish()


@examples(60)
@given(st.sampled_from(SOURCES), st.lists(st.integers(0, 3000), max_size=12), st.randoms())
def test_boundaries_do_not_change_the_audio(
    source: RawFormat, sizes: list[int], random: np.random.Generator
) -> None:
    data = np.random.default_rng(3).integers(-9000, 9000, 9600, np.int16)
    noise = data.tobytes()
    if source.coding.kind == "float":
        noise = (data / np.float32(32768)).astype("<f4").tobytes()
    parts, at = [], 0
    for size in sizes:
        parts.append(noise[at : at + size])
        at += size
    parts.append(noise[at:])
    whole = decode(RawDecoder(source, Output()), [noise])
    assert decode(RawDecoder(source, Output()), parts) == whole
    frames = len(noise) // source.frame_bytes
    assert len(whole) / 2 == pytest.approx(frames * 16_000 / source.sample_rate, abs=2)


@pytest.mark.parametrize("encoding", ["mulaw", "alaw"])
def test_g711(encoding: str) -> None:
    audio = from_linear16(pcm(8000), encoding)  # type: ignore[arg-type]
    decoder = RawDecoder(RawFormat(ENCODINGS[encoding], 8000), Output())
    assert words(decode(decoder, cut(audio, 160))) == WORDS


def test_floating_point() -> None:
    samples = np.frombuffer(pcm(16_000), "<i2").astype("<f4") / 32768
    decoder = RawDecoder(RawFormat(ENCODINGS["linear32"], 16_000), Output())
    assert decode(decoder, [samples.tobytes()]) == pcm(16_000)


def test_samples_that_are_no_numbers_do_not_spread() -> None:
    samples = np.frombuffer(pcm(48_000), "<i2").astype("<f4") / 32768
    for at, value in ((100, np.nan), (200, np.inf), (300, -np.inf), (400, 3e38)):
        samples[at] = value
    decoder = RawDecoder(RawFormat(ENCODINGS["linear32"], 48_000), Output())
    assert words(decode(decoder, [samples.tobytes()]))[1:] == WORDS[1:]


def test_channels_are_mixed_or_kept() -> None:
    speech = np.frombuffer(pcm(16_000), "<i2")
    stereo = np.stack([speech, -speech], axis=1)  # which a plain mean would cancel
    source = RawFormat(ENCODINGS["linear16"], 16_000, 2)
    mixed = words(decode(RawDecoder(source, Output()), [stereo.tobytes()]))
    assert mixed[-20:] == WORDS[-20:]  # it takes a moment to find out
    kept = decode(RawDecoder(source, Output(channels=None)), cut(stereo.tobytes(), 333))
    assert kept == stereo.tobytes()
    slow = decode(RawDecoder(source, Output(8000, 2)), cut(stereo.tobytes(), 333))
    assert words(np.frombuffer(slow, "<i2")[::2].tobytes(), 8000) == WORDS
    with pytest.raises(UndecodableAudio, match="has 2 channels, and 3 were asked for"):
        RawDecoder(source, Output(channels=3))


@pytest.mark.parametrize(("rate", "channels"), [(100, 1), (1_000_000, 1), (16_000, 500), (8000, 0)])
def test_formats_out_of_bounds_are_refused(rate: int, channels: int) -> None:
    with pytest.raises(UndecodableAudio, match="not between"):
        Converter(rate, channels, Output())


# ---- WAV ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, 0, 0xFFFFFFFF, 0x7FFFF000])
@pytest.mark.parametrize("step", [1, 1000, 1 << 20])
def test_wav_of_any_announced_size(size: int | None, step: int) -> None:
    data = bytearray(wav(pcm(16_000), 16_000))
    if size is not None:
        data[40:44] = struct.pack("<I", size)
    assert decode(WavDecoder(Output()), cut(bytes(data), step)) == pcm(16_000)


def test_metadata_after_the_audio_is_no_audio() -> None:
    tag = (
        b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf61.7.100\0\0"
    )
    for step in (1, 7, 1 << 20):
        parts = cut(wav(pcm(16_000), 16_000) + tag, step)
        assert decode(WavDecoder(Output()), parts) == pcm(16_000)


def test_audio_after_the_announced_size_is_audio() -> None:
    data = bytearray(wav(pcm(16_000), 16_000))
    data[40:44] = struct.pack("<I", 3200)
    assert decode(WavDecoder(Output()), cut(bytes(data), 1000)) == pcm(16_000)


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (struct.pack("<HHIIHH", 2, 1, 8000, 4000, 1, 4), "MS ADPCM"),
        (struct.pack("<HHIIHH", 1, 500, 16_000, 0, 1000, 16), "500 channels"),
        (struct.pack("<HHIIHH", 1, 1, 4_000_000_000, 0, 2, 16), "4000000000 Hz"),
        (struct.pack("<HHIIHH", 1, 0, 16_000, 0, 2, 16), "0 channels"),
    ],
)
def test_wav_that_cannot_be_decoded(form: bytes, reason: str) -> None:
    head = b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<I", len(form)) + form + b"data\0\0\0\0"
    with pytest.raises(UndecodableAudio, match=reason):
        WavDecoder(Output()).decode(head + bytes(100))


def test_wav_without_audio() -> None:
    decoder = WavDecoder(Output())
    assert decoder.decode(wav(pcm(16_000))[:30]) == b""
    with pytest.raises(UndecodableAudio, match="header of the WAV file is cut"):
        decoder.finish()
    long = WavDecoder(Output())
    head = b"RIFF\0\0\0\0WAVEJUNK" + struct.pack("<I", 1 << 30)
    assert long.decode(head + bytes(1 << 19)) == b""
    with pytest.raises(UndecodableAudio, match="no audio within"):
        long.decode(bytes(1 << 19))


def test_24_bits() -> None:
    samples = np.frombuffer(pcm(16_000), "<i2").astype("<i4") << 8
    packed = samples.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    decoder = RawDecoder(RawFormat(Coding("int", 3), 16_000), Output())
    assert decode(decoder, cut(packed, 1001)) == pcm(16_000)


def test_the_end_of_a_resampled_stream_is_not_lost() -> None:
    audio = tones.encode(WORDS, 24_000, tail_seconds=0)
    decoder = RawDecoder(RawFormat(ENCODINGS["linear16"], 24_000), Output())
    assert words(decode(decoder, cut(audio, 4800))) == WORDS
