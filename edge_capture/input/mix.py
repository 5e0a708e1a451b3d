"""Mixes channels to one. Dead channels and channels of opposite phase do not weaken the mix."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .samples import Floats

_DEAD_POWER = 1e-8
"""Mean square (-80 dBFS) up to which a channel has no audio: a few steps of a 16-bit sample."""
_DEAD_S = 10.0
_OPPOSITE_POWER = 1e-7
"""Mean square (-70 dBFS) below which the phase of a channel says nothing."""
_OPPOSITE, _NOT_OPPOSITE = -0.8, -0.4
"""Correlations at which two channels begin and cease to count as opposite."""
_RECENT_S, _LONG_S = 0.05, 5.0
_MIN_S = 0.05
"""Audio from which a correlation is concluded."""
_HEADSTART = 4.0
"""How much louder (in power) an opposite channel must be to replace the one in use: 6 dB."""
_RAMP_S = 0.02


class Mixer:
    """Returns the mean of the channels, without some of them.

    It leaves out channels that had no audio for 10 s, or none since the start, unless no channel
    has any; and of two channels of opposite phase, the quieter one. The weights change over 20 ms,
    because a sudden change would be heard as a click.
    """

    def __init__(self, channels: int, sample_rate: int) -> None:
        self._rate = sample_rate
        self._dead_frames = int(_DEAD_S * sample_rate)
        self._ramp_frames = max(1, int(_RAMP_S * sample_rate))
        self._silent = np.full(channels, self._dead_frames, np.int64)
        """Frames without audio at the end of each channel."""
        self._recent = _Correlation(channels, sample_rate, _RECENT_S)
        self._long = _Correlation(channels, sample_rate, _LONG_S)
        self._opposite = np.zeros((channels, channels), bool)
        self._has_opposites = False
        self._kept = np.ones(channels, bool)
        self._weights: Floats | None = None
        self._target: Floats = np.full(channels, 1 / channels, np.float32)
        self._ramp_left = 0

    def mix(self, samples: Floats) -> Floats:
        """Return the mix of samples of shape (frames, channels)."""
        if len(samples):
            self._decide(samples)
        weights = self._weights
        if weights is None:
            self._weights = weights = self._target
        if not self._ramp_left:
            return samples @ weights
        frames = min(self._ramp_left, len(samples))
        steps = np.arange(1, frames + 1, dtype=np.float32)[:, None] / np.float32(self._ramp_left)
        ramp = weights + steps * (self._target - weights)
        self._ramp_left -= frames
        self._weights = ramp[-1] if self._ramp_left else self._target
        rest = samples[frames:] @ self._weights
        return np.concatenate([np.einsum("ij,ij->i", samples[:frames], ramp), rest])

    def _decide(self, samples: Floats) -> None:
        """Set the weights to reach."""
        products = samples.T @ samples
        self._recent.add(products, len(samples))
        self._long.add(products, len(samples))
        loud = products.diagonal() > _DEAD_POWER * len(samples)
        self._silent = np.where(loud, 0, self._silent + len(samples))
        live = self._silent < self._dead_frames
        if not live.any():
            live[:] = True
        kept = live
        if self._has_opposites or self._recent.may_fall_below(_OPPOSITE):
            kept = self._without_opposites(live)
        if not np.array_equal(kept, self._kept):
            self._kept = kept
            self._target = (kept / kept.sum()).astype(np.float32)
            if self._weights is not None:
                self._ramp_left = self._ramp_frames

    def _without_opposites(self, live: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return the channels in `live` without those that are opposite to a louder one."""
        self._opposite &= self._long.coefficients(0) < _NOT_OPPOSITE
        self._opposite |= self._recent.coefficients(_OPPOSITE_POWER) < _OPPOSITE
        self._has_opposites = bool(self._opposite.any())
        if not self._has_opposites:
            return live
        # Recent, because the louder channel may be cut off at any time.
        loudness = self._recent.products.diagonal() * np.where(self._kept, _HEADSTART, 1.0)
        kept = np.zeros_like(live)
        for channel in np.argsort(-loudness, kind="stable"):
            kept[channel] = live[channel] and not (self._opposite[channel] & kept).any()
        return kept


class _Correlation:
    """Products of all pairs of channels, of which older ones count less."""

    def __init__(self, channels: int, sample_rate: int, seconds: float) -> None:
        """Products from `seconds` ago count 1/e."""
        self.products = np.zeros((channels, channels))
        self._weight = 0.0
        self._frames = seconds * sample_rate
        self._min_weight = _MIN_S * sample_rate

    def add(self, products: Floats, frames: int) -> None:
        """Add the sums of products over so many frames."""
        decay = math.exp(-frames / self._frames)
        self.products *= decay
        self.products += products
        self._weight = self._weight * decay + frames

    def may_fall_below(self, coefficient: float) -> bool:
        """Return False if certainly no pair has a correlation below a negative `coefficient`."""
        least = float(self.products.min())
        return (
            self._weight >= self._min_weight
            and least < 0
            and least <= coefficient * float(self.products.diagonal().min())
        )

    def coefficients(self, min_power: float) -> npt.NDArray[np.float64]:
        """Return the correlation of each pair, -1 to 1; 0 if one has less than `min_power`."""
        power = self.products.diagonal()
        root = np.sqrt(np.where(power > min_power * self._weight, power, np.inf))
        coefficients: npt.NDArray[np.float64] = self.products / np.outer(root, root)
        return coefficients
