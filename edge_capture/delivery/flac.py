"""Encoding chunks as FLAC by libsndfile: each payload is a complete stream."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np

from natterjack.audio import FLAC_HEAD_BYTES

_MARKER = b"fLaC"
_LAST = 0x80


def flac_encoder(sample_rate: int, channels: int = 1) -> Callable[[bytes], bytes]:
    """A function that encodes a chunk of linear16; an empty one stays empty. It costs 0.2 ms for
    80 ms of audio at 16 kHz."""
    import soundfile  # 20 ms, and memory that other sessions do not need

    def encode(pcm: bytes) -> bytes:
        if not pcm:
            return b""
        stream = io.BytesIO()
        samples = np.frombuffer(pcm, "<i2").reshape(-1, channels)
        soundfile.write(stream, samples, sample_rate, format="FLAC", subtype="PCM_16")
        return without_metadata(stream.getvalue())

    return encode


def without_metadata(stream: bytes) -> bytes:
    """A FLAC stream without the blocks that nobody needs to decode it, such as the encoder's name:
    44 bytes in each chunk (RFC 9639, section 8)."""
    at, last = len(_MARKER), False
    while not last:
        last = bool(stream[at] & _LAST)
        at += 4 + int.from_bytes(stream[at + 1 : at + 4], "big")
    return _MARKER + bytes((_LAST,)) + stream[5:FLAC_HEAD_BYTES] + stream[at:]
