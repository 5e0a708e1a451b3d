from __future__ import annotations

import contextlib
import re
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_capture.input.samples import Coding
from edge_capture.input.wav import (
    BadWav,
    Sizes,
    WavHeader,
    check_sizes,
    is_metadata,
    is_wav,
    parse_wav,
)
from tests.searching import examples

from .wavs import chunk, wav_header

codings = st.sampled_from(
    [
        Coding(kind, size, big_endian)  # type: ignore[arg-type]
        for kind, sizes in (
            ("int", (1, 2, 3, 4)),
            ("float", (4, 8)),
            ("mulaw", (1,)),
            ("alaw", (1,)),
        )
        for size in sizes
        for big_endian in (False, True)
    ]
)
names = st.sampled_from([b"JUNK", b"LIST", b"bext", b"fact", b"FLLR", b"id3 ", b"\0\0\0\0"])


@examples(200)
@given(
    coding=codings,
    rate=st.integers(4000, 1_000_000),
    channels=st.integers(1, 32),
    size=st.integers(0, 2**32 - 1),
    before=st.lists(st.tuples(names, st.integers(0, 70)), max_size=4),
    extensible=st.booleans(),
)
def test_a_header_of_any_layout_is_read_whole_or_not_at_all(
    coding: Coding,
    rate: int,
    channels: int,
    size: int,
    before: list[tuple[bytes, int]],
    extensible: bool,
) -> None:
    junk = b"".join(
        chunk(name, b"data" * (length // 4) + bytes(length % 4), big_endian=coding.big_endian)
        for name, length in before
    )
    head = wav_header(coding, rate, channels, data_bytes=size, before=junk, extensible=extensible)
    assert is_wav(head)
    known = size if size < 0x7FFF_0000 else None
    expected = WavHeader(coding, rate, channels, len(head), known)
    assert parse_wav(head) == expected
    assert parse_wav(head + b"RIFF and more") == expected
    assert [parse_wav(head[:length]) for length in range(len(head))] == [None] * len(head)


@pytest.mark.parametrize(
    ("long_bytes", "known"), [(5 * 2**32, 5 * 2**32), (0, 0), (2**64 - 1, None)]
)
def test_long_files_have_their_size_elsewhere(long_bytes: int, known: int | None) -> None:
    head = wav_header(data_bytes=2**32 - 1, long_bytes=long_bytes)
    assert parse_wav(head) == WavHeader(Coding("int", 2), 16_000, 1, len(head), known)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (wav_header(tag=0x11), "it is encoded as IMA ADPCM"),
        (wav_header(tag=0x55), "it is encoded as MP3"),
        (wav_header(tag=0x1234), "format 0x1234"),
        (wav_header(rate=0), "at 0 Hz"),
        (wav_header(rate=16), "its header says 16 Hz, and speech needs 4000 Hz or more"),
        (wav_header(channels=0), "0 channels"),
        (wav_header(Coding("int", 8)), "64 bits in 8 bytes"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0", "does not name an encoding"),
        (b"RIFF\0\0\0\0WAVEfmt \4\0\0\0abcd", "malformed"),
    ],
)
def test_a_header_that_is_not_understood_is_named(head: bytes, words: str) -> None:
    with pytest.raises(BadWav, match=words):
        parse_wav(head)


@given(st.binary(max_size=200))
@examples(300)
def test_any_bytes_are_a_header_or_not(rest: bytes) -> None:
    with contextlib.suppress(BadWav):
        parse_wav(b"RIFF\0\0\0\0WAVE" + rest)


def test_a_sample_may_have_a_wider_container() -> None:
    """24 bits in 4 bytes are an integer of 4 bytes: a sample fills the upper ones."""
    head = bytearray(wav_header(Coding("int", 4)))
    head[34:36] = struct.pack("<H", 24)
    header = parse_wav(bytes(head))
    assert header is not None
    assert header.coding == Coding("int", 4)


def header(data_bytes: int | None) -> WavHeader:
    return WavHeader(Coding("int", 2), 16_000, 1, 44, data_bytes)


AUDIO = (np.sin(np.arange(2000) / 5) * 8000).astype("<i2").tobytes()


@pytest.mark.parametrize(
    ("announced", "left", "behind", "expected", "words"),
    [
        (32_000, 0, b"", Sizes(), None),
        (32_000, 26, chunk(b"LIST", bytes(18)), Sizes(), None),
        (31_999, 27, b"\0" + chunk(b"LIST", bytes(18)), Sizes(), None),
        (32_000, 128, b"TAG" + bytes(125), Sizes(), None),
        (32_000, 1000, AUDIO, Sizes(), None),  # less than 0.1 s: padding
        (32_000, -1000, b"", Sizes(), None),
        (32_000, -16_000, b"", Sizes(missing=True), "announces 1.0 s of audio, of which 0.5 s are"),
        (16_000, 48_000, AUDIO, Sizes(ignore=True), "1.5 s more follow the 0.5 s that"),
        (16_000, 48_000, bytes(4000), Sizes(), "48000 bytes after the 0.5 s .* begin with zeros"),
        (0, 64_000, AUDIO, Sizes(ignore=True), "has no size; all 2.0 s are read"),
        (0, 64_000, bytes(4000), Sizes(ignore=True), "has no size; all 2.0 s are read"),
        (0, 26, chunk(b"LIST", bytes(18)), Sizes(), None),
        (0, 0, b"", Sizes(), None),
        (None, 64_000, AUDIO, Sizes(ignore=True), None),
    ],
)
def test_sizes_are_believed_if_they_can_be_true(
    announced: int | None, left: int, behind: bytes, expected: Sizes, words: str | None
) -> None:
    sizes = check_sizes(header(announced), left, behind)
    assert sizes._replace(notice=None) == expected
    assert (sizes.notice is None) == (words is None)
    if words is not None:
        assert re.search(words, str(sizes.notice))


def test_audio_is_rarely_taken_for_metadata() -> None:
    rng = np.random.default_rng(1)
    taken = sum(is_metadata(rng.bytes(16), 1_000_000) for _ in range(100_000))
    assert taken <= 5
