"""WAV files of any layout, also those that no encoder here would write."""

from __future__ import annotations

import struct

from edge_capture.input.samples import LINEAR16, Coding

_TAGS = {"int": 1, "float": 3, "alaw": 6, "mulaw": 7}
_GUID = bytes.fromhex("000000001000800000aa00389b71")


def chunk(name: bytes, body: bytes, *, big_endian: bool = False) -> bytes:
    """Return a chunk with its padding."""
    return name + struct.pack(">I" if big_endian else "<I", len(body)) + body + bytes(len(body) % 2)


def wav_header(
    coding: Coding = LINEAR16,
    rate: int = 16_000,
    channels: int = 1,
    *,
    data_bytes: int = 0,
    before: bytes = b"",
    extensible: bool = False,
    tag: int | None = None,
    riff_bytes: int | None = None,
    long_bytes: int | None = None,
) -> bytes:
    """Return a header up to the audio, with these sizes and with chunks `before` the audio.

    With `long_bytes` it is RF64.
    """
    order = ">" if coding.big_endian else "<"
    align = coding.size * channels
    tag = _TAGS[coding.kind] if tag is None else tag
    body = struct.pack(
        f"{order}HHIIHH",
        0xFFFE if extensible else tag, channels, rate, rate * align, align, 8 * coding.size,
    )  # fmt: skip
    if extensible:
        body += struct.pack(f"{order}HHIH", 22, 8 * coding.size, 0, tag) + _GUID
    form = b"RIFX" if coding.big_endian else b"RIFF"
    first = b""
    if long_bytes is not None:
        form, first = b"RF64", chunk(b"ds64", struct.pack("<QQQI", long_bytes, long_bytes, 0, 0))
    inner = first + chunk(b"fmt ", body, big_endian=coding.big_endian) + before
    size = len(inner) + 12 + data_bytes if riff_bytes is None else riff_bytes
    return (
        form + struct.pack(f"{order}I", size % 2**32) + b"WAVE" + inner
        + b"data" + struct.pack(f"{order}I", data_bytes)
    )  # fmt: skip
