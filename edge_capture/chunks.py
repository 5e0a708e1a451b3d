"""From a source's blocks to a session's chunks: one channel or a mix, resampled, cut to length."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import soxr

from natterjack.audio import AudioFormat

Samples = npt.NDArray[Any]
"""Shape (frames, channels): int16, float32 in -1..1, or the bytes of mulaw or alaw as uint8."""

SILENCE_DBFS = -96.0
"""Least level said; the step of a 16-bit sample lies about there."""

_FULL_SCALE = 32768.0
_WARM_UP_S = 0.5
_NS = 1_000_000_000


class Chunk(NamedTuple):
    """Sound that is ready to be published. It has no sequence number until it is."""

    pos: int
    """Index of the first frame at the published rate since the session's start."""
    time_ns: int
    """Wall clock of that frame at capture, nanoseconds since the epoch."""
    payload: bytes
    end: bool


def resume_frame(pos: int, source_rate: int, rate: int) -> int:
    """The source's frame to begin at so that frame `pos` of what is published is as if it had been
    read from the start: early enough for the resampler, and where both rates meet."""
    if source_rate == rate:
        return pos
    step = source_rate // math.gcd(source_rate, rate)
    return max(0, pos * source_rate // rate - int(_WARM_UP_S * source_rate)) // step * step


class Cutter:
    """Makes one session's chunks.

    Takes channel `channel` of the blocks, or the mean of all if None. Sound in linear16 is
    resampled from `source.sample_rate` to `published.sample_rate`; mulaw and alaw stay as they are.
    """

    def __init__(
        self, source: AudioFormat, published: AudioFormat, channel: int | None, chunk_ms: int
    ) -> None:
        self._channel = channel
        self._source_rate = source.sample_rate
        self._rate = published.sample_rate
        self._coded = published.encoding != "linear16"
        self._chunk_frames = max(1, self._rate * chunk_ms // 1000)
        self._resampler = self._new_resampler()
        self._held: list[Samples] = []
        self._held_frames = 0
        self._frames_in = 0
        """Frames taken since the session's start, lost ones included."""
        self._pos = 0
        self._discard_frames = 0
        """Converted frames to be left out, since a former run has published them."""
        self._anchor = (0, 0)
        """A frame of the source, and its wall clock."""

    @property
    def position(self) -> int:
        """Frames cut into chunks so far, at the published rate."""
        return self._pos

    @property
    def wanted_frames(self) -> int:
        """Frames of the source, 1 at least, without which no chunk can be complete."""
        missing = self._chunk_frames - self._held_frames
        if self._resampler is not None:
            missing -= math.ceil(self._resampler.delay())  # it gives them late, and some at a time
        return max(1, missing * self._source_rate // self._rate)

    def resume(self, pos: int, source_frame: int | None = None) -> None:
        """Go on at frame `pos`, before anything is fed. What is fed begins there, or at the
        source's frame `source_frame`, which `pos` must not be before."""
        self._pos = pos
        if source_frame is None:
            self._frames_in = -(-pos * self._source_rate // self._rate)
        else:
            self._frames_in = source_frame
            self._discard_frames = pos - source_frame * self._rate // self._source_rate

    def feed(self, samples: Samples, time_ns: int) -> list[Chunk]:
        """The chunks that `samples` complete; `time_ns` is the wall clock of their first frame."""
        self._anchor = (self._frames_in, time_ns)
        self._frames_in += len(samples)
        self._hold(self._convert(samples))
        if self._held_frames < self._chunk_frames:
            return []
        frames = self._take_held()
        whole = len(frames) - len(frames) % self._chunk_frames
        chunks = [
            self._chunk(frames[start : start + self._chunk_frames], end=False)
            for start in range(0, whole, self._chunk_frames)
        ]
        self._hold(frames[whole:])
        return chunks

    def skip(self, lost_frames: int) -> list[Chunk]:
        """Note that the source lost frames: positions jump. Returns what was held before them."""
        chunks = [chunk for chunk in [self._flush(end=False)] if chunk.payload]
        self._resampler = self._new_resampler()
        self._frames_in += lost_frames
        self._pos = max(self._pos, self._frames_in * self._rate // self._source_rate)
        return chunks

    def skip_time(self, seconds: float, lost_frames: int) -> None:
        """Note that time has passed before anything is fed, in which the source lost frames:
        positions jump."""
        self.skip(max(int(seconds * self._source_rate), lost_frames))

    def finish(self) -> Chunk:
        """The last chunk: what is held, maybe nothing. To be called once."""
        return self._flush(end=True)

    def _flush(self, *, end: bool) -> Chunk:
        if self._resampler is not None and self._frames_in:
            self._hold(_to_pcm(self._resampler.resample_chunk(_NOTHING, last=True)))
        return self._chunk(self._take_held(), end=end)

    def _new_resampler(self) -> Any:
        if self._coded or self._source_rate == self._rate:
            return None
        return soxr.ResampleStream(self._source_rate, self._rate, 1, dtype="float32")

    def _convert(self, samples: Samples) -> Samples:
        if self._channel is not None:
            samples = samples[:, self._channel]
        elif self._coded:
            return samples  # coded samples cannot be mixed; the session has all channels
        elif samples.shape[1] == 1:
            samples = samples[:, 0]
        else:
            channels = samples.shape[1]
            samples = _to_float(samples) @ np.full(channels, 1 / channels, np.float32)
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(np.ascontiguousarray(_to_float(samples)))
        return _to_pcm(samples)

    def _hold(self, frames: Samples) -> None:
        if self._discard_frames:
            discarded = min(self._discard_frames, len(frames))
            self._discard_frames -= discarded
            frames = frames[discarded:]
        if len(frames):
            self._held.append(frames)
            self._held_frames += len(frames)

    def _take_held(self) -> Samples:
        held, self._held, self._held_frames = self._held, [], 0
        if len(held) == 1:
            return held[0]
        return np.concatenate(held) if held else np.empty(0, np.int16)

    def _chunk(self, frames: Samples, *, end: bool) -> Chunk:
        pos = self._pos
        self._pos += len(frames)
        anchor, time_ns = self._anchor
        time_ns += pos * _NS // self._rate - anchor * _NS // self._source_rate
        return Chunk(pos, time_ns, frames.tobytes(), end)


_NOTHING = np.empty(0, np.float32)


def _to_float(samples: Samples) -> Samples:
    if samples.dtype == np.int16:
        return samples.astype(np.float32) / np.float32(_FULL_SCALE)
    return samples


def _to_pcm(samples: Samples) -> Samples:
    if samples.dtype != np.float32:
        return samples
    scaled = np.rint(samples * np.float32(_FULL_SCALE))
    return scaled.clip(-_FULL_SCALE, _FULL_SCALE - 1).astype("<i2")


def _expansion(encoding: str) -> npt.NDArray[np.float32]:
    """The linear value in -1..1 of each mulaw or alaw byte, by ITU-T G.711."""
    code = np.arange(256)
    if encoding == "mulaw":
        code = ~code & 0xFF
        exponent, mantissa = code >> 4 & 7, code & 15
        magnitude = ((mantissa << 3) + 132 << exponent) - 132
    else:
        code = code ^ 0x55
        exponent, mantissa = code >> 4 & 7, code & 15
        magnitude = np.where(
            exponent == 0, (mantissa << 4) + 8, (mantissa << 4) + 264 << np.maximum(exponent - 1, 0)
        )
    return (magnitude / _FULL_SCALE).astype(np.float32)


_EXPANSIONS = {encoding: _expansion(encoding) for encoding in ("mulaw", "alaw")}


def level_dbfs(payload: bytes, encoding: str) -> float:
    """Root mean square of a chunk, SILENCE_DBFS at least; a full-scale square wave has 0."""
    if not payload:
        return SILENCE_DBFS
    if encoding == "linear16":
        samples = np.frombuffer(payload, "<i2").astype(np.float32) / np.float32(_FULL_SCALE)
    else:
        samples = _EXPANSIONS[encoding][np.frombuffer(payload, np.uint8)]
    power = float(np.dot(samples, samples)) / len(samples)
    return max(SILENCE_DBFS, 10 * math.log10(power)) if power else SILENCE_DBFS
