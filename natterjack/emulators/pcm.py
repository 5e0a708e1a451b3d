"""Encodings and channels of raw audio."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from natterjack.audio import BYTES_PER_SAMPLE, Encoding

Floats = npt.NDArray[np.float32]


# G.711 from its expansion tables; compression finds the nearest value.


def _mulaw_table() -> npt.NDArray[np.int16]:
    code = ~np.arange(256, dtype=np.uint8)
    magnitude = (((code & 0x0F).astype(int) << 3) + 0x84) << ((code & 0x70) >> 4)
    return np.where(code & 0x80, 0x84 - magnitude, magnitude - 0x84).astype(np.int16)


def _alaw_table() -> npt.NDArray[np.int16]:
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    mantissa, segment = (code & 0x0F).astype(int) << 4, ((code & 0x70) >> 4).astype(int)
    magnitude = np.where(segment == 0, mantissa + 8, (mantissa + 0x108) << np.maximum(segment, 1))
    magnitude = np.where(segment == 0, magnitude, magnitude >> 1)
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


_STEP: Final = np.float32(1 / 32768)
_TABLES: Final = {"mulaw": _mulaw_table(), "alaw": _alaw_table()}


def from_linear16(pcm: bytes, encoding: Encoding) -> bytes:
    """Convert 16-bit PCM to another encoding."""
    if encoding == "linear16":
        return pcm
    table = _TABLES[encoding].astype(np.int32)
    order = np.argsort(table, kind="stable")
    middles = (table[order][1:] + table[order][:-1]) / 2
    coded = order[np.searchsorted(middles, np.frombuffer(pcm, "<i2"))]
    return coded.astype(np.uint8).tobytes()


def to_linear16(samples: npt.NDArray[np.floating]) -> bytes:
    """Convert samples between -1 and 1 to 16-bit PCM."""
    scaled: Floats = (np.clip(samples, -1, 1) * 32767).round()
    return scaled.astype("<i2").tobytes()


def to_samples(audio: bytes, encoding: Encoding) -> Floats:
    """Convert complete samples of `audio` to values between -1 and 1."""
    coded = (
        np.frombuffer(audio, "<i2")
        if encoding == "linear16"
        else _TABLES[encoding][np.frombuffer(audio, np.uint8)]
    )
    return np.multiply(coded, _STEP, dtype=np.float32)


def interleave(*tracks: bytes, encoding: Encoding = "linear16") -> bytes:
    """Interleave mono tracks as channels, padding shorter ones with silence."""
    width = BYTES_PER_SAMPLE[encoding]
    quiet = from_linear16(bytes(2), encoding)
    samples = max(len(track) for track in tracks) // width
    columns = [
        np.frombuffer(track + quiet * (samples - len(track) // width), f"V{width}")
        for track in tracks
    ]
    return bytes(np.column_stack(columns).tobytes())


def split(audio: bytes, channels: int, encoding: Encoding = "linear16") -> list[bytes]:
    """Split interleaved audio (complete frames) into mono tracks."""
    frames = np.frombuffer(audio, f"V{BYTES_PER_SAMPLE[encoding]}").reshape(-1, channels)
    return [np.ascontiguousarray(frames[:, index]).tobytes() for index in range(channels)]


def mix(audio: bytes, channels: int, encoding: Encoding = "linear16") -> bytes:
    """Average the channels of interleaved audio (complete frames), as linear16."""
    samples = to_samples(audio, encoding).reshape(-1, channels)
    return to_linear16(samples.mean(axis=1))
