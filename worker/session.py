"""One session in the worker, from taking it over to giving it up.

    TAKING_OVER → WAITING → CONNECTING → STREAMING → FINISHING → CLOSED
                     ↑                      │  │  ↘
                     └──── RECOVERING ←─────┘  │    FAILED
                                               └→ HANDED_OVER, or LOST

Whatever goes wrong with a provider, a socket or a worker is cured by one act: `_resume` reads
from the broker where finals end, and the audio is opened again there.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import random
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.kv import KeyValue

from natterjack import streams
from natterjack.connection import Broker
from natterjack.events import (
    Account,
    FinalEvent,
    InterimEvent,
    StatusEvent,
    StatusState,
    TurnEvent,
    Word,
)
from natterjack.events import Gap as GapRecord
from natterjack.log import fields
from natterjack.spec import SessionSpec
from natterjack.subjects import session_subject

from . import convert
from .checkpoint import Checkpoint, CheckpointStore
from .errors import Dropped, LeaseLost, PluginError, ProviderError, RequestRefused, Stalled
from .feed import Chunk, Feed, Gap, Mark
from .metrics import Metrics
from .plugins import Providers
from .provider import (
    Final,
    Interim,
    Notice,
    Provider,
    ProviderEvent,
    ProviderStream,
    ProviderWord,
    StreamRequest,
    Turn,
)
from .publish import Publisher
from .settings import WorkerSettings
from .stored import StreamStore
from .timeline import Timeline
from .turns import Turns

log = logging.getLogger(__name__)

_CHECKPOINT_SECONDS = 5.0
"""A checkpoint is written at each final, and after so much finalised silence."""
_MARK_SECONDS = 10.0
"""How often the live head's place in the stream is learnt: bounds what is read again."""
_BURST_SECONDS = 0.5
"""Audio that may go out at once before the catch-up rate holds."""
_MUTE_AUDIO_SECONDS = 3.0
"""A provider is mute only if it owes an answer to at least so much audio."""
_MAX_CRASHES = 10
"""So many workers that held a session, died, and had brought it no further, are its own fault."""


class State(enum.Enum):
    TAKING_OVER = "taking over"  # checkpoint and last events are read, the fence is set
    WAITING = "waiting"  # for the first audio, or the next after a long pause
    CONNECTING = "connecting"  # a provider stream is being opened
    STREAMING = "streaming"  # audio goes out, transcripts come in
    FINISHING = "finishing"  # no audio follows; finals still due are awaited
    RECOVERING = "recovering"  # the provider failed; waiting to try again
    CLOSED = "closed"  # ended well
    FAILED = "failed"  # ended, nobody can serve it
    HANDED_OVER = "handed over"  # given back to the queue
    LOST = "lost"  # another worker has it


_NEXT: dict[State, set[State]] = {
    State.TAKING_OVER: {State.WAITING},
    State.WAITING: {State.CONNECTING, State.RECOVERING},
    State.CONNECTING: {State.STREAMING, State.RECOVERING},
    State.STREAMING: {State.FINISHING, State.RECOVERING, State.WAITING},
    State.FINISHING: {State.RECOVERING, State.WAITING},
    State.RECOVERING: {State.WAITING, State.RECOVERING},
}
_ENDS = {State.CLOSED, State.FAILED, State.HANDED_OVER, State.LOST}


class Busy(Exception):
    """An earlier session still has the key; try again later."""


class _Finished(Exception):
    """The session has been closed before: nothing is left but to ack."""


class _HandOver(Exception):
    """The worker drains: give the session back."""


class _Failed(Exception):
    """No provider can serve the session; the message is the reason."""


@dataclass(frozen=True)
class Services:
    """What all sessions of a worker share."""

    broker: Broker
    js: JetStreamContext
    store: StreamStore
    bucket: KeyValue
    providers: Providers
    settings: WorkerSettings
    metrics: Metrics
    lease_seconds: float
    """After so long without a heartbeat the queue gives a session to another worker."""


class _Run:
    """One provider stream of a session, and what its watchdog must know."""

    def __init__(self, provider: Provider, stream: ProviderStream, timeline: Timeline) -> None:
        self.provider = provider
        self.stream = stream
        self.timeline = timeline
        self.opened = time.monotonic()
        self.send_started: float | None = None
        self.unanswered_since: float | None = None
        self.answered_audio = 0.0
        """Seconds sent when the provider last said something."""
        self.finish_heard: float | None = None
        self.handling = False
        """An event of the provider is being published: its silence meanwhile is ours."""
        self.trouble: Exception | None = None
        self.alarm = asyncio.Event()
        self.sent_counted = 0.0

    def heard(self) -> None:
        """The provider said something."""
        self.unanswered_since = None
        self.answered_audio = self.timeline.sent_seconds
        if self.finish_heard is not None:
            self.finish_heard = time.monotonic()

    def fail(self, error: Exception) -> None:
        """End this stream with `error`."""
        self.trouble = self.trouble or error
        self.alarm.set()


class Session:
    """A session under a lease. `run` returns when it is over, and says how."""

    def __init__(
        self,
        services: Services,
        spec: SessionSpec,
        epoch: int,
        request_sequence: int,
        *,
        problem: str | None = None,
    ) -> None:
        """`epoch` is the delivery count of the request, `request_sequence` its place in the queue's
        stream. `problem` is what makes the request unusable: the session then only fails."""
        self._services = services
        self._settings = services.settings
        self._metrics = services.metrics
        self.spec = spec
        self.key = spec.key
        self.id = spec.session_id
        self.epoch = epoch
        self.state = State.TAKING_OVER
        self.since = time.monotonic()
        self._request_sequence = request_sequence
        self._problem = problem
        self._rate = spec.sample_rate
        self._publisher = Publisher(services.broker, services.js, self.key, self.id, epoch)
        self._checkpoints = CheckpointStore(services.broker, services.bucket, self.key)
        self._checkpoint = Checkpoint(
            session_id=self.id,
            epoch=epoch,
            worker=self._settings.name,
            state=self.state.value,
            opened_at=spec.opened_at,
        )
        self.position = 0
        """Frames: all before it is final."""
        self._segment = 0
        self._turns = Turns()
        self._gaps: list[GapRecord] = []
        self._bad: Counter[str] = Counter()
        self._recoveries: Counter[str] = Counter()
        self._sent_before = 0.0
        self._connected_before = 0.0
        self._captured = 0
        self._feed: Feed | None = None
        self._run: _Run | None = None
        self._provider_index = 0
        self._failing_since: float | None = None
        self._end_reason: str | None = None
        self._marked_at = 0.0
        self._checkpointed = 0
        self._unsure = False
        self._drain_deadline: float | None = None
        self._drain = asyncio.Event()

    # ---- states -----------------------------------------------------------------------------

    def _go(self, state: State, **extra: Any) -> None:
        if state not in _ENDS and state not in _NEXT.get(self.state, set()):
            raise RuntimeError(f"session {self.key}: no way from {self.state} to {state}")
        if self.state in _ENDS:
            raise RuntimeError(f"session {self.key} is {self.state} already")
        self.state = state
        log.info(
            "session %s",
            state.value,
            extra=fields(session=str(self.key), epoch=self.epoch, **extra),
        )

    async def run(self) -> State:
        """The session's life under this lease. The caller acks after CLOSED or FAILED, naks after
        HANDED_OVER, and does neither after LOST. Raises Busy before anything was done."""
        try:
            try:
                await self._take_over()
                await self._serve()
                await self._end("closed", self._end_reason or "end of audio")
                self._go(State.CLOSED, reason=self._end_reason)
            except _Failed as failure:
                await self._resume()
                await self._end("failed", str(failure))
                self._go(State.FAILED, reason=str(failure))
            except _HandOver:
                await self._resume()
                await self._status("handed_over", "drain")
                await self._write_checkpoint(state=State.HANDED_OVER)
                self._go(State.HANDED_OVER)
        except _Finished:
            self._go(State.CLOSED, reason="closed before")
        except LeaseLost as lost:
            self._metrics.leases_lost.inc()
            if self._publisher.fenced:
                self._metrics.fenced.inc()
            self._go(State.LOST, reason=str(lost))
        return self.state

    # ---- taking over ------------------------------------------------------------------------

    async def _take_over(self) -> None:
        """Become the session's one holder, then learn where to resume."""
        stored = await self._checkpoints.read()
        if stored is not None:
            if stored.session_id != self.id:
                if not stored.closed:
                    await self._wait_for_key()
            elif stored.closed:
                raise _Finished
            elif stored.epoch >= self.epoch:
                raise LeaseLost(f"{stored.worker} has epoch {stored.epoch}")
            else:
                self._adopt(stored)
        await self._write_checkpoint()
        before = await self._publisher.establish(lambda n: self._status_event(n, "assigned"))
        if isinstance(before, StatusEvent) and before.closing:
            await self._write_checkpoint(closed=True)
            raise _Finished
        if self._problem is not None:
            raise _Failed(self._problem)
        await self._resume(fresh=before is None)

    async def _wait_for_key(self) -> None:
        """Raise Busy unless the session that has the key is dead: its request has left the queue,
        so that ours is now the oldest for the key."""
        try:
            oldest = await self._services.js.get_msg(
                streams.SESSIONS, seq=1, subject=session_subject(self.key), next=True
            )
        except (NatsError, TimeoutError):
            raise Busy from None
        if oldest.seq != self._request_sequence:
            raise Busy

    def _adopt(self, stored: Checkpoint) -> None:
        """Go on from what another worker, or an earlier try, has left."""
        crashes = 0 if stored.state == State.HANDED_OVER.value else stored.crashes + 1
        if crashes > _MAX_CRASHES:
            self._problem = f"{crashes} workers in a row died with it before its next final"
        self._checkpoint = stored.model_copy(
            update={"epoch": self.epoch, "worker": self._settings.name, "crashes": crashes}
        )
        self.position = self._checkpointed = stored.position
        account = stored.account
        self._gaps = list(account.gaps)
        self._bad = Counter(account.bad_chunks)
        self._recoveries = Counter(account.recoveries)
        self._sent_before = account.sent_seconds
        self._connected_before = account.connected_seconds
        self._captured = round(account.captured_seconds * self._rate)

    async def _resume(self, *, fresh: bool = False) -> None:
        """Learn from the broker where finals end. An event that was being published when its task
        was cancelled may be stored or not: the broker knows."""
        if fresh:
            return
        await self._publisher.read_last()
        final = await self._publisher.last_final()
        if final is not None:
            self._segment = final.segment + 1
            self.position = max(self.position, round(final.end * self._rate))
        self._turns = Turns(await self._publisher.last_turn())

    # ---- serving ----------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Stream until the audio has ended and every final is out."""
        delay = self._settings.backoff_seconds
        while True:
            before = self.position
            try:
                if await self._stream_once():
                    return
                continue  # parked: audio may come later
            except ProviderError as error:
                fault = error
            except PluginError as error:
                fault = RequestRefused("?", "request", str(error))
            await self._resume()
            if self.position > before:
                delay, self._failing_since = self._settings.backoff_seconds, None
            await self._recover(fault, delay)
            delay = min(delay * 2, self._settings.max_backoff_seconds)

    async def _recover(self, fault: ProviderError, delay: float) -> None:
        """Decide on another try after a fault, and wait for it. Raises _Failed."""
        self._metrics.provider_errors.labels(fault.provider, fault.cause).inc()
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        names = self._provider_names()
        if not fault.retryable:
            self._provider_index += 1
            if self._provider_index >= len(names):
                raise _Failed(str(fault))
            delay = 0.0
        elif now - self._failing_since > self._settings.recovery_seconds:
            raise _Failed(f"no provider for {self._settings.recovery_seconds:g} s: {fault}")
        self._recoveries[fault.cause] += 1
        self._metrics.recoveries.labels(fault.cause).inc()
        self._go(State.RECOVERING, cause=fault.cause, reason=str(fault))
        await self._status("recovering", f"{fault.cause}: {fault}")
        await self._pause(delay * random.uniform(0.5, 1))  # noqa: S311 - jitter

    async def _pause(self, seconds: float) -> None:
        """Wait, or hand over at once when the worker drains."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._drain.wait()
        if self._drain.is_set():
            raise _HandOver

    def _provider_names(self) -> list[str]:
        return self.spec.providers or self._settings.providers

    async def _stream_once(self) -> bool:
        """Audio from `position` through one provider stream. True at the end of the session's
        audio; False when the stream was closed because no audio came for long."""
        self._go(State.WAITING)
        feed = self._feed = Feed(
            self._services.broker,
            self._services.store,
            self.spec,
            self._checkpoint.mark,
            self.position,
            self._settings.hole_seconds,
        )
        await feed.open()
        try:
            first = await self._first(feed)
            if first is None:
                return True
            provider, stream, target = await self._connect()
            try:
                return await self._stream(feed, first, provider, stream, target)
            finally:
                await stream.close()
        finally:
            self._note_feed(feed)
            self._feed = None
            await feed.close()

    async def _first(self, feed: Feed) -> Chunk | Gap | None:
        """The first audio. Providers are dialled only then: most drop a connection that gets none.
        None when the session is to end without more audio."""
        while True:
            item = await feed.next(0.25)
            if self._drain.is_set():
                raise _HandOver
            if item is None:
                if self._over(feed):
                    return None
            elif isinstance(item, Gap) or item.frames:
                return item
            elif item.end:
                return None

    def _over(self, feed: Feed) -> bool:
        """Whether audio has stopped without an end for so long that none will come."""
        quiet = time.monotonic() - feed.heard
        if quiet > self._settings.idle_seconds:
            self._end_reason = f"idle: no audio for {self._settings.idle_seconds:g} s"
        elif feed.superseded and quiet > self._settings.superseded_seconds:
            self._end_reason = "superseded: a newer session uses the key"
        return self._end_reason is not None

    async def _connect(self) -> tuple[Provider, ProviderStream, convert.Converter]:
        """Open a stream at the provider whose turn it is."""
        name = self._provider_names()[self._provider_index]
        self._go(State.CONNECTING, provider=name)
        provider = self._services.providers.get(name)
        source = self.spec.audio_format
        target = convert.wire_format(source, provider.capabilities)
        try:
            converter = convert.Converter(source, target, provider.capabilities.frame_ms)
        except ValueError as error:
            raise RequestRefused(name, "request", str(error)) from None
        request = StreamRequest(
            session_id=self.id,
            format=target,
            language=self.spec.language,
            model=self.spec.model,
            keyterms=tuple(self.spec.keyterms),
            options=self.spec.options,
        )
        started = time.monotonic()
        opening = asyncio.ensure_future(provider.open(request))
        draining = asyncio.ensure_future(self._drain.wait())
        try:
            await asyncio.wait({opening, draining}, return_when=asyncio.FIRST_COMPLETED)
            if not opening.done():
                raise _HandOver
            stream = opening.result()
        finally:
            draining.cancel()
            opening.cancel()
        self._metrics.connect.labels(name).observe(time.monotonic() - started)
        return provider, stream, converter

    async def _stream(
        self,
        feed: Feed,
        first: Chunk | Gap,
        provider: Provider,
        stream: ProviderStream,
        converter: convert.Converter,
    ) -> bool:
        timeline = Timeline(self._rate, self.position)
        run = self._run = _Run(provider, stream, timeline)
        self._checkpoint.provider = provider.name
        self._go(State.STREAMING, provider=provider.name, reference=stream.reference)
        try:
            await self._status("streaming", None)
            async with asyncio.TaskGroup() as tasks:
                guard = tasks.create_task(self._guard(run), name=f"guard {self.key}")
                sender = tasks.create_task(
                    self._send(run, feed, first, converter), name=f"send {self.key}"
                )
                await self._receive(run)
                if run.finish_heard is None:
                    raise Dropped(provider.name, "the provider ended the stream before the audio")
                ended = await sender
                guard.cancel()
        except BaseExceptionGroup as group:
            raise _most_telling(group) from group
        finally:
            self._count_sent(run)
            self._sent_before += timeline.sent_seconds
            self._connected_before += time.monotonic() - run.opened
            self._run = None
        # The provider has said all that was due: what no final covers was silence.
        self.position = max(self.position, timeline.position)
        return ended

    async def _guard(self, run: _Run) -> None:
        """Do what the watchdog asks for: end the stream, or make sure of the lease."""
        while True:
            await run.alarm.wait()
            run.alarm.clear()
            if run.trouble is not None:
                raise run.trouble
            await self._make_sure()

    # ---- audio out --------------------------------------------------------------------------

    async def _send(
        self, run: _Run, feed: Feed, first: Chunk | Gap, converter: convert.Converter
    ) -> bool:
        """Feed the provider until the audio ends (True) or pauses for long (False)."""
        item: Chunk | Gap | None = first
        rate = run.provider.capabilities.catch_up_rate
        go_at = 0.0
        ended = False
        limit = None if self.spec.max_seconds is None else self.spec.max_seconds * self._rate
        while True:
            if item is not None:
                if isinstance(item, Gap):
                    await self._send_gap(run, item, converter)
                elif item.frames:
                    now = time.monotonic()
                    go_at = max(go_at, now - _BURST_SECONDS / rate)
                    if go_at > now:
                        await asyncio.sleep(go_at - now)
                    go_at += item.frames / (self._rate * rate)
                    run.timeline.advance(item.frames, item.arrived, item.time_ns)
                    for audio in converter.convert(item.payload):
                        await self._send_audio(run, audio)
                if isinstance(item, Chunk) and item.end:
                    ended = True
                    break
                if limit is not None and run.timeline.position >= limit:
                    self._end_reason = f"max_seconds: {self.spec.max_seconds:g} s of audio"
                    ended = True
                    break
            else:
                if self._over(feed):
                    ended = True
                    break
                if time.monotonic() - feed.heard > self._settings.park_seconds:
                    break
            item = await feed.next(1.0)
        for audio in converter.flush():
            await self._send_audio(run, audio)
        self._go(State.FINISHING)
        run.finish_heard = time.monotonic()
        await run.stream.finish()
        return ended

    async def _send_audio(self, run: _Run, audio: bytes) -> None:
        run.send_started = now = time.monotonic()
        if run.unanswered_since is None:
            run.unanswered_since = now
        await run.stream.send(audio)
        run.send_started = None

    async def _send_gap(self, run: _Run, gap: Gap, converter: convert.Converter) -> None:
        """Silence of the gap's length, or of a bounded length: then the clock jumps."""
        self._note_gap(gap)
        frames = min(gap.frames, round(self._settings.max_gap_seconds * self._rate))
        run.timeline.advance_gap(gap.frames, frames)
        piece = max(1, self._rate // 10)
        rate = run.provider.capabilities.catch_up_rate
        for start in range(0, frames, piece):
            size = min(piece, frames - start)
            for audio in converter.convert(convert.silence(self.spec.audio_format, size)):
                await self._send_audio(run, audio)
            await asyncio.sleep(size / (self._rate * rate))

    # ---- transcripts in ---------------------------------------------------------------------

    async def _receive(self, run: _Run) -> None:
        """Publish what the provider says, until it has said all."""
        name = run.provider.name
        interim_latency = self._metrics.latency.labels("interim", name)
        final_latency = self._metrics.latency.labels("final", name)
        async for event in run.stream:
            run.handling = True
            await self._make_sure()
            if isinstance(event, Interim):
                latency = await self._publish_interim(run, event)
                if latency is not None:
                    interim_latency.observe(latency)
            elif isinstance(event, Final):
                latency = await self._take_final(run, event)
                if latency is not None:
                    final_latency.observe(latency)
                if self._drain.is_set() and run.finish_heard is None:
                    raise _HandOver
            else:
                await self._take_other(run, event)
            run.handling = False
            run.heard()

    async def _take_other(self, run: _Run, event: ProviderEvent) -> None:
        if isinstance(event, Turn):
            at = run.timeline.to_seconds(event.at)
            await self._publish_turn(event, at)
        elif isinstance(event, Notice):
            self._metrics.provider_notices.labels(run.provider.name, event.code).inc()
            log.debug(
                "provider notice %s: %s",
                event.code,
                event.message,
                extra=fields(session=str(self.key)),
            )

    def _common(self) -> dict[str, Any]:
        """Fields that every event has."""
        return {
            "session_id": self.id,
            "tenant": self.key.tenant,
            "conversation": self.key.conversation,
            "speaker": self.key.speaker,
            "epoch": self.epoch,
            "provider": self._checkpoint.provider,
            "model": self.spec.model,
            "published_at": datetime.now(UTC),
        }

    def _transcript(
        self, run: _Run, event: Interim | Final, start: int, end: int
    ) -> dict[str, Any]:
        """Fields that interims and finals share."""
        timeline = run.timeline
        arrived = timeline.arrived(end)
        clock = timeline.wall_clock_ns(start)
        return {
            **self._common(),
            "segment": self._segment,
            "text": event.text,
            "words": [_word(timeline, word) for word in event.words],
            "start": round(start / self._rate, 6),
            "end": round(end / self._rate, 6),
            "times_estimated": event.times_estimated,
            "confidence": event.confidence,
            "language": event.language,
            "started_at": None if clock is None else datetime.fromtimestamp(clock / 1e9, UTC),
            "latency": None if arrived is None else round(time.monotonic() - arrived, 4),
        }

    async def _publish_interim(self, run: _Run, event: Interim) -> float | None:
        """Latency of the interim, if it was one."""
        start = max(run.timeline.to_position(event.start), self.position)
        end = max(run.timeline.to_position(event.end), start)
        if not event.text:
            return None
        interim = InterimEvent(**self._transcript(run, event, start, end))
        await self._publisher.interim(interim)
        return interim.latency

    async def _take_final(self, run: _Run, event: Final) -> float | None:
        """Publish a final, move the position, write the checkpoint. Latency if there was text."""
        start = max(run.timeline.to_position(event.start), self.position)
        end = max(run.timeline.to_position(event.end), start)
        latency = None
        if event.text:
            made: dict[str, Any] = self._transcript(run, event, start, end)
            latency = made["latency"]
            await self._publisher.durable("final", lambda n: FinalEvent(**made, sequence=n))
            self._segment += 1
        if end > self.position:
            self.position = end
            self._failing_since = None
        run.timeline.forget(self.position)
        silence = (self.position - self._checkpointed) / self._rate
        if event.text or silence >= _CHECKPOINT_SECONDS:
            await self._write_checkpoint()
        return latency

    async def _publish_turn(self, event: Turn, at: float) -> None:
        index = self._turns.admit(event.event)
        if index is None:
            return
        ends = event.event in ("ended", "eager_end")
        made: dict[str, Any] = {
            **self._common(),
            "turn": index,
            "event": event.event,
            "text": event.text,
            "start": None if ends else at,
            "end": at if ends else None,
            "confidence": event.confidence,
        }
        await self._publisher.durable("turn", lambda n: TurnEvent(**made, sequence=n))

    def _status_event(
        self, sequence: int, state: StatusState, reason: str | None = None, **extra: Any
    ) -> StatusEvent:
        return StatusEvent(
            **self._common(),
            sequence=sequence,
            state=state,
            reason=reason,
            worker=self._settings.name,
            **extra,
        )

    async def _status(self, state: StatusState, reason: str | None, **extra: Any) -> None:
        await self._publisher.durable(
            "status", lambda n: self._status_event(n, state, reason, **extra)
        )

    async def _end(self, state: StatusState, reason: str) -> None:
        """The closing event, with the session's account; after it the session is over for all."""
        if self._turns.open:
            await self._publish_turn(Turn("ended", 0.0), round(self.position / self._rate, 6))
        self._captured = max(self._captured, self.position)
        await self._status(state, reason, account=self._account())
        await self._write_checkpoint(closed=True)

    # ---- checkpoint and account -------------------------------------------------------------

    async def _write_checkpoint(self, *, closed: bool = False, state: State | None = None) -> None:
        feed = self._feed
        now = time.monotonic()
        if feed is not None and now - self._marked_at > _MARK_SECONDS:
            self._marked_at = now
            await feed.probe()
        self._checkpointed = self.position
        progress = self.position > self._checkpoint.position
        mark: Mark = self._checkpoint.mark
        if feed is not None:
            mark = feed.mark_before(self.position)
        self._checkpoint = self._checkpoint.model_copy(
            update={
                "state": (state or self.state).value,
                "closed": closed,
                "position": self.position,
                "mark_position": mark.position,
                "mark_seq": mark.seq,
                "mark_stream_sequence": mark.stream_sequence,
                "crashes": 0 if progress else self._checkpoint.crashes,
                "account": self._account(),
                "updated_at": datetime.now(UTC),
            }
        )
        await self._checkpoints.write(self._checkpoint)

    def _account(self) -> Account:
        run = self._run
        captured = self._captured
        bad = self._bad
        if self._feed is not None:
            captured = max(captured, self._feed.head)
            bad = bad + self._feed.bad
        gaps = sum(gap.end - gap.start for gap in self._gaps)
        reached = self.position if run is None else run.timeline.position
        connected = 0.0 if run is None else time.monotonic() - run.opened
        sent = 0.0 if run is None else run.timeline.sent_seconds
        return Account(
            captured_seconds=round(captured / self._rate, 6),
            received_seconds=round(max(0.0, reached / self._rate - gaps), 6),
            sent_seconds=round(self._sent_before + sent, 6),
            transcribed_seconds=round(max(0.0, self.position / self._rate - gaps), 6),
            connected_seconds=round(self._connected_before + connected, 3),
            gaps=self._gaps,
            bad_chunks=dict(bad),
            recoveries=dict(self._recoveries),
        )

    def _note_gap(self, gap: Gap) -> None:
        record = GapRecord(
            start=round(gap.position / self._rate, 6),
            end=round((gap.position + gap.frames) / self._rate, 6),
            cause=gap.cause,
        )
        # Audio that is read again meets its gaps again.
        if not any(record.start < known.end and known.start < record.end for known in self._gaps):
            self._gaps.append(record)
            self._metrics.audio_gaps.labels(gap.cause).inc(record.end - record.start)
            log.warning(
                "gap in the audio",
                extra=fields(
                    session=str(self.key), seconds=record.end - record.start, cause=gap.cause
                ),
            )

    def _note_feed(self, feed: Feed) -> None:
        self._bad += feed.bad
        self._captured = max(self._captured, feed.head)
        for cause, count in feed.bad.items():
            self._metrics.bad_chunks.labels(cause).inc(count)
        feed.bad.clear()

    def _count_sent(self, run: _Run) -> None:
        sent = run.timeline.sent_seconds
        self._metrics.audio_sent.labels(run.provider.name).inc(sent - run.sent_counted)
        self._metrics.audio_received.inc(sent - run.sent_counted)
        run.sent_counted = sent

    # ---- what the worker tells and asks -----------------------------------------------------

    def drain(self) -> None:
        """Give the session back at its next final, at the latest after the drain time."""
        self._drain_deadline = time.monotonic() + self._settings.drain_seconds
        self._drain.set()

    def doubt(self) -> None:
        """The lease may have run out while this process or its connection stood still: publish
        nothing more before the checkpoint shows that it is still ours."""
        self._unsure = True
        if self._run is not None:
            self._run.alarm.set()

    async def _make_sure(self) -> None:
        """Raises LeaseLost if the session is no longer ours."""
        if self._unsure:
            await self._write_checkpoint()
            self._unsure = False

    @property
    def lag_seconds(self) -> float:
        """Audio known of and not yet sent."""
        if self._feed is None or self._run is None:
            return 0.0
        return max(0, self._feed.head - self._run.timeline.position) / self._rate

    def tick(self, now: float) -> None:
        """Watch the provider stream; called a few times a second."""
        run = self._run
        if run is None:
            return
        self._count_sent(run)
        settings, name = self._settings, run.provider.name
        if self._drain_deadline is not None and now > self._drain_deadline:
            run.fail(_HandOver())
        if run.send_started is not None and now - run.send_started > settings.send_blocked_seconds:
            run.fail(Stalled(name, "send_blocked", "it takes no more audio"))
        if run.handling or not self._services.broker.connected:
            run.heard()  # it may have spoken, and we could not listen
            return
        owed = run.timeline.sent_seconds - run.answered_audio
        if (
            run.provider.capabilities.answers_silence
            and run.finish_heard is None
            and run.unanswered_since is not None
            and now - run.unanswered_since > settings.mute_seconds
            and owed > _MUTE_AUDIO_SECONDS
        ):
            run.fail(Stalled(name, "mute", f"no answer to {owed:.0f} s of audio"))
        if run.finish_heard is not None and now - run.finish_heard > settings.finish_seconds:
            run.fail(Stalled(name, "finish", "it does not end the stream"))


def _word(timeline: Timeline, word: ProviderWord) -> Word:
    return Word(
        text=word.text,
        start=None if word.start is None else timeline.to_seconds(word.start),
        end=None if word.end is None else timeline.to_seconds(word.end),
        confidence=word.confidence,
        speaker=word.speaker,
    )


def _most_telling(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Of all that a stream's tasks raised, what decides what happens next."""
    causes: list[BaseException] = []
    stack: list[BaseException] = [group]
    while stack:
        error = stack.pop()
        if isinstance(error, BaseExceptionGroup):
            stack.extend(error.exceptions)
        else:
            causes.append(error)
    for kind in (LeaseLost, _HandOver, RequestRefused, ProviderError):
        for cause in causes:
            if isinstance(cause, kind):
                return cause
    return causes[0]
