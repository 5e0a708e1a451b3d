"""Sound files by libsndfile: WAV, FLAC, OGG, MP3 and what else it reads, a block at a time."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import numpy as np
import soundfile

from natterjack.audio import AudioFormat

from ..chunks import Samples
from ..errors import SourceError, SourceLost
from . import Block, Pace

_FLOAT_SUBTYPES = ("FLOAT", "DOUBLE")
_EXACT_SEEKS = ("WAV", "WAVEX", "RF64", "FLAC", "AIFF", "AU", "CAF")
_SKIP_FRAMES = 1 << 20
_FAST_BLOCK_MS = 500  # unpaced, longer blocks cost less


class _Sequential(soundfile.SoundFile):  # type: ignore[misc]
    """A file read from its start to its end.

    soundfile seeks to where it is after each read of a seekable file, and a seek makes the MP3
    decoder start afresh: most of the sound is gone then.
    """

    def seekable(self) -> bool:
        return False


class FileSource:
    """A sound file, open. Reading it blocks the event loop for the time that a disk takes."""

    waits = True
    wanted_frames = 1
    """Of no use here: it is not woken by its sound."""

    def __init__(self, path: Path, speed: float | None, block_ms: int) -> None:
        """`speed` is times real time, in blocks of `block_ms`; None: as fast as it is taken.

        Raises: SourceError (no such file, a directory, no sound file, no samples).
        """
        self.name = str(path)
        self._speed = speed
        self._file = _opened(path)
        self.format = AudioFormat("linear16", self._file.samplerate, self._file.channels)
        milliseconds = _FAST_BLOCK_MS if speed is None else block_ms
        self._block_frames = max(1, self.format.sample_rate * milliseconds // 1000)
        try:
            self._first = self._read()
        except SourceLost as error:
            raise SourceError(str(error)) from None
        if not len(self._first):
            raise SourceError(f"{path} has no samples")
        self._start = 0
        self._start_ns: int | None = None

    def start_at(self, frame: int, time_ns: int | None) -> None:
        """Have `blocks` begin at `frame` (the end at most), with this wall clock; None: now.

        Blocks for as long as the sound before it takes to be decoded, where seeking is not exact.
        Raises: SourceError.
        """
        self._start, self._start_ns = frame, time_ns
        self._file.close()
        self._file = _opened(Path(self.name))
        try:
            if self._file.format in _EXACT_SEEKS:
                self._file.seek(min(frame, self._file.frames))
            else:
                left = frame
                while left and (read := len(self._file.read(min(left, _SKIP_FRAMES), "float32"))):
                    left -= read
            self._first = self._read()
        except (SourceLost, soundfile.LibsndfileError, OSError) as error:
            raise SourceError(f"{self.name}: no sound from frame {frame} on: {error}") from None

    def _read(self) -> Samples:
        try:
            samples: Samples = self._file.read(self._block_frames, "float32", always_2d=True)
        except (soundfile.LibsndfileError, OSError) as error:
            raise SourceLost(f"{self.name} cannot be read on: {_text(error)}") from None
        if self._file.subtype in _FLOAT_SUBTYPES:
            # One NaN would stay in the resampler for good.
            np.nan_to_num(samples, copy=False)
        return samples

    async def blocks(self) -> AsyncGenerator[Block, None]:
        pace = Pace(self.format.sample_rate, self._speed, self._start, self._start_ns)
        pos, samples = self._start, self._first
        while len(samples):
            await pace.captured(pos + len(samples))
            yield Block(samples, pace.time_ns(pos))
            pos += len(samples)
            samples = self._read()

    def rest(self) -> list[Block]:
        return []

    def close(self) -> None:
        self._file.close()


def _opened(path: Path) -> soundfile.SoundFile:
    try:
        if path.is_dir():
            raise SourceError(f"{path} is a directory, not a sound file")
        if path.exists() and not path.is_file():
            raise SourceError(
                f"{path} is not a regular file; for a pipe use: natterjack-edge stdin"
            )
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from None
    if empty:
        raise SourceError(f"{path} is empty")
    try:
        return _Sequential(os.fsencode(path))  # a name need not be text
    except (soundfile.LibsndfileError, OSError) as error:
        raise SourceError(f"{path} is not a sound file that can be read: {_text(error)}") from None
    except TypeError:  # the name ends in .raw: no header says what is in it
        raise SourceError(f"{path} is raw: use natterjack-edge stdin < {path}") from None


def _text(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).rstrip(".")
