"""One session in the spool."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from natterjack.audio import AudioFormat
from natterjack.notices import holding, join_notes, merge_notes, parse_notes
from natterjack.spec import SessionSpec
from natterjack.telemetry.log import fields

from ..chunks import Chunk
from ..delivery.backlog import AHEAD_CHUNKS, Backlog
from ..disk.thread import DiskThread
from ..errors import SpoolError
from .demand import INTERVAL_S, Demand
from .disk import (
    MAGIC,
    boot_id,
    damaged_path,
    encode_record,
    is_cut,
    is_full,
    is_temporary,
    may_recover,
    not_answering,
    open_all,
    open_file,
    open_to_write,
    read_records,
    release_lock,
    remove,
    renames_open_files,
    save,
    segment_paths,
    sync_open,
    unlink,
    write_whole,
)

log = logging.getLogger(__name__)

SESSION, FAILED, DROPPED = "session.json", "failed.json", "dropped.json"
_UNSENT, _SENT = ".seg", ".sent"
_PREFETCH_CHUNKS = 64
"""Number of chunks read back from the disk at a time and held in memory."""
POWER_CUT_GAP_S = 5.0
"""Audio skipped after a power cut: more than can have been sent and not synced."""
_MAX_UNSYNCED_S = 4.0
"""Audio that may be sent before it is synced. A sync is asked for when three quarters of it are
reached, on a slow disk half."""
_QUICK_SYNC_S = 0.25
"""A disk that takes longer to sync is slow."""
_IN_FLIGHT_MS = 250
"""Audio that may be on its way to the broker while it stores audio as it comes."""
_READ_PATIENCE_S = 30.0
"""How long reading a file is retried before its audio is given up."""
_SYNC_FILES = 16
"""Number of files opened to be synced at a time."""
_RETRY_S = 1.0
"""How often a disk that was full is tried again."""
_RETURN_CHUNKS = 100
"""How many chunks are moved from memory to the disk for each that is put."""

InThread = Callable[[Callable[[], object]], Awaitable[None]]
"""Runs a blocking disk operation in a thread."""


class Origin(BaseModel):
    """The source of a session. A run with an equal origin can resume the session."""

    model_config = ConfigDict(frozen=True)

    command: Literal["file", "stdin", "mic"]
    path: str | None = None
    """Absolute path of a file."""
    size_bytes: int | None = None
    """Size of a file."""
    track: int | None = None
    """Audio track of a file; None is the first one."""
    format: AudioFormat
    speakers: Annotated[tuple[str, ...], Field(min_length=1)]
    """The speakers of the source, with one session each."""
    chunk_ms: Annotated[int, Field(ge=1, le=60_000)]
    source: str | None = None
    """Name of the source of an agent with several."""

    @property
    def live(self) -> bool:
        """Whether its audio is lost while no run captures it."""
        return self.command != "file"


class Description(BaseModel):
    """Content of session.json."""

    version: int
    spec: SessionSpec
    origin: Origin
    run: str
    """Identifier shared by the sessions that one run created."""
    boot: str
    """Boot of the machine in which the session was last written."""
    notes: dict[int, str] = {}
    """Notes of chunks by index. They are no part of a record, which earlier releases can read."""
    conditions: list[str] = []
    """Codes of the conditions that have begun and not ended."""
    current: SessionSpec | None = None
    """The session that continues `spec`, if that one has ended before its audio."""


_Count = Annotated[int, Field(ge=0, lt=2**63)]
_DROPPED = TypeAdapter(list[tuple[_Count, _Count]])


@dataclass(slots=True, eq=False)
class _Segment:
    """A file of chunks with consecutive indexes."""

    path: Path
    first: int
    """Index of its first chunk."""
    count: int = 0
    frames: int = 0
    size: int = 0
    """Size in bytes up to the end of its last complete chunk."""
    synced: int = 0
    """Size in bytes of what is synced to the disk."""
    first_seq: int | None = None
    """`Audio-Seq` of its first chunk. Once set, the segment is not dropped."""
    dropping: bool = False


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a session's audio."""

    index: int = 0
    """Index of the next chunk."""
    pos: int = 0
    """Position after the last frame."""
    time_ns: int | None = None
    """Wall clock of that position; None if there is no audio yet."""


class SpooledBacklog(Backlog):
    """A session's chunks on disk, of which the next few are also in memory.

    If the disk fails, it continues as a Backlog in memory. If the disk was only full, it is used
    again once there is room: the waiting chunks are moved to it. Chunks that were sent from memory
    are a hole in the indexes on disk.
    """

    name = "spool"

    def __init__(
        self,
        directory: Path,
        lock: int,
        description: Description,
        segment_frames: int,
        max_seconds: float,
        wait_seconds: float,
        demand: Demand,
        thread: DiskThread,
    ) -> None:
        """Use `directory`, whose lock the descriptor `lock` holds.

        At `wait_seconds` of audio, which fit the limits, a live source that can wait is paused.
        `max_seconds` is one of the limits. `demand` is how to ask for `tidy`.
        """
        super().__init__(description.spec, max_seconds=0)
        self.directory = directory
        self.origin = description.origin
        self.run = description.run
        self.head = Head()
        self.intact = True
        """Whether a later run can resume the session. False while the disk fails, and until what
        follows is synced: the disk does not tell which numbers were used from memory."""
        self._on_disk = True
        """Whether new chunks are written to the disk."""
        self._retry_at = 0.0
        """When a full disk is tried again, on the monotonic clock."""
        self._given_up = False
        """Whether the disk is not used again."""
        self._ahead_on_disk: int | None = None
        self.chunks_missing = False
        """True after a power cut: chunks that are not on the disk may have been sent."""
        self._machine_restarted = False
        """True if the machine has, or may have, rebooted since the session was written."""
        self.discarded = False
        self._description = description
        self._notes = dict(description.notes)
        self._conditions = list(description.conditions)
        self._current = description.current or description.spec
        self._described = True
        """Whether session.json has the newest notes and the current session."""
        self._succeeded = asyncio.Event()
        """Set while session.json has the current session, or is not needed any more."""
        self._succeeded.set()
        self._lock = lock
        self._make_directory: Callable[[], int] | None = None
        """Creates the directory and returns its lock, if that failed because the disk was full."""
        self._segment_frames = segment_frames
        self._segments: deque[_Segment] = deque()
        self._dropped: list[tuple[int, int]] = []
        """First index and number of dropped chunks, in order, as in dropped.json."""
        self._file: int | None = None
        """Descriptor of the newest segment while it is open for writing."""
        self._prefetched: deque[tuple[int, Chunk]] = deque()
        """The next chunks with their numbers."""
        self._unread = 0
        """Number of waiting chunks that are on disk only."""
        self._read_index = 0
        """Index of the first of them."""
        self._read_offset = 0
        """Its offset, unless it is the first chunk of a segment."""
        self._synced_index = 0
        """Index before which every chunk is synced to the disk."""
        self._max_unsynced_chunks = max(1, int(_MAX_UNSYNCED_S * 1000 / self.origin.chunk_ms))
        self._sync_at_chunks = self._max_unsynced_chunks // 2
        """At so many chunks that are sent and not synced, a sync is asked for."""
        self._max_exposed_chunks = max(1, int(INTERVAL_S * 1000 / self.origin.chunk_ms))
        self._demand, self._disk = demand, thread
        self._damaged: list[_Segment] = []
        """Segments that cannot be read completely."""
        self._cut_segment: _Segment | None = None
        """The last segment of an earlier run, if its last chunk is incomplete."""
        self._unreadable_since: float | None = None
        """Time of the first failure to read the next chunk, on the monotonic clock."""
        self._acknowledged_seq = 0
        """Number before which every chunk is acknowledged."""
        self.max_seconds = max_seconds
        self._wait_seconds = wait_seconds

    def set_limits(self, memory_seconds: float, *, can_wait: bool) -> None:
        """Set when a source that can wait is paused, and how much audio to keep in memory.

        A pipe waits when the spool is almost full, a file sooner, because it can be read later.
        `memory_seconds` applies after the disk has failed.
        """
        self._max_bytes = int(memory_seconds * self.spec.sample_rate) * self._format.frame_bytes
        if can_wait and self.origin.live:
            self._ahead_chunks = max(1, int(self._wait_seconds * 1000 / self.origin.chunk_ms))
        elif can_wait:
            self._ahead_chunks = AHEAD_CHUNKS
        self._ahead_on_disk = self._ahead_chunks
        if not self._on_disk:
            self._ahead_chunks = self._ahead_chunks and AHEAD_CHUNKS

    def begin_in_memory(self, error: OSError, make_directory: Callable[[], int]) -> None:
        """Begin on a disk that is full by `error`. `make_directory` is tried until there is room;
        it returns the lock."""
        self._make_directory = make_directory
        self._failed(error)

    @property
    def conditions(self) -> list[str]:
        """Codes of the conditions that have begun in the chunks so far, and not ended."""
        return list(self._conditions)

    @property
    def size(self) -> int:
        """Size in bytes of the segments that are not marked to be dropped."""
        return sum(segment.size for segment in self._segments if not segment.dropping)

    @property
    def seconds(self) -> float:
        """Seconds of audio in the segments that are not marked to be dropped."""
        frames = sum(segment.frames for segment in self._segments if not segment.dropping)
        return self._format.seconds(frames)

    @property
    def end_time_ns(self) -> int:
        """Wall clock of the end of the audio, or of the session's start if there is none."""
        if self.head.time_ns is not None:
            return self.head.time_ns
        return int(self.spec.opened_at.timestamp() * 1e9)

    @property
    def end_position(self) -> int | None:
        if self._end_position is None and self.ended:
            return self.head.pos
        return self._end_position

    async def succeed(self, spec: SessionSpec) -> None:
        await super().succeed(spec)
        self._description = self._description.model_copy(update={"current": spec})
        self._described = False
        if self.intact and not self.discarded:
            self._succeeded.clear()
            self._demand.now.set()
            await self._succeeded.wait()

    @property
    def durable(self) -> bool:
        return self._on_disk and not self._waiting

    @property
    def damaged_directory(self) -> Path | None:
        return damaged_path(self.directory) if self._damaged else None

    def __len__(self) -> int:
        return len(self._prefetched) + self._unread + super().__len__()

    # Writing. Data in the page cache survives the end of this process.

    def put(self, chunk: Chunk) -> None:
        if self._on_disk:
            self._disk.enter()
            try:
                self._append(chunk)
            except OSError as error:
                self._failed(error)
            else:
                if self._exposed >= self._max_exposed_chunks:
                    self._demand.soon()
                return
            finally:
                self._disk.leave()
        super().put(chunk)
        self._return_to_disk()

    @property
    def _exposed(self) -> int:
        """Number of chunks that are neither synced nor known to be stored by the broker."""
        exposed = self.head.index - self._synced_index
        if self._acknowledged_seq:
            dropped = sum(count for _, count in self._dropped)
            exposed = min(exposed, self.head.index - dropped - self._acknowledged_seq)
        return exposed

    @property
    def calm(self) -> bool:
        """Whether the disk need not be looked after until a chunk asks for it."""
        return (
            self.intact
            and self._described
            and not self.discarded
            and self._exposed * self.origin.chunk_ms <= _IN_FLIGHT_MS
        )

    def _return_to_disk(self) -> None:
        """Move chunks from memory to a disk that was full, as far as there is room."""
        if self._on_disk or self._given_up or not self._waiting or self._disk.hung:
            return
        if time.monotonic() < self._retry_at:
            return
        ended = self.ended
        self._disk.enter()
        try:
            if self._make_directory is not None:
                self._lock, self._make_directory = self._make_directory(), None
            for _ in range(min(_RETURN_CHUNKS, len(self._waiting))):
                self._append(self._waiting[0])
                self._waiting_bytes -= len(self._waiting.popleft().payload)
        except OSError as error:
            self._close_file()
            self._retry_at, self._given_up = time.monotonic() + _RETRY_S, not may_recover(error)
        finally:
            self._disk.leave()
        self.ended = ended
        if not (self._waiting or self._given_up):
            self._on_disk = True
            self._ahead_chunks = self._ahead_on_disk
            self._demand.now.set()
            log.warning(
                "the spool is used again",
                extra=fields(session=str(self.spec.key), spool=str(self.directory)),
            )

    def _append(self, chunk: Chunk) -> None:
        segment = self._writable()
        index = segment.first + segment.count
        size = segment.size
        assert self._file is not None
        written = write_whole(self._file, size, encode_record(index, chunk))
        if chunk.note:
            self._notes[index], self._described = chunk.note, False
            self._conditions = holding(self._conditions, parse_notes(chunk.note))
            self._demand.now.set()  # soon, because the record does not have the note
        self._count(segment, chunk, written)
        if self._unread == 0 and len(self._prefetched) < _PREFETCH_CHUNKS:
            self._prefetched.append((self._assign_numbers(segment) + index - segment.first, chunk))
            self._read_index, self._read_offset = index + 1, segment.size
        else:
            if self._unread == 0:
                self._read_index, self._read_offset = index, size
            self._unread += 1

    def _writable(self) -> _Segment:
        """Return the segment to write to, which may be new. Raises: OSError."""
        if self._file is not None:
            if self._segments[-1].frames < self._segment_frames:
                return self._segments[-1]
            self._close_file()
        if self._segments and self._segments[-1].first == self.head.index:
            self._segments.pop()  # it has no chunk, because the disk failed
        segment = _Segment(self.directory / f"{self.head.index:012}{_UNSENT}", self.head.index)
        self._file = open_to_write(segment.path)
        unlink([segment.path.with_suffix(_SENT)])  # an empty file that a power cut may leave
        try:
            segment.size = write_whole(self._file, 0, MAGIC)
        except OSError:
            self._close_file()
            unlink([segment.path])
            raise
        self._segments.append(segment)
        cut, self._cut_segment = self._cut_segment, None
        if cut is not None and cut.first != segment.first:  # its last chunk is no longer needed
            os.truncate(cut.path, cut.size) if cut.count else unlink([cut.path])
        return segment

    def leave_disk(self) -> None:
        """Continue in memory until the disk, which does not answer, answers again. What must be
        done on it now is done then."""
        self._failed(not_answering())

    def _failed(self, error: OSError) -> None:
        """Continue in memory after a write has failed. Chunks on disk are still read from there."""
        if not self._on_disk:
            return
        self.intact = self._on_disk = False
        self._succeeded.set()
        self._ahead_chunks = self._ahead_chunks and AHEAD_CHUNKS
        self._retry_at, self._given_up = time.monotonic() + _RETRY_S, not may_recover(error)
        until = "there is room" if is_full(error) else "it answers"
        log.error(
            "the spool failed (%s): the session continues in memory only and cannot be resumed%s",
            error.strerror,
            "" if self._given_up else f" until {until} again",
            extra=fields(session=str(self.spec.key), spool=str(self.directory)),
        )
        if self._disk.hung:
            file, self._file = self._file, None
            self._disk.later(partial(self._mark_failed, file))
        else:
            self._close_file()
            self._mark_failed()

    def _mark_failed(self, file: int | None = None) -> None:
        if file is not None:
            with contextlib.suppress(OSError):
                os.close(file)
        # No later run may reuse numbers that are now used from memory. A rename needs no space.
        with contextlib.suppress(OSError):
            os.replace(self.directory / SESSION, self.directory / FAILED)

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def skip_numbers(self) -> None:
        """Skip the numbers that may have been used before a power cut."""
        if self.chunks_missing:
            chunks = int(POWER_CUT_GAP_S * 1000 / self.origin.chunk_ms)
            self.head = replace(self.head, index=self.head.index + chunks)
            self.chunks_missing = False

    def end(self) -> None:
        """Put the end mark, if an earlier run died before it did."""
        if not (self.ended or self.intact):
            self.ended = True  # the number of an end mark is unknown
        if not self.ended:
            self.skip_numbers()
            self.put(Chunk(self.head.pos, self.end_time_ns, b"", True))
        self._close_file()

    # Reading.

    def take(self) -> tuple[int, Chunk] | None:
        if not self._prefetched:
            self._prefetch()
        if self._prefetched:
            # After a power cut, numbers of lost chunks must not be reused.
            unsynced = self._read_index - len(self._prefetched) - self._synced_index
            if self._on_disk and unsynced >= self._sync_at_chunks:
                self._demand.now.set()
                if unsynced >= self._max_unsynced_chunks:
                    return None
            return self._numbered(*self._prefetched.popleft())
        if self._unread:
            return None
        dropped = sum(count for _, count in self._dropped)
        self._next_seq = max(self._next_seq, self.head.index - dropped)
        taken = super().take()
        if taken is not None:
            self._close_file()  # the next chunk on disk does not follow the last
            seq, chunk = taken
            self._advance(seq + dropped + 1, chunk)
        return taken

    def _assign_numbers(self, segment: _Segment) -> int:
        """Number the chunks of `segment` permanently. Returns the number of the first."""
        if segment.first_seq is None:
            before = sum(count for first, count in self._dropped if first < segment.first)
            segment.first_seq = segment.first - before
            sent = segment.path.with_suffix(_SENT)
            if segment.path == sent:
                return segment.first_seq
            is_open = self._file is not None and segment is self._segments[-1]
            reopen = is_open and not renames_open_files()
            try:
                if reopen:
                    self._close_file()
                os.rename(segment.path, sent)
                segment.path = sent
                if reopen:
                    self._file = open_to_write(sent, at=segment.size)
            except OSError as error:
                self._failed(error)
                self._given_up = True  # a later run would take its chunks for unsent
        return segment.first_seq

    def _prefetch(self) -> None:
        """Read chunks back from the disk, which blocks the event loop."""
        if not self._unread or self._disk.hung:
            return
        with self._disk.watched():
            self._read_back()

    def _read_back(self) -> None:
        while self._unread and not self._prefetched:
            segment = next(s for s in self._segments if s.first + s.count > self._read_index)
            if segment.dropping:
                return
            first_seq = self._assign_numbers(segment)
            if self._read_index <= segment.first:
                self._read_index, self._read_offset = segment.first, len(MAGIC)
            wanted = min(_PREFETCH_CHUNKS, segment.first + segment.count - self._read_index)
            failure = None
            try:
                with open_file(segment.path) as file:
                    file.seek(self._read_offset)
                    records = itertools.islice(read_records(file, self._read_index), wanted)
                    for chunk, size in records:
                        seq = first_seq + self._read_index - segment.first
                        note = self._notes.get(self._read_index, "")
                        self._prefetched.append((seq, chunk._replace(note=note)))
                        self._read_index += 1
                        self._read_offset += size
            except OSError as error:
                failure = error
            self._unread -= len(self._prefetched)
            if self._prefetched:
                self._unreadable_since = None
            elif failure is not None and self._should_retry(failure, segment):
                return
            else:
                self._skip_rest(segment, failure)

    def _should_retry(self, error: OSError, segment: _Segment) -> bool:
        """Return whether to read `segment` again later. Logs a warning the first time."""
        now = time.monotonic()
        if isinstance(error, FileNotFoundError):
            return False
        if self._unreadable_since is None:
            self._unreadable_since = now
            log.warning(
                "cannot read the spool; retrying: %s",
                error.strerror,
                extra=fields(session=str(self.spec.key), file=str(segment.path)),
            )
        return is_temporary(error) or now - self._unreadable_since < _READ_PATIENCE_S

    def _skip_rest(self, segment: _Segment, error: OSError | None) -> None:
        """Give up the rest of a segment, whose file is kept."""
        lost = segment.first + segment.count - self._read_index
        log.error(
            "skipping %d chunks in the spool that cannot be read: %s",
            lost,
            "the file is damaged" if error is None else error.strerror,
            extra=fields(session=str(self.spec.key), file=str(segment.path)),
        )
        self._damaged.append(segment)
        self._unreadable_since = None
        self._read_index += lost
        self._unread -= lost

    # Deleting.

    def acknowledge(self, before_seq: int) -> None:
        self._acknowledged_seq = before_seq

    def discard(self) -> None:
        self.discarded = True
        self._succeeded.set()
        self._demand.now.set()

    def mark_oldest(self) -> bool:
        """Mark the oldest segment to be dropped by `tidy`. Returns False if there is none.

        These are never dropped: segments that may have been sent; the newest one, which tells where
        the audio ends; those of a source that can wait; and any once the disk has failed, because
        the drop could not be recorded.
        """
        if self._ahead_chunks is not None or not self._on_disk:
            return False
        for segment in itertools.islice(self._segments, len(self._segments) - 1):
            if segment.first_seq is None and not segment.dropping:
                segment.dropping = True
                return True
        return False

    async def tidy(self, in_thread: InThread) -> bool:
        """Sync what was written to the disk, and delete what is no longer needed.

        Returns whether the whole session is deleted.
        """
        if self.discarded:
            self._close_file()
            damaged = [segment.path for segment in self._damaged]
            if damaged:  # with what says whose they are
                damaged += [self.directory / name for name in (SESSION, FAILED, DROPPED)]
            await in_thread(lambda: remove(self.directory, damaged))
            self.close()
            return True
        self._return_to_disk()
        newest = self._segments[-1] if self._segments else None
        acknowledged = [segment for segment in self._segments if self._is_acknowledged(segment)]
        if newest in acknowledged:
            acknowledged.remove(newest)
        try:
            await self._drop(in_thread)
            if self._on_disk:
                await self._sync(in_thread, acknowledged)
                returned = self._on_disk and not self.intact
                if returned:
                    # The newest segment, which is synced, tells which numbers were used.
                    self.intact, self._described = True, False
                if self.intact:
                    await self._save_description(in_thread)
                if returned and self.intact:
                    await in_thread(lambda: unlink([self.directory / FAILED]))
        except OSError as error:
            if not is_temporary(error):
                self._failed(error)
        if acknowledged:
            self._segments = deque(s for s in self._segments if s not in acknowledged)
            paths = [segment.path for segment in acknowledged if segment not in self._damaged]
            await in_thread(lambda: unlink(paths))
        return False

    def _is_acknowledged(self, segment: _Segment) -> bool:
        return (
            segment.first_seq is not None
            and segment.first_seq + segment.count <= self._acknowledged_seq
        )

    async def _drop(self, in_thread: InThread) -> None:
        """Record the marked segments in dropped.json, then delete them. Raises: OSError."""
        dropping = [segment for segment in self._segments if segment.dropping]
        if not dropping:
            return
        dropped = list(self._dropped)
        for segment in dropping:
            if dropped and sum(dropped[-1]) == segment.first:
                dropped[-1] = (dropped[-1][0], dropped[-1][1] + segment.count)
            else:
                dropped.append((segment.first, segment.count))
        text = _DROPPED.dump_json(dropped)
        try:
            await in_thread(lambda: save(self.directory / DROPPED, text))
        except OSError:
            for segment in dropping:
                segment.dropping = False
            raise
        self._dropped = dropped
        self._segments = deque(s for s in self._segments if not s.dropping)
        for segment in dropping:
            self._keep_notes(segment)
            self._unread -= segment.count
            self._count_dropped(segment.frames)
        await in_thread(lambda: unlink([segment.path for segment in dropping]))

    def _keep_notes(self, segment: _Segment) -> None:
        """Give the notes of a segment that is dropped to the chunk that follows it."""
        following = segment.first + segment.count
        indexes = sorted(i for i in self._notes if segment.first <= i < following)
        for index in reversed(indexes):
            merged = merge_notes(
                parse_notes(self._notes.pop(index)), parse_notes(self._notes.get(following, ""))
            )
            self._notes[following], self._described = join_notes(merged), False

    async def _sync(self, in_thread: InThread, acknowledged: list[_Segment]) -> None:
        """Sync every segment except `acknowledged` to the disk. Raises: OSError."""
        end, began = self.head.index, time.monotonic()
        unsynced = [
            (segment, segment.size)
            for segment in self._segments
            if segment.size > segment.synced and segment not in acknowledged
        ]
        for start in range(0, len(unsynced), _SYNC_FILES):
            batch = unsynced[start : start + _SYNC_FILES]
            new = any(segment.synced == 0 for segment, _ in batch)
            paths = [segment.path for segment, _ in batch] + [self.directory] * new
            try:  # files may be renamed meanwhile
                with self._disk.watched():
                    descriptors = open_all(paths)
                await in_thread(partial(sync_open, descriptors))
            except OSError as error:
                if not is_temporary(error):
                    self._failed(error)
                    self._given_up = True  # what is on the disk is unknown, whatever it says later
                raise
            for segment, size in batch:
                segment.synced = size
        self._synced_index = end
        quick = time.monotonic() - began < _QUICK_SYNC_S
        self._sync_at_chunks = self._max_unsynced_chunks * (3 if quick else 2) // 4

    async def _save_description(self, in_thread: InThread) -> None:
        """Write new notes and the current session to session.json. Raises: OSError."""
        if self._described:
            return
        first = self._segments[0].first if self._segments else self.head.index
        self._notes = {index: note for index, note in self._notes.items() if index >= first}
        text, current = self._encoded(), self._current
        self._described = True
        try:
            await in_thread(lambda: save(self.directory / SESSION, text))
        except OSError:
            self._described = False
            raise
        if current is self._current:
            self._succeeded.set()
        if not self.intact:
            self._mark_failed()  # a write failed meanwhile, and the file is there again

    def _encoded(self) -> bytes:
        """Return the content of session.json."""
        noted = {"notes": dict(self._notes), "conditions": list(self._conditions)}
        description = self._description.model_copy(update=noted)
        return description.model_dump_json().encode()

    def close(self) -> None:
        """Close the files and release the lock. Idempotent."""
        self._close_file()
        if self._lock >= 0:
            release_lock(self.directory, self._lock)
            self._lock = -1

    # Loading what an earlier run has left.

    def load(self) -> None:
        """Read the directory. Raises: OSError or ValueError if it cannot be used."""
        boot = boot_id()
        self._machine_restarted = not boot or boot != self._description.boot
        changed = self.directory.stat().st_mtime
        dropped = self.directory / DROPPED
        if dropped.exists():
            with open_file(dropped) as file:
                self._dropped = _DROPPED.validate_json(file.read())
        sent_pos = 0
        segment, is_whole = None, True
        for path in segment_paths(self.directory):
            if not is_whole:  # more was written after it, so nothing was interrupted
                assert segment is not None
                self._damaged.append(segment)
            segment, is_whole = _Segment(path, int(path.stem)), True
            if any(first <= segment.first < first + count for first, count in self._dropped):
                if path.suffix == _SENT:
                    raise ValueError(f"{DROPPED} contradicts {path.name}")
                unlink([path])
                continue
            is_whole = self._scan(segment)
            if segment.count:
                self._segments.append(segment)
                self._unread += segment.count
                # After a reboot, a renaming may not have reached the disk.
                if path.suffix == _SENT or self._machine_restarted:
                    self._assign_numbers(segment)
                    sent_pos = self.head.pos
                elif len(self._segments) == 1:
                    sent_pos = self.head.pos - segment.frames
        if segment is not None and not is_whole:
            if not self._may_be_cut(segment):
                self._damaged.append(segment)
                self.intact = False  # its chunks may have been sent
            elif segment.size or self._machine_restarted:  # else its agent was killed creating it
                self._cut_segment = segment
                self.intact &= bool(self._segments)
        self._on_disk = self.intact
        if self._damaged and not self._segments:
            raise ValueError("none of its audio can be read")
        if self._dropped:
            self.head = replace(self.head, index=max(self.head.index, sum(self._dropped[-1])))
        self.chunks_missing = self._machine_restarted or self._cut_segment is not None
        self.sent_seconds = self._format.seconds(sent_pos)
        self.sent_ago_s = max(0.0, time.time() - changed)

    def _scan(self, segment: _Segment) -> bool:
        """Count the complete chunks of `segment`. Returns whether there is nothing but those.

        Else it logs a warning.
        """
        self.head = replace(self.head, index=max(self.head.index, segment.first))
        file_size = segment.path.stat().st_size
        with open_file(segment.path) as file:
            if file.read(len(MAGIC)) == MAGIC:
                segment.size = len(MAGIC)
                for chunk, size in read_records(file, segment.first):
                    self._count(segment, chunk, size)
        if segment.size < file_size and file_size >= len(MAGIC):
            log.warning(
                "skipping %d bytes in the spool that are not a complete chunk",
                file_size - segment.size,
                extra=fields(session=str(self.spec.key), file=str(segment.path)),
            )
        return segment.size == max(file_size, len(MAGIC))

    def _may_be_cut(self, segment: _Segment) -> bool:
        """Return whether an interrupted write explains the end of the newest segment."""
        with open_file(segment.path) as file:
            file.seek(segment.size)
            rest = file.read()
        if segment.size == 0:
            return len(rest) < len(MAGIC) or not rest.strip(b"\0")
        if self._machine_restarted and len(rest) < self._format.frame_bytes * self.spec.sample_rate:
            return True  # as a power cut may leave the last second
        return is_cut(rest, segment.first + segment.count)

    def _count(self, segment: _Segment, chunk: Chunk, size: int) -> None:
        """Record that `chunk` is now the last of `segment` and of the session."""
        frames = self.spec.frames(chunk.payload)
        segment.count += 1
        segment.frames += frames
        segment.size += size
        self._advance(segment.first + segment.count, chunk)
        self.ended = chunk.end

    def _advance(self, index: int, chunk: Chunk) -> None:
        """Record that `chunk` is the last of the session before `index`."""
        frames = self.spec.frames(chunk.payload)
        duration_ns = frames * 1_000_000_000 // self.spec.sample_rate
        self.head = Head(index, chunk.pos + frames, chunk.time_ns + duration_ns)

    def resume(self) -> None:
        """Prepare to add chunks to those of an earlier run. Raises: SpoolError."""
        chunks_missing = self.chunks_missing
        if self.origin.live:  # a file gives the same chunks again
            self.skip_numbers()
        if not (chunks_missing or self._machine_restarted):
            return
        self._description = self._description.model_copy(update={"boot": boot_id()})
        try:
            self._writable()  # the name of the new segment records the skipped numbers
            save(self.directory / SESSION, self._encoded())
        except OSError as error:
            if not is_full(error):
                raise SpoolError(f"EDGE_SPOOL: {self.directory}: {error.strerror}") from None
            self._failed(error)
