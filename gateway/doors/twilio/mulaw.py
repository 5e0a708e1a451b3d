"""G.711 mu-law (ITU-T G.711): from 16-bit samples. Decoding is up to the workers."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

_BIAS, _CLIP = 0x84, 32_635


@cache
def _table() -> npt.NDArray[np.uint8]:
    """The byte of each sample, by the sample as an unsigned number."""
    samples = np.arange(65_536).astype(np.uint16).view(np.int16).astype(np.int32)
    sign = np.where(samples < 0, 0x80, 0)
    biased = np.minimum(np.abs(samples), _CLIP) + _BIAS
    exponent = np.floor(np.log2(biased)).astype(np.int32) - 7
    mantissa = (biased >> (exponent + 3)) & 0x0F
    table: npt.NDArray[np.uint8] = (~(sign | (exponent << 4) | mantissa) & 0xFF).astype(np.uint8)
    return table


def to_mulaw(audio: bytes) -> bytes:
    """Encode little-endian 16-bit samples."""
    return bytes(_table()[np.frombuffer(audio, "<u2")])
