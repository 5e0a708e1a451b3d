"""The feed: a session's audio in order and without holes, from any position.

Live chunks arrive on a core subscription. Whatever the subscription missed (before it began, during
a reconnect, while a queue was full) is read from the stream STT_AUDIO, and a hole that the stream
cannot fill becomes a gap. The feed checks whether the stream has more than it has received at the
start, on each hole, after each reconnect, and whenever nothing arrives for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from natterjack.audio import (
    MAX_CHUNK_BYTES,
    SESSION_ID,
    chunk_header_prefix,
    decode_chunk_headers,
    read_chunk_headers,
    wall_clock,
)
from natterjack.broker.client.fastpath import DirectSubscription
from natterjack.broker.client.wire import parse_headers
from natterjack.broker.connection import Broker
from natterjack.broker.stored import StoreUnavailable, StreamStore
from natterjack.errors import BadChunk
from natterjack.notices import gap_cause
from natterjack.spec import SessionSpec
from natterjack.subjects import audio_subject

from .flac import flac_decoder
from .marks import Mark, Marks
from .reorder import LONGEST_LONE_GAP_S, Chunk, ReorderBuffer

_MAX_AHEAD = 128
"""Chunks that are further ahead must have a position that leaves room for those in between."""
_BATCH, _BATCH_BYTES = 64, 1024 * 1024
_QUIET_FIRST_S, _QUIET_LONGEST_S = 1.0, 10.0
_RETRY_S = 0.25
_TIMER_SLACK_S = 0.002
_NEVER = b"\0"
"""A prefix that no headers have."""
_LONGEST_GAP_S = 24 * 3600.0
"""A position that is further ahead is forged or a fault of the edge, not a gap."""
_MAX_BAD_SEEN = 1000
_TOTAL_PATIENCE_S = 30.0
"""How long a feed waits for the confirmation of chunks in total."""
_MAX_SUCCESSORS = 16


class Gap(NamedTuple):
    """A stretch without audio. `cause` is one of GAP_CAUSES or UNNAMED_GAP (the edge skipped it),
    `missing` (it never reached the stream, or expired there) or `bad_chunk`."""

    position: int
    frames: int
    cause: str


class Feed:
    """The audio of one session from `position` on. One task calls `next`; not restartable."""

    __slots__ = (
        "_after_bad_chunk",
        "_ahead",
        "_arrivals",
        "_bad_seen",
        "_broker",
        "_by_seq",
        "_check_at",
        "_deadline",
        "_decode",
        "_decoded_bytes",
        "_expected_prefix",
        "_format",
        "_frame_bytes",
        "_frames_of_last_read",
        "_hole_confirmed_since",
        "_hole_seconds",
        "_hole_seen",
        "_left_in_stream",
        "_longest_gap",
        "_marks",
        "_newest",
        "_next_seq",
        "_nudged",
        "_patience_left",
        "_payload_unit",
        "_pending",
        "_position",
        "_quiet_interval",
        "_reading",
        "_scanned",
        "_scans_from_start",
        "_session_id",
        "_session_prefix",
        "_start",
        "_store",
        "_subject",
        "_successors",
        "_timer",
        "_timer_at",
        "_unconfirmed_since",
        "_unread_possible",
        "_waiter",
        "_woken",
        "bad",
        "ended",
        "head",
        "last_arrival",
        "sink",
        "superseded",
    )

    def __init__(
        self,
        broker: Broker,
        store: StreamStore,
        spec: SessionSpec,
        mark: Mark,
        position: int,
        hole_seconds: float,
    ) -> None:
        self._broker = broker
        self._store = store
        self._format = spec.audio_format
        self._frame_bytes = spec.audio_format.frame_bytes
        self._decode = flac_decoder(spec.audio_format) if spec.encoding == "flac" else None
        """Decodes a payload on its arrival, so that everything after it sees raw audio."""
        self._payload_unit = 1 if self._decode is not None else self._frame_bytes
        """The size of a payload is a multiple of it."""
        self._decoded_bytes = spec.decoded_bytes
        self._session_id = spec.audio_session_id
        self._subject = audio_subject(spec.key)
        self._hole_seconds = hole_seconds
        self._longest_gap = _LONGEST_GAP_S * spec.sample_rate
        self._start = position
        self._next_seq, self._position = mark.seq, mark.position
        self._marks = Marks(mark)
        self._ahead = ReorderBuffer(spec.sample_rate)
        self._by_seq = self._ahead.by_seq
        self._arrivals: DirectSubscription | None = None
        self._waiter: asyncio.Future[Chunk | None] | None = None
        """The future on which `next` waits. A live chunk that is next in order completes it."""
        self._pending: Chunk | Gap | None = None
        """A chunk that `next` was cancelled before returning, or an item that was given back."""
        self.sink: Callable[[int, int, bytes, int, float], bool] | None = None
        """Called with live chunks that are next in order while `next` waits: number, frames,
        payload, wall clock and arrival, as in Chunk. If it returns False, `next` returns the
        chunk."""
        self._nudged = False
        self._woken = False
        self._timer: asyncio.TimerHandle | None = None
        self._session_prefix = chunk_header_prefix(spec.audio_session_id)
        self._expected_prefix = _NEVER
        self._deadline = 0.0
        """When `next` returns at the latest."""
        self._timer_at = 0.0
        """When the timer wakes `next`; 0 if no timer is set."""
        self._unread_possible = True
        """Whether the stream may have more than was received."""
        self._check_at = 0.0
        """When to check the stream next, if there is a reason or nothing arrives."""
        self._quiet_interval = _QUIET_FIRST_S
        self._scanned = 0
        """Stream sequence up to which every message has been processed."""
        self._reading = False
        """Whether a read of stored messages is in progress."""
        self._scans_from_start = 0
        self._newest: tuple[int, float] | None = None
        """The newest stream sequence when it was last asked for, and the time of that."""
        self._hole_seen = False
        self._hole_confirmed_since: float | None = None
        """Since when a chunk after the hole is known to be stored. A stream that stores nothing,
        for example because it has no leader, does not show that the hole is lost."""
        self._unconfirmed_since: float | None = None
        self._patience_left = _TOTAL_PATIENCE_S
        self._after_bad_chunk = False
        self._bad_seen: set[int] = set()
        self.bad: Counter[str] = Counter()
        """Refused chunks by cause."""
        self.ended = False
        """The last chunk has been returned."""
        self.last_arrival = time.monotonic()
        """When the last chunk of this session arrived, or the connection came back."""
        self.superseded = False
        """A live chunk of another session was received on the same subject."""
        self.head = position
        """End of the newest audio that is known to exist."""
        self._left_in_stream, self._frames_of_last_read = 0, 0
        """How many chunks the stream has after those that were read, and the frames of one."""
        self._successors: list[tuple[int, int]] = []
        """Number and position that would follow each of the newest live chunks."""

    @property
    def caught_up(self) -> bool:
        """Whether everything in the stream has been read, as far as the feed knows."""
        return not self._unread_possible and not self._ahead and self._broker.connected

    @property
    def short_of_start(self) -> bool:
        """Whether all audio that was read lies before the position where the feed begins."""
        return self._position < self._start

    @property
    def unread(self) -> int:
        """Frames in the stream after `head`, estimated from the number of chunks."""
        return self._left_in_stream * self._frames_of_last_read

    async def open(self) -> None:
        """Subscribe to live chunks. Stored ones are read by `next`."""
        self._arrivals = await self._broker.client.listen(self._subject, self._received)
        self._broker.on_reconnect.add(self._reconnected)

    async def close(self) -> None:
        """Unsubscribe. Idempotent."""
        self._broker.on_reconnect.discard(self._reconnected)
        if self._timer is not None:
            self._timer.cancel()
        arrivals, self._arrivals = self._arrivals, None
        if arrivals is not None:
            await arrivals.end()

    def _reconnected(self) -> None:
        """After a reconnect, check the stream, and allow the edge time to reconnect too."""
        self.last_arrival = time.monotonic()
        self._unread_possible, self._check_at = True, 0.0
        self._wake()

    def _wake(self) -> None:
        """Make `next` check again whether it can return something."""
        self._woken = True
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def give_back(self, item: Chunk | Gap) -> None:
        """Make `next` return `item` again."""
        self._pending = item

    def nudge(self) -> None:
        """Make `next` return None, at once if it waits."""
        self._nudged = True
        self._wake()

    def _received(self, _subject: bytes, _reply: bytes, raw: bytes | None, data: bytes) -> None:
        """Handle a live message."""
        if self._by_seq and self._ahead.full and self._next_seq in self._by_seq:
            # More audio is buffered than can be sent soon. Live chunks are also stored and will be
            # read later; processing them now would only make the worker fall further behind.
            self.last_arrival = time.monotonic()
            self._unread_possible, self._check_at = True, 0.0
            return
        waiter, expected, size = self._waiter, self._expected_prefix, len(data)
        if (
            raw is None
            or not raw.startswith(expected)
            or waiter is None
            or waiter.done()
            or self._by_seq
            or size % self._payload_unit
            or not 0 < size <= MAX_CHUNK_BYTES
            or raw.find(b"\r\nAudio-", len(expected)) > 0  # an end or a note
        ):
            self._buffer_chunk(raw, data, 0)
            self._wake()
            return
        # The usual case: the chunk that `next` waits for. This is a short version of
        # `_buffer_chunk` and `_admit`.
        now = time.monotonic()
        try:
            time_ns = wall_clock(raw[len(expected) : raw.index(b"\r\n", len(expected))])
        except ValueError:
            self._count_bad("headers", raw, data)
            return
        if self._decode is not None:
            try:
                data = self._decode(data)
            except BadChunk as error:
                self._count_bad(error.cause, raw, data)
                return
            size = len(data)
        seq, position, frames = self._next_seq, self._position, size // self._frame_bytes
        self.last_arrival = now
        self._quiet_interval = _QUIET_FIRST_S
        if not self._unread_possible:
            self._check_at = now + _QUIET_FIRST_S
        self._next_seq = seq + 1
        self._position = stop = position + frames
        if stop > self.head:
            self.head = stop
        if self.sink is not None and self.sink(seq, frames, data, time_ns, now):
            self._expected_prefix = self._next_prefix()
        else:
            waiter.set_result(Chunk(seq, position, frames, data, time_ns, now, False, 0))

    def _next_prefix(self) -> bytes:
        """The first bytes of the next chunk's headers in the usual case. If they match, its number
        and position need not be parsed."""
        if (
            self._unconfirmed_since is not None
            or self._position < self._start
            or self._after_bad_chunk
            or self._hole_seen
            or self._hole_confirmed_since is not None
            or self._scans_from_start
        ):
            return _NEVER
        return b"%bAudio-Seq: %d\r\nAudio-Pos: %d\r\nAudio-Time: " % (
            self._session_prefix, self._next_seq, self._position,
        )  # fmt: skip

    def _buffer_chunk(self, raw: bytes | None, data: bytes, stream_sequence: int) -> bool:
        """Keep a received chunk in the reorder buffer, or count it if it is bad.

        `raw` is its header block. Returns False if there is no room for it.
        """
        size = len(data)
        quick = None if raw is None else read_chunk_headers(raw, self._session_prefix)
        raw_audio = self._decode is None and 0 < size <= MAX_CHUNK_BYTES
        if quick is not None and raw_audio and not size % self._frame_bytes:
            seq, position, time_ns = quick
            end, note = False, ""
        else:
            headers = None if raw is None else parse_headers(raw)
            if (
                headers is not None
                and headers.get(SESSION_ID, self._session_id) != self._session_id
            ):
                # The stream also holds audio of earlier sessions that used the same key.
                self.superseded = self.superseded or stream_sequence == 0
                return True
            try:
                size = self._decoded_bytes(data)
                header = decode_chunk_headers(headers, size, self._format)
            except BadChunk as error:
                self._count_bad(error.cause, raw, data)
                return True
            _, seq, position, time_ns, end, note = header
        frames = size // self._frame_bytes
        ahead = position - self._position
        skipped = seq - self._next_seq
        if skipped > _MAX_AHEAD and (skipped > ahead or self._beyond(position, self._longest_gap)):
            # Forged: every chunk in between has at least one frame, and no gap lasts a day.
            self._count_bad_position(seq, position)
            return True
        now = time.monotonic()
        if stream_sequence == 0:
            # Audio before the start is not this session's: it does not count as an arrival.
            if end or position + frames > self._start:
                self.last_arrival = now
            self._quiet_interval = _QUIET_FIRST_S
            if not (self._unread_possible or self._ahead):
                self._check_at = now + _QUIET_FIRST_S
            place = seq, position
            # A chunk that does not follow a known one may be forged.
            if place == (self._next_seq, self._position) or place in self._successors:
                self.head = max(self.head, position + frames)
            self._successors.append((seq + 1, position + frames))
            del self._successors[:-_MAX_SUCCESSORS]
        if seq < self._next_seq:
            return True
        if self._decode is not None:
            try:
                data = self._decode(data)
            except BadChunk as error:
                self._count_bad(error.cause, raw, data)
                return True
        chunk = Chunk(seq, position, frames, data, time_ns, now, end, stream_sequence, note)
        if seq in self._ahead:
            self._ahead.add(chunk)
            return True
        room = self._make_room(seq)
        if room is None:
            return False
        self._ahead.add(chunk)
        return room

    def _make_room(self, seq: int) -> bool | None:
        """Make room for a chunk by dropping ones that are further ahead.

        Returns True if there is room, False if others had to go, and None if this chunk is the one
        to drop. Without this, a hole would be given up together with the chunks stored after it.
        """
        room = True
        while self._ahead.full:
            if seq == self._next_seq:
                break
            self._unread_possible, room = True, False
            if self._next_seq in self._ahead:
                self._check_at = 0.0  # read on as soon as there is room
            farthest = self._ahead.last
            if seq > farthest:
                return None
            for version in self._ahead.versions(farthest):
                if version.stream_sequence:
                    self._scanned = min(self._scanned, version.stream_sequence - 1)
            self._ahead.drop(farthest)
        return room

    def _move_past(self, seq: int, valid: int | None) -> None:
        """Move on past number `seq`. Of the chunks with that number, all are bad but the one at
        position `valid`."""
        for version in self._ahead.versions(seq):
            if version.position != valid:
                self._count_bad_position(seq, version.position)
        if self._unconfirmed_since is not None:
            self._patience_left -= time.monotonic() - self._unconfirmed_since
            self._unconfirmed_since = None
        self._ahead.drop(seq)
        self._next_seq = seq + 1

    def _chosen(self) -> Chunk | None:
        """The chunk that is next in order, or None if it is missing or unconfirmed."""
        since = self._unconfirmed_since
        waited = None if since is None else time.monotonic() - since
        patience = min(self._hole_seconds, self._patience_left)
        return self._ahead.choose(self._next_seq, self._position, waited, patience)

    def _count_bad(self, cause: str, raw: bytes | None, data: bytes) -> None:
        # The same message may arrive live and from the stream, which adds headers of its own.
        headers = parse_headers(raw or b"")
        own = sorted((k, v) for k, v in headers.items() if not k.startswith("Nats-"))
        self._count_once(cause, hash((tuple(own), data)))

    def _count_bad_position(self, seq: int, position: int) -> None:
        """Count a chunk with an impossible position, only once if it is read again."""
        self._count_once("position", hash((seq, position)))

    def _count_once(self, cause: str, fingerprint: int) -> None:
        if fingerprint not in self._bad_seen:
            self.bad[cause] += 1
            if len(self._bad_seen) < _MAX_BAD_SEEN:
                self._bad_seen.add(fingerprint)

    async def next(self, timeout: float) -> Chunk | Gap | None:
        """The next chunk or gap, or None after `timeout` seconds or a `nudge`. Cancel-safe."""
        given, self._pending = self._pending, None
        if given is not None:
            return given
        self._deadline = deadline = time.monotonic() + timeout
        while True:
            self._woken = False
            while self._by_seq and (chunk := self._chosen()) is not None:
                item = self._admit(chunk)
                if item is not None:
                    return item
            now = time.monotonic()
            if not self._by_seq:
                pass
            elif self._next_seq in self._ahead:
                if self._unconfirmed_since is None:
                    self._unconfirmed_since = now
                    soon = min(self._check_at, now + _RETRY_S)
                    self._check_at = 0.0 if self._unread_possible else soon
            elif not self._hole_seen:
                self._hole_seen, self._check_at = True, 0.0
            if now >= self._check_at and not self._nudged:
                gap = await self._fill()
                if gap is not None:
                    return gap
                if self._chosen() is not None:
                    continue
                now = time.monotonic()
            if now >= deadline or self._nudged:
                self._nudged = False
                return None
            if not self._woken:
                given = await self._wait(now, min(self._check_at, deadline))
                if given is not None:
                    return given

    async def _wait(self, now: float, until: float) -> Chunk | None:
        """Wait until woken, or until the monotonic time `until`. Returns the chunk that is next in
        order if it has arrived."""
        if not now < self._timer_at <= until:
            self._set_timer(until - now)
        self._expected_prefix = self._next_prefix()
        waiter: asyncio.Future[Chunk | None] = asyncio.get_running_loop().create_future()
        self._waiter = waiter
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._pending = waiter.result()
            raise
        finally:
            self._waiter = None

    def _set_timer(self, seconds: float) -> None:
        """Wake `next` in `seconds`.

        A timer that fires earlier is left alone: a needless wake-up once a second costs less than
        setting a timer for each chunk.
        """
        if self._timer is not None:
            self._timer.cancel()
        seconds = max(0.0, seconds)
        self._timer_at = time.monotonic() + seconds
        self._timer = asyncio.get_running_loop().call_later(seconds, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer_at, self._timer = 0.0, None
        wait = min(self._check_at, self._deadline) - time.monotonic()
        if wait > _TIMER_SLACK_S:
            self._set_timer(wait)  # a chunk arrived in the meantime: too early to wake
        else:
            self._wake()

    def _admit(self, chunk: Chunk) -> Chunk | Gap | None:
        """The item to return for the chunk that is next in order, or None if there is none."""
        place, ahead = chunk.position, chunk.position - self._position
        if ahead > 0 and chunk.position > self._start:
            contradicted = self._ahead.contradicted(chunk, self._position)
            if contradicted or self._beyond(chunk.position, self._longest_gap):
                self._reject(chunk)
                return None
            cause = "bad_chunk" if self._after_bad_chunk else gap_cause(chunk.note)
            gap = self._gap_to(chunk.position, cause)
            self._after_bad_chunk = False
            if gap is not None:
                return gap
        elif ahead < 0:
            if not chunk.end:
                self._reject(chunk)
                return None
            chunk = chunk._replace(position=self._position, frames=0, payload=b"")
        self._move_past(chunk.seq, place)
        self._after_bad_chunk = False
        self._hole_seen, self._hole_confirmed_since, self._scans_from_start = False, None, 0
        self._position = end = chunk.position + chunk.frames
        # The last chunk is the end, whatever was forged beyond it.
        self.head = end if chunk.end else max(self.head, end)
        if chunk.stream_sequence:
            # Later chunks may be stored before it. They are present then, or not processed yet.
            behind = (c.stream_sequence for c in self._ahead.chunks if c.stream_sequence)
            first = min(chunk.stream_sequence, self._scanned + 1, *behind)
            self._marks.add(Mark(chunk.position, chunk.seq, first))
        self.ended = chunk.end
        if end > self._start or chunk.end:
            skip = self._start - chunk.position
            if skip > 0:
                skip = min(skip, chunk.frames)
                passed = skip * 1_000_000_000 // self._format.sample_rate
                chunk = chunk._replace(
                    position=chunk.position + skip,
                    frames=chunk.frames - skip,
                    payload=chunk.payload[skip * self._format.frame_bytes :],
                    time_ns=chunk.time_ns and chunk.time_ns + passed,
                    note="",  # it is about a frame before the start
                )
            return chunk
        return None

    def _reject(self, chunk: Chunk) -> None:
        """Refuse a chunk with an impossible position. The next one's position shows its length."""
        self._move_past(chunk.seq, None)
        self._after_bad_chunk = True

    def _beyond(self, position: int, gap: float) -> bool:
        """Whether `position` is more than `gap` frames after the audio that was read and after the
        position of the feed's start."""
        return position - max(self._position, self._start) > gap

    def _gap_to(self, position: int, cause: str) -> Gap | None:
        """The gap up to `position`, without what lies before the position of the feed's start."""
        start = max(self._position, self._start)
        self._position = position
        return Gap(start, position - start, cause) if position > start else None

    def mark_before(self, position: int) -> Mark:
        """The latest mark from which all audio from `position` on can be read."""
        return self._marks.before(position)

    async def probe(self) -> None:
        """Learn the stream sequence of the newest chunk, for `mark_before`. Quick; never raises."""
        with contextlib.suppress(StoreUnavailable):
            await self._more_stored()

    async def _more_stored(self) -> bool:
        """Whether the newest message in the stream shows that there may be more to read."""
        stored = await self._store.last(self._subject)
        if stored is None:
            return False
        sequence = stored.sequence
        if sequence < self._scanned:
            if await self._store.newest_sequence() >= self._scanned:
                return True  # a replica that lags has answered
            # The stream was created again, as a memory stream is when its server restarts.
            self._scanned, self._newest = 0, None
            self._marks.forget_places()
        self._mark_next()
        self._newest = sequence, time.monotonic()
        if stored.headers.get(SESSION_ID) != self._session_id:
            self.superseded = True  # or a late chunk of an earlier session: the queue decides
            return True
        try:
            header = decode_chunk_headers(
                stored.headers, self._decoded_bytes(stored.data), self._format
            )
        except BadChunk:
            return True
        if header.seq == self._next_seq - 1:
            # Nothing more, unless this is a duplicate; after a long silence check anyway.
            return sequence > self._scanned and self._quiet_interval >= _QUIET_LONGEST_S
        return header.seq >= self._next_seq or sequence > self._scanned

    def _mark_next(self) -> None:
        """Add a mark at the next chunk if everything stored before it has been returned.

        Whatever was stored when the newest sequence was last asked for has arrived by now. If all
        of it has been returned, the next chunk and all later ones are stored after it.
        """
        if self._newest is None or self._unread_possible or self._reading or self.ended:
            return
        sequence, asked = self._newest
        if all(chunk.arrived > asked for chunk in self._ahead.chunks):
            self._marks.add(Mark(self._position, self._next_seq, max(1, sequence)))

    async def _fill(self) -> Gap | None:
        """Read missing chunks from the stream. Returns the gap if they are lost."""
        started = time.monotonic()
        quiet = not self._unread_possible and not self._ahead
        self._unread_possible = found = unread = False
        try:
            if not quiet or not self._scanned or await self._more_stored():
                self._reading = True
                found = await self._read_on()
        except StoreUnavailable:
            self._unread_possible = unread = True
        except asyncio.CancelledError:
            self._unread_possible = True
            raise
        finally:
            self._reading = False
        now = time.monotonic()
        if quiet:
            self._quiet_interval = min(self._quiet_interval * 2, _QUIET_LONGEST_S)
        self._check_at = now + (
            _RETRY_S if self._unread_possible or self._ahead else self._quiet_interval
        )
        if found or unread or not self._ahead or self._next_seq in self._ahead:
            return None
        return self._give_up_hole(started)

    def _hole_age(self, now: float) -> float:
        """Seconds since the hole was confirmed; negative if it is not confirmed yet."""
        return -1.0 if self._hole_confirmed_since is None else now - self._hole_confirmed_since

    def _give_up_hole(self, now: float) -> Gap | None:
        """Later chunks are present and the next one is missing: after a while it counts as lost."""
        stored = any(chunk.stream_sequence for chunk in self._ahead.chunks)
        if self._hole_confirmed_since is None and stored:
            self._hole_confirmed_since = now
        waited = self._hole_age(now)
        versions = self._ahead.versions(self._ahead.first)
        likely = (chunk for chunk in versions if self._ahead.confirmed(chunk, self._position))
        first = next(likely, versions[0])
        # Audio before the start is not needed, so its loss need not be waited for. But a position
        # that leaves no frame for each chunk in between is impossible and shows nothing.
        least = self._position + first.seq - self._next_seq
        if first.position > self._start or first.position < least:
            if waited < self._hole_seconds:
                return None
            # Other chunks follow a real one; none follow one that was forged far ahead.
            lone = self._ahead.next_missing(first) and not first.end
            if lone and waited < 4 * self._hole_seconds:
                return None
            longest = LONGEST_LONE_GAP_S * self._format.sample_rate if lone else self._longest_gap
            if self._beyond(first.position, longest):
                self._count_bad_position(first.seq, first.position)
                self._ahead.drop(first.seq)
                return None
        self._hole_seen, self._hole_confirmed_since = False, None
        self._next_seq = first.seq
        if first.position <= self._position:
            return None
        return self._gap_to(first.position, "missing")

    async def _read_on(self) -> bool:
        """Read on in the stream until the next chunk is found or everything is read.

        Returns whether it was found. `_unread_possible` notes whether more is stored.
        """
        mark = self._marks.before_chunk(self._next_seq)
        found = await self._read_from(max(mark.stream_sequence, self._scanned + 1))
        now = time.monotonic()
        waited = self._hole_age(now)
        if self._next_seq in self._ahead:  # but unconfirmed
            again = (
                self._scans_from_start == 0
                and now - (self._unconfirmed_since or now) > 2 * _RETRY_S
            )
        else:
            again = bool(self._ahead) and self._scans_from_start <= (waited >= self._hole_seconds)
        if not found and again:
            # It may be stored out of order, before the place where reading began or far after it:
            # read everything, at the start of a hole and again before giving it up.
            found = await self._read_from(1, to_end=True)
            self._scans_from_start += 1
        return found

    async def _read_from(self, sequence: int, *, to_end: bool = False) -> bool:
        """Read from `sequence` on, as `_read_on` does. With `to_end`, search to the end of the
        stream for the next chunk even if there is no room for the others."""
        room = True
        while True:
            messages, left = await self._store.read(
                self._subject, sequence, batch=_BATCH, max_bytes=_BATCH_BYTES
            )
            for message in messages:
                room = self._buffer_chunk(message.raw, message.data, message.sequence) and room
                if room:
                    self._scanned = max(self._scanned, message.sequence)
                elif not to_end:
                    return False  # `_unread_possible` is set, so this message is read again
            self._left_in_stream = left
            if messages:
                with contextlib.suppress(BadChunk):
                    size = self._decoded_bytes(messages[-1].data)
                    self._frames_of_last_read = size // self._frame_bytes
            found = self._chosen() is not None
            if found or not messages or not left:
                if left > 0:
                    self._unread_possible = True
                return found
            sequence = messages[-1].sequence + 1
