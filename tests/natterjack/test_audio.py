from __future__ import annotations

import pytest

from natterjack.audio import (
    MAX_CHUNK_BYTES,
    AudioFormat,
    ChunkHeader,
    chunk_header_prefix,
    decode_chunk_headers,
    encode_chunk_headers,
    flac_frames,
    read_chunk_headers,
)
from natterjack.errors import BadChunk

STEREO = AudioFormat("linear16", 16_000, 2)
HEADER = ChunkHeader("session-1", 7, 8960, 1_700_000_000_000_000_000, False)


def test_headers_round_trip() -> None:
    for header in (HEADER, HEADER._replace(end=True), HEADER._replace(note="busy:end")):
        assert decode_chunk_headers(encode_chunk_headers(header), 2560, STEREO) == header
    assert encode_chunk_headers(HEADER)["Nats-Msg-Id"] == "session-1:7"
    assert not {"Audio-End", "Audio-Note"} & set(encode_chunk_headers(HEADER))


def raw(header: ChunkHeader) -> bytes:
    lines = (f"{name}: {value}\r\n" for name, value in encode_chunk_headers(header).items())
    return f"NATS/1.0\r\n{''.join(lines)}\r\n".encode()


def test_the_fast_path_reads_plain_chunks_only() -> None:
    prefix = chunk_header_prefix("session-1")
    assert read_chunk_headers(raw(HEADER), prefix) == HEADER[1:4]
    assert read_chunk_headers(raw(HEADER._replace(end=True)), prefix) is None
    assert read_chunk_headers(raw(HEADER._replace(note="busy:end")), prefix) is None


@pytest.mark.parametrize(
    "note", ["Busy:end", "busy:", "busy:start", "a,b,c,d", "x" * 33, "a b", ","]
)
def test_a_malformed_note_is_ignored(note: str) -> None:
    headers = {**encode_chunk_headers(HEADER), "Audio-Note": note}
    assert decode_chunk_headers(headers, 2560, STEREO) == HEADER


def test_format() -> None:
    assert STEREO.frame_bytes == 4
    assert STEREO.frames(2560) == 640
    assert STEREO.seconds(640) == 0.04
    assert AudioFormat("mulaw", 8000, 1).frame_bytes == 1


def test_the_last_chunk_may_be_empty() -> None:
    header = HEADER._replace(end=True)
    assert decode_chunk_headers(encode_chunk_headers(header), 0, STEREO).end


@pytest.mark.parametrize("size", [0, 1, 2, 3, 5, MAX_CHUNK_BYTES + 4])
def test_invalid_sizes(size: int) -> None:
    with pytest.raises(BadChunk) as caught:
        decode_chunk_headers(encode_chunk_headers(HEADER), size, STEREO)
    assert caught.value.cause == "size"


@pytest.mark.parametrize(
    "change",
    [
        {"Audio-Seq": None}, {"Audio-Pos": None}, {"Audio-Time": None}, {"Session-Id": None},
        {"Audio-Seq": "-1"}, {"Audio-Pos": "-1"}, {"Audio-Seq": "1.5"}, {"Audio-Pos": "x"},
        {"Audio-Pos": str(2**63)}, {"Audio-Time": ""},
    ],
)  # fmt: skip
def test_missing_and_invalid_headers(change: dict[str, str | None]) -> None:
    headers = {**encode_chunk_headers(HEADER), **change}
    with pytest.raises(BadChunk) as caught:
        decode_chunk_headers({k: v for k, v in headers.items() if v is not None}, 2560, STEREO)
    assert caught.value.cause == "headers"


def test_no_headers() -> None:
    with pytest.raises(BadChunk):
        decode_chunk_headers(None, 2560, STEREO)


def flac_head(
    frames: int, *, rate: int = 16_000, channels: int = 2, bits: int = 16, first: bytes = b"\x80"
) -> bytes:
    """The beginning of a FLAC stream by RFC 9639, section 8.2."""
    packed = rate << 44 | (channels - 1) << 41 | (bits - 1) << 36 | frames
    sizes = b"\x10\x00\x10\x00" + bytes(6)
    return b"fLaC" + first + b"\0\0\x22" + sizes + packed.to_bytes(8, "big") + bytes(16)


def test_a_flac_chunk_says_how_long_it_is() -> None:
    assert flac_frames(flac_head(1280), STEREO) == 1280
    assert flac_frames(flac_head(1280, first=b"\0"), STEREO) == 1280, "more metadata follows"
    assert flac_frames(flac_head(MAX_CHUNK_BYTES // 4), STEREO) == MAX_CHUNK_BYTES // 4
    assert flac_frames(b"", STEREO) == 0


@pytest.mark.parametrize(
    ("payload", "cause"),
    [
        (flac_head(MAX_CHUNK_BYTES // 4 + 1), "size"), (flac_head(2**36 - 1), "size"),
        (flac_head(1280) + bytes(MAX_CHUNK_BYTES), "size"),
        (flac_head(0), "flac"), (flac_head(1, rate=8000), "flac"), (flac_head(1, bits=24), "flac"),
        (flac_head(1, channels=1), "flac"), (flac_head(1)[:41], "flac"), (b"f", "flac"),
        (flac_head(1, first=b"\x04"), "flac"), (bytes(2560), "flac"),
        (flac_head(1).replace(b"fLaC", b"OggS"), "flac"),
    ],
)  # fmt: skip
def test_a_flac_chunk_of_another_length_or_format(payload: bytes, cause: str) -> None:
    with pytest.raises(BadChunk) as caught:
        flac_frames(payload, STEREO)
    assert caught.value.cause == cause
