"""Floating-point samples that cannot be right: NaN, infinite, huge, or not in the scale -1..1."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from natterjack.telemetry.log import fields

from .samples import Floats, Samples

log = logging.getLogger(__name__)

SCALE = "input_scale"
"""Code of the log line about samples in another scale."""

_SCALES = (2.0**15, 2.0**23, 2.0**31)
"""Largest magnitudes of integers of 16, 24 and 32 bits, which some programs store as floats."""
_MAX = 8.0
"""Magnitude (18 dB above full scale) above which a sample is wrong. A loud mix may exceed 1."""
_MIN_SAMPLES = 64
_WRONG_MAGNITUDE = 4.0
_TOP = 0.999
_SOME, _MANY = 0.03, 0.01


def wrong_scale(magnitudes: npt.NDArray[Any]) -> float:
    """Return the divisor for samples with these finite magnitudes, which include no zeros.

    1 unless it is unmistakable: half of them are 12 dB above full scale, a few percent are 18 dB
    above it, or all are whole numbers. A few wrong samples do not matter.
    """
    magnitudes = magnitudes[magnitudes <= _SCALES[-1]]
    if len(magnitudes) < _MIN_SAMPLES:
        return 1.0
    loud = 2 * np.count_nonzero(magnitudes > _WRONG_MAGNITUDE) > len(
        magnitudes
    ) or np.count_nonzero(magnitudes > _MAX) > _SOME * len(magnitudes)
    if not loud and not (_are_whole(magnitudes[:_MIN_SAMPLES]) and _are_whole(magnitudes)):
        return 1.0
    top = np.quantile(magnitudes, _TOP)
    return next(scale for scale in _SCALES if top <= scale)


def _are_whole(magnitudes: npt.NDArray[Any]) -> bool:
    """Return whether these are integers other than 0 and 1, which are valid samples too."""
    return bool((magnitudes == np.rint(magnitudes)).all()) and bool(magnitudes.max() > 1)


class FloatCleaner:
    """Makes the samples of one source usable."""

    def __init__(self, channels: int, name: str) -> None:
        """`name` is that of the source, for the log."""
        self._name = name
        self._scale = 1.0
        """The divisor of all samples. It never decreases."""
        self._invalid = 0
        self._last: Floats = np.zeros(channels, np.float32)
        """The last valid sample of each channel."""

    def clean(self, samples: Samples) -> Samples:
        """Return samples of shape (frames, channels) that are finite and of the scale -1..1.

        A sample that is not a number is replaced by the one before; if there are many, by zero.
        """
        if not len(samples):
            return samples
        # Both are NaN if a sample is, and then the comparison is false.
        in_range = samples.max() <= 1 and samples.min() >= -1
        if not in_range:
            magnitudes = np.abs(samples)
            usable = magnitudes[np.isfinite(magnitudes) & (magnitudes > 0)]
            self._rescale(wrong_scale(usable))
        if self._scale > 1:
            with np.errstate(invalid="ignore"):  # NaN of the kind that signals
                samples = samples / np.float32(self._scale)
        if not in_range:
            valid = np.abs(samples) <= _MAX
            if not valid.all():
                self._invalid += int(valid.size - np.count_nonzero(valid))
                samples = self._replaced(samples, valid)
        self._last = samples[-1]
        return samples

    def take_invalid(self) -> int:
        """Return how many samples were NaN, infinite or huge since the last call."""
        invalid, self._invalid = self._invalid, 0
        return invalid

    def _rescale(self, scale: float) -> None:
        if scale > self._scale:
            self._scale = scale
            log.warning(
                "%s has floating-point samples in the scale of %d-bit integers; they are divided "
                "by %d",
                self._name,
                round(math.log2(scale)) + 1,
                scale,
                extra=fields(code=SCALE),
            )

    def _replaced(self, samples: Floats, valid: npt.NDArray[np.bool_]) -> Floats:
        if np.count_nonzero(~valid) > _MANY * valid.size:
            return np.where(valid, samples, np.float32(0))
        # The index of the last valid sample at or before each one, in an array that starts with
        # the last of the block before.
        held = np.concatenate([self._last[None], samples])
        index = np.where(valid, np.arange(1, len(samples) + 1)[:, None], 0)
        return np.take_along_axis(held, np.maximum.accumulate(index, axis=0), axis=0)
