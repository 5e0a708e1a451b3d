"""Audio files read by libsndfile, such as WAV, FLAC, OGG and MP3, one block at a time."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import numpy as np
import soundfile

from natterjack.audio import AudioFormat

from ..chunks import Samples
from ..errors import SourceError, SourceLost
from . import Block, Pace, always

_FLOAT_SUBTYPES = ("FLOAT", "DOUBLE")
_EXACT_SEEK_FORMATS = ("WAV", "WAVEX", "RF64", "FLAC", "AIFF", "AU", "CAF")
_SKIP_FRAMES = 1 << 20
_FAST_BLOCK_MS = 500  # without a pace, longer blocks cost less


class _Sequential(soundfile.SoundFile):  # type: ignore[misc]
    """A file read from start to end.

    After each read of a seekable file, soundfile seeks to the current frame. A seek restarts the
    MP3 decoder, which then loses most of the audio.
    """

    def seekable(self) -> bool:
        return False


class FileSource:
    """An open audio file. Reads block the event loop for as long as the disk takes."""

    can_wait = True
    wanted_frames = 1
    """Unused: a file causes no wake-ups."""
    waiting_for = None

    def __init__(self, path: Path, speed: float | None, block_ms: int) -> None:
        """Open a file to be played at `speed` times real time in blocks of `block_ms`.

        With a `speed` of None it is read as fast as its blocks are taken.

        Raises: SourceError if there is no such file, or it has no audio.
        """
        self.name = str(path)
        self.can_finish = always
        self._speed = speed
        self._file = _open(path)
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
        """Make `blocks` start at `frame`, or at the end of the file if that comes first.

        `time_ns` is the wall clock of that frame; None means now. Where seeking is inexact, this
        blocks while everything before the frame is decoded. Raises: SourceError.
        """
        self._start, self._start_ns = frame, time_ns
        self._file.close()
        self._file = _open(Path(self.name))
        try:
            if self._file.format in _EXACT_SEEK_FORMATS:
                self._file.seek(min(frame, self._file.frames))
            else:
                left = frame
                while left and (read := len(self._file.read(min(left, _SKIP_FRAMES), "float32"))):
                    left -= read
            self._first = self._read()
        except (SourceLost, soundfile.LibsndfileError, OSError) as error:
            raise SourceError(f"{self.name}: no audio from frame {frame} on: {error}") from None

    def _read(self) -> Samples:
        try:
            samples: Samples = self._file.read(self._block_frames, "float32", always_2d=True)
        except (soundfile.LibsndfileError, OSError) as error:
            raise SourceLost(f"{self.name} cannot be read further: {_text(error)}") from None
        if self._file.subtype in _FLOAT_SUBTYPES:
            # A single NaN would stay in the resampler forever.
            np.nan_to_num(samples, copy=False)
        return samples

    async def blocks(self) -> AsyncGenerator[Block, None]:
        pace = Pace(self.format.sample_rate, self._speed, self._start, self._start_ns)
        pos, samples = self._start, self._first
        while len(samples):
            await pace.wait_captured(pos + len(samples))
            yield Block(samples, pace.time_ns(pos))
            pos += len(samples)
            samples = self._read()

    def remaining(self) -> list[Block]:
        return []

    def close(self) -> None:
        self._file.close()


def _open(path: Path) -> soundfile.SoundFile:
    try:
        if path.is_dir():
            raise SourceError(f"{path} is a directory, not an audio file")
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
        return _Sequential(os.fsencode(path))  # a file name need not be valid text
    except (soundfile.LibsndfileError, OSError) as error:
        raise SourceError(f"{path} is not a readable audio file: {_text(error)}") from None
    except TypeError:  # the name ends in .raw, and soundfile needs to be given its format
        raise SourceError(f"{path} is raw audio; use: natterjack-edge stdin < {path}") from None


def _text(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).rstrip(".")
