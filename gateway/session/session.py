"""A client's session: its audio is published as an edge does, its events are read back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import uuid4

from edge_capture.chunks import Chunk
from edge_capture.delivery.publisher import Publisher
from edge_capture.succession import Stopped, Succession, Successor, Transcribed
from natterjack.broker.connection import Broker
from natterjack.broker.control import control_session
from natterjack.control import ControlReply, ControlRequest
from natterjack.decoding import UnknownEvent
from natterjack.errors import BrokerError
from natterjack.events import Event, FinalEvent, InterimEvent, StatusEvent
from natterjack.notices import gap_note
from natterjack.subjects import SessionKey
from natterjack.telemetry.log import fields

from ..errors import SessionEnded
from ..metrics import GatewayMetrics
from .clock import on_client_clock
from .framing import Framer
from .reader import EventReader

log = logging.getLogger(__name__)

SessionEvent = Event | UnknownEvent
"""An event that a session yields."""
DELIVERED = "Gateway-Delivered"
"""Header of chunks of a client that may come back: `<session_id>:<sequence>` of the last durable
event that it had received when the chunk was sent."""
_NS = 1_000_000_000
_FOREVER_S = 3600.0
_FINALIZE_S = 5.0
"""How long `finalize` waits for the worker and its provider."""
_ASK_S, _ASK_AGAIN_S = 2.0, 0.05
_WAIT_S = 2.0
"""How long a worker waits for the finals."""
_QUIET_S = 1.0
"""After so long without a final, nothing of what was finalized is known to have text."""
_TOLERANCE_S = 0.01
"""How far before the position of `finalize` its last final may end."""


class ClientSession:
    """One client's session and its successors, on the client's clock.

    One task sends, another iterates. Events come on while somebody iterates; until then they are in
    the broker.
    """

    def __init__(
        self,
        broker: Broker,
        publisher: Publisher,
        reader: EventReader,
        metrics: GatewayMetrics,
        *,
        chunk_ms: int,
        interims: bool,
        origin: int = 0,
        delivered: int = -1,
        repeats: bool = False,
    ) -> None:
        """`origin` is the position of the client's first frame, and `delivered` the number of the
        last durable event that it has received on an earlier connection. `repeats`: it may come
        back after this one."""
        self.spec = publisher.backlog.current
        """The request of the current session."""
        self.publisher = publisher
        self._broker = broker
        self._reader = reader
        self._metrics = metrics
        self._format = self.spec.audio_format
        self._rate = self.spec.sample_rate
        self._bytes_per_second = self._format.frame_bytes * self._rate
        self._framer = Framer(self._format, chunk_ms)
        self._interims = interims
        self._succession = Succession(0, self.spec.sample_rate, live=True)
        self._successor_at: float | None = None
        self._successor_from = 0
        self._sequence = -1
        """The number of the last durable event of the current session that was read."""
        self._delivered = delivered
        """The number of the last one that an earlier connection has delivered."""
        self.repeats = repeats
        """Whether the client may come back after its connection is lost."""
        self._segment = -1
        self._epoch = 0
        self._origin = origin
        """Frames of the session before the client's first one."""
        self._offered = origin
        """Frames of the session that were offered to the publisher, the earlier ones included."""
        self._final_seconds = 0.0
        """End of the last final, on the session's clock."""
        self._interim_seconds = 0.0
        self._final = asyncio.Event()
        """Set with each final."""
        self._waits_since = 0.0
        self._note = ""
        """The note of the next chunk, if a gap is before it."""
        self.ending = False
        """Whether no more audio follows."""
        self.closing: StatusEvent | None = None
        """The closing event of the last session, once nothing follows."""
        self.complete = False
        """Whether all of the audio is transcribed, or part of a gap."""

    # ---- what a door asks ------------------------------------------------------------------------

    @property
    def key(self) -> SessionKey:
        """The session's key."""
        return self.spec.key

    @property
    def id(self) -> str:
        """The ID of the first session, which chunks have."""
        return self.spec.audio_session_id

    @property
    def received_seconds(self) -> float:
        """Audio that the client has sent on this connection."""
        frames = self._offered - self._origin + self._framer.pending_frames
        return frames / self._format.sample_rate

    @property
    def final_seconds(self) -> float:
        """End of the last final that was yielded, on the client's clock."""
        return max(0.0, self._final_seconds - self._origin / self._format.sample_rate)

    @property
    def over(self) -> bool:
        """Whether nothing follows: the session and its successors have ended."""
        return self.closing is not None

    @property
    def has_room(self) -> bool:
        """Whether `send` returns at once."""
        return not self.publisher.backlog.full

    # ---- audio -----------------------------------------------------------------------------------

    def feed(self, audio: bytes) -> None:
        """Take audio without waiting. Raises SessionEnded."""
        if self.closing is not None:
            raise SessionEnded(self.closing.reason or self.closing.state)
        if self.ending:
            return
        self._metrics.audio_seconds.inc(len(audio) / self._bytes_per_second)
        for payload in self._framer.feed(audio):
            self._offer(payload)

    async def send(self, audio: bytes) -> None:
        """Take audio, in the encoding and with the channels of the opening; wait while much of it
        is not stored by the broker. Cancel-safe. Raises SessionEnded."""
        self.feed(audio)
        if not self.has_room:
            await self.publisher.wait_for_room()

    def skip(self, frames: int, cause: str) -> None:
        """Leave out frames that were lost before they came here, for one of GAP_CAUSES: a gap of
        the session, during which its clock goes on."""
        if self.closing is None and not self.ending:
            self.flush()
            self._offered += frames
            self._note = gap_note(cause)

    def flush(self, older_than_s: float = 0.0) -> None:
        """Publish what waits for a whole chunk, if it has waited for so long."""
        if not self._framer.pending_frames:
            self._waits_since = 0.0
        elif not older_than_s or (
            self._waits_since and time.monotonic() - self._waits_since >= older_than_s
        ):
            for payload in self._framer.flush():
                self._offer(payload)
            self._waits_since = 0.0
        elif not self._waits_since:
            self._waits_since = time.monotonic()

    async def finalize(self) -> bool:
        """Make everything sent so far final. Return once its finals were yielded, or after 5 s;
        somebody has to iterate. Returns whether all of it is final, as far as is known."""
        self.flush()
        target = self._offered / self._rate
        if target <= self._final_seconds + 1e-6:
            return True
        try:
            async with asyncio.timeout(_FINALIZE_S):
                reply = await self._ask_to_finalize(target)
                if reply is None:
                    return False
                if reply.final_position is None or reply.final_position < target - _TOLERANCE_S:
                    return await self._await_final(target)
                await self._reader.caught_up()
                return True
        except TimeoutError:
            return False

    def mark_left(self) -> None:
        """Publish a last chunk of one silent frame. It tells the gateway to which the client comes
        back what the client has received."""
        self.feed(self._format.silence(1))
        self.flush()

    async def end(self) -> None:
        """Say that no more audio follows. Events go on until the last one. Idempotent."""
        if self.ending:
            return
        self.flush()
        self.ending = True
        self.publisher.offer(Chunk(self._offered, time.time_ns(), b"", True, self._note))

    async def stop(self, reason: str) -> None:
        """Ask the worker to end the session where its audio is now."""
        await self.control(ControlRequest(command="stop", reason=reason[:200]))

    async def abandon(self, reason: str = "the client is gone") -> None:
        """End the session at once and send nothing more of it."""
        self.ending = True
        self.publisher.abandon()
        try:
            await self.stop(reason)
        except BrokerError as error:
            log.info("session not stopped: %s", error, extra=self._fields())

    async def control(self, request: ControlRequest, timeout: float = _ASK_S) -> ControlReply:
        """Send a control request to the session's worker. Raises NotHeld, BrokerError."""
        return await control_session(self._broker, self.key, request, timeout=timeout)

    # ---- events ----------------------------------------------------------------------------------

    async def next(
        self, timeout: float = _FOREVER_S, *, handled: bool = True
    ) -> SessionEvent | None:
        """Return the next event, or None after `timeout` seconds, and at once when the session is
        `over`. For one task. Cancel-safe.

        `handled`: the client has received what was returned before, so that it is not to get it
        again if its connection is lost now.
        """
        if handled and self.repeats and self._sequence >= 0:
            self.publisher.more_headers[DELIVERED] = f"{self.spec.session_id}:{self._sequence}"
        deadline = time.monotonic() + timeout
        while self.closing is None:
            now = time.monotonic()
            if self._successor_at is not None and now >= self._successor_at:
                self._open_successor()
            until = min(deadline, self._successor_at or deadline)
            event = await self._reader.next(max(0.0, until - now))
            if event is not None and self._is_next(event):
                return on_client_clock(event, self._origin / self._rate)
            if event is None and time.monotonic() >= deadline:
                return None
        return None

    async def __aiter__(self) -> AsyncIterator[SessionEvent]:
        while not self.over:
            event = await self.next()
            if event is not None:
                yield event

    def _is_next(self, event: SessionEvent) -> bool:
        """Take note of an event. Returns whether it is one to yield."""
        if event.session_id != self.spec.session_id:
            return False
        if isinstance(event, InterimEvent):
            if event.epoch < self._epoch or event.segment <= self._segment:
                return False
            if event.text:
                self._interim_seconds = event.end
            return self._interims
        if event.sequence is None or event.sequence <= self._sequence:
            return False
        self._sequence, self._epoch = event.sequence, event.epoch
        if isinstance(event, FinalEvent):
            self._segment = event.segment
            self._final_seconds = max(self._final_seconds, event.end)
            self._final.set()
        elif isinstance(event, StatusEvent) and event.closing:
            return self._ended(event)
        return event.sequence > self._delivered

    # ---- one session after another ---------------------------------------------------------------

    def _ended(self, event: StatusEvent) -> bool:
        """Do what follows the end of the current session. Returns whether it is the last one."""
        step = self._succession.after(event, self.publisher.backlog.end_position)
        if isinstance(step, Successor) and not self._exhausted(event) and not _futile(event, step):
            self._successor_at = time.monotonic() + step.wait_s
            self._successor_from = min(step.position, self._offered)
            self.publisher.opening = True
            return False
        self.closing = event
        self._final.set()
        self.complete = isinstance(step, Transcribed)
        if not self.complete:
            if isinstance(step, Stopped) or not self.publisher.finished.is_set():
                self.publisher.abandon()
            log.warning("session ended before its audio", extra=self._fields(reason=event.reason))
        return True

    @staticmethod
    def _exhausted(event: StatusEvent) -> bool:
        """Whether a budget has ended the session: the tenant's, which would end the next one, too,
        or its own limit, beyond which it has no successor."""
        return event.reason == "budget"

    def _open_successor(self) -> None:
        """Open the session that transcribes the rest of the audio."""
        ended, self._successor_at = self.spec, None
        self.spec = ended.model_copy(
            update={
                "session_id": ended.successor or str(uuid4()),
                "continues": ended.session_id,
                "audio_of": ended.audio_session_id,
                "start_position": self._successor_from,
                "successor": str(uuid4()),
                "opened_at": datetime.now(UTC),
            }
        )
        self._sequence = self._delivered = self._segment = -1
        self._epoch = 0
        self.publisher.open(self.spec)
        log.info(
            "session continues in another one",
            extra=self._fields(ended=ended.session_id, position=self._successor_from),
        )

    # ---- finalizing ------------------------------------------------------------------------------

    async def _ask_to_finalize(self, target: float) -> ControlReply | None:
        """Ask until the provider has received everything up to `target` seconds. Returns None if it
        cannot finalize."""
        request = ControlRequest(command="finalize", position=target, wait_seconds=_WAIT_S)
        while not self.over:
            try:
                reply = await self.control(request, _WAIT_S + _ASK_S)
            except BrokerError:  # no worker has the session now
                await asyncio.sleep(_ASK_AGAIN_S)
                continue
            if reply.ok and (reply.position or 0.0) + 1e-6 >= target:
                return reply
            if not reply.ok and not reply.supports.finalize:
                return None
            if target <= self._final_seconds + 1e-6:
                return reply
            await asyncio.sleep(_ASK_AGAIN_S)
        return None

    async def _await_final(self, target: float) -> bool:
        """Return once the finals up to `target` seconds were yielded, or none has come for a while:
        a worker of an earlier release does not say when everything is final."""
        while not self.over and self._final_seconds < target - _TOLERANCE_S:
            self._final.clear()
            text_is_open = self._interim_seconds > self._final_seconds
            try:
                async with asyncio.timeout(_QUIET_S):
                    await self._final.wait()
            except TimeoutError:
                return not text_is_open
        return True

    # ---- parts -----------------------------------------------------------------------------------

    def _offer(self, payload: bytes) -> None:
        frames = self._format.frames(len(payload))
        position = self._offered
        self._offered += frames
        time_ns = time.time_ns() - frames * _NS // self._rate
        note, self._note = self._note, ""
        self.publisher.offer(Chunk(position, time_ns, payload, False, note))

    def _fields(self, **values: object) -> dict[str, dict[str, object]]:
        return fields(session=str(self.key), session_id=self.spec.session_id, **values)


def _futile(event: StatusEvent, successor: Successor) -> bool:
    """Whether several sessions in a row have failed without progress: every provider refuses them,
    or none was there for as long as workers wait. An edge would try again later; a client is told,
    as by the service that it believes to speak to."""
    return event.state == "failed" and successor.wait_s > 0
