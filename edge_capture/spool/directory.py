"""The spool's directory: making sessions in it, holding its limits, taking up what was left."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import ValidationError

from natterjack.audio import AudioFormat
from natterjack.errors import first_problem
from natterjack.spec import SessionSpec
from natterjack.telemetry.log import fields

from ..errors import SpoolError
from ..settings import SpoolSettings
from .disk import RECORD_BYTES, boot_id, clear, save, sync, take_lock
from .session import FAILED, SESSION, Description, Origin, SpooledBacklog

log = logging.getLogger(__name__)

_VERSION = 1
_SEGMENT_S = 10.0
_LEAST_SEGMENTS = 8
"""That a limit is divided into at least."""
_MAKING_S = 60.0
"""Longer than it takes to make a session's directory, or to remove it."""
_LOOKS = 10
"""At the limits, between two of these."""
_TIDY_S = 1.0
"""Between two writings to the disk itself: what a power cut can cost of sound not yet sent."""
_MOST_ADOPTED = 64
"""At a time: each holds a file."""
_SESSION_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PASSING = re.compile(rf"\.(new|old)-{_SESSION_ID.pattern}")
"""A directory that is being made or removed."""


class Spool:
    """A directory with the sound of sessions: this run's, and what earlier ones have left."""

    def __init__(self, settings: SpoolSettings) -> None:
        """Raises: SpoolError: EDGE_SPOOL is no directory that can be written to."""
        assert settings.spool is not None
        self.directory = settings.spool
        self.most_seconds, self.most_bytes = settings.spool_seconds, settings.spool_bytes
        self._sessions: list[SpooledBacklog] = []
        self.held = 0
        """Sessions that `adopt` found with other agents."""
        self._hurry = asyncio.Event()
        """Set when sound waits to be sent until it is on the disk itself."""
        self._thread = ThreadPoolExecutor(1, "spool")
        """For what waits for the disk; in order, so that nothing overtakes."""
        if importlib.util.find_spec("fcntl") is None:
            raise SpoolError("EDGE_SPOOL: this system has no locks for it (Windows)")
        try:
            if self.directory.exists() and not self.directory.is_dir():
                raise SpoolError(f"EDGE_SPOOL: {self.directory} is not a directory")
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = self.directory / f".probe-{secrets.token_hex(8)}"
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT, 0o600))
            probe.unlink()
        except OSError as error:
            raise SpoolError(f"EDGE_SPOOL: {self.directory}: {error.strerror}") from None

    def create(self, spec: SessionSpec, origin: Origin, run: str) -> SpooledBacklog:
        """The backlog of a new session. Raises: SpoolError."""
        description = Description(
            version=_VERSION, spec=spec, origin=origin, run=run, boot=boot_id()
        )
        # Nobody else looks at it before it has its name.
        making = self.directory / f".new-{spec.session_id}"
        try:
            making.mkdir(mode=0o700)
            lock = take_lock(making)
            assert lock is not None
            save(making / SESSION, description.model_dump_json().encode())
            directory = self.directory / spec.session_id
            os.rename(making, directory)
            sync([self.directory])
        except OSError as error:
            raise SpoolError(f"EDGE_SPOOL: {self.directory}: {error.strerror}") from None
        return self._opened(directory, lock, description)

    def _opened(self, directory: Path, lock: int, description: Description) -> SpooledBacklog:
        audio_format = description.spec.audio_format
        bytes_per_second = audio_format.sample_rate * audio_format.frame_bytes
        bytes_per_second += RECORD_BYTES * 1000 // description.origin.chunk_ms
        sessions = len(description.origin.speakers)
        longest = min(self.most_seconds, self.most_bytes / (bytes_per_second * sessions))
        segment_s = min(_SEGMENT_S, longest / _LEAST_SEGMENTS)
        frames = int(segment_s * audio_format.sample_rate)
        backlog = SpooledBacklog(
            directory, lock, description, frames, self.most_seconds, 0.9 * longest, self._hurry
        )
        self._sessions.append(backlog)
        return backlog

    def adopt(self) -> list[SpooledBacklog]:
        """Sessions that earlier runs have left and nobody has now: the newest 64, oldest first.

        Reads all of them through. What cannot be used stays where it is, with a warning, and what
        others keep in the directory without one. Raises: SpoolError.
        """
        try:
            found = [(_changed(path), path) for path in self.directory.iterdir()]
        except OSError as error:
            raise SpoolError(f"EDGE_SPOOL: {self.directory}: {error.strerror}") from None
        self.held = 0
        adopted: list[SpooledBacklog] = []
        for changed, directory in sorted(found, reverse=True):
            if _PASSING.fullmatch(directory.name):
                if 0 < changed < time.time() - _MAKING_S:
                    _clear(directory)
            elif changed and _SESSION_ID.fullmatch(directory.name):
                if len(adopted) == _MOST_ADOPTED:
                    log.info("the spool has more sessions, which are left for another time")
                    break
                adopted += self._adopt(directory)
        adopted.sort(key=lambda backlog: backlog.spec.opened_at)
        self._sessions.sort(key=lambda backlog: backlog.spec.opened_at)
        return adopted

    def _adopt(self, directory: Path) -> list[SpooledBacklog]:
        lock = None
        try:
            lock = take_lock(directory)
            if lock is None:
                self.held += all(session.directory != directory for session in self._sessions)
                return []
            return [self._load(directory, lock)]
        except ValidationError as error:
            _warn(directory, first_problem(error))
        except OSError as error:
            _warn(directory, str(error.strerror))
        except ValueError as error:
            _warn(directory, str(error))
        if lock is not None:
            os.close(lock)
        return []

    def _load(self, directory: Path, lock: int) -> SpooledBacklog:
        failed = not (directory / SESSION).exists() and (directory / FAILED).exists()
        data = (directory / (FAILED if failed else SESSION)).read_bytes()
        description = Description.model_validate_json(data)
        if description.version != _VERSION:
            raise ValueError(f"its version is {description.version}, this program's {_VERSION}")
        backlog = self._opened(directory, lock, description)
        backlog.numbered = not failed
        try:
            backlog.load()
        except BaseException:  # whatever it was: a session that is not loaded is not kept
            self._sessions.remove(backlog)
            raise
        return backlog

    async def keep(self) -> None:
        """Bring sound to the disk itself and hold the limits, until cancelled."""
        while True:
            self._hurry.clear()
            await self.tidy()
            for _ in range(_LOOKS):
                if self._over_limits() or self._hurry.is_set():
                    break
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_TIDY_S / _LOOKS):
                        await self._hurry.wait()

    def _over_limits(self) -> bool:
        """Whether something is to be dropped; it is marked for it."""
        marked = False
        for session in self._sessions:
            while session.seconds > self.most_seconds and session.drop_oldest():
                marked = True
        while sum(session.size for session in self._sessions) > self.most_bytes:
            if not any(session.drop_oldest() for session in self._sessions):
                break
            marked = True
        return marked

    async def tidy(self) -> None:
        """Bring what was put to the disk itself, and delete what is no longer needed."""
        for session in list(self._sessions):
            if await session.tidy(self._in_thread):
                self._sessions.remove(session)

    async def _in_thread(self, work: Callable[[], object]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def close(self) -> None:
        """Bring all to the disk, remove what is done with, and give the locks back."""
        for session in self._sessions:
            if session.head.index == 0:
                session.discard()  # an error came before any sound
        await self.tidy()
        for session in self._sessions:
            session.close()
        self._thread.shutdown()


def resumable(
    found: list[SpooledBacklog],
    origin: Origin,
    published: AudioFormat,
    tenant: str,
    conversation: str | None,
) -> list[SpooledBacklog]:
    """The newest sessions in `found` that go on with `origin`: one for each speaker, or none.

    A file's may have ended: then there is nothing to add to them, and those that are not left
    are stored. What was heard too long ago is not gone on with: its worker has closed the session.
    """
    runs: dict[str, dict[str, SpooledBacklog]] = {}
    for backlog in reversed(found):
        runs.setdefault(backlog.run, {})[backlog.spec.speaker] = backlog
    now_ns = time.time_ns()

    def fits(backlog: SpooledBacklog) -> bool:
        spec = backlog.spec
        return (
            backlog.origin == origin
            and backlog.numbered
            and spec.audio_format == published
            and spec.tenant == tenant
            and conversation in (None, spec.conversation)
            and (backlog.ended or now_ns - backlog.heard_ns < backlog.most_seconds * 1e9)
            and not (backlog.ended and origin.live)
        )

    for sessions in runs.values():
        ended = all(backlog.ended for backlog in sessions.values())
        if (ended or set(sessions) == set(origin.speakers)) and all(map(fits, sessions.values())):
            return [sessions[speaker] for speaker in origin.speakers if speaker in sessions]
    return []


def _clear(directory: Path) -> None:
    """Delete what a run has left that died while it made or removed a session's directory."""
    with contextlib.suppress(OSError):
        lock = take_lock(directory)
        if lock is not None:
            clear(directory)
            os.close(lock)


def _changed(directory: Path) -> float:
    """When a file in it was last made, renamed or deleted; 0 for what is no directory."""
    with contextlib.suppress(OSError):
        status = directory.lstat()
        if stat.S_ISDIR(status.st_mode):
            return status.st_mtime
    return 0.0


def _warn(directory: Path, reason: str) -> None:
    log.warning(
        "a session in the spool cannot be used and is left alone: %s",
        reason,
        extra=fields(directory=str(directory)),
    )
