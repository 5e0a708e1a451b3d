"""Recording in a thread, so that no disk is waited for."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Protocol

from natterjack.spec import SessionSpec
from natterjack.telemetry.log import fields

from ..chunks import Chunk
from .directory import KeepDirectory
from .recorder import Recorder

log = logging.getLogger(__name__)

_BATCH_S = 0.5
"""So much audio is given to the thread at once."""
_MAX_WAITING_S = 60.0
"""The longest audio that a session holds in memory, in seconds, while the disk does not answer or
is slower than the audio."""


class Recorded(Protocol):
    """A session that can be recorded; `EdgeSession` is one."""

    spec: SessionSpec
    recorder: BackgroundRecorder | None


def keep_audio(
    sessions: Iterable[Recorded], directory: KeepDirectory | None, *, can_wait: bool
) -> None:
    """Record sessions from now on, if there is a directory for it. `can_wait`: what their source
    does not read is read later."""
    for session in sessions:
        session.recorder = (
            None
            if directory is None
            else BackgroundRecorder(directory, session.spec, can_wait=can_wait)
        )


class BackgroundRecorder:
    """A session's recorder in the thread of its directory.

    Audio that comes while the disk does not answer, beyond a minute, is not kept: the recording has
    silence in its place. So it is with a disk that is slower than live audio, for which the event
    loop must not wait; a file, which can wait, is read as fast as the disk takes it.
    """

    def __init__(
        self, directory: KeepDirectory, spec: SessionSpec, *, can_wait: bool = False
    ) -> None:
        self._directory = directory
        self._can_wait = can_wait
        self._told = False
        """Whether it was said that the disk is too slow."""
        self._spec, self._recorder = spec, Recorder(directory, spec)
        self._frame_bytes = spec.audio_format.frame_bytes
        second = spec.sample_rate * self._frame_bytes
        self._batch_bytes, self._max_bytes = int(_BATCH_S * second), int(_MAX_WAITING_S * second)
        self._chunks: list[Chunk] = []
        self._bytes = 0
        """Bytes of audio in `_chunks`."""
        self._given = self._written = 0
        """Bytes of audio that were given to the thread, and that it has written."""

    def write(self, chunk: Chunk) -> None:
        """Write a chunk, which is not encoded for the wire, soon."""
        self._chunks.append(chunk)
        self._bytes += len(chunk.payload)
        self._directory.recorders.add(self)
        if self._bytes >= self._batch_bytes:
            self.flush()

    def flush(self) -> None:
        """Give what waits to the thread."""
        disk = self._directory.disk
        disk.check()
        chunks, size = self._chunks, self._bytes
        self._chunks, self._bytes = [], 0
        if disk.hung_seconds > _MAX_WAITING_S:
            return  # also the audio of a session that begins now
        if self._given - self._written + size > self._max_bytes:
            if self._can_wait:
                disk.catch_up()  # a file is read faster than it is written
            elif not disk.hung:
                self._say_slow()
            if disk.hung or not self._can_wait:
                return
        self._given += size
        disk.later(lambda: self._write(chunks, size))

    def _say_slow(self) -> None:
        if not self._told:
            self._told = True
            log.warning(
                "EDGE_KEEP: the disk is slower than the audio: the recording has silence in place "
                "of what it does not take, the capture goes on; choose a faster one",
                extra=fields(session=str(self._spec.key), directory=str(self._directory.directory)),
            )

    def _write(self, chunks: list[Chunk], size: int) -> None:
        for chunk in chunks:
            self._recorder.write(chunk)
        self._written += size

    def close(self) -> None:
        """End the file, soon. Idempotent."""
        if self in self._directory.recorders:
            self._directory.recorders.remove(self)
            self.flush()
            self._directory.disk.later(self._recorder.close)
