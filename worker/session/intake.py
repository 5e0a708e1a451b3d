"""A session's incoming audio: waiting for it, and deciding when it has ended."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from natterjack.audio import SESSION_ID, decode_chunk_headers
from natterjack.broker import streams
from natterjack.broker.stored import StoreUnavailable
from natterjack.errors import BadChunk
from natterjack.spec import SessionSpec
from natterjack.subjects import audio_subject, session_subject
from worker.audio.feed import Gap
from worker.audio.reorder import Chunk
from worker.drain import Drain, HandOver
from worker.services import Services
from worker.settings import WorkerSettings

from .admission import Admission
from .lease import Lease, QueueQuery, QueueUnknown

_WAIT_SECONDS = 0.25
_CHECK_SECONDS = 2.0


class Parked(Exception):
    """Audio has paused in the middle of speech. The provider stream is closed without `finish`, so
    that the interrupted words do not become final."""


async def first_queued(js: JetStreamContext, queue: str, subject: str, sequence: int) -> int | None:
    """The sequence of the first request on a subject of a work queue, from `sequence` on. Raises
    QueueUnknown."""
    try:
        found = await js.get_msg(queue, seq=sequence, subject=subject, next=True)
    except NotFoundError:
        return None
    except (NatsError, TimeoutError):
        raise QueueUnknown from None
    return found.seq


class Queries:
    """Asks the broker about one session."""

    __slots__ = ("_services", "_spec")

    def __init__(self, services: Services, spec: SessionSpec) -> None:
        self._services = services
        self._spec = spec

    async def first_queued(self, sequence: int) -> int | None:
        """The sequence of the first request for the session's key in the queue, from `sequence` on.
        Raises QueueUnknown."""
        subject = session_subject(self._spec.key)
        return await first_queued(self._services.js, streams.SESSIONS, subject, sequence)

    async def stored_head(self) -> int:
        """The end of this session's newest stored chunk; 0 if it is not known."""
        spec = self._spec
        try:
            stored = await self._services.store.last(audio_subject(spec.key))
            if stored is None or stored.headers.get(SESSION_ID) != spec.audio_session_id:
                return 0
            size = spec.decoded_bytes(stored.data)
            header = decode_chunk_headers(stored.headers, size, spec.audio_format)
        except (StoreUnavailable, BadChunk):
            return 0
        return header.pos + spec.audio_format.frames(size)


class Incoming(Protocol):
    """The part of a feed from which `Intake` decides; `Feed` implements it."""

    superseded: bool
    last_arrival: float
    head: int

    @property
    def caught_up(self) -> bool: ...
    @property
    def short_of_start(self) -> bool: ...
    async def next(self, timeout: float) -> Chunk | Gap | None: ...
    def give_back(self, item: Chunk | Gap) -> None: ...


class Intake:
    """Waits for a session's audio, and decides when it has ended without an end chunk."""

    __slots__ = (
        "_admission", "_drain", "_first_queued", "_lease", "_parked_head", "_parked_last_arrival",
        "_repeats", "_settings", "_stored_head", "end_reason",
    )  # fmt: skip

    def __init__(
        self,
        settings: WorkerSettings,
        drain: Drain,
        lease: Lease,
        admission: Admission[Any],
        first_queued: QueueQuery,
        stored_head: Callable[[], Awaitable[int]],
        *,
        repeats: bool = False,
    ) -> None:
        """`first_queued` and `stored_head` are those of `Queries`. `repeats`: the audio is that of
        an earlier session, so all of it is stored."""
        self._repeats = repeats
        self._settings = settings
        self._drain = drain
        self._lease = lease
        self._admission = admission
        self._first_queued = first_queued
        self._stored_head = stored_head
        self._parked_head: int | None = None
        """The end of the audio when the session was parked in the middle of speech."""
        self._parked_last_arrival = 0.0
        """When audio last came in before the session was parked."""
        self.end_reason: str | None = None
        """Why the session ends before its end chunk."""

    async def is_over(self, feed: Incoming) -> bool:
        """Whether audio has stopped for so long that no more will come; sets `end_reason`."""
        quiet, settings = time.monotonic() - feed.last_arrival, self._settings
        if not feed.caught_up:
            return False
        if quiet > settings.idle_seconds:
            self.end_reason = f"idle: no audio for {settings.idle_seconds:g} s"
            start = self._lease.progress.start
            if feed.short_of_start and self._lease.progress.final == start:
                self.end_reason += f" from the session's first frame on, {start}"
        elif self._repeats and quiet > settings.superseded_seconds:
            self.end_reason = "end of the stored audio"
        elif feed.superseded and quiet > settings.superseded_seconds:
            # A late chunk of an older session on the key looks the same: only the queue knows.
            with contextlib.suppress(QueueUnknown):
                feed.superseded = await self._superseded()
                quiet = time.monotonic() - feed.last_arrival  # audio may have come in the meantime
                if feed.superseded and quiet > settings.superseded_seconds:
                    self.end_reason = "superseded: a newer session uses the key"
        return self.end_reason is not None

    async def _superseded(self) -> bool:
        """Whether a later request for the key is in the queue. Raises QueueUnknown."""
        request_sequence = self._lease.checkpoint.request_sequence
        return await self._first_queued(request_sequence + 1) is not None

    def park(self, feed: Incoming) -> None:
        """Note that the provider stream is closed in the middle of speech. No other is opened until
        more audio has arrived."""
        self._parked_head, self._parked_last_arrival = feed.head, feed.last_arrival

    async def wait_for_audio(self, feed: Incoming) -> bool:
        """Wait for audio, since most providers drop an idle connection. False
        if the session ends without more audio. Raises HandOver, LeaseLost."""
        self.end_reason = None
        while not self._lease.cutoff.reached(self._lease.progress.final):
            await self._lease.confirm()
            item = await feed.next(_WAIT_SECONDS)
            if self._drain.requested:
                raise HandOver
            if item is None:
                if time.monotonic() - feed.last_arrival > _CHECK_SECONDS:
                    await self._admission.release()  # other sessions may need the permit
                if await self.is_over(feed):
                    return False
            elif isinstance(item, Gap) or item.frames:
                await self._unpark(feed)
                feed.give_back(item)
                return True
            elif item.end:
                self._lease.progress.account_builder.notice(item)
                return False
        self.end_reason = self._lease.cutoff.reason
        return False

    async def _unpark(self, feed: Incoming) -> None:
        """Wait until there is more audio than when the session was parked, or no more will come."""
        parked, self._parked_head = self._parked_head, None
        if parked is None:
            return
        feed.last_arrival = self._parked_last_arrival  # the pause began before this feed was opened
        check_at = 0.0
        while (head := max(feed.head, self._lease.progress.final)) <= parked:
            now = time.monotonic()
            if self._drain.requested:
                raise HandOver
            idle = now - feed.last_arrival > self._settings.idle_seconds
            if self._lease.cutoff.reached(head) or idle:
                return
            if now >= check_at:
                check_at = now + _CHECK_SECONDS
                if await self._stored_head() > parked:
                    return
                with contextlib.suppress(QueueUnknown):
                    later = await self._superseded()
                    if feed.superseded and later:
                        return
            await self._lease.confirm()
            await asyncio.sleep(_WAIT_SECONDS)
