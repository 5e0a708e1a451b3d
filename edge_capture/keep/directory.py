"""The directory of recordings: new files, the deletion of old ones, and faults of its disk."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import time
from pathlib import Path
from typing import Protocol

from natterjack.errors import UsageError
from natterjack.subjects import SessionKey
from natterjack.telemetry.log import fields

from ..disk.thread import DiskThread
from .policy import Kept, file_name, is_recording, surplus

log = logging.getLogger(__name__)

_RETRY_S, _TIDY_S = 10.0, 60.0
_MAX_SAME_NAME = 1000
_FILES_WITHIN_LIMIT = 8
"""A file is closed when it has this part of the limit, so that old audio goes in small steps."""


class Open(Protocol):
    """A recorder that has audio to write."""

    def close(self) -> None:
        """End its file."""


class KeepDirectory:
    """Where the sessions of a process, and perhaps those of others, keep their audio."""

    def __init__(self, directory: Path, max_bytes: int, max_days: float) -> None:
        """Raises: UsageError if the directory cannot be made or written to."""
        self.directory = directory
        self.max_file_bytes = max_bytes // _FILES_WITHIN_LIMIT
        self._max_bytes, self._max_days = max_bytes, max_days
        self.disk = DiskThread(
            "EDGE_KEEP", directory, "no recording is kept until it does, the capture goes on"
        )
        """Does all that follows."""
        self.recorders: set[Open] = set()
        """Those that have audio to write."""
        self._tidy_at = 0.0
        self._retry_at: float | None = None
        """When to try again to write, after a failure; None while all is well."""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(directory, os.W_OK | os.X_OK):
                raise PermissionError(0, "it may not be written to")
        except OSError as error:
            raise UsageError(f"EDGE_KEEP: {directory}: {error.strerror}") from None

    def close(self) -> None:
        """End all files. A disk that does not answer is left as it is."""
        for recorder in list(self.recorders):
            recorder.close()
        self.disk.close()

    @property
    def usable(self) -> bool:
        """Whether to write now: not for a while after the disk has failed."""
        return self._retry_at is None or time.monotonic() >= self._retry_at

    def create(self, key: SessionKey, time_ns: int) -> io.FileIO:
        """Create the file of a session's audio from `time_ns` on, readable by its owner alone.

        Raises: OSError.
        """
        for count in range(_MAX_SAME_NAME):
            with contextlib.suppress(FileExistsError):
                path = self.directory / file_name(key, time_ns, count)
                return io.FileIO(path, "x+", opener=_private)
        raise FileExistsError(0, f"there are {_MAX_SAME_NAME} recordings of the same second")

    def tidy(self) -> None:
        """Once a minute, delete what is too much or too old."""
        now = time.monotonic()
        if now < self._tidy_at:
            return
        self._tidy_at = now + _TIDY_S
        try:
            for name in surplus(self._found(), time.time(), self._max_bytes, self._max_days):
                with contextlib.suppress(FileNotFoundError):  # another agent was faster
                    (self.directory / name).unlink()
        except OSError as error:
            self.failed(error)
            self._tidy_at = now + _TIDY_S

    def _found(self) -> list[Kept]:
        found = []
        with os.scandir(self.directory) as entries:
            for entry in entries:
                if is_recording(entry.name) and entry.is_file(follow_symlinks=False):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        found.append(Kept(entry.name, status.st_size, status.st_mtime))
        return found

    def failed(self, error: OSError) -> None:
        """Say, once, that nothing is kept, and try again after a while."""
        self._tidy_at = 0.0  # it may make room
        if self._retry_at is None:
            log.warning(
                "EDGE_KEEP: %s: %s; no recording is kept until it is well again, the capture goes "
                "on",
                self.directory,
                error.strerror or error,
            )
        self._retry_at = time.monotonic() + _RETRY_S

    def recovered(self) -> None:
        """Say that recordings are kept again, if it was said that they were not."""
        if self._retry_at is not None:
            self._retry_at = None
            log.warning("recordings are kept again", extra=fields(directory=str(self.directory)))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)
