"""Voice activity detection by energy: audio that is louder than the noise floor is speech.

The detector errs toward speech: noise taken for speech costs little, speech taken for noise loses
words. Pure apart from numpy: no sockets, clocks or environment.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

BLOCK_SECONDS: Final = 0.010
_ABOVE_NOISE: Final = 4.0
"""Ratio of the power of speech to that of the noise floor (6 dB)."""
_FAINTEST: Final = 1e-6
"""Mean square (full scale is 1) below which audio is always silence: -60 dB."""
_LOUD: Final = 1e-4
"""Mean square above which audio is always speech: -40 dB."""
_SMOOTH_BLOCKS: Final = 5
"""Length of the moving average whose minimum is the noise floor, in blocks."""
_PART_BLOCKS: Final = 50
_PARTS: Final = 10
"""The minimum is taken over this many parts of `_PART_BLOCKS` blocks each (5 s in all): speech
pauses within that time."""


class Block(NamedTuple):
    """10 ms of audio."""

    voiced: bool
    power: float
    """Mean square; full scale is 1."""


class Voice:
    """Splits audio into blocks and decides for each whether it may be speech.

    The result does not depend on the sizes of the pieces. A block of several channels is voiced
    if any channel is.
    """

    def __init__(self, sample_rate: int, channels: int = 1) -> None:
        """The audio is linear16 with frames of `channels` samples."""
        self.block_frames = round(BLOCK_SECONDS * sample_rate)
        self._channels = channels
        self._rest = b""
        self._recent = np.zeros(_SMOOTH_BLOCKS - 1, np.float64)
        # As if five seconds of silence came first, so that speech at the very start is not taken
        # for the noise floor.
        self._floors: deque[float] = deque([0.0] * _PARTS, maxlen=_PARTS)
        self._part = 0
        """Number of blocks in the current part."""
        self._least = np.inf
        """Least power of the current part."""

    def feed(self, audio: bytes) -> list[Block]:
        """Return the blocks that `audio` completes."""
        audio = self._rest + audio
        size = 2 * self._channels * self.block_frames
        count = len(audio) // size
        self._rest = audio[count * size :]
        if not count:
            return []
        return self._judge(_powers(audio[: count * size], count, self._channels))

    def flush(self) -> list[Block]:
        """Return the last, shorter block, if any audio is left."""
        rest, self._rest = self._rest, b""
        whole = len(rest) - len(rest) % (2 * self._channels)
        return self._judge(_powers(rest[:whole], 1, self._channels)) if whole else []

    def _judge(self, powers: npt.NDArray[np.float64]) -> list[Block]:
        recent = np.concatenate([self._recent, powers])
        self._recent = recent[1 - _SMOOTH_BLOCKS :]
        smooth = np.convolve(recent, np.full(_SMOOTH_BLOCKS, 1 / _SMOOTH_BLOCKS), "valid")
        judged: list[Block] = []
        # At most the rest of a part at a time, so that the sizes of pieces do not matter.
        while len(powers):
            count = _PART_BLOCKS - self._part
            least = self._thresholds(smooth[:count])
            judged += map(Block, (powers[:count] > least).tolist(), powers[:count].tolist())
            powers, smooth = powers[count:], smooth[count:]
        return judged

    def _thresholds(self, smooth: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The power above which each of these blocks, all of one part, is speech."""
        running = np.minimum(np.minimum.accumulate(smooth), self._least)
        self._least = float(running[-1])
        self._part += len(smooth)
        floor = np.minimum(running, min(self._floors))
        if self._part == _PART_BLOCKS:
            self._floors.append(self._least)
            self._part, self._least = 0, np.inf
        return np.clip(_ABOVE_NOISE * floor, _FAINTEST, _LOUD)


def _powers(audio: bytes, count: int, channels: int) -> npt.NDArray[np.float64]:
    """Mean square of each of `count` blocks, on its loudest channel."""
    samples = np.frombuffer(audio, "<i2").astype(np.float64) / 32768
    blocks = samples.reshape(count, -1, channels)
    # The variance ignores a constant offset, which is inaudible.
    mean_square: npt.NDArray[np.float64] = blocks.var(axis=1).max(axis=1)
    return mean_square
