"""The directory of the spool: creating sessions, adopting earlier ones, enforcing limits."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import logging
import os
import re
import secrets
import stat
import time
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError

from natterjack.audio import AudioFormat
from natterjack.errors import first_problem
from natterjack.spec import SessionSpec
from natterjack.telemetry.log import fields

from ..disk.thread import DiskThread
from ..errors import SpoolError
from ..settings import SpoolSettings
from .demand import INTERVAL_S, Demand
from .disk import (
    RECORD_BYTES,
    boot_id,
    clear,
    damaged_path,
    is_full,
    may_recover,
    not_answering,
    open_file,
    release_lock,
    save,
    sync,
    take_lock,
)
from .session import FAILED, SESSION, Description, Origin, SpooledBacklog

log = logging.getLogger(__name__)

_VERSION = 1
_SEGMENT_S = 10.0
_MIN_SEGMENTS = 8
"""The smaller limit has room for at least this many segments."""
_ABANDONED_S = 60.0
"""Age at which a directory that is being created or removed is considered abandoned."""
_CALM_S = 3.0
"""Interval of syncs while the broker stores audio as it comes: then the disk has nothing that is
not stored, and is synced for the numbers of the chunks."""
_LIMIT_CHECKS = 10
"""Number of times per interval that the limits are checked."""
_MAX_ADOPTED = 64
"""Limit of sessions adopted at a time, since each holds an open file."""
_SESSION_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TRANSIENT = re.compile(rf"\.(new|old)-{_SESSION_ID.pattern}")
"""Name of a directory that is being created or removed."""


class _Version(BaseModel):
    version: int


class _OtherVersion(Exception):
    """A session has the format of another release."""


class Spool:
    """The spool of one run: its own sessions, and those that it adopts from earlier runs."""

    def __init__(self, settings: SpoolSettings) -> None:
        """Create the directory if needed. Raises: SpoolError if it is not writable."""
        assert settings.spool is not None
        self.directory = settings.spool
        self.max_seconds, self.max_bytes = settings.spool_seconds, settings.spool_bytes
        self._sessions: list[SpooledBacklog] = []
        self.locked_by_others = 0
        """Number of sessions that the last `adopt` found in use by other agents."""
        self.unusable: set[str] = set()
        """Ids of sessions that cannot be sent."""
        self._demand = Demand()
        self._disk = DiskThread(
            "EDGE_SPOOL", self.directory, "audio is kept in memory until it does"
        )
        self._disk.on_hung = self._hangs
        try:
            if self.directory.exists() and not self.directory.is_dir():
                raise SpoolError(f"EDGE_SPOOL: {self.directory} is not a directory")
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = self.directory / f".probe-{secrets.token_hex(8)}"
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT, 0o600))
            probe.unlink()
        except OSError as error:
            if not is_full(error):  # else sessions begin in memory
                raise SpoolError(f"EDGE_SPOOL: {self.directory}: {error.strerror}") from None

    @property
    def size(self) -> int:
        """Bytes of all its sessions."""
        return sum(session.size for session in self._sessions)

    @property
    def seconds(self) -> float:
        """Seconds of audio of all its sessions."""
        return sum(session.seconds for session in self._sessions)

    def create(self, spec: SessionSpec, origin: Origin, run: str) -> SpooledBacklog:
        """Create the backlog of a new session of run `run`. Raises: SpoolError.

        If the disk is full or does not answer, the session begins in memory.
        """
        description = Description(
            version=_VERSION, spec=spec, origin=origin, run=run, boot=boot_id()
        )
        directory = self.directory / spec.session_id
        try:
            if self._disk.hung:
                raise not_answering()
            with self._disk.watched():
                lock = _make(directory, SESSION, description)
        except OSError as error:
            if not may_recover(error):
                raise SpoolError(f"EDGE_SPOOL: {self.directory}: {error.strerror}") from None
            backlog = self._open_backlog(directory, -1, description)
            backlog.begin_in_memory(error, lambda: _make(directory, FAILED, description))
            return backlog
        return self._open_backlog(directory, lock, description)

    def _open_backlog(self, directory: Path, lock: int, description: Description) -> SpooledBacklog:
        audio_format = description.spec.audio_format
        bytes_per_second = audio_format.sample_rate * audio_format.frame_bytes
        bytes_per_second += RECORD_BYTES * 1000 // description.origin.chunk_ms
        sessions = len(description.origin.speakers)
        limit_s = min(self.max_seconds, self.max_bytes / (bytes_per_second * sessions))
        segment_s = min(_SEGMENT_S, limit_s / _MIN_SEGMENTS)
        frames = int(segment_s * audio_format.sample_rate)
        backlog = SpooledBacklog(
            directory,
            lock,
            description,
            frames,
            self.max_seconds,
            0.9 * limit_s,
            self._demand,
            self._disk,
        )
        # Not sorted afterwards: `adopt` runs in a thread, and what is added during a sort is lost.
        bisect.insort(self._sessions, backlog, key=_opened)
        return backlog

    def adopt(self) -> list[SpooledBacklog]:
        """Adopt the newest 64 sessions that earlier runs have left, and return them oldest first.

        Sessions in use by other agents are skipped. All adopted sessions are read completely. A
        damaged session is moved to damaged-<session id>, with an error; one that is unusable for
        another reason stays, with a warning. Files of other programs are ignored.
        Raises: SpoolError.
        """
        try:
            found = [(_changed(path), path) for path in self.directory.iterdir()]
        except FileNotFoundError:
            found = []  # the disk was too full to create it
        except OSError as error:
            raise SpoolError(f"EDGE_SPOOL: {self.directory}: {error.strerror}") from None
        self.locked_by_others = 0
        adopted: list[SpooledBacklog] = []
        for changed, directory in sorted(found, reverse=True):
            if _TRANSIENT.fullmatch(directory.name):
                if 0 < changed < time.time() - _ABANDONED_S:
                    _clear(directory)
            elif changed and _SESSION_ID.fullmatch(directory.name):
                if len(adopted) == _MAX_ADOPTED:
                    log.info("the spool has more sessions, which are not sent for now")
                    break
                adopted += self._adopt(directory)
        return sorted(adopted, key=_opened)

    def _adopt(self, directory: Path) -> list[SpooledBacklog]:
        lock = None
        try:
            lock = take_lock(directory)
            if lock is None:
                self.locked_by_others += all(
                    session.directory != directory for session in self._sessions
                )
                return []
            return [self._load(directory, lock)]
        except ValidationError as error:
            problem = self._set_aside(directory, first_problem(error))
        except (FileNotFoundError, IsADirectoryError) as error:
            name = Path(str(error.filename)).name
            problem = self._set_aside(directory, f"{name}: {error.strerror}")
        except ValueError as error:
            problem = self._set_aside(directory, str(error))
        except OSError as error:
            problem = str(error.strerror)
        except _OtherVersion as error:
            problem = str(error)
        if lock is not None:
            release_lock(directory, lock)
        if problem:
            self.unusable.add(directory.name)
            log.warning(
                "ignoring an unusable session in the spool: %s",
                problem,
                extra=fields(directory=str(directory)),
            )
        return []

    def _set_aside(self, directory: Path, reason: str) -> str | None:
        """Rename a damaged session's directory. Returns what prevents that, or None."""
        kept = damaged_path(directory)
        try:
            os.rename(directory, kept)
        except FileNotFoundError:
            return None  # another agent has just sent and removed it
        except OSError as error:
            return f"{reason}; and it cannot be renamed: {error.strerror}"
        self.unusable.add(directory.name)
        log.error(
            "a session in the spool is damaged and cannot be sent; its files are kept: %s",
            reason,
            extra=fields(directory=str(kept)),
        )
        return None

    def _load(self, directory: Path, lock: int) -> SpooledBacklog:
        failed = not (directory / SESSION).exists() and (directory / FAILED).exists()
        with open_file(directory / (FAILED if failed else SESSION)) as file:
            data = file.read()
        version = _Version.model_validate_json(data).version
        if version != _VERSION:
            raise _OtherVersion(f"its version is {version}, this program supports {_VERSION}")
        description = Description.model_validate_json(data)
        backlog = self._open_backlog(directory, lock, description)
        backlog.intact = not failed
        try:
            backlog.load()
        except BaseException:  # a session that failed to load must not stay in the list
            self._sessions.remove(backlog)
            raise
        return backlog

    async def maintain(self) -> None:
        """Sync audio to the disk and enforce the limits, until cancelled."""
        while True:
            self._demand.now.clear()
            await self.tidy()
            self._demand.served()
            checks = _LIMIT_CHECKS if self._half_full else 1
            calm = checks == 1 and all(session.calm for session in self._sessions)
            for _ in range(checks):
                if self._mark_excess() or self._demand.now.is_set():
                    break
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_CALM_S if calm else INTERVAL_S / checks):
                        await self._demand.now.wait()

    @property
    def _half_full(self) -> bool:
        """Whether a limit might be exceeded before the next sync: each check wakes this process."""
        longest = max((session.seconds for session in self._sessions), default=0.0)
        return longest > self.max_seconds / 2 or self.size > self.max_bytes / 2

    def _mark_excess(self) -> bool:
        """Mark segments to be dropped until the rest is within the limits.

        Returns whether any were marked.
        """
        marked = False
        for session in self._sessions:
            while session.seconds > self.max_seconds and session.mark_oldest():
                marked = True
        while self.size > self.max_bytes:
            if not any(session.mark_oldest() for session in self._sessions):
                break
            marked = True
        return marked

    async def tidy(self) -> None:
        """Sync new audio to the disk, and delete what is no longer needed."""
        for session in list(self._sessions):
            if await session.tidy(self._disk.run):
                self._sessions.remove(session)

    def _hangs(self) -> None:
        for session in self._sessions:
            session.leave_disk()

    async def close(self) -> None:
        """Sync everything to the disk, delete finished sessions, and release the locks.

        A disk that does not answer is left as it is.
        """
        for session in self._sessions:
            if session.head.index == 0:
                session.discard()  # it has no audio because of an early error
        tidying = asyncio.ensure_future(self.tidy())
        if await self._disk.or_hung(tidying):
            tidying.result()
            for session in self._sessions:
                session.close()
        else:
            tidying.cancel()
        self._disk.close()


def find_resumable(
    found: list[SpooledBacklog],
    origin: Origin,
    published: AudioFormat,
    tenant: str,
    conversation: str | None,
) -> list[SpooledBacklog]:
    """Return the newest sessions in `found` that `origin` can continue.

    There is one for each speaker, or none. Sessions of a file may have ended: then only their
    remaining audio is sent, and speakers without a session are stored already. Live audio that
    ended too long ago is not continued, because its worker has closed the session.
    """
    runs: dict[str, dict[str, SpooledBacklog]] = {}
    for backlog in reversed(found):
        runs.setdefault(backlog.run, {})[backlog.spec.speaker] = backlog
    now_ns = time.time_ns()

    def fits(backlog: SpooledBacklog) -> bool:
        spec = backlog.spec
        return (
            backlog.origin == origin
            and backlog.intact
            and spec.audio_format == published
            and spec.tenant == tenant
            and conversation in (None, spec.conversation)
            and (backlog.ended or now_ns - backlog.end_time_ns < backlog.max_seconds * 1e9)
            and not (backlog.ended and origin.live)
        )

    for sessions in runs.values():
        ended = all(backlog.ended for backlog in sessions.values())
        if (ended or set(sessions) == set(origin.speakers)) and all(map(fits, sessions.values())):
            return [sessions[speaker] for speaker in origin.speakers if speaker in sessions]
    return []


def _opened(backlog: SpooledBacklog) -> datetime:
    return backlog.spec.opened_at


def _make(directory: Path, name: str, description: Description) -> int:
    """Create the directory of a session, which is described in the file `name`.

    Returns the descriptor of its lock. Raises: OSError.
    """
    # No other process adopts the directory before it has its final name.
    temporary = directory.with_name(f".new-{directory.name}")
    lock = None
    try:
        temporary.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = take_lock(temporary)
        assert lock is not None
        save(temporary / name, description.model_dump_json().encode())
        os.rename(temporary, directory)
        sync([directory.parent])
    except OSError:
        if lock is not None:
            release_lock(directory, lock)
        clear(temporary)
        clear(directory)  # if it could only not be synced
        raise
    return lock


def _clear(directory: Path) -> None:
    """Delete a directory whose process died while creating or removing it."""
    with contextlib.suppress(OSError):
        lock = take_lock(directory)
        if lock is not None:
            clear(directory)
            release_lock(directory, lock)


def _changed(directory: Path) -> float:
    """Return when a file in a directory was last created, renamed or deleted.

    Returns 0 for anything but a directory.
    """
    with contextlib.suppress(OSError):
        status = directory.lstat()
        if stat.S_ISDIR(status.st_mode):
            return status.st_mtime
    return 0.0
