"""Speech in the rate and volume of what plays it, with the positions of its session."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soxr

from natterjack.voice.audio import FRAME_BYTES

from .order import Chunk


class Block(NamedTuple):
    """A stretch of speech as it is played: mono 16-bit samples at the rate of the output."""

    audio: bytes
    start: float
    """Position in the session of its first frame, and below of the one after its last."""
    end: float
    utterance: int
    last: bool = False
    """True if the utterance ends with it."""


class Converter:
    """Converts the chunks of one session, in order, to `rate` hertz and `volume` (1: unchanged).

    The resampler keeps a few milliseconds back until the next chunk or the end of an utterance.
    """

    def __init__(self, session_rate: int, rate: int, volume: float = 1.0) -> None:
        self._ratio = session_rate / rate
        """Session frames per output frame."""
        self._rates = (session_rate, rate)
        self._volume = volume
        self._resampler: soxr.ResampleStream | None = None
        self._start = self._end = 0.0
        """Position of the next output frame, and of the next frame that is to be converted."""
        self._utterance = 0

    def reset(self) -> None:
        """Forget what is kept back, because of a cut."""
        self._resampler = None
        self._start = self._end

    def convert(self, chunk: Chunk) -> list[Block]:
        """Return the blocks that are ready after a chunk that is not a cut."""
        header, payload = chunk
        blocks = []
        if header.pos != self._end or header.utterance != self._utterance:
            blocks += self._flush()  # of an utterance whose end is missing
            self._start = self._end = float(header.pos)
        self._utterance = header.utterance
        if payload:
            self._end += len(payload) // FRAME_BYTES
            blocks += self._block(self._resample(np.frombuffer(payload, "<i2"), last=False))
        if header.end:
            blocks += self._flush()
            position = self._end
            blocks.append(Block(b"", position, position, self._utterance, last=True))
        return blocks

    def _flush(self) -> list[Block]:
        if self._resampler is None:
            return []
        tail = self._resample(np.empty(0, np.int16), last=True)
        self._resampler = None
        # Rounding: the output of an utterance may be a frame longer or shorter than it.
        block = self._block(tail) or [Block(b"", self._start, self._start, self._utterance)]
        self._start = self._end
        return [block[0]._replace(end=self._end)]

    def _resample(self, samples: npt.NDArray[np.int16], *, last: bool) -> npt.NDArray[np.int16]:
        if self._rates[0] == self._rates[1]:
            return samples
        if self._resampler is None:
            self._resampler = soxr.ResampleStream(*self._rates, 1, dtype="int16")
        resampled: npt.NDArray[np.int16] = self._resampler.resample_chunk(samples, last=last)
        return resampled

    def _block(self, samples: npt.NDArray[np.int16]) -> list[Block]:
        if not len(samples):
            return []
        if self._volume != 1:
            scaled = np.rint(samples * np.float32(self._volume))
            samples = np.clip(scaled, -32768, 32767).astype(np.int16)
        start, self._start = self._start, self._start + len(samples) * self._ratio
        end = min(self._start, self._end)
        return [Block(samples.tobytes(), start, end, self._utterance)]
