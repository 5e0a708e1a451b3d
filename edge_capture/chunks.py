"""Turning a source's blocks into a session's chunks: channel selection, resampling, cutting."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import soxr

from natterjack.audio import AudioFormat
from natterjack.notices import Note, join_notes, merge_notes, spread_notes

from .input.mix import Mixer
from .input.samples import Samples, to_float, to_pcm

_WARM_UP_S = 0.5
_MARK_S = 0.01
_NS = 1_000_000_000


class Chunk(NamedTuple):
    """Audio that is ready to be published. It gets its sequence number when it is published."""

    pos: int
    """Position of the first frame at the published rate, from the start of the session."""
    time_ns: int
    """Wall clock at which that frame was captured, in nanoseconds since the epoch."""
    payload: bytes
    end: bool
    note: str = ""
    """Its Audio-Note, such as the cause of a gap before it."""


def resume_frame(pos: int, source_rate: int, rate: int) -> int:
    """Return the source frame from which to read so that output from `pos` on is unchanged.

    It is early enough for the resampler to warm up, and is a frame at which both rates meet.
    """
    if source_rate == rate:
        return pos
    step = source_rate // math.gcd(source_rate, rate)
    return max(0, pos * source_rate // rate - int(_WARM_UP_S * source_rate)) // step * step


class Chunker:
    """Makes the chunks of one session.

    It takes channel `channel` of each block, or mixes all channels if None. Audio in linear16
    is resampled from `source.sample_rate` to `published.sample_rate`; mulaw and alaw pass
    unchanged.
    """

    def __init__(
        self, source: AudioFormat, published: AudioFormat, channel: int | None, chunk_ms: int
    ) -> None:
        self._channel = channel
        self._source_rate = source.sample_rate
        self._rate = published.sample_rate
        self._companded = published.encoding != "linear16"
        self._mixer = Mixer(source.channels, source.sample_rate)
        self.chunk_frames = max(1, self._rate * chunk_ms // 1000)
        """Frames in a whole chunk, at the published rate."""
        self._resampler = self._new_resampler()
        self._pending: list[Samples] = []
        self._pending_frames = 0
        self._frames_in = 0
        """Source frames since the start of the session, lost ones included."""
        self._pos = 0
        self._discard_frames = 0
        """Converted frames to discard, because an earlier run has published them."""
        self._anchor = (0, 0)
        """A source frame and its wall clock."""
        self._notes: list[Note] = []
        """Notes that the next chunks will carry."""
        self._cause: list[Note] = []
        """The cause of the gap before the next chunk."""
        self._published = published
        self._marked_frames = 0
        """Converted frames of silence that are not made up for yet."""

    @property
    def position(self) -> int:
        """Frames cut into chunks so far, at the published rate."""
        return self._pos

    @property
    def wanted_frames(self) -> int:
        """Number of source frames (at least 1) below which no chunk can be complete."""
        missing = self.chunk_frames - self._pending_frames
        if self._resampler is not None:
            # The resampler returns frames late, and several at a time.
            missing -= math.ceil(self._resampler.delay())
        return max(1, missing * self._source_rate // self._rate)

    def resume(self, pos: int, source_frame: int | None = None) -> None:
        """Continue at position `pos`. To be called before the first `feed`.

        The first block fed starts at source frame `source_frame`, which must not be after `pos`;
        if None, it starts at `pos`.
        """
        self._pos = pos
        if source_frame is None:
            self._frames_in = -(-pos * self._source_rate // self._rate)
        else:
            self._frames_in = source_frame
            self._discard_frames = pos - source_frame * self._rate // self._source_rate

    def feed(self, samples: Samples, time_ns: int) -> list[Chunk]:
        """Return the chunks that `samples` complete.

        `time_ns` is the wall clock of their first frame.
        """
        self._anchor = (self._frames_in, time_ns)
        self._frames_in += len(samples)
        self._discard_frames += self._marked_frames
        self._marked_frames = 0
        self._append(self._convert(samples))
        if self._pending_frames < self.chunk_frames:
            return []
        frames = self._take_pending()
        whole = len(frames) - len(frames) % self.chunk_frames
        chunks = [
            self._chunk(frames[start : start + self.chunk_frames], end=False)
            for start in range(0, whole, self.chunk_frames)
        ]
        self._append(frames[whole:])
        return chunks

    @property
    def marked_frames(self) -> int:
        """Number of source frames in whose place there is the silence of `mark`."""
        return self._marked_frames * self._source_rate // self._rate

    def note(self, note: Note) -> None:
        """Have the next chunk say that a condition begins or ends."""
        self._notes = merge_notes(self._notes, [note])

    def mark(self, note: Note, time_ns: int) -> list[Chunk]:
        """Say at once that a condition begins, with which the audio stops: return the chunk with
        the audio so far, if there is any, and a short one of silence that has the note.

        The silence is in the place of the first audio that follows, or part of a gap. `time_ns` is
        its wall clock if there was no audio yet.
        """
        chunks = [chunk for chunk in [self._flush(end=False)] if chunk.payload]
        self._resampler = self._new_resampler()
        over = note._replace(ended=True)
        self._notes = [each for each in self._notes if each != over]  # it goes on after a restart
        self.note(note)
        if not self._anchor[1]:
            self._anchor = (self._frames_in, time_ns)
        frames = max(1, int(_MARK_S * self._rate))
        silence = np.frombuffer(self._published.silence(frames), np.uint8)
        if not self._companded:
            silence = silence.view("<i2")
        elif self._published.channels > 1:
            silence = silence.reshape(frames, self._published.channels)
        self._marked_frames += frames
        return [*chunks, self._chunk(silence, end=False)]

    def skip(self, lost_frames: int, cause: str) -> list[Chunk]:
        """Advance the position by frames that the source lost, for one of GAP_CAUSES.

        Returns the chunk with the audio before them, if there is any.
        """
        chunks = [chunk for chunk in [self._flush(end=False)] if chunk.payload]
        self._resampler = self._new_resampler()
        self._frames_in += lost_frames
        resumed_at = self._frames_in * self._rate // self._source_rate
        marked, self._marked_frames = self._marked_frames, 0
        if resumed_at > self._pos:
            self._pos, self._cause = resumed_at, [Note(cause, ended=True)]
        elif marked:
            self._discard_frames += self._pos - resumed_at
        return chunks

    def finish(self) -> Chunk:
        """Return the last chunk, which may be empty. To be called once."""
        return self._flush(end=True)

    def _flush(self, *, end: bool) -> Chunk:
        if self._resampler is not None and self._frames_in:
            self._append(to_pcm(self._resampler.resample_chunk(_NOTHING, last=True)))
        return self._chunk(self._take_pending(), end=end)

    def _new_resampler(self) -> Any:
        if self._companded or self._source_rate == self._rate:
            return None
        return soxr.ResampleStream(self._source_rate, self._rate, 1, dtype="float32")

    def _convert(self, samples: Samples) -> Samples:
        if self._channel is not None:
            samples = samples[:, self._channel]
        elif self._companded:
            return samples  # mulaw and alaw cannot be mixed; the session has all channels
        elif samples.shape[1] == 1:
            samples = samples[:, 0]
        else:
            samples = self._mixer.mix(to_float(samples))
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(np.ascontiguousarray(to_float(samples)))
        return to_pcm(samples)

    def _append(self, frames: Samples) -> None:
        if self._discard_frames:
            discarded = min(self._discard_frames, len(frames))
            self._discard_frames -= discarded
            frames = frames[discarded:]
        if len(frames):
            self._pending.append(frames)
            self._pending_frames += len(frames)

    def _take_pending(self) -> Samples:
        pending, self._pending, self._pending_frames = self._pending, [], 0
        if len(pending) == 1:
            return pending[0]
        return np.concatenate(pending) if pending else np.empty(0, np.int16)

    def _chunk(self, frames: Samples, *, end: bool) -> Chunk:
        pos = self._pos
        self._pos += len(frames)
        anchor, time_ns = self._anchor
        time_ns += pos * _NS // self._rate - anchor * _NS // self._source_rate
        note = ""
        if (self._cause or self._notes) and (len(frames) or end):
            taken, self._notes = spread_notes(self._notes, self._cause)
            note, self._cause = join_notes(taken), []
        return Chunk(pos, time_ns, frames.tobytes(), end, note)


_NOTHING = np.empty(0, np.float32)
