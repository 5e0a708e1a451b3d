"""Measures seconds of audio: extremes, level, zeros, offset, and what its channels have in common.

Some of it is measured in a part of each second only, so that a source costs far less than a
thousandth of a processor core.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from .guess import Guess, guess, is_noise, roughness
from .samples import EXPANSIONS, FULL_SCALE, LINEAR16, Coding, Samples, to_float, to_pcm

SILENCE_DBFS = -96.0
"""The lowest level reported: about one step of a 16-bit sample."""

_SLICE_FRAMES = 4096
"""Frames of each second in which the correlation of channels and noise are looked for."""
_ROWS = 64
_PHASE_POWER = 1e-6
"""Mean square (-60 dBFS) below which the phase of a channel says nothing."""
_MIN_GUESS_FRAMES = 512


class Level(NamedTuple):
    """The level of a source over some seconds, of its loudest channel."""

    peak_dbfs: float
    """The level of the greatest sample; 0 is full scale. At least SILENCE_DBFS, as `rms_dbfs`."""
    rms_dbfs: float
    """Root mean square. A full-scale square wave has 0 dBFS."""
    zeros: float
    """Share of the samples that are zero, from 0 to 1, over all channels."""
    clipped: float
    """Share of the frames with a clipped sample, from 0 to 1."""
    offset: float
    """Mean of the samples, as a part of full scale, of the channel where it is greatest."""
    seconds: float
    """Length of the audio that was measured, at most 10 s."""
    correlation: float | None = None
    """Least correlation of two of its channels, from -1 (opposite phase) to 1 (the same). None if
    fewer than two are loud enough to tell."""


class Second(NamedTuple):
    """Measurements of a second of audio."""

    frames: int
    low: Samples
    high: Samples
    """Extremes of each channel, in steps of a 16-bit sample."""
    offset: Samples
    """Mean of each channel, in steps of a 16-bit sample."""
    power: Samples
    """Mean square of each channel; full scale is 1."""
    zeros: float
    """Share of the samples that are zero."""
    clipped: float
    """Share of the frames with a clipped sample, at most."""
    products: Samples
    """Mean products of each pair of channels without their mean, in a part of the second."""
    guess: Guess | None
    noise: bool
    invalid: int


def to_dbfs(power: float) -> float:
    """Return a mean square in dBFS, at least SILENCE_DBFS."""
    return max(SILENCE_DBFS, 10 * math.log10(power)) if power > 0 else SILENCE_DBFS


def measure(samples: Samples, coding: Coding, invalid: int) -> Second:
    """Measure a second of audio, of shape (frames, channels), with at least one frame.

    `invalid` samples of it were replaced.
    """
    frames, channels = samples.shape
    raw = samples[:_SLICE_FRAMES]
    if coding.kind in EXPANSIONS:
        samples = EXPANSIONS[coding.kind][samples]
    low, high = _extremes(samples)
    scale = FULL_SCALE if samples.dtype == np.float32 else 1.0
    low, high = low * scale, high * scale
    clipped = 0
    rail = (FULL_SCALE - 1) / scale
    if coding == LINEAR16 and (high.max() >= FULL_SCALE - 1 or low.min() <= -FULL_SCALE):
        clipped = int(np.count_nonzero(samples >= rail) + np.count_nonzero(samples <= -rail))
    floats = to_float(samples)
    # Products of matrices are several times as fast as sums along the longer axis.
    offset = (np.ones(frames, np.float32) @ floats).astype(float) * (FULL_SCALE / frames)
    power = (floats.T @ floats).diagonal().astype(float) / frames
    zeros = 1 - np.count_nonzero(samples) / samples.size
    part = floats[:_SLICE_FRAMES]
    part = part - part.mean(axis=0)
    products = part.T @ part / len(part)
    loudest = int(products.diagonal().argmax())
    loudest_power = float(products[loudest, loudest])
    noise, guessed = False, None
    if loudest_power > 0:
        channel = np.ascontiguousarray(part[:, loudest])
        rough = roughness(channel)
        noise = is_noise(channel, loudest_power, rough, channels)
        if noise:
            data = to_pcm(raw[: max(_MIN_GUESS_FRAMES, _SLICE_FRAMES // channels)]).tobytes()
            guessed = guess(data, coding, channels, rough)
    return Second(
        frames, low, high, offset, power, zeros, clipped / frames, products, guessed, noise, invalid
    )


def level_of(seconds: Collection[Second], sample_rate: int) -> Level:
    """Return the level over `seconds`, of which there is at least one."""
    lengths = np.array([second.frames for second in seconds], float)
    frames = float(lengths.sum())
    shares = lengths / frames
    peak = max(float(max(second.high.max(), -second.low.min())) for second in seconds)
    power = shares @ np.array([second.power for second in seconds])
    offset = shares @ np.array([second.offset for second in seconds])
    return Level(
        peak_dbfs=to_dbfs((peak / FULL_SCALE) ** 2),
        rms_dbfs=to_dbfs(float(power.max())),
        zeros=float(shares @ np.array([second.zeros for second in seconds])),
        clipped=min(1.0, float(shares @ np.array([second.clipped for second in seconds]))),
        offset=float(offset[np.abs(offset).argmax()]) / FULL_SCALE,
        seconds=frames / sample_rate,
        correlation=most_opposite(np.mean([second.products for second in seconds], axis=0))[1],
    )


def most_opposite(products: Samples) -> tuple[Samples, float | None]:
    """Return the two channels with the least correlation and that, or None if all are quiet."""
    power = products.diagonal()
    loud = np.flatnonzero(power > _PHASE_POWER)
    if len(loud) < 2:
        return np.array([0, 1]), None
    root = np.sqrt(power[loud])
    coefficients = products[np.ix_(loud, loud)] / np.outer(root, root)
    pair = sorted(divmod(int(coefficients.argmin()), len(loud)))
    return loud[pair], float(coefficients.min())


def _extremes(samples: Samples) -> tuple[Samples, Samples]:
    """Return the least and the greatest sample of each channel, as float64."""
    frames, channels = samples.shape
    if frames >= _ROWS:  # rows of many samples are compared much faster; some are compared twice
        whole = samples[: frames - frames % _ROWS].reshape(-1, _ROWS * channels)
        rest = samples[frames - _ROWS :].reshape(-1, _ROWS * channels)
        low = np.minimum(whole.min(axis=0), rest[0]).reshape(-1, channels)
        high = np.maximum(whole.max(axis=0), rest[0]).reshape(-1, channels)
    else:
        low = high = samples
    return low.min(axis=0).astype(float), high.max(axis=0).astype(float)
