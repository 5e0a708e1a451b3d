"""The level of a chunk, for people to see."""

from __future__ import annotations

import numpy as np

from .input.measure import SILENCE_DBFS, to_dbfs
from .input.samples import EXPANSIONS, Samples, to_float


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
    return to_dbfs(float(np.dot(samples, samples)) / len(samples))


def block_dbfs(samples: Samples, encoding: str) -> float:
    """Return the root mean square of the loudest channel of a block in dBFS, at least
    SILENCE_DBFS."""
    if not len(samples):
        return SILENCE_DBFS
    values = to_float(samples if encoding == "linear16" else EXPANSIONS[encoding][samples])
    return to_dbfs(float(np.max(np.mean(np.square(values), axis=0))))
