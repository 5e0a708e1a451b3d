from __future__ import annotations

import pytest

from natterjack.audio import (
    MAX_CHUNK_BYTES,
    AudioFormat,
    ChunkHeader,
    decode_chunk_headers,
    encode_chunk_headers,
)
from natterjack.errors import BadChunk

STEREO = AudioFormat("linear16", 16_000, 2)
HEADER = ChunkHeader("session-1", 7, 8960, 1_700_000_000_000_000_000, False)


def test_headers_round_trip() -> None:
    for header in (HEADER, HEADER._replace(end=True)):
        assert decode_chunk_headers(encode_chunk_headers(header), 2560, STEREO) == header
    assert encode_chunk_headers(HEADER)["Nats-Msg-Id"] == "session-1:7"
    assert "Audio-End" not in encode_chunk_headers(HEADER)


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
