"""Audio on standard input, from a pipe or a file: raw, or a WAV file."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator

import numpy as np

from natterjack.audio import AudioFormat
from natterjack.notices import SUSPENDED

from ..errors import SourceError, SourceLost
from ..input.containers import recognize
from ..input.floats import FloatCleaner
from ..input.samples import LINEAR16, Coding, Samples
from ..input.wav import BadWav, WavHeader, is_metadata, is_wav, parse_wav
from ..settings import StdinSettings
from . import Block, Pace, always
from .boot_clock import boot_time_and_sleep
from .pipe_thread import PipeThread

log = logging.getLogger(__name__)

_READ_BYTES = 64 * 1024
_MAX_HEADER_BYTES = 1 << 20
_BEHIND_BYTES = 16
"""Enough of what follows the audio of a WAV file to recognize it."""
_MISSING_S = 0.1
_SUSPENDED_S = 1.0
_DECODE = "ffmpeg -i - -f s16le -ar 16000 -ac 1 - | natterjack-edge stdin"
_RAW = "if it is raw nevertheless: --raw, or raw = true"


class StdinSource:
    """Raw PCM, mulaw or alaw from a file descriptor, which the caller closes.

    A WAV file is read too: its header names the format, and its samples are decoded to linear16.
    """

    name = "standard input"
    waiting_for: str | None = None

    def __init__(
        self, descriptor: int, settings: StdinSettings, speed: float | None, block_ms: int
    ) -> None:
        """Read audio to be played at `speed` times real time in blocks of `block_ms`.

        With a `speed` of None it is passed on as it arrives. Raises: SourceError for a terminal.
        """
        if os.isatty(descriptor):
            raise SourceError(
                "standard input is a terminal; pipe audio into it, for example: "
                "ffmpeg -i URL -f s16le -ar 16000 -ac 1 - | natterjack-edge stdin"
            )
        self.can_wait = not settings.live
        self._settings = settings
        self._descriptor = descriptor
        self._speed = speed
        self._block_ms = block_ms
        companded = settings.encoding != "linear16"
        self._set_format(
            AudioFormat(settings.encoding, settings.sample_rate, settings.channels),
            None if companded else LINEAR16,
        )
        self._header: WavHeader | None = None
        self._left: int | None = None
        """Bytes of audio that are not yielded yet by the header of a WAV file, or None if that is
        unknown."""
        self._ignored = 0
        """Bytes after the audio of a WAV file."""
        self._ignoring = False
        self._lost: str | None = None
        """A description of the audio that was not read, or None if all of it was."""
        self._wanted_bytes = 0
        """How much is wanted to be pending while the first bytes are examined."""
        self.wanted_frames = 1
        self.can_finish = always
        self._pending = bytearray()
        """Bytes read and not yet yielded."""
        self._ended = False
        self._error: OSError | None = None
        """The error that ended the input."""
        self._watching: asyncio.AbstractEventLoop | None = None
        """The loop that watches the descriptor."""
        self._thread: PipeThread | None = None
        """Reads the descriptor where no loop can watch it."""
        self._ready = asyncio.Event()
        self._pace: Pace
        self._first_ns = 0
        """Wall clock of the first frame."""
        self._asleep = boot_time_and_sleep()[1]
        self._pos = 0
        """Number of frames yielded."""

    def _set_format(self, audio_format: AudioFormat, coding: Coding | None) -> None:
        """`coding` is None for mulaw and alaw that are passed on."""
        self.format = audio_format
        self._coding = coding
        floats = coding is not None and coding.kind == "float"
        self._cleaner = FloatCleaner(audio_format.channels, self.name) if floats else None
        self._frame_bytes = audio_format.channels * (coding.size if coding else 1)
        self._read_bytes = _READ_BYTES
        if self._speed is not None:
            frames = max(1, audio_format.sample_rate * self._block_ms // 1000)
            self._read_bytes = frames * self._frame_bytes

    async def open(self) -> None:
        """Wait for the first audio.

        Cancel-safe. Raises: SourceError if there is none, or it is a file that is not decoded here.
        """
        if not self._settings.raw:
            await self._examine()
        await self._wait_ready()
        self._first_ns = time.time_ns()
        self._pace = Pace(self.format.sample_rate, self._speed, first_ns=self._first_ns)
        if self._error is not None:
            raise SourceError(self._text(self._error))
        if len(self._pending) < self._frame_bytes:
            cut = f": {len(self._pending)} bytes are not a whole frame" if self._pending else ""
            raise SourceError(f"{self.name} is empty{cut}")
        if self._left == 0:
            self._examine_behind()
            if self._ignoring:
                raise SourceError(f"{self.name} is a WAV file without samples")
        if self._header is not None:
            log.info("%s is a WAV file: %s", self.name, self._header)

    async def _examine(self) -> None:
        """Take the format from the header if there is one. Cancel-safe. Raises: SourceError."""
        while (found := recognize(bytes(self._pending), ended=self._ended)).kind == "unknown":
            await self._wait_for_more()
        if found.kind == "other":
            file = "use natterjack-edge file PATH, or " if found.reader else ""
            raise SourceError(
                f"{self.name} is {found.name}, not raw audio ({_RAW}); {file}decode it: " + _DECODE
            )
        if found.kind == "raw":
            return
        try:
            while (header := parse_wav(bytes(self._pending))) is None:
                if self._ended:
                    raise SourceError(f"{self.name} ends within the header of a WAV file")
                if len(self._pending) > _MAX_HEADER_BYTES:
                    raise BadWav("its header is longer than 1 MiB")
                await self._wait_for_more()
        except BadWav as error:
            raise SourceError(
                f"{self.name} is a WAV file, but {error} ({_RAW}); decode it: {_DECODE}"
            ) from None
        self._check_declared(header)
        self._header = header
        del self._pending[: header.data_offset]
        self._set_format(
            AudioFormat("linear16", header.sample_rate, header.channels), header.coding
        )
        self._left = header.data_bytes

    def _check_declared(self, header: WavHeader) -> None:
        """Raises: SourceError if a setting contradicts the header."""
        encoding = "linear16" if header.coding == LINEAR16 else str(header.coding)
        actual = {
            "encoding": encoding, "sample_rate": header.sample_rate, "channels": header.channels
        }  # fmt: skip
        for name, value in actual.items():
            declared = getattr(self._settings, name)
            if name in self._settings.model_fields_set and declared != value:
                raise SourceError(
                    f"{self.name} is a WAV file ({header}), but --{name.replace('_', '-')} "
                    f"(EDGE_STDIN_{name.upper()}) is {declared}; leave it out ({_RAW})"
                )

    async def _wait_for_more(self) -> None:
        """Return when more than now is pending, or the input has ended. Cancel-safe."""
        self._wanted_bytes = len(self._pending) + 1
        try:
            await self._wait_ready()
        finally:
            self._wanted_bytes = 0

    def _watch(self) -> bool:
        """Have the loop read the descriptor.

        Returns False for a regular file, which is always ready and cannot be watched.
        """
        if self._thread is not None:
            self._thread.read(self._read_bytes)
        elif self._watching is None:
            loop = asyncio.get_running_loop()
            try:
                blocking = os.get_blocking(self._descriptor)
                loop.add_reader(self._descriptor, self._read)
            except PermissionError:
                return False
            except (AttributeError, NotImplementedError):  # on Windows
                self._thread = PipeThread(self._descriptor, self._receive)
                self._thread.read(self._read_bytes)
                return True
            # uvloop makes the descriptor non-blocking, for every process that shares it.
            os.set_blocking(self._descriptor, blocking)
            self._watching = loop
        return True

    def _unwatch(self) -> None:
        if self._watching is not None:
            self._watching.remove_reader(self._descriptor)
            self._watching = None

    def _read(self) -> None:
        """Read once. While enough is pending it stops reading, so that the writer waits."""
        if self._enough_pending:
            self._unwatch()
            return
        try:
            data = os.read(self._descriptor, self._read_bytes)
        except BlockingIOError:
            return  # another process that shares the pipe was quicker, and made it non-blocking
        except OSError as error:
            self._error, data = error, b""
        self._take_in(data)

    def _receive(self, data: bytes | OSError) -> None:
        """Take what the thread has read. While enough is pending, it reads nothing."""
        if isinstance(data, OSError):
            self._error, data = data, b""
        self._take_in(data)
        if not self._enough_pending:
            self._watch()

    def _take_in(self, data: bytes) -> None:
        if self._ignoring:
            self._ignored += len(data)
        else:
            self._pending += data
        self._ended = not data
        if self._enough_pending:
            self._ready.set()

    @property
    def _enough_pending(self) -> bool:
        """Whether the wanted number of frames is pending, or the input has ended."""
        if self._ended or self._ignoring:
            return self._ended
        if self._wanted_bytes:
            return len(self._pending) >= self._wanted_bytes
        frames = self.wanted_frames if self._speed is None else 1  # a pace sets its own block size
        wanted = frames * self._frame_bytes
        if self._left is not None and self._left < wanted:
            wanted = self._left + _BEHIND_BYTES
        return len(self._pending) >= wanted

    async def _wait_ready(self) -> None:
        """Return when enough is pending. Cancel-safe."""
        while not self._enough_pending:
            self._ready.clear()
            if self._watch():
                await self._ready.wait()
            else:
                self._read()

    def _take(self) -> Samples:
        """Remove the pending whole frames and return them."""
        if self._left is not None and self._left < self._frame_bytes:
            self._examine_behind()
        size = len(self._pending)
        if self._left is not None:
            size = min(size, self._left)
        size -= size % self._frame_bytes
        data = bytes(self._pending[:size])
        del self._pending[:size]
        if self._left is not None:
            self._left -= size
        samples = (
            np.frombuffer(data, np.uint8) if self._coding is None else self._coding.decode(data)
        )
        samples = samples.reshape(-1, self.format.channels)
        return self._cleaner.clean(samples) if self._cleaner else samples

    def _examine_behind(self) -> None:
        """At the end of a WAV file by its header, find out whether it is the end."""
        assert self._header is not None
        assert self._left is not None
        behind = bytes(self._pending[self._left : self._left + _BEHIND_BYTES])
        if len(behind) < _BEHIND_BYTES and not self._ended:
            return
        if is_wav(behind):
            self._lost = "another WAV file follows; only the first one was read"
        if is_metadata(behind, None) or not behind:
            self._ignoring = True
            self._ignored = len(self._pending) - self._left
            self._pending.clear()
            return
        self._left = None
        if self._header.data_bytes:
            log.warning(
                "%s continues after the %.1f s that the header announces; all of it is read",
                self.name,
                self._header.seconds(self._header.data_bytes),
            )

    async def blocks(self) -> AsyncGenerator[Block, None]:
        # The first audio arrived earlier, but its playback starts now.
        self._pace = Pace(self.format.sample_rate, self._speed, first_ns=self._first_ns)
        while len(samples := self._take()):
            await self._pace.wait_captured(self._pos + len(samples))
            yield self._block(samples)
            await self._wait_ready()
        if self._ignoring:
            await self._wait_ready()  # a writer should not fail because nobody reads
            if self._ignored > _MAX_HEADER_BYTES:
                log.warning("ignored %d bytes of %s after the audio", self._ignored, self.name)
        if self._error is not None:
            raise SourceLost(self._text(self._error))
        if self._header is not None and self._left:
            missing = self._header.seconds(self._left)
            if missing >= _MISSING_S:
                self._lost = f"{missing:.1f} s of the audio that the header announces are missing"
        if self._lost:
            raise SourceLost(f"{self.name}: {self._lost}")
        if self._pending:
            log.warning(
                "ignoring the last %d bytes of %s, which are not a whole frame of %d",
                len(self._pending),
                self.name,
                self._frame_bytes,
            )

    def _block(self, samples: Samples) -> Block:
        invalid = self._cleaner.take_invalid() if self._cleaner else 0
        lost = 0 if self.can_wait or self._speed is not None else self._slept_frames()
        self._pos += lost
        time_ns = self._pace.time_ns(self._pos)
        self._pos += len(samples)
        return Block(samples, time_ns, lost, SUSPENDED, invalid)

    def _slept_frames(self) -> int:
        """Return what a live writer has missed because the machine was suspended, in frames."""
        before, (_, self._asleep) = self._asleep, boot_time_and_sleep()
        slept_s = self._asleep - before
        if slept_s < _SUSPENDED_S:
            return 0
        log.warning("%.2f s of audio were lost: this machine was suspended", slept_s)
        return round(slept_s * self.format.sample_rate)

    def remaining(self) -> list[Block]:
        if self._speed is not None:
            return []  # at this speed it would not have been captured yet
        samples = self._take()
        return [self._block(samples)] if len(samples) else []

    def close(self) -> None:
        self._unwatch()

    def _text(self, error: OSError) -> str:
        return f"{self.name}: {error.strerror}"
