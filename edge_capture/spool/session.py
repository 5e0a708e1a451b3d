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
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from natterjack.audio import AudioFormat
from natterjack.spec import SessionSpec
from natterjack.telemetry.log import fields

from ..backlog import AHEAD_CHUNKS, Backlog
from ..chunks import Chunk
from ..errors import SpoolError
from .disk import (
    MAGIC,
    aside,
    boot_id,
    encode_record,
    open_all,
    passes,
    read_records,
    remove,
    save,
    sync_open,
    unlink,
    write_whole,
)

log = logging.getLogger(__name__)

SESSION, FAILED = "session.json", "failed.json"
_WAITING, _SENT = ".seg", ".sent"
_READ_CHUNKS = 64
"""Read back from the disk at once, and held in memory beside the window."""
UNSURE_S = 5.0
"""Left out after a power cut: more sound than was sent and not yet on the disk itself."""
_UNSAFE_S = 4.0
"""Sound that may be sent and not yet on the disk itself; from half of it on the disk is hurried."""
_READ_PATIENCE_S = 30.0
"""A file that the disk can not give back for so long is lost."""
_OPEN_AT_ONCE = 16
"""Files that are brought to the disk itself at a time."""

InThread = Callable[[Callable[[], object]], Awaitable[None]]
"""Runs what waits for the disk beside the event loop."""


class Origin(BaseModel):
    """Where a session's sound comes from: what must be the same for it to go on."""

    model_config = ConfigDict(frozen=True)

    command: Literal["file", "stdin", "mic"]
    path: str | None = None
    """Of a file: absolute."""
    size_bytes: int | None = None
    """Of a file."""
    format: AudioFormat
    speakers: tuple[str, ...]
    """One for each session that is made of the source."""
    chunk_ms: int

    @property
    def live(self) -> bool:
        """Whether time goes on for it while nobody listens."""
        return self.command != "file"


class Description(BaseModel):
    """session.json."""

    version: int
    spec: SessionSpec
    origin: Origin
    run: str
    """The same for sessions of one source."""
    boot: str
    """Of the machine, when the session was written last."""


_DROPPED = TypeAdapter(list[tuple[int, int]])


@dataclass(slots=True, eq=False)
class _Segment:
    """A file of chunks with successive indexes."""

    path: Path
    first: int
    """Index of its first chunk."""
    count: int = 0
    frames: int = 0
    size: int = 0
    """Bytes up to the end of its last whole chunk."""
    synced: int = 0
    """Bytes that are safe on the disk itself."""
    first_seq: int | None = None
    """`Audio-Seq` of its first chunk, once reading has come here: then it is not dropped."""
    dropping: bool = False


@dataclass(frozen=True, slots=True)
class Head:
    """Where a session's sound ends."""

    index: int = 0
    """Of the next chunk."""
    pos: int = 0
    """Frame that follows the last."""
    time_ns: int | None = None
    """Its wall clock; None: there is no sound yet."""


class SpooledBacklog(Backlog):
    """A session's chunks on disk: of those that wait, the next few are in memory too.

    When the disk fails it goes on as a Backlog in memory.
    """

    place = "spool"

    def __init__(
        self,
        directory: Path,
        lock: int,
        description: Description,
        segment_frames: int,
        most_seconds: float,
        ahead_seconds: float,
        hurry: asyncio.Event,
    ) -> None:
        """`lock` is the descriptor that holds it; `ahead_seconds` is what surely fits the limits,
        of which `most_seconds` is one; `hurry` is set when `tidy` is needed soon."""
        super().__init__(description.spec, most_seconds=0)
        self.directory = directory
        self.origin = description.origin
        self.run = description.run
        self.head = Head()
        self.numbered = True
        """False if the disk has failed: others than those on it may have been sent."""
        self.unsure = False
        """True if chunks were perhaps sent that are not here: after a power cut."""
        self._rebooted = False
        """True if the machine has, or may have, started anew since the session was written."""
        self.discarded = False
        self._description = description
        self._lock = lock
        self._segment_frames = segment_frames
        self._segments: deque[_Segment] = deque()
        self._dropped: list[tuple[int, int]] = []
        """First index and number of what was dropped, in order, as dropped.json has it."""
        self._file: int | None = None
        """Descriptor of the newest segment, if it is written to."""
        self._ahead: deque[tuple[int, Chunk]] = deque()
        self._unread = 0
        """Chunks that wait on disk alone."""
        self._read_index = 0
        self._read_offset = 0
        """Where the next of them is in its segment; meaningless until reading has come there."""
        self._safe_index = 0
        """All before it is on the disk itself."""
        self._unsafe_chunks = max(1, int(_UNSAFE_S * 1000 / self.origin.chunk_ms))
        self._hurry = hurry
        self._damaged: list[_Segment] = []
        """Segments of which something cannot be read for good."""
        self._torn: _Segment | None = None
        """The segment that was the last, if its end is no whole chunk."""
        self._unreadable_since: float | None = None
        """When the disk began not to give back what is to be read next, on the monotonic clock."""
        self._settled_seq = 0
        self.most_seconds = most_seconds
        self._ahead_seconds = ahead_seconds

    def bound(self, memory_seconds: float, *, waits: bool) -> None:
        """How the source is treated: one that waits does so when its sound would not fit, and a
        file sooner, since it can be read later. `memory_seconds` is for after a failure."""
        self._most_bytes = int(memory_seconds * self.spec.sample_rate) * self._format.frame_bytes
        if waits and self.origin.live:
            self._ahead_chunks = max(1, int(self._ahead_seconds * 1000 / self.origin.chunk_ms))
        elif waits:
            self._ahead_chunks = AHEAD_CHUNKS

    @property
    def size(self) -> int:
        """Bytes on disk that no one has decided to drop."""
        return sum(segment.size for segment in self._segments if not segment.dropping)

    @property
    def seconds(self) -> float:
        """Sound on disk that no one has decided to drop."""
        frames = sum(segment.frames for segment in self._segments if not segment.dropping)
        return self._format.seconds(frames)

    @property
    def heard_ns(self) -> int:
        """Wall clock of the end of its sound; of its beginning if there is none."""
        if self.head.time_ns is not None:
            return self.head.time_ns
        return int(self.spec.opened_at.timestamp() * 1e9)

    @property
    def safe(self) -> bool:
        return self.numbered

    @property
    def kept_aside(self) -> Path | None:
        return aside(self.directory) if self._damaged else None

    def __len__(self) -> int:
        return len(self._ahead) + self._unread + super().__len__()

    # Writing. A write goes to the system's memory, which outlives this process.

    def put(self, chunk: Chunk) -> None:
        if self.numbered:
            try:
                self._append(chunk)
            except OSError as error:
                self._failed(error)
            else:
                return
        super().put(chunk)

    def _append(self, chunk: Chunk) -> None:
        segment = self._writable()
        index = segment.first + segment.count
        size = segment.size
        assert self._file is not None
        written = write_whole(self._file, size, encode_record(index, chunk))
        self._count(segment, chunk, written)
        if self._unread == 0 and len(self._ahead) < _READ_CHUNKS:
            self._ahead.append((self._enter(segment) + index - segment.first, chunk))
            self._read_index, self._read_offset = index + 1, segment.size
        else:
            if self._unread == 0:
                self._read_index, self._read_offset = index, size
            self._unread += 1

    def _writable(self) -> _Segment:
        """The segment to be written to. Raises: OSError."""
        if self._file is not None:
            if self._segments[-1].frames < self._segment_frames:
                return self._segments[-1]
            os.close(self._file)
            self._file = None
        segment = _Segment(self.directory / f"{self.head.index:012}{_WAITING}", self.head.index)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        self._file = os.open(segment.path, flags, 0o600)
        unlink([segment.path.with_suffix(_SENT)])  # what a power cut left has nothing in it
        self._segments.append(segment)
        segment.size = write_whole(self._file, 0, MAGIC)
        torn, self._torn = self._torn, None
        if torn is not None and torn.first != segment.first:  # there is a later one now
            os.truncate(torn.path, torn.size) if torn.count else unlink([torn.path])
        return segment

    def _failed(self, error: OSError) -> None:
        """The disk takes no more: go on in memory. What is on disk is still read from there."""
        if not self.numbered:
            return
        self.numbered = False
        self._close_file()
        self._ahead_chunks = self._ahead_chunks and AHEAD_CHUNKS
        log.error(
            "the spool fails (%s): the session goes on from memory alone, and cannot be resumed",
            error.strerror,
            extra=fields(session=str(self.spec.key), spool=str(self.directory)),
        )
        # So that no other run gives numbers again that are used from memory now. Needs no room.
        with contextlib.suppress(OSError):
            os.rename(self.directory / SESSION, self.directory / FAILED)

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def skip_numbers(self) -> None:
        """Leave out the numbers that may have been used before a power cut, for good."""
        if self.unsure:
            chunks = int(UNSURE_S * 1000 / self.origin.chunk_ms)
            self.head = replace(self.head, index=self.head.index + chunks)
            self.unsure = False

    def end(self) -> None:
        """Put the end mark that a session was not given before its agent died."""
        if not (self.ended or self.numbered):
            self.ended = True  # nobody knows its number
        if not self.ended:
            self.skip_numbers()
            self.put(Chunk(self.head.pos, self.heard_ns, b"", True))
        self._close_file()

    # Reading.

    def take(self) -> tuple[int, Chunk] | None:
        if not self._ahead:
            self._read_ahead()
        if self._ahead:
            # Its number must not be used again after a power cut that takes it from the disk.
            unsafe = self._read_index - len(self._ahead) - self._safe_index
            if self.numbered and unsafe >= self._unsafe_chunks // 2:
                self._hurry.set()
                if unsafe >= self._unsafe_chunks:
                    return None
            return self._numbered(*self._ahead.popleft())
        if self._unread:
            return None
        in_all = sum(count for _, count in self._dropped)
        self._next_seq = max(self._next_seq, self.head.index - in_all)
        return super().take()

    def _enter(self, segment: _Segment) -> int:
        """Number the chunks of `segment` for good; the number of its first."""
        if segment.first_seq is None:
            before = sum(count for first, count in self._dropped if first < segment.first)
            segment.first_seq = segment.first - before
            sent = segment.path.with_suffix(_SENT)
            try:
                os.rename(segment.path, sent)
            except OSError as error:
                self._failed(error)
            else:
                segment.path = sent
        return segment.first_seq

    def _read_ahead(self) -> None:
        """Read some chunks back. Blocks for the time that a disk takes."""
        while self._unread and not self._ahead:
            segment = next(s for s in self._segments if s.first + s.count > self._read_index)
            if segment.dropping:
                return
            first_seq = self._enter(segment)
            if self._read_index <= segment.first:
                self._read_index, self._read_offset = segment.first, len(MAGIC)
            wanted = min(_READ_CHUNKS, segment.first + segment.count - self._read_index)
            failure = None
            try:
                with segment.path.open("rb") as file:
                    file.seek(self._read_offset)
                    records = itertools.islice(read_records(file, self._read_index), wanted)
                    for chunk, size in records:
                        seq = first_seq + self._read_index - segment.first
                        self._ahead.append((seq, chunk))
                        self._read_index += 1
                        self._read_offset += size
            except OSError as error:
                failure = error
            self._unread -= len(self._ahead)
            if self._ahead:
                self._unreadable_since = None
            elif failure is not None and self._may_pass(failure, segment):
                return
            else:
                self._lose(segment, failure)

    def _may_pass(self, error: OSError, segment: _Segment) -> bool:
        """Whether reading `segment` is to be tried again, with a warning the first time."""
        now = time.monotonic()
        if isinstance(error, FileNotFoundError):
            return False
        if self._unreadable_since is None:
            self._unreadable_since = now
            log.warning(
                "the spool cannot be read now, and is tried again: %s",
                error.strerror,
                extra=fields(session=str(self.spec.key), file=str(segment.path)),
            )
        return passes(error) or now - self._unreadable_since < _READ_PATIENCE_S

    def _lose(self, segment: _Segment, error: OSError | None) -> None:
        """Leave out the rest of a segment; its file stays aside."""
        lost = segment.first + segment.count - self._read_index
        log.error(
            "%d chunks in the spool cannot be read back and are left out: %s",
            lost,
            "not what was written" if error is None else error.strerror,
            extra=fields(session=str(self.spec.key), file=str(segment.path)),
        )
        self._damaged.append(segment)
        self._unreadable_since = None
        self._read_index += lost
        self._unread -= lost

    # Clearing away.

    def settled(self, seq: int) -> None:
        self._settled_seq = seq

    def discard(self) -> None:
        self.discarded = True

    def drop_oldest(self) -> bool:
        """Have `tidy` drop the oldest segment that waits; False if there is none to be dropped.

        Not to be dropped is what may have been sent, the newest, which tells where the sound ends,
        anything of a source that waits, and anything when it cannot be noted on the disk.
        """
        if self._ahead_chunks is not None or not self.numbered:
            return False
        for segment in itertools.islice(self._segments, len(self._segments) - 1):
            if segment.first_seq is None and not segment.dropping:
                segment.dropping = True
                return True
        return False

    async def tidy(self, in_thread: InThread) -> bool:
        """Bring what was written to the disk itself, and delete what is no longer needed; True if
        that was all of it."""
        if self.discarded:
            damaged = [segment.path for segment in self._damaged]
            await in_thread(lambda: remove(self.directory, damaged))
            self.close()
            return True
        newest = self._segments[-1] if self._segments else None
        settled = [segment for segment in self._segments if self._is_settled(segment)]
        if newest in settled:
            settled.remove(newest)
        try:
            await self._drop(in_thread)
            if self.numbered:
                await self._sync(in_thread, settled)
        except OSError as error:
            if not passes(error):
                self._failed(error)
        if settled:
            self._segments = deque(s for s in self._segments if s not in settled)
            paths = [segment.path for segment in settled if segment not in self._damaged]
            await in_thread(lambda: unlink(paths))
        return False

    def _is_settled(self, segment: _Segment) -> bool:
        return (
            segment.first_seq is not None and segment.first_seq + segment.count <= self._settled_seq
        )

    async def _drop(self, in_thread: InThread) -> None:
        """Note what is to be dropped, then drop it. Raises: OSError."""
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
            await in_thread(lambda: save(self.directory / "dropped.json", text))
        except OSError:
            for segment in dropping:
                segment.dropping = False
            raise
        self._dropped = dropped
        self._segments = deque(s for s in self._segments if not s.dropping)
        for segment in dropping:
            self._unread -= segment.count
            self._count_dropped(segment.frames)
        await in_thread(lambda: unlink([segment.path for segment in dropping]))

    async def _sync(self, in_thread: InThread, settled: list[_Segment]) -> None:
        """Raises: OSError."""
        end = self.head.index
        unsafe = [
            (segment, segment.size)
            for segment in self._segments
            if segment.size > segment.synced and segment not in settled
        ]
        for start in range(0, len(unsafe), _OPEN_AT_ONCE):
            some = unsafe[start : start + _OPEN_AT_ONCE]
            new = any(segment.synced == 0 for segment, _ in some)
            paths = [segment.path for segment, _ in some] + [self.directory] * new
            await in_thread(partial(sync_open, open_all(paths)))  # names change meanwhile
            for segment, size in some:
                segment.synced = size
        self._safe_index = end

    def close(self) -> None:
        """Give the files and the lock back. Idempotent."""
        self._close_file()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # Taking up what another run has left.

    def load(self) -> None:
        """Find what is in the directory. Raises: OSError, ValueError: it cannot be used."""
        boot = boot_id()
        self._rebooted = not boot or boot != self._description.boot
        changed = self.directory.stat().st_mtime
        dropped = self.directory / "dropped.json"
        if dropped.exists():
            self._dropped = _DROPPED.validate_json(dropped.read_bytes())
        torn: list[_Segment] = []
        sent_pos = 0
        for path in sorted(self.directory.glob("*.se*")):
            segment = _Segment(path, int(path.stem))
            if any(first <= segment.first < first + count for first, count in self._dropped):
                unlink([path])
                continue
            if self._scan(segment):
                torn.append(segment)
            if segment.count:
                self._segments.append(segment)
                self._unread += segment.count
                if path.suffix == _SENT or self._rebooted:  # the name need not be on the disk
                    self._enter(segment)
                    sent_pos = self.head.pos
                elif len(self._segments) == 1:
                    sent_pos = self.head.pos - segment.frames
        if torn and torn[-1] is segment:
            self._torn = torn.pop()  # by whatever ended its agent
            self.numbered = bool(self._segments)
        self._damaged = torn
        if self._dropped:
            self.head = replace(self.head, index=max(self.head.index, sum(self._dropped[-1])))
        self.unsure = self._rebooted or self._torn is not None
        self.sent_seconds = self._format.seconds(sent_pos)
        self.sent_ago_s = max(0.0, time.time() - changed)

    def _scan(self, segment: _Segment) -> bool:
        """Count what is whole in `segment`; True, and a warning, if there is more than that."""
        self.head = replace(self.head, index=max(self.head.index, segment.first))
        in_all = segment.path.stat().st_size
        with segment.path.open("rb") as file:
            if file.read(len(MAGIC)) == MAGIC:
                segment.size = len(MAGIC)
                for chunk, size in read_records(file, segment.first):
                    self._count(segment, chunk, size)
        if in_all < len(MAGIC) and not self._rebooted:
            return False  # its agent was killed just then
        if segment.size < in_all:
            log.warning(
                "%d bytes in the spool are no whole chunk and are left out",
                in_all - segment.size,
                extra=fields(session=str(self.spec.key), file=str(segment.path)),
            )
        return segment.size < max(in_all, len(MAGIC))

    def _count(self, segment: _Segment, chunk: Chunk, size: int) -> None:
        """Note that `chunk` is the last in `segment`, and the last of all."""
        frames = self._format.frames(len(chunk.payload))
        segment.count += 1
        segment.frames += frames
        segment.size += size
        duration_ns = frames * 1_000_000_000 // self.spec.sample_rate
        self.head = Head(
            segment.first + segment.count, chunk.pos + frames, chunk.time_ns + duration_ns
        )
        self.ended = chunk.end

    def go_on(self) -> None:
        """Prepare for more chunks than were left by another run. Raises: SpoolError."""
        unsure = self.unsure
        if self.origin.live:  # a file's chunks are the same again
            self.skip_numbers()
        if not (unsure or self._rebooted):
            return
        description = self._description.model_copy(update={"boot": boot_id()})
        try:
            self._writable()  # its name keeps what is skipped
            save(self.directory / SESSION, description.model_dump_json().encode())
        except OSError as error:
            raise SpoolError(f"EDGE_SPOOL: {self.directory}: {error.strerror}") from None
