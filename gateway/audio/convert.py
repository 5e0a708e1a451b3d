"""Samples to linear16 in the channels and at the sample rate of a session."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import soxr

from edge_capture.input.mix import Mixer
from edge_capture.input.samples import Coding, Samples, to_float, to_pcm
from natterjack.audio import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE

from .errors import UndecodableAudio

MAX_CHANNELS = 32
_BLOCK_S = 0.02
"""The mixer decides once for each block, so that it decides alike however the audio arrives."""
_NOTHING = np.empty(0, np.float32)
_LOUDEST = 4.0
"""Floating-point samples beyond full scale are clipped; far beyond, they would harm the
resampler's arithmetic."""

ENCODINGS: dict[str, Coding] = {
    "linear16": Coding("int", 2),
    "linear32": Coding("float", 4),
    "float32": Coding("float", 4),
    "mulaw": Coding("mulaw", 1),
    "alaw": Coding("alaw", 1),
}
"""Encodings of raw audio, by the names that doors use."""


class Output(NamedTuple):
    """The format that a session takes; its encoding is linear16."""

    sample_rate: int = 16_000
    channels: int | None = 1
    """1 mixes all channels; any other number must be that of the audio; None keeps them."""


class RawFormat(NamedTuple):
    """Audio without a container. Channels are interleaved."""

    coding: Coding
    sample_rate: int
    channels: int = 1

    @property
    def frame_bytes(self) -> int:
        return self.coding.size * self.channels


def check_format(sample_rate: int, channels: int) -> None:
    """Raises: UndecodableAudio if no session may have such audio."""
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise UndecodableAudio(
            f"a sample rate of {sample_rate} Hz is not between {MIN_SAMPLE_RATE} and "
            f"{MAX_SAMPLE_RATE} Hz"
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise UndecodableAudio(f"{channels} channels are not between 1 and {MAX_CHANNELS}")


class Converter:
    """Converts samples of one format. The results of all `convert` calls and of `finish` together
    depend on the samples alone, not on how they are divided into calls."""

    def __init__(self, sample_rate: int, channels: int, output: Output) -> None:
        """Raises: UndecodableAudio."""
        check_format(sample_rate, channels)
        self.channels = channels if output.channels is None else output.channels
        if self.channels not in (1, channels):
            raise UndecodableAudio(
                f"the audio has {channels} channel{'s' if channels > 1 else ''}, and "
                f"{self.channels} were asked for"
            )
        self._mixer = Mixer(channels, sample_rate) if self.channels < channels else None
        self._block = max(1, int(sample_rate * _BLOCK_S))
        self._unmixed: Samples = np.empty((0, channels), np.float32)
        self._resampler = None
        if sample_rate != output.sample_rate:
            self._resampler = soxr.ResampleStream(
                sample_rate, output.sample_rate, self.channels, dtype="float32"
            )
        self.identity = self._mixer is None and self._resampler is None
        """Whether linear16 needs no conversion."""

    def convert(self, samples: Samples) -> bytes:
        """Return what is ready after `samples`, of shape (frames, channels)."""
        if self._mixer is not None:
            samples = self._mixed(finite(to_float(samples)))
        return self._resampled(samples, last=False)

    def finish(self) -> bytes:
        """Return the rest, at the end of the audio. To be called once."""
        samples: Samples = _NOTHING.reshape(0, self.channels)
        if self._mixer is not None and len(self._unmixed):
            samples = self._mixer.mix(self._unmixed)[:, None]
        return self._resampled(samples, last=True)

    def _mixed(self, samples: Samples) -> Samples:
        """Mix whole blocks, and keep the rest for later."""
        assert self._mixer is not None
        samples = np.concatenate([self._unmixed, samples])
        whole = len(samples) - len(samples) % self._block
        self._unmixed = samples[whole:]
        if not whole:
            return np.empty((0, 1), np.float32)
        blocks = range(0, whole, self._block)
        mixed = [self._mixer.mix(samples[at : at + self._block]) for at in blocks]
        return np.concatenate(mixed)[:, None]

    def _resampled(self, samples: Samples, *, last: bool) -> bytes:
        if self._resampler is not None:
            floats = finite(to_float(samples))
            flat = floats[:, 0] if self.channels == 1 else floats
            samples = self._resampler.resample_chunk(np.ascontiguousarray(flat), last=last)
        elif samples.dtype == np.float32:
            samples = finite(samples)
        return to_pcm(samples).astype("<i2", copy=False).tobytes()


def finite(samples: Samples) -> Samples:
    """Return float samples without infinities and numbers that are none, which a client may send
    by mistake and which a resampler would spread."""
    if np.isfinite(samples).all():
        return samples.clip(-_LOUDEST, _LOUDEST)
    return np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0).clip(-_LOUDEST, _LOUDEST)
