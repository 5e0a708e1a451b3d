"""The level of a chunk, for people to see."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

SILENCE_DBFS = -96.0
"""The lowest level reported: about one step of a 16-bit sample."""

_FULL_SCALE = 32768.0


def _expansion(encoding: str) -> npt.NDArray[np.float32]:
    """Return the linear value in -1..1 of each mulaw or alaw byte, by ITU-T G.711."""
    code = np.arange(256)
    if encoding == "mulaw":
        code = ~code & 0xFF
        exponent, mantissa = code >> 4 & 7, code & 15
        magnitude = ((mantissa << 3) + 132 << exponent) - 132
    else:
        code = code ^ 0x55
        exponent, mantissa = code >> 4 & 7, code & 15
        magnitude = np.where(
            exponent == 0, (mantissa << 4) + 8, (mantissa << 4) + 264 << np.maximum(exponent - 1, 0)
        )
    return (magnitude / _FULL_SCALE).astype(np.float32)


_EXPANSIONS = {encoding: _expansion(encoding) for encoding in ("mulaw", "alaw")}


def level_dbfs(payload: bytes, encoding: str) -> float:
    """Return the root mean square of a chunk in dBFS, at least SILENCE_DBFS.

    A full-scale square wave has 0 dBFS.
    """
    if not payload:
        return SILENCE_DBFS
    if encoding == "linear16":
        samples = np.frombuffer(payload, "<i2").astype(np.float32) / np.float32(_FULL_SCALE)
    else:
        samples = _EXPANSIONS[encoding][np.frombuffer(payload, np.uint8)]
    power = float(np.dot(samples, samples)) / len(samples)
    return max(SILENCE_DBFS, 10 * math.log10(power)) if power else SILENCE_DBFS
