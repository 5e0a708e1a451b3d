"""Recognizing files and encoded streams by their first bytes.

Raw audio may begin with any bytes. Each signature here has at least 32 bits, or repeats in a way
that has, so that fewer than one raw stream in a hundred million is taken for something else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from .wav import is_wav

_RAW_BYTES = 16
"""Enough for every signature that does not repeat."""
Reader = Literal["libsndfile", "ffmpeg"]
"""The decoder with which `natterjack-edge file` reads a file."""
_SIGNATURES: tuple[tuple[int, bytes, str, Reader | None], ...] = (
    # offset, bytes, name, reader
    (0, b"riff\x2e\x91\xcf\x11", "a Wave64 file", "libsndfile"),
    (0, b"RIFF", "a RIFF file other than WAV", "ffmpeg"),
    (0, b"fLaC", "a FLAC file", "libsndfile"),
    (0, b"OggS", "an Ogg file", "libsndfile"),
    (0, b"caff\0\1", "a CAF file", "libsndfile"),
    (0, b".snd", "an AU file", "libsndfile"),
    (0, b"\x1a\x45\xdf\xa3", "a WebM or Matroska file", "ffmpeg"),
    (4, b"ftyp", "an MP4 or M4A file", "ffmpeg"),
    (4, b"moov", "a QuickTime file", "ffmpeg"),
    (4, b"mdat", "a QuickTime file", "ffmpeg"),
    (0, b"#!AMR", "an AMR file", "ffmpeg"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a WMA (ASF) file", "ffmpeg"),
    (0, b"FLV\1", "an FLV file", "ffmpeg"),
    (0, b"MThd", "a MIDI file, which is not audio", None),
    (0, b"#EXTM3U", "a playlist, which is not audio", None),
    (0, b"HTTP/1.", "an HTTP response", None),
    (0, b"<!DOCTYPE", "a web page, which is not audio", None),
    (0, b"<!doctype", "a web page, which is not audio", None),
    (0, b"<html", "a web page, which is not audio", None),
    (0, b"<?xml", "XML, which is not audio", None),
)
_KBPS = {
    # MPEG version 1 or not, and layer: kbit/s by index
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8000)}
_TS_PACKET_BYTES = 188


class Recognized(NamedTuple):
    """The type of a stream of bytes."""

    kind: Literal["raw", "wav", "other", "unknown"]
    """`unknown` if more bytes are needed."""
    name: str = ""
    """Its name for people, with an article."""
    reader: Reader | None = None
    """The decoder with which `natterjack-edge file` reads it, or None if it cannot read it."""


_RAW, _UNKNOWN = Recognized("raw"), Recognized("unknown")


def recognize(head: bytes, *, ended: bool) -> Recognized:
    """Return what a stream is that begins with `head`, and has no more bytes if it has `ended`."""
    if len(head) < _RAW_BYTES and not ended:
        return _UNKNOWN
    if is_wav(head):
        return Recognized("wav", "a WAV file", "libsndfile")
    if head.startswith(b"FORM") and head[8:12] in (b"AIFF", b"AIFC"):
        return Recognized("other", "an AIFF file", "libsndfile")
    # An ID3 tag begins with 10 bytes, of which each of the last four holds 7 bits.
    if head.startswith(b"ID3") and len(head) >= 10 and head[3] < 5 and max(head[6:10]) < 0x80:
        return Recognized("other", "an MP3 file", "libsndfile")
    for offset, signature, name, reader in _SIGNATURES:
        if head.startswith(signature, offset):
            return Recognized("other", name, reader)
    frames: tuple[tuple[Callable[[bytes], tuple[int, object] | None], int, str, Reader], ...] = (
        (_mpeg_frame, 3, "an MP3 stream", "libsndfile"),
        (_adts_frame, 3, "an AAC stream", "ffmpeg"),
        (_ts_packet, 5, "an MPEG transport stream", "ffmpeg"),
    )
    for parse, count, name, read_by in frames:
        at = 0
        first = None
        for _ in range(count):
            if len(head) < at + 8:
                if ended:
                    break
                return _UNKNOWN
            frame = parse(head[at : at + 8])
            if frame is None or (first is not None and frame[1] != first):
                break
            size, first = frame
            at += size
        else:
            return Recognized("other", name, read_by)
    return _RAW


def _mpeg_frame(header: bytes) -> tuple[int, object] | None:
    """Return the size of an MPEG audio frame and what all frames of a stream share, or None."""
    if header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    index, rate_index = header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer == 4 or index in (0, 15) or rate_index == 3:
        return None
    rate = _RATES[version][rate_index]
    bits = _KBPS[version == 3, layer][index] * 1000
    padding = header[2] >> 1 & 1
    if layer == 1:
        size = (12 * bits // rate + padding) * 4
    else:
        size = (72 if layer == 3 and version != 3 else 144) * bits // rate + padding
    return size, (version, layer, rate)


def _adts_frame(header: bytes) -> tuple[int, object] | None:
    """Do the same for a frame of AAC."""
    if header[0] != 0xFF or header[1] & 0xF6 != 0xF0 or header[2] >> 2 & 15 > 12:
        return None
    size = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    return (size, (header[1], header[2])) if size > 7 else None


def _ts_packet(header: bytes) -> tuple[int, object] | None:
    """Do the same for an MPEG transport stream."""
    packet = header[0] == 0x47 and header[1] & 0x80 == 0 and header[3] & 0x10 != 0
    return (_TS_PACKET_BYTES, None) if packet else None
