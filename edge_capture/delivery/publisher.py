"""Publishing one session: its request and its chunks, each until the broker has stored it.

Chunks wait in the backlog, also while the token bucket is empty. On entering the window they get
their `Audio-Seq` and are published; they leave it when they are acknowledged. All acknowledgements
arrive at one inbox whose last subject token is the sequence number, so a chunk needs no task,
future or timer. After a reconnect the whole window is published again, in order; the stream drops
duplicates. While the broker refuses chunks or does not answer, only the oldest is retried.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from nats.errors import Error as NatsError

from natterjack.audio import MSG_ID, ChunkHeader, encode_chunk_headers
from natterjack.broker.client.fastpath import MessageTooLarge
from natterjack.broker.connection import Broker
from natterjack.broker.streams import AUDIO, SESSIONS
from natterjack.spec import SessionSpec
from natterjack.subjects import SessionKey, audio_subject
from natterjack.telemetry.log import fields

from ..chunks import Chunk
from .backlog import Backlog
from .lull import lull_of
from .replies import overdue, refusal, stored_sequence
from .request import Backoff, Request
from .token_bucket import TokenBucket
from .tracing import PublishTrace
from .wake_timer import WakeTimer
from .window import Window

log = logging.getLogger(__name__)

_OVERDUE_S = 5.0
_POLL_S = 0.1
"""Interval of checks while something waits to be sent."""
_IDLE_POLL_S = 2.5
_CALM_CHUNKS = 8
"""Chunks that may be in flight while the broker's answers need not be read at once."""
_LIMIT_S = 30.0
"""How often to reconnect while a chunk or the request exceeds the server's max_payload: a server
whose limit was raised does not tell clients that are connected."""
_MAX_UNSENT_BYTES = 256 * 1024
"""Limit of nats-py's send buffer, which grows when the connection is up but stalled."""


class Publisher:
    """Publishes one session. `offer` accepts chunks from the start; `run` sends them."""

    def __init__(
        self, backlog: Backlog, *, window_chunks: int, rate_limit: TokenBucket | None = None,
        unhurried: bool = False,
    ) -> None:  # fmt: skip
        """Without a `rate_limit`, chunks are published as fast as they are acknowledged.
        `unhurried`: what arrives may wait for the next chunk (see `lull`)."""
        self._unhurried = unhurried
        self.backlog = backlog
        self.spec = spec = backlog.spec
        self._format = spec.audio_format
        self._request = Request(backlog.current, 0, stored=backlog.requested)
        self.more_headers: dict[str, str] = {}
        """Added to the headers of each chunk that is sent from now on."""
        self._audio_subject = audio_subject(spec.key)
        self._rate_limit = rate_limit or TokenBucket(0, rate=0)
        self._window = Window(window_chunks)
        self._trace = PublishTrace(spec)
        self._requests = 1
        self.request_sequence: int | None = None
        """Sequence in STT_SESSIONS of the newest session request, once one is stored."""
        self._audio_backoff = Backoff()
        self._problems: dict[str, str] = {}
        """Why the broker does not store the "request" or the "audio"."""
        self._ask_limit_at: float | None = None
        """When to reconnect to learn the server's limit; None while nothing exceeds it."""
        self._broker: Broker | None = None
        self._inbox = ""
        self._wake = asyncio.Event()
        self._timer = WakeTimer(self._wake)
        self._room = asyncio.Event()
        self._room.set()
        self.finished = asyncio.Event()
        """Set while the request and every chunk up to the end are stored, and after `abandon`."""
        self.ended = asyncio.Event()
        """Set once the last chunk has been offered."""
        if backlog.ended:
            self.ended.set()
        self.offered_position: int | None = None
        """The position after the chunk that was offered last; None before the first one."""
        self.sounding = asyncio.Event()
        """Cleared while the edge is muted, so that no audio comes."""
        self.sounding.set()
        self.opening = False
        """Whether another session is about to go on with this audio, so that it is not finished."""
        self.abandoned = False
        """Whether the rest of the session is not to be sent."""
        self.published = 0
        """Number of chunks sent at least once."""
        self.published_seconds = 0.0
        """Seconds of audio in them."""
        self.acknowledged = 0
        self.resent = 0
        self.refused = 0

    @property
    def key(self) -> SessionKey:
        """The session's key."""
        return self.spec.key

    @property
    def session_id(self) -> str:
        """The ID of the session that is open now."""
        return self.backlog.current.session_id

    @property
    def dropped_frames(self) -> int:
        """Frames dropped because too much audio waited."""
        return self.backlog.dropped_frames

    @property
    def unacknowledged(self) -> int:
        """Number of chunks not known to be stored, including those never sent."""
        return len(self._window) + len(self.backlog)

    @property
    def in_flight(self) -> int:
        """Number of chunks in the window."""
        return len(self._window)

    @property
    def opened(self) -> bool:
        """Whether the request of the current session is stored."""
        return self._request.stored

    @property
    def up_to_date(self) -> bool:
        """Whether the request and every chunk offered so far are stored, or after `abandon`."""
        return self.finished.is_set() or (self.opened and not self.unacknowledged)

    @property
    def problem(self) -> str | None:
        """Why the broker stores nothing, or None."""
        return next(iter(self._problems.values()), None)

    def offer(self, chunk: Chunk) -> None:
        """Accept a chunk for publishing. No chunk may follow one with `end`."""
        if self.abandoned:
            return
        self.backlog.put(chunk)
        self.offered_position = chunk.pos + self.spec.frames(chunk.payload)
        if self.backlog.full:
            self._room.clear()
        if chunk.end:
            self.ended.set()
        self._wake.set()

    def open(self, spec: SessionSpec) -> None:
        """Publish the request of a session that goes on with this audio.

        It is in place of the last request, stored or not: that session has ended.
        """
        if self.abandoned:
            return
        self.opening = False
        self._request = Request(spec, self._requests)
        self._requests += 1
        self._problems.pop("request", None)
        self.finished.clear()
        self._wake.set()

    def remove_rate_limit(self) -> None:
        """Publish from now on as fast as chunks are acknowledged."""
        self._rate_limit = TokenBucket(0, rate=0)
        self._wake.set()

    def abandon(self) -> None:
        """Send nothing more and discard the rest, because the session was ended."""
        self.abandoned = True
        self.sounding.set()
        self._window.clear()
        self._problems.clear()
        self.backlog.discard()
        self.finished.set()
        self.close()
        self._room.set()
        self._wake.set()

    def close(self) -> None:
        """End the trace; nothing more will be sent. Idempotent."""
        self._trace.end(chunks=self.published, resent=self.resent, stored=self.finished.is_set())

    async def wait_for_room(self) -> None:
        """Return when a source that can wait should continue. Cancel-safe."""
        await self._room.wait()

    async def run(self, broker: Broker, *, until_finished: bool = True) -> None:
        """Send what is offered, until all is stored or the connection is closed permanently.

        Without `until_finished`, it goes on for requests that follow. It may be called again with
        another connection. Cancel-safe.
        """
        self._broker = broker
        self._inbox = broker.client.new_inbox()
        self._reconnected()
        broker.on_reconnect.add(self._reconnected)
        replies, lull = None, lull_of(broker.client)
        try:
            replies = await broker.client.listen(f"{self._inbox}.*", self._replied)
            while not (until_finished and self.finished.is_set()) and not broker.client.is_closed:
                self._wake.clear()
                published = self.published
                self._send_due(broker)
                lull.settle(self, calm=self._calm, sent=self.published > published)
                if not self.backlog.full:
                    self._room.set()
                self._check_finished()  # unreadable chunks leave without an acknowledgement
                self._timer.within(_POLL_S if self._busy else _IDLE_POLL_S)
                await self._wake.wait()
        finally:
            lull.settle(self, calm=True, sent=False)
            self._timer.clear()
            broker.on_reconnect.discard(self._reconnected)
            if replies is not None:
                with contextlib.suppress(NatsError):
                    await replies.end()

    @property
    def _busy(self) -> bool:
        """Whether something waits to be sent, or to be stored before anything else is."""
        waits = self.backlog or self._window.resending or self._problems
        return bool(waits) or not self._request.stored

    @property
    def _calm(self) -> bool:
        """Whether nothing is expected but the acknowledgements of some chunks of audio that goes
        on, or nothing at all."""
        goes_on = not self.backlog.ended and len(self._window) <= _CALM_CHUNKS
        return self.finished.is_set() or (self._unhurried and goes_on and not self._busy)

    def _accepts_data(self, broker: Broker) -> bool:
        """Return whether the connection is up and not stalled."""
        return broker.connected and broker.client.pending_data_size < _MAX_UNSENT_BYTES

    def _reconnected(self) -> None:
        assert self._broker is not None
        self._window.resend_all()
        self._audio_backoff.due = self._request.backoff.due = 0
        self._wake.set()

    def _send_due(self, broker: Broker) -> None:
        now = time.monotonic()
        if not broker.connected:
            return
        if "audio" not in self._problems and self._window.overdue(now, _OVERDUE_S):
            reason = overdue(_OVERDUE_S, broker.refusals, self._audio_subject, now)
            self._failed("audio", reason, now)
        if broker.client.pending_data_size >= _MAX_UNSENT_BYTES:
            return
        if not self._request.stored and now >= self._request.backoff.due:
            self._request.backoff.failed(now)  # until it is acknowledged
            self._send_request(broker)
        if "audio" in self._problems and now >= self._audio_backoff.due:
            oldest = self._window.oldest(now)
            if oldest is not None:
                self._audio_backoff.failed(now)
                self._send_again(broker, *oldest)
        # Each chunk of live audio comes alone: nothing is asked twice for it.
        while (
            "audio" not in self._problems
            and (self._window.resending or self.backlog)
            and self._accepts_data(broker)
        ):
            if (again := self._window.next_to_resend(now)) is not None:
                self._send_again(broker, *again)
            elif self._window.full or not self._rate_limit.allows(now):
                break
            elif taken := self.backlog.take():
                self._send_new(broker, *taken, now)
            else:
                break

    def _send_request(self, broker: Broker) -> None:
        try:
            broker.client.post(
                self._request.subject,
                self._request.payload,
                reply=f"{self._inbox}.{self._request.reply}",
                headers={MSG_ID: self._request.session_id, **self._trace.open()},
            )
        except MessageTooLarge as error:
            self._ask_limit(broker)
            self._failed(
                "request",
                f"the session request of {error.size} bytes exceeds the server's max_payload of "
                f"{error.limit}; shorten its keyterms and options or raise max_payload",
            )
        except NatsError as error:
            self._failed("request", str(error))

    def _send_new(self, broker: Broker, seq: int, chunk: Chunk, now: float) -> None:
        seconds = self._format.seconds(self.spec.frames(chunk.payload))
        self._rate_limit.spend(seconds, now)
        self.published += 1
        self.published_seconds += seconds
        self._window.add(seq, chunk, now)
        self._send(broker, seq, chunk)

    def _send_again(self, broker: Broker, seq: int, chunk: Chunk) -> None:
        self.resent += 1
        self._send(broker, seq, chunk)

    def _send(self, broker: Broker, seq: int, chunk: Chunk) -> None:
        header = ChunkHeader(
            self.spec.session_id, seq, chunk.pos, chunk.time_ns, chunk.end, chunk.note
        )
        headers = encode_chunk_headers(header) | self.more_headers
        try:
            broker.client.post(
                self._audio_subject, chunk.payload, reply=f"{self._inbox}.{seq}", headers=headers
            )
        except MessageTooLarge as error:
            self._ask_limit(broker)
            self._failed(
                "audio",
                f"a chunk of {len(chunk.payload)} bytes and its headers exceed the server's "
                f"max_payload of {error.limit}; lower chunk_ms (EDGE_CHUNK_MS) or raise it",
            )
        except NatsError as error:
            self._failed("audio", str(error))

    def _ask_limit(self, broker: Broker) -> None:
        """Reconnect from time to time, because the limit may have been raised."""
        now = time.monotonic()
        if self._ask_limit_at is None:
            self._ask_limit_at = now + _LIMIT_S
        elif now >= self._ask_limit_at:
            self._ask_limit_at = None
            broker.client.abort()

    def _replied(self, subject: bytes, _reply: bytes, headers: bytes | None, data: bytes) -> None:
        token = subject[len(self._inbox) + 1 :].decode()
        request = not token.isdecimal()
        if request and token != self._request.reply:
            return  # of an earlier session, which has ended
        reason = refusal(headers, data, SESSIONS if request else AUDIO)
        if reason is None:
            if request:
                self.request_sequence = stored_sequence(data) or self.request_sequence
            self._stored(None if request else int(token))
        elif request:
            self._failed("request", reason)
        elif int(token) in self._window:
            self._failed("audio", reason)

    def _stored(self, seq: int | None) -> None:
        """Record that the broker has stored chunk `seq`, or the request if it is None."""
        if seq is None:
            self._request.stored = True
            self._recovered("request")
        else:
            removed, stored_before = self._window.acknowledge(seq)
            self.acknowledged += removed
            if stored_before is not None:
                self.backlog.acknowledge(stored_before)
                self._recovered("audio")
        if self.backlog or self._window.resending:
            self._wake.set()
        self._check_finished()

    def _check_finished(self) -> None:
        if self.finished.is_set() or self.opening:
            return
        if self.backlog.ended and self._request.stored and not (self._window or self.backlog):
            self.backlog.discard()
            self.finished.set()
            self.close()
            self._wake.set()

    def _failed(self, what: str, reason: str, now: float | None = None) -> None:
        """Record why the request or the audio is not stored, and log a reason that is new."""
        self.refused += 1
        self._wake.set()  # to set the timer for the next attempt
        known = reason in self._problems.values()
        if what not in self._problems and what == "audio":
            self._audio_backoff.failed(now or time.monotonic())
        self._problems[what] = reason
        if not known:
            log.warning("%s", reason, extra=fields(session=str(self.spec.key), refused=what))

    def _recovered(self, what: str) -> None:
        if self._problems.pop(what, None) is None:
            return
        if what == "audio":
            self._window.resend_all()  # the broker may have refused any of them
        if not self._problems:
            log.info("the broker accepts data again", extra=fields(session=str(self.spec.key)))
