"""What in a stretch of audio sounds like speech: everything that is louder than the noise.

In doubt it is speech: to take noise for speech costs a little, to take speech for noise costs
words. Pure but for numpy: no sockets, clocks or environment.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

BLOCK_SECONDS: Final = 0.010
_ABOVE_NOISE: Final = 4.0
"""Times the power of the noise floor that is speech (6 dB)."""
_FAINTEST: Final = 1e-6
"""Mean square (full scale is 1) below which all is silence: -60 dB."""
_LOUD: Final = 1e-4
"""Mean square above which all is speech, whatever the noise: -40 dB."""
_SMOOTH_BLOCKS: Final = 5
"""The floor is the least power of so many blocks together ..."""
_PART_BLOCKS: Final = 50
_PARTS: Final = 10
"""... in the last so many parts of so many blocks (5 s): speech has dips in that time."""


class Block(NamedTuple):
    """A hundredth of a second of audio."""

    voiced: bool
    power: float
    """Mean square; full scale is 1."""


class Voice:
    """Takes audio in pieces of any size and tells of each block whether it may be speech.

    Audio of several channels is voiced where any of them is.
    """

    def __init__(self, sample_rate: int, channels: int = 1) -> None:
        """For linear16 with frames of `channels` samples."""
        self.block_frames = round(BLOCK_SECONDS * sample_rate)
        self._channels = channels
        self._rest = b""
        self._recent = np.zeros(_SMOOTH_BLOCKS - 1, np.float64)
        # As if five seconds of silence lay before: speech that starts at once is not the floor.
        self._floors: deque[float] = deque([0.0] * _PARTS, maxlen=_PARTS)
        self._part = 0
        """Blocks of the part that runs, and its least power so far."""
        self._least = np.inf

    def feed(self, audio: bytes) -> list[Block]:
        """The blocks that end in `audio`."""
        audio = self._rest + audio
        size = 2 * self._channels * self.block_frames
        count = len(audio) // size
        self._rest = audio[count * size :]
        if not count:
            return []
        return self._judge(_powers(audio[: count * size], count, self._channels))

    def flush(self) -> list[Block]:
        """The last block, if there is a piece of one."""
        rest, self._rest = self._rest, b""
        whole = len(rest) - len(rest) % (2 * self._channels)
        return self._judge(_powers(rest[:whole], 1, self._channels)) if whole else []

    def _judge(self, powers: npt.NDArray[np.float64]) -> list[Block]:
        recent = np.concatenate([self._recent, powers])
        self._recent = recent[1 - _SMOOTH_BLOCKS :]
        smooth = np.convolve(recent, np.full(_SMOOTH_BLOCKS, 1 / _SMOOTH_BLOCKS), "valid")
        judged: list[Block] = []
        # By the rest of a part at a time: nothing depends on the size of pieces.
        while len(powers):
            count = _PART_BLOCKS - self._part
            least = self._thresholds(smooth[:count])
            judged += map(Block, (powers[:count] > least).tolist(), powers[:count].tolist())
            powers, smooth = powers[count:], smooth[count:]
        return judged

    def _thresholds(self, smooth: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The power above which each of some blocks of a part is speech."""
        running = np.minimum(np.minimum.accumulate(smooth), self._least)
        self._least = float(running[-1])
        self._part += len(smooth)
        floor = np.minimum(running, min(self._floors))
        if self._part == _PART_BLOCKS:
            self._floors.append(self._least)
            self._part, self._least = 0, np.inf
        return np.clip(_ABOVE_NOISE * floor, _FAINTEST, _LOUD)


def _powers(audio: bytes, count: int, channels: int) -> npt.NDArray[np.float64]:
    """Mean square of each of `count` blocks, on the channel where it is greatest."""
    samples = np.frombuffer(audio, "<i2").astype(np.float64) / 32768
    blocks = samples.reshape(count, -1, channels)
    # A constant offset is no sound.
    mean_square: npt.NDArray[np.float64] = blocks.var(axis=1).max(axis=1)
    return mean_square
