from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from edge_capture.input.containers import recognize
from tests.edge_capture.program import tone
from tests.searching import examples

from .wavs import wav_header


def encoded(file_format: str, subtype: str | None = None) -> bytes:
    """Return a second of audio as libsndfile encodes it."""
    file = io.BytesIO()
    soundfile.write(file, tone(440, 1, 48000), 48000, subtype, format=file_format)
    return file.getvalue()


def adts(size: int) -> bytes:
    """Return a frame of AAC with a payload that is not AAC."""
    length = size + 7
    head = bytes(
        [0xFF, 0xF1, 0x50, 0x80 | length >> 11, length >> 3 & 255, (length & 7) << 5, 0xFC]
    )
    return head + b"\xff" * size


def transport(packets: int) -> bytes:
    return b"".join(
        bytes([0x47, 0x40 if n == 0 else 0, 0, 0x10 | n & 15]) + bytes(184) for n in range(packets)
    )


STREAMS: list[tuple[str, bytes]] = [
    ("an AIFF file", encoded("AIFF")),
    ("a CAF file", encoded("CAF")),
    ("an AU file", encoded("AU")),
    ("a Wave64 file", encoded("W64")),
    ("a FLAC file", encoded("FLAC")),
    ("an Ogg file", encoded("OGG")),
    ("an Ogg file", encoded("OGG", "OPUS")),
    ("an MP3 stream", encoded("MP3")),
    ("an MP3 file", b"ID3\4\0\0\0\0\1\0" + bytes(300) + encoded("MP3")),
    ("an AAC stream", adts(300) + adts(200) + adts(350)),
    ("an MPEG transport stream", transport(8)),
    ("an MP4 or M4A file", b"\0\0\0\x1cftypM4A \0\0\0\0M4A mp42isom\0\0\0\0"),
    ("a WebM or Matroska file", b"\x1a\x45\xdf\xa3\x9fB\x86\x81\1B\xf7\x81\1B\xf2\x81\4"),
    ("an AMR file", b"#!AMR\n" + bytes(50)),
    ("an AMR file", b"#!AMR-WB\n" + bytes(50)),
    ("a WMA (ASF) file", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\0\xaa\0\x62\xce\x6c"),
    ("a RIFF file other than WAV", b"RIFF\0\0\0\0AVI LIST\0\0"),
    ("a playlist, which is not audio", b"#EXTM3U\n#EXT-X-VERSION:3\n"),
    ("a web page, which is not audio", b"<!DOCTYPE html><html>"),
    ("an HTTP response", b"HTTP/1.1 404 Not Found\r\n"),
]
WAVS = [
    wav_header(),
    encoded("WAV"),
    encoded("RF64"),
    encoded("WAVEX", "FLOAT"),
    wav_header(data_bytes=0xFFFF_FFFF, riff_bytes=0xFFFF_FFFF),
    b"RIFX" + wav_header()[4:],
]


@pytest.mark.parametrize(("name", "stream"), STREAMS)
def test_files_and_encoded_streams_are_recognized(name: str, stream: bytes) -> None:
    found = recognize(stream, ended=False)
    assert (found.kind, found.name) == ("other", name)


@pytest.mark.parametrize("stream", WAVS)
def test_wav_files_are_recognized(stream: bytes) -> None:
    assert recognize(stream, ended=False).kind == "wav"


@pytest.mark.parametrize("stream", [stream for _, stream in STREAMS] + WAVS)
def test_the_answer_does_not_depend_on_how_much_has_arrived(stream: bytes) -> None:
    final = recognize(stream, ended=False)
    found = [recognize(stream[:size], ended=False) for size in range(min(len(stream) + 1, 2000))]
    known = next(size for size, each in enumerate(found) if each.kind != "unknown")
    assert all(each == final for each in found[known:])


makers: list[Callable[[np.random.Generator], bytes]] = [
    lambda rng: rng.bytes(4000),
    lambda rng: bytes(4000),
    lambda rng: rng.normal(0, 30, 2000).astype("<i2").tobytes(),
    lambda rng: (tone(300, 0.2, 8000, rng.random()) * 32767).astype("<i2").tobytes(),
    # Quiet mulaw, whose bytes resemble the header of an MP3 frame, and alaw.
    lambda rng: rng.choice(np.array([255, 127, 254, 126, 253, 125, 251], "u1"), 4000).tobytes(),
    lambda rng: rng.choice(np.array([213, 85, 212, 84, 215, 87], "u1"), 4000).tobytes(),
    lambda rng: rng.integers(0, 256, 1, "u1").tobytes() * 4000,
]  # fmt: skip


@examples(300)
@given(seed=st.integers(0, 2**32), maker=st.sampled_from(makers))
def test_raw_audio_is_raw(seed: int, maker: Callable[[np.random.Generator], bytes]) -> None:
    audio = maker(np.random.default_rng(seed))
    assert recognize(audio, ended=False).kind == "raw"
    assert recognize(audio[:16], ended=True).kind == "raw"


def test_little_is_enough_and_the_end_is_always_enough() -> None:
    assert recognize(b"\1\0" * 8, ended=False).kind == "raw"
    assert recognize(b"", ended=False).kind == "unknown"
    assert recognize(b"", ended=True).kind == "raw"
    assert recognize(b"fLaC", ended=True).name == "a FLAC file"
    for _, stream in STREAMS:
        for size in range(20):
            assert recognize(stream[:size], ended=True).kind != "unknown"
