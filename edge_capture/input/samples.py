"""Arrays of samples, and the ways in which a sample is stored."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[Any]
"""Shape (frames, channels): int16, float32 in -1..1, or the bytes of mulaw or alaw as uint8."""
Floats = npt.NDArray[np.float32]

FULL_SCALE = 32768.0


def to_float(samples: Samples) -> Samples:
    """Return int16 samples as float32 in -1..1, and others unchanged."""
    if samples.dtype == np.int16:
        return samples.astype(np.float32) / np.float32(FULL_SCALE)
    return samples


def to_pcm(samples: Samples) -> Samples:
    """Return float32 samples as int16, clipped to -1..1, and others unchanged."""
    if samples.dtype != np.float32:
        return samples
    scaled = np.rint(samples * np.float32(FULL_SCALE))
    return scaled.clip(-FULL_SCALE, FULL_SCALE - 1).astype("<i2")


def _expansion(kind: str) -> npt.NDArray[np.int16]:
    """Return the linear 16-bit value of each mulaw or alaw byte, by ITU-T G.711."""
    code = np.arange(256)
    if kind == "mulaw":
        code = ~code & 0xFF
        exponent, mantissa = code >> 4 & 7, code & 15
        magnitude = ((mantissa << 3) + 132 << exponent) - 132
        negative = (code & 0x80) != 0
    else:
        code = code ^ 0x55
        exponent, mantissa = code >> 4 & 7, code & 15
        magnitude = np.where(
            exponent == 0, (mantissa << 4) + 8, (mantissa << 4) + 264 << np.maximum(exponent - 1, 0)
        )
        negative = (code & 0x80) == 0
    return np.where(negative, -magnitude, magnitude).astype(np.int16)


EXPANSIONS = {kind: _expansion(kind) for kind in ("mulaw", "alaw")}
"""The int16 value of each byte of mulaw and alaw."""


class Coding(NamedTuple):
    """How each sample is stored."""

    kind: Literal["int", "float", "mulaw", "alaw"]
    """An integer of one byte is unsigned, and a longer one is signed."""
    size: int
    """Bytes of a sample."""
    big_endian: bool = False

    def __str__(self) -> str:
        if self.kind in EXPANSIONS:
            return self.kind
        name = f"{8 * self.size}-bit {'PCM' if self.kind == 'int' else 'float'}"
        return f"{name}, big-endian" if self.big_endian else name

    def decode(self, data: bytes) -> Samples:
        """Return whole samples as int16, or as float32 if they have more than 16 bits. Shape (n,).

        Floating-point samples are not checked.
        """
        order = ">" if self.big_endian else "<"
        if self.kind in EXPANSIONS:
            return EXPANSIONS[self.kind][np.frombuffer(data, np.uint8)]
        if self.kind == "float":
            with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold
                return np.frombuffer(data, f"{order}f{self.size}").astype(np.float32)
        if self.size == 1:
            return (np.frombuffer(data, np.uint8).astype(np.int16) - 128) << 8
        if self.size == 2:
            return np.frombuffer(data, f"{order}i2").astype(np.int16, copy=False)
        if self.size == 3:
            wide = np.zeros((len(data) // 3, 4), np.uint8)
            wide[:, slice(0, 3) if self.big_endian else slice(1, 4)] = np.frombuffer(
                data, np.uint8
            ).reshape(-1, 3)
            data = wide.tobytes()
        return np.frombuffer(data, f"{order}i4").astype(np.float32) / np.float32(2**31)


LINEAR16 = Coding("int", 2)
