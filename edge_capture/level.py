"""The level of a chunk, for people to see."""

from __future__ import annotations

import math

import numpy as np

from .input.samples import EXPANSIONS, to_float

SILENCE_DBFS = -96.0
"""The lowest level reported: about one step of a 16-bit sample."""


def level_dbfs(payload: bytes, encoding: str) -> float:
    """Return the root mean square of a chunk in dBFS, at least SILENCE_DBFS.

    A full-scale square wave has 0 dBFS.
    """
    if not payload:
        return SILENCE_DBFS
    if encoding == "linear16":
        samples = to_float(np.frombuffer(payload, "<i2"))
    else:
        samples = to_float(EXPANSIONS[encoding][np.frombuffer(payload, np.uint8)])
    power = float(np.dot(samples, samples)) / len(samples)
    return max(SILENCE_DBFS, 10 * math.log10(power)) if power else SILENCE_DBFS
