"""Audio files read by libsndfile, such as WAV, FLAC, OGG and MP3, one block at a time."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import soundfile

from natterjack.audio import MIN_SAMPLE_RATE, AudioFormat

from ..errors import SourceError, SourceLost
from ..input.floats import FloatCleaner
from ..input.samples import Samples
from ..input.wav import BadWav, Sizes, WavHeader, check_sizes, is_wav, parse_wav
from . import Block, Pace, always

log = logging.getLogger(__name__)

_FLOAT_SUBTYPES = ("FLOAT", "DOUBLE")
_EXACT_SEEK_FORMATS = ("WAV", "WAVEX", "RF64", "FLAC", "AIFF", "AU", "CAF", "RAW")
_SUBTYPES = {
    ("int", 1): "PCM_U8", ("int", 2): "PCM_16", ("int", 3): "PCM_24", ("int", 4): "PCM_32",
    ("float", 4): "FLOAT", ("float", 8): "DOUBLE", ("mulaw", 1): "ULAW", ("alaw", 1): "ALAW",
}  # fmt: skip
"""The names that libsndfile has for encodings."""
_HEAD_BYTES = (1 << 16, 1 << 24)
"""How much of a file is read to find its header: usually the first is enough."""
_BEHIND_BYTES = 1 << 16
_UNKNOWN_FRAMES = 1 << 62
"""libsndfile says at least this for a file of unknown length."""
TOLERANCE = 0.05
"""The length of an MP3 file may be an estimate."""
_SKIP_FRAMES = 1 << 20
FAST_BLOCK_MS = 500  # without a pace, longer blocks cost less


class Undecodable(SourceError):
    """libsndfile does not read the file; another decoder may."""


class _Sequential(soundfile.SoundFile):  # type: ignore[misc]
    """A file read from start to end.

    After each read of a seekable file, soundfile seeks to the current frame. A seek restarts the
    MP3 decoder, which then loses most of the audio.
    """

    def seekable(self) -> bool:
        return False


class _Tail(io.FileIO):
    """A file from byte `offset` on, as if that were the whole file."""

    def __init__(self, path: Path, offset: int) -> None:
        super().__init__(path)
        self.name = ""  # soundfile would look for a format in it
        self._offset = offset
        self.seek(0)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = self._offset if whence == os.SEEK_SET else 0
        return super().seek(start + offset, whence) - self._offset

    def tell(self) -> int:
        return super().tell() - self._offset


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
        check_path(path)
        header, sizes = _examine(path)
        self._unsized = header if sizes.ignore else None
        """The header of a WAV file in which everything after it is audio."""
        self._missing = sizes.notice if sizes.missing else None
        """How much audio is missing at the end, in words."""
        self._file, self._tail = self._open()
        try:
            self._prepare(speed, block_ms)
        except BaseException:  # Ctrl-C too: a decoder's process may not outlive it
            self.close()
            raise
        if sizes.notice and not sizes.missing:
            log.warning("%s: %s", path, sizes.notice)
        self._start = 0
        self._start_ns: int | None = None

    def _prepare(self, speed: float | None, block_ms: int) -> None:
        """Read the first block. Raises: SourceError."""
        if self._file.samplerate < MIN_SAMPLE_RATE:
            raise SourceError(rate_too_low(Path(self.name), self._file.samplerate))
        self.format = AudioFormat("linear16", self._file.samplerate, self._file.channels)
        self._cleaner = (
            FloatCleaner(self._file.channels, self.name)
            if self._file.subtype in _FLOAT_SUBTYPES
            else None
        )
        milliseconds = FAST_BLOCK_MS if speed is None else block_ms
        self._block_frames = max(1, self.format.sample_rate * milliseconds // 1000)
        try:
            self._first = self._read()
        except SourceLost as error:
            raise SourceError(str(error)) from None
        if not len(self._first):
            raise SourceError(
                ": ".join(filter(None, (f"{self.name} has no samples", self._missing)))
            )

    @property
    def seconds(self) -> float | None:
        """Length of the file, which may be an estimate; None if it is unknown."""
        known = self._file.frames < _UNKNOWN_FRAMES
        return self.format.seconds(self._file.frames) if known else None

    def start_at(self, frame: int, time_ns: int | None) -> None:
        """Make `blocks` start at `frame`, or at the end of the file if that comes first.

        `time_ns` is the wall clock of that frame; None means now. Where seeking is inexact, this
        blocks while everything before the frame is decoded. Raises: SourceError.
        """
        self._start, self._start_ns = frame, time_ns
        self.close()
        self._file, self._tail = self._open()
        try:
            if self._file.format in _EXACT_SEEK_FORMATS:
                self._file.seek(min(frame, self._file.frames))
            else:
                left = frame
                while left and (read := len(self._file.read(min(left, _SKIP_FRAMES), "float32"))):
                    left -= read
            if self._cleaner is not None:
                self._cleaner.take_invalid()  # of what was read before
            self._first = self._read()
        except (SourceLost, soundfile.LibsndfileError, OSError) as error:
            raise SourceError(f"{self.name}: no audio from frame {frame} on: {error}") from None

    def _read(self) -> Samples:
        try:
            samples: Samples = self._file.read(self._block_frames, "float32", always_2d=True)
        except (soundfile.LibsndfileError, OSError) as error:
            raise SourceLost(f"{self.name} cannot be read further: {_text(error)}") from None
        if self._cleaner is not None:
            samples = self._cleaner.clean(samples)
        return samples

    async def blocks(self) -> AsyncGenerator[Block, None]:
        pace = Pace(self.format.sample_rate, self._speed, self._start, self._start_ns)
        pos, samples = self._start, self._first
        while len(samples):
            await pace.wait_captured(pos + len(samples))
            invalid = self._cleaner.take_invalid() if self._cleaner else 0
            yield Block(samples, pace.time_ns(pos), invalid=invalid)
            pos += len(samples)
            samples = self._read()
        if self._missing:
            raise SourceLost(f"{self.name}: {self._missing}")
        announced = self.format.seconds(self._file.frames)
        read = self.format.seconds(pos)
        if read < announced * (1 - TOLERANCE) and self._file.frames < _UNKNOWN_FRAMES:
            log.warning(
                "%s: only %.1f of the %.1f s that its header announces could be read",
                self.name,
                read,
                announced,
            )

    def remaining(self) -> list[Block]:
        return []

    def _open(self) -> tuple[soundfile.SoundFile, _Tail | None]:
        """Return the decoder, and the file that it reads if it does not open that itself."""
        path, header = Path(self.name), self._unsized
        tail = None
        try:
            if header is not None:
                tail = _Tail(path, header.data_offset)
                coding = header.coding
                decoder = _Sequential(
                    tail, "r", header.sample_rate, header.channels,
                    _SUBTYPES[coding.kind, coding.size],
                    "BIG" if coding.big_endian else "LITTLE", "RAW",
                )  # fmt: skip
            elif path.suffix.lower() == ".raw":  # soundfile would believe the name
                tail = _Tail(path, 0)
                decoder = _Sequential(tail)
            else:
                decoder = _Sequential(os.fsencode(path))  # a file name need not be valid text
        except (soundfile.LibsndfileError, OSError) as error:
            if tail is not None:
                tail.close()
            raise Undecodable(f"{path} is not a readable audio file: {_text(error)}") from None
        return decoder, tail

    def close(self) -> None:
        self._file.close()
        if self._tail is not None:
            self._tail.close()


def rate_too_low(path: Path, rate: int) -> str:
    """Say that speech needs a higher sample rate."""
    return f"{path} has a sample rate of {rate} Hz, and speech needs {MIN_SAMPLE_RATE} Hz or more"


def check_path(path: Path) -> None:
    """Raises: SourceError if there is no such file, or nothing in it."""
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


def _examine(path: Path) -> tuple[WavHeader | None, Sizes]:
    """Return the header of a WAV file, or None if it is another file, and what its sizes are worth.

    Raises: SourceError.
    """
    header = None
    try:
        with path.open("rb") as file:
            for size in _HEAD_BYTES:
                file.seek(0)
                head = file.read(size)
                if not is_wav(head) or (header := parse_wav(head)) is not None:
                    break
            if header is None:
                return None, Sizes()
            size = file.seek(0, os.SEEK_END)
            end = header.data_offset + (header.data_bytes or 0)
            file.seek(min(end, size))  # no file system has files of every size that a header names
            behind = file.read(_BEHIND_BYTES)
    except BadWav:
        return None, Sizes()  # libsndfile decodes more, or says what is wrong
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from None
    return header, check_sizes(header, size - end, behind)


def _text(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).rstrip(".")
