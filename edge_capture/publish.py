"""Publishing one session: its request and its chunks, each until the broker has stored it.

Chunks wait in the backlog, also for as long as the allowance is spent; entering the window they
get their `Audio-Seq` and are published, and they leave it when their acknowledgement comes.
Acknowledgements come to one inbox, whose last subject token is the number, so that a chunk costs no
task, future or timer. Whatever is in the window is published again, in order, after a reconnect;
the stream's duplicate window drops what it has. While the broker refuses chunks or is mute, nothing
but the oldest is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from collections import deque

from nats.errors import Error as NatsError

from natterjack.audio import MSG_ID, ChunkHeader, encode_chunk_headers
from natterjack.broker.connection import Broker
from natterjack.subjects import audio_subject, session_subject
from natterjack.telemetry.log import fields

from .allowance import Allowance
from .backlog import Backlog
from .chunks import Chunk
from .tracing import PublishTrace

log = logging.getLogger(__name__)

_OVERDUE_S = 5.0
_LOOK_S = 0.1
"""Between two looks while something cannot be sent."""
_CALM_LOOK_S = 1.0
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.25, 5.0
_CALM_S = 10.0
"""Trouble that comes back sooner is the same trouble: its backoff goes on."""
_MAX_UNSENT_BYTES = 256 * 1024
"""In nats-py's own buffer; it grows when the connection is up but takes nothing."""
_HEADER_BYTES = 512  # more than a chunk's headers ever have
_NO_RESPONDERS = "NATS/1.0 503"
_OPEN = "open"  # the acknowledgement token of the session request

NO_STREAM = "waiting for a worker to make the streams"


class Backoff:
    """Delays that double, with jitter, until all has been well for a while."""

    def __init__(self) -> None:
        self._delay = _FIRST_DELAY_S
        self._last = 0.0
        self.due = 0.0
        """When to try again, on the monotonic clock; 0: at once."""

    def failed(self, now: float) -> None:
        """Move `due` on."""
        if now - self._last > _CALM_S:
            self._delay = _FIRST_DELAY_S
        self._last = now
        self.due = now + self._delay * random.uniform(0.5, 1)  # noqa: S311 - jitter
        self._delay = min(self._delay * 2, _LONGEST_DELAY_S)


class Publisher:
    """One session's way to the broker. `offer` it chunks from the start; `run` sends them."""

    def __init__(
        self, backlog: Backlog, *, window_chunks: int, allowance: Allowance | None = None
    ) -> None:
        """Without an `allowance` new chunks are published as fast as they are acknowledged."""
        self.backlog = backlog
        self.spec = spec = backlog.spec
        self._format = spec.audio_format
        self._request = spec.model_dump_json(exclude_none=True).encode()
        self._audio_subject = audio_subject(spec.key)
        self._window_chunks = window_chunks
        self._allowance = allowance or Allowance(0, rate=0)  # which has no limit
        self._window: dict[int, tuple[Chunk, float]] = {}
        """Sequence number: chunk, and when it was last sent (monotonic). In order."""
        self._again: deque[int] = deque()
        """Numbers in the window that are to be sent again before anything new."""
        self._after_last = 0
        """The number after the last that was sent."""
        self._trace = PublishTrace(spec)
        self._opened = False
        self._open_backoff = Backoff()
        self._backoff = Backoff()
        self._troubles: dict[str, str] = {}
        self._broker: Broker | None = None
        self._inbox = ""
        self._wake = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._room = asyncio.Event()
        self._room.set()
        self.finished = asyncio.Event()
        """Set when the request and every chunk up to the end are stored, or nothing more is to be
        sent."""
        self.abandoned = False
        """Whether the rest is not to be sent."""
        self.published = 0
        """Chunks sent at least once."""
        self.acknowledged = 0
        self.resent = 0
        self.refused = 0

    @property
    def lost_frames(self) -> int:
        """Frames that were dropped because too much sound waited."""
        return self.backlog.lost_frames

    @property
    def unacknowledged(self) -> int:
        """Chunks that are not known to be stored, those that were never sent included."""
        return len(self._window) + len(self.backlog)

    @property
    def in_flight(self) -> int:
        """Chunks in the window."""
        return len(self._window)

    @property
    def opened(self) -> bool:
        """Whether the session request is stored."""
        return self._opened

    @property
    def trouble(self) -> str | None:
        """Why the broker takes nothing, or None."""
        return next(iter(self._troubles.values()), None)

    def offer(self, chunk: Chunk) -> None:
        """Take a chunk to be published; none may follow one with `end`."""
        if self.abandoned:
            return
        self.backlog.put(chunk)
        if self.backlog.full:
            self._room.clear()
        self._wake.set()

    def release(self) -> None:
        """Publish new chunks from now on as fast as they are acknowledged."""
        self._allowance = Allowance(0, rate=0)
        self._wake.set()

    def abandon(self) -> None:
        """Send nothing more, and keep nothing of it: the session was ended, and nobody reads it."""
        self.abandoned = True
        self._window.clear()
        self._again.clear()
        self._troubles.clear()
        self.backlog.discard()
        self.finished.set()
        self.close()
        self._room.set()
        self._wake.set()

    def close(self) -> None:
        """Nothing more will be sent. Idempotent."""
        self._trace.end(chunks=self.published, resent=self.resent, stored=self.finished.is_set())

    async def room(self) -> None:
        """Return when a source that can wait should go on. Cancel-safe."""
        await self._room.wait()

    async def run(self, broker: Broker) -> None:
        """Send what is offered, until all is stored or the connection is closed for good.

        May be called again with another connection. Cancel-safe.
        """
        self._broker = broker
        self._inbox = broker.client.new_inbox()
        self._reconnected()
        broker.on_reconnect.add(self._reconnected)
        arrivals = None
        try:
            arrivals = await broker.client.listen(f"{self._inbox}.*", self._answered)
            while not (self.finished.is_set() or broker.client.is_closed):
                self._wake.clear()
                self._send_due(broker)
                if not self.backlog.full:
                    self._room.set()
                self._check_finished()  # what cannot be read is not sent, and not acknowledged
                self._set_alarm()
                await self._wake.wait()
        finally:
            self._clear_alarm()
            broker.on_reconnect.discard(self._reconnected)
            if arrivals is not None:
                with contextlib.suppress(NatsError):
                    await arrivals.end()

    def _set_alarm(self) -> None:
        """Have `run` woken when time alone may make something due. A timer that is early enough is
        left as it is."""
        if self.backlog or self._again or self._troubles or not self._opened:
            delay = _LOOK_S
        else:
            delay = _CALM_LOOK_S
        due = asyncio.get_running_loop().time() + delay
        if self._alarm is None or self._alarm.when() > due:
            self._clear_alarm()
            self._alarm = asyncio.get_running_loop().call_at(due, self._alarmed)

    def _alarmed(self) -> None:
        self._alarm = None
        self._wake.set()

    def _clear_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _flows(self, broker: Broker) -> bool:
        """Whether the connection takes what is published now."""
        return broker.connected and broker.client.pending_data_size < _MAX_UNSENT_BYTES

    def _reconnected(self) -> None:
        assert self._broker is not None
        self._again = deque(self._window)
        self._backoff.due = self._open_backoff.due = 0
        self._wake.set()

    def _send_due(self, broker: Broker) -> None:
        now = time.monotonic()
        if not broker.connected:
            return
        self._check_overdue(now)
        if not self._flows(broker):
            return
        if not self._opened and now >= self._open_backoff.due:
            self._open_backoff.failed(now)  # as long as no acknowledgement says otherwise
            self._send_request(broker)
        if "audio" in self._troubles and now >= self._backoff.due and self._window:
            self._backoff.failed(now)
            self._send_again(broker, next(iter(self._window)), now)
        while self._flows(broker) and "audio" not in self._troubles:
            if self._again:
                self._send_again(broker, self._again.popleft(), now)
            elif (
                len(self._window) < self._window_chunks
                and self._allowance.allows(now)
                and (taken := self.backlog.take())
            ):
                self._send_next(broker, *taken, now)
            else:
                break

    def _check_overdue(self, now: float) -> None:
        if not self._window or self._again or "audio" in self._troubles:
            return
        _, sent = next(iter(self._window.values()))
        if now - sent > _OVERDUE_S:
            self._failed("audio", f"no acknowledgement for {_OVERDUE_S:.0f} s", now)

    def _send_request(self, broker: Broker) -> None:
        broker.client.post(
            session_subject(self.spec.key),
            self._request,
            reply=f"{self._inbox}.{_OPEN}",
            headers={MSG_ID: self.spec.session_id, **self._trace.open()},
        )

    def _send_next(self, broker: Broker, seq: int, chunk: Chunk, now: float) -> None:
        self._allowance.spend(self._format.seconds(self._format.frames(len(chunk.payload))), now)
        self._after_last = seq + 1
        self.published += 1
        self._window[seq] = (chunk, now)
        self._send(broker, seq, chunk)

    def _send_again(self, broker: Broker, seq: int, now: float) -> None:
        entry = self._window.get(seq)
        if entry is None:
            return  # acknowledged meanwhile
        self._window[seq] = (entry[0], now)
        self.resent += 1
        self._send(broker, seq, entry[0])

    def _send(self, broker: Broker, seq: int, chunk: Chunk) -> None:
        most = broker.client.max_payload
        if len(chunk.payload) + _HEADER_BYTES > most:
            # The server would close the connection.
            self._failed(
                "audio",
                f"a chunk of {len(chunk.payload)} bytes is more than the server's max_payload "
                f"of {most} allows; lower EDGE_CHUNK_MS or raise max_payload",
            )
            return
        header = ChunkHeader(self.spec.session_id, seq, chunk.pos, chunk.time_ns, chunk.end)
        try:
            broker.client.post(
                self._audio_subject,
                chunk.payload,
                reply=f"{self._inbox}.{seq}",
                headers=encode_chunk_headers(header),
            )
        except NatsError as error:
            self._failed("audio", str(error))

    def _answered(self, subject: bytes, _reply: bytes, headers: bytes | None, data: bytes) -> None:
        token = subject[len(self._inbox) + 1 :].decode()
        reason = _refusal(headers, data)
        if reason is None:
            self._stored(token)
        elif token == _OPEN:
            self._failed("request", reason)
        elif int(token) in self._window:
            self._failed("audio", reason)

    def _stored(self, token: str) -> None:
        if token == _OPEN:
            self._opened = True
            self._recovered("request")
        else:
            seq = int(token)
            oldest = next(iter(self._window), None)
            if self._window.pop(seq, None) is not None:
                self.acknowledged += 1
            if seq == oldest:
                self.backlog.settled(next(iter(self._window), self._after_last))
                self._recovered("audio")
        if self.backlog or self._again:
            self._wake.set()
        self._check_finished()

    def _check_finished(self) -> None:
        if self.backlog.ended and self._opened and not (self._window or self.backlog):
            self.backlog.discard()
            self.finished.set()
            self.close()
            self._wake.set()

    def _failed(self, what: str, reason: str, now: float | None = None) -> None:
        """The broker refuses the request or a chunk: say so once, and try again by and by."""
        self.refused += 1
        self._wake.set()  # there is a time to try again
        known = reason in self._troubles.values()
        if what not in self._troubles and what == "audio":
            self._backoff.failed(now or time.monotonic())
        self._troubles[what] = reason
        if not known:
            log.warning("%s", reason, extra=fields(session=str(self.spec.key), refused=what))

    def _recovered(self, what: str) -> None:
        if self._troubles.pop(what, None) is None:
            return
        if what == "audio":
            self._again = deque(self._window)  # perhaps sent while it refused them
        if not self._troubles:
            log.info("the broker takes it now", extra=fields(session=str(self.spec.key)))


def _refusal(headers: bytes | None, data: bytes) -> str | None:
    """Why JetStream has not stored what this answers, or None if it has."""
    if not data:
        status = (headers or b"").partition(b"\r\n")[0].decode(errors="replace")
        return NO_STREAM if status.startswith(_NO_RESPONDERS) else f"unexpected answer {status}"
    if b'"error"' not in data:
        return None
    try:
        error = json.loads(data)["error"]
        return f"the broker refuses it: {error['description']} ({error['err_code']})"
    except (ValueError, KeyError, TypeError):
        return f"unexpected answer {data[:100]!r}"
