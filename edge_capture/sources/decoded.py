"""Files that libsndfile does not read, such as MP4, WebM and AMR: decoded by ffmpeg or PyAV."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shlex
import subprocess
import threading
from collections import deque
from collections.abc import AsyncGenerator
from pathlib import Path

from natterjack.audio import MIN_SAMPLE_RATE, AudioFormat

from ..errors import SourceError, SourceLost
from ..input.containers import recognize
from ..input.media import Decoder, Media, find_decoder, problem, tracks_text
from ..input.samples import LINEAR16, Samples
from ..input.wav import BadWav, parse_wav
from . import Block, Pace, always
from .file import FAST_BLOCK_MS, TOLERANCE, FileSource, Undecodable, check_path, rate_too_low

log = logging.getLogger(__name__)

_HEAD_BYTES = 1 << 16
_HEADER_BYTES = 1 << 12
_SKIP_FRAMES = 1 << 16
_ERROR_LINES = 500
"""Enough for what ffmpeg says about a file with many tracks."""
_PROBE_S = 60.0
_CURE = "install ffmpeg, or: pip install 'natterjack[media]'"


async def open_file(
    path: Path, speed: float | None, block_ms: int, track: int | None
) -> FileSource | DecodedSource:
    """Open a file, whatever its name says, to be played at `speed` times real time.

    `track` is the audio track to read, from 1; None means the first one. Raises: SourceError if
    there is no such file, or it has no audio that can be decoded here.
    """
    check_path(path)
    with path.open("rb") as file:
        found = recognize(file.read(_HEAD_BYTES), ended=True)
    if found.kind == "other" and found.reader is None:
        raise SourceError(f"{path} is {found.name}")
    if found.kind == "raw" and path.suffix.lower() == ".raw":
        name = shlex.quote(str(path))
        raise SourceError(f"{path} is raw audio; use: natterjack-edge stdin < {name}")
    error: SourceError | None = None
    if track in (None, 1):
        try:
            return FileSource(path, speed, block_ms)
        except Undecodable as undecodable:
            error = undecodable
    decoder = find_decoder()
    if decoder is None:
        if found.reader == "ffmpeg":
            raise SourceError(f"{path} is {found.name}, which is decoded by ffmpeg: {_CURE}")
        raise SourceError(f"{error or f'{path}: track {track} is read by ffmpeg'}; {_CURE}")
    source = DecodedSource(path, speed, block_ms, decoder)
    await source.open(track)
    return source


class DecodedSource:
    """An audio track of a file, which a process decodes. It is decoded as fast as it is taken."""

    can_wait = True
    wanted_frames = 1
    """Unused: a file causes no wake-ups."""
    waiting_for = None

    def __init__(self, path: Path, speed: float | None, block_ms: int, decoder: Decoder) -> None:
        self.name = str(path)
        self.can_finish = always
        self._path = path
        self._speed = speed
        self._block_ms = block_ms if speed is not None else FAST_BLOCK_MS
        self._decoder = decoder
        self._process: _Process | None = None
        self._track = 1
        self._start = 0
        self._start_ns: int | None = None

    @property
    def seconds(self) -> float | None:
        """Length of the file, which may be an estimate; None if it is unknown."""
        return self.media.seconds

    async def open(self, track: int | None) -> None:
        """Choose a track, and decode its beginning. Raises: SourceError."""
        self.media = await probe(self._path, self._decoder)
        self._track = _choose(self._path, self.media, track)
        await self._begin()
        if not len(self._first):
            raise SourceError(f"{self._path} has no samples{self._why()}")

    async def start_at(self, frame: int, time_ns: int | None) -> None:
        """Make `blocks` start at `frame`, or at the end of the file if that comes first.

        `time_ns` is the wall clock of that frame; None means now. Everything before the frame is
        decoded again. Raises: SourceError.
        """
        self._start, self._start_ns = frame, time_ns
        self.close()
        await self._begin(frame)

    async def _begin(self, skipped: int = 0) -> None:
        """Start the decoder, read the header and `skipped` frames, and the first block."""
        self._process = _Process(self._decoder.decode_command(self._path, self._track))
        header, head = None, b""
        with contextlib.suppress(BadWav):
            while header is None and len(head) < _HEADER_BYTES:
                if not (data := await self._process.read(2)):
                    break
                head += data
                header = parse_wav(head)
        if header is None or header.coding != LINEAR16:
            raise SourceError(f"{self._path} cannot be decoded{self._why()}")
        if header.sample_rate < MIN_SAMPLE_RATE:
            raise SourceError(rate_too_low(self._path, header.sample_rate))
        self.format = AudioFormat("linear16", header.sample_rate, header.channels)
        self._block_frames = max(1, self.format.sample_rate * self._block_ms // 1000)
        while skipped and (read := len(await self._read(min(skipped, _SKIP_FRAMES)))):
            skipped -= read
        self._first = await self._read(self._block_frames)

    def _why(self) -> str:
        """The decoder's reason, as the end of a message. It is ended."""
        assert self._process is not None
        self.close()
        reason = self._process.complaints
        return f": {problem(reason)}" if reason else ""

    async def _read(self, frames: int) -> Samples:
        """Return the next frames, fewer at the end."""
        assert self._process is not None
        size = self.format.frame_bytes
        data = await self._process.read(frames * size)
        samples = LINEAR16.decode(data[: len(data) // size * size])
        return samples.reshape(-1, self.format.channels)

    async def blocks(self) -> AsyncGenerator[Block, None]:
        pace = Pace(self.format.sample_rate, self._speed, self._start, self._start_ns)
        pos, samples = self._start, self._first
        while len(samples):
            await pace.wait_captured(pos + len(samples))
            yield Block(samples, pace.time_ns(pos))
            pos += len(samples)
            samples = await self._read(self._block_frames)
        assert self._process is not None
        self._check_end(await self._process.wait(), self.format.seconds(pos))

    def _check_end(self, status: int, read: float) -> None:
        """Say what was not read. Raises: SourceLost if the file is cut, or the decoder failed."""
        assert self._process is not None
        announced, complaints = self.media.seconds, self._process.complaints
        short = announced is not None and read < announced * (1 - TOLERANCE)
        if status or (short and complaints):
            length = f" of {announced:.1f} s" if announced is not None else ""
            raise SourceLost(
                f"{self.name} can be read up to {read:.1f} s{length}: {problem(complaints)}"
            )
        if short:  # a video may be longer than its audio, and some lengths are estimates
            log.warning("%s: its audio has %.1f s, the file %.1f s", self.name, read, announced)
        elif complaints:
            log.warning("%s is damaged in places: %s", self.name, problem(complaints))

    def remaining(self) -> list[Block]:
        return []

    def close(self) -> None:
        """End the decoder. Idempotent."""
        if self._process is not None:
            self._process.end()


class _Process:
    """A decoder, which must not see the Ctrl-C that ends the capture.

    It is read in threads, since not every event loop watches pipes.
    """

    def __init__(self, command: list[str]) -> None:
        """Raises: SourceError if it cannot be started."""
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise SourceError(f"{command[0]} cannot be started: {error.strerror}") from None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._out, self._errors = self._process.stdout, self._process.stderr
        self._lines: deque[bytes] = deque(maxlen=_ERROR_LINES)
        self._listening = threading.Thread(target=self._lines.extend, args=(self._errors,))
        self._listening.start()

    @property
    def complaints(self) -> str:
        """The last lines that it wrote to standard error."""
        return b"".join(self._lines).decode(errors="replace")

    async def read(self, size: int) -> bytes:
        """Return the next bytes that it writes, fewer at the end."""
        return await asyncio.to_thread(self._out.read, size)

    async def wait(self) -> int:
        """Return its exit status, once it has written everything."""
        await asyncio.to_thread(self._listening.join)
        return await asyncio.to_thread(self._process.wait)

    def end(self) -> None:
        """Kill it if it is running. Idempotent."""
        self._process.kill()
        self._process.wait()
        self._listening.join()
        self._out.close()
        self._errors.close()


async def probe(path: Path, decoder: Decoder) -> Media:
    """Return what a file holds. Raises: SourceError if it is not one with audio."""
    process = _Process(decoder.probe_command(path))
    try:
        async with asyncio.timeout(_PROBE_S):
            out = await process.read(-1)
            status = await process.wait()
    except TimeoutError:
        raise SourceError(f"{path} was examined by {decoder.name} for {_PROBE_S:.0f} s") from None
    finally:
        process.end()
    media = decoder.parse(out.decode(errors="replace"), process.complaints)
    if status < 0:
        raise SourceError(f"{path} makes {decoder.name} crash (signal {-status})")
    if isinstance(media, str):
        raise SourceError(f"{path} is not a readable audio file: {media}")
    if not media.tracks:
        raise SourceError(f"{path} has no audio track")
    return media


def _choose(path: Path, media: Media, track: int | None) -> int:
    """Return the track to read. Raises: SourceError if there is no such track."""
    count, names = len(media.tracks), tracks_text(media.tracks)
    if track is None:
        if count > 1:
            log.warning(
                "%s has %d audio tracks: %s; the first one is read, `track` (--track) chooses "
                "another",
                path,
                count,
                names,
            )
        return 1
    if track > count:
        raise SourceError(f"{path} has no audio track {track}, only {names}")
    return track
