"""One session in the worker, from taking it over to giving it up.

    TAKING_OVER → WAITING → (QUEUED →) CONNECTING → STREAMING → FINISHING → CLOSED
                     ↑                                 │  │  ↘
                     └─────────── RECOVERING ←─────────┘  │    FAILED
                                                          └→ HANDED_OVER, or LOST

Whatever goes wrong with a provider, a socket or a worker is cured by one act: `Scribe.resume` reads
from the broker where finals end, and the audio is opened again there.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import logging
import random
import secrets
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from nats.js.kv import KeyValue

from natterjack.audio import SESSION_ID, decode_chunk_headers
from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.broker.stored import StoreUnavailable, StreamStore
from natterjack.control import stop_reason
from natterjack.errors import BadChunk, BrokerError
from natterjack.events import Account, StatusEvent, StatusState
from natterjack.fleet.roster import REPORT_SECONDS
from natterjack.plugin.entry_points import available
from natterjack.plugin.errors import Dropped, PluginError, ProviderError, RequestRefused
from natterjack.plugin.provider import (
    Capabilities,
    Final,
    Interim,
    Notice,
    Provider,
    ProviderEvent,
    ProviderStream,
    Usage,
)
from natterjack.plugin.provider import Turn as ProviderTurn
from natterjack.spec import SessionSpec
from natterjack.subjects import audio_subject, session_subject
from natterjack.telemetry.log import fields
from worker.audio import convert
from worker.audio.feed import Feed, Gap
from worker.capacity.governor import Governor
from worker.capacity.permits import Permit
from worker.errors import LeaseLost, Overtaken
from worker.metering.account import Books
from worker.metering.budgets import Budgets
from worker.metering.ledger import Ledger
from worker.metering.prices import Price, price_of
from worker.metering.report import Report
from worker.metering.tally import Tally
from worker.metrics import Metrics
from worker.providers.breaker import SHARED_CAUSES, BreakerState
from worker.providers.chain import Chain, Exhausted
from worker.providers.loading import Providers
from worker.settings import WorkerSettings

from .checkpoint import Checkpoint, CheckpointStore
from .control import NoStream, controlled
from .flag import Flag
from .latency import Latencies
from .publish import Publisher
from .relay import Relay
from .scribe import Scribe
from .trace import lease_trace

log = logging.getLogger(__name__)
T = TypeVar("T")

_CHECKPOINT_SECONDS = 5.0
"""A checkpoint is written at each final, and after so much finalised silence."""
_MARK_SECONDS = 10.0
"""How often the live head's place in the stream is learnt: bounds what is read again."""
_TURN_END_SECONDS = 0.1
_PROBE_SECONDS = 0.25
_PARTING_SECONDS = 2.0
_LOOK_SECONDS = 2.0
_MAX_CLOSED_BEFORE = 50
BUDGET = "budget"
"""Reason of sessions that end because what they may use is used up."""
_MAX_CRASHES = 10
"""So many workers that held a session, died, and had brought it no further, are its own fault."""


class State(enum.Enum):
    TAKING_OVER = "taking over"  # checkpoint and last events are read, the fence is set
    WAITING = "waiting"  # for the first audio, or the next after a long pause
    QUEUED = "queued"  # for the provider: its breaker, or the limits of its account
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
    State.WAITING: {State.QUEUED, State.CONNECTING, State.RECOVERING},
    State.QUEUED: {State.CONNECTING, State.RECOVERING},
    State.CONNECTING: {State.STREAMING, State.RECOVERING},
    State.STREAMING: {State.FINISHING, State.RECOVERING, State.WAITING},
    State.FINISHING: {State.RECOVERING, State.WAITING},
    State.RECOVERING: {State.WAITING, State.RECOVERING},
}
_ENDS = {State.CLOSED, State.FAILED, State.HANDED_OVER, State.LOST}


class Busy(Exception):
    """An earlier session still has the key; try again later."""


class _Parked(Exception):
    """Audio has stopped amid a sound: nothing is to be made final that may go on."""


class _Finished(Exception):
    """The session has been closed before: nothing is left but to ack."""


class _HandOver(Exception):
    """The worker drains: give the session back."""


class _Enough(Exception):
    """The session has reached the position at which it is to end."""


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
    tally: Tally
    report: Report
    budgets: Budgets
    prices: dict[str, float]
    governor: Governor
    restore: asyncio.Event
    """Set to have the streams and the consumer looked after."""
    lease_seconds: float
    """After so long without a heartbeat the queue gives a session to another worker."""


class Session:
    """A session under a lease. `run` returns when it is over, and says how."""

    # More than Python keeps compact without.
    __slots__ = (
        "_answered", "_assumed", "_books", "_chain", "_checkpoint", "_checkpoints",
        "_configured", "_drain", "_drain_deadline", "_end_reason", "_failing_since",
        "_fault", "_feed", "_lasted", "_ledger", "_limit", "_limit_detail", "_limit_reason",
        "_low", "_marked_at", "_metrics", "_parked_head", "_permit", "_permit_account",
        "_problem", "_publisher", "_quiet_since", "_record_head", "_relay",
        "_request_sequence", "_scribe", "_services", "_settings", "_ticket", "_unsure",
        "_usage_at", "_usage_due", "_warned", "beat_at", "epoch", "id", "key", "since",
        "spec", "state", "trace",
    )  # fmt: skip

    def __init__(
        self,
        services: Services,
        spec: SessionSpec,
        epoch: int,
        request_sequence: int,
        *,
        problem: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`epoch` is the delivery count of the request, `request_sequence` its place in the queue's
        stream. `problem` is what makes the request unusable: the session then only fails.
        `headers` are the request's; they may name the trace that the session belongs to."""
        self._services = services
        self._settings = settings = services.settings
        self._metrics = services.metrics
        self.spec = spec
        self.key = spec.key
        self.id = spec.session_id
        self.epoch = epoch
        self.state = State.TAKING_OVER
        self.since = time.monotonic()
        self.beat_at = 0.0
        """When its lease is to be renewed next."""
        self.trace = lease_trace(spec, epoch, settings.name, headers)
        self._request_sequence = request_sequence
        self._problem = problem
        holder = secrets.token_hex(8)
        self._publisher = Publisher(services.broker, services.js, self.key, self.id, epoch, holder)
        self._scribe = Scribe(self._publisher, spec, epoch, settings.name)
        self._ledger = Ledger(spec.tenant, spec.sample_rate, services.metrics, services.tally)
        self._books = Books(self.key, spec.sample_rate, services.metrics, self._ledger)
        self._checkpoints = CheckpointStore(services.broker, services.bucket, self.key)
        self._checkpoint = Checkpoint(
            session_id=self.id,
            epoch=epoch,
            worker=settings.name,
            holder=holder,
            instance=services.report.instance,
            state=self.state.value,
            request_sequence=request_sequence,
            opened_at=spec.opened_at,
        )
        self._record_head = (
            f'{{"key":"{self.key}","session_id":"{self.id}","epoch":{epoch},"holder":"{holder}",'
            f'"opened_at":"{spec.opened_at.isoformat()}"'
        )
        """Of its part of the worker's record: what does not change."""
        self._feed: Feed | None = None
        self._relay: Relay | None = None
        names = spec.providers or settings.providers
        self._chain = Chain(names, services.providers.breaker, settings.failover_after)
        self._assumed: tuple[str, float] | None = None
        """Provider and seconds that the holder before us is taken to have sent and not told of."""
        self._permit: Permit | None = None
        """The provider's slot that is held, where their number is limited."""
        self._permit_account = ""
        self._ticket: str | None = None
        """Of the slot that the holder before us had."""
        self._lasted = 0.0
        """Seconds that the last stream was open."""
        self._answered = False
        """The provider has said something on the stream that is open, or was last."""
        self._failing_since: float | None = None
        self._fault: tuple[str, float] | None = None
        """Cause and time of the fault that is being recovered from."""
        self._end_reason: str | None = None
        self._limit: int | None = None
        """Position at which the session ends, whatever audio follows."""
        self._limit_reason: str | None = None
        self._limit_detail: str | None = None
        if spec.max_seconds is not None:
            self._limit = round(spec.max_seconds * spec.sample_rate)
            self._limit_reason = BUDGET
            self._limit_detail = f"max_seconds: {spec.max_seconds:g} s of audio"
        self._configured: dict[str, Any] = {}
        self._usage_at = time.monotonic()
        self._usage_due = False
        self._low: tuple[float | None] | None = None
        """A warning to be published: the seconds that are left, if that is known."""
        self._warned = 0
        """Warnings of `max_seconds` that were given."""
        self._marked_at = 0.0
        self._unsure = False
        self._parked_head: int | None = None
        """Audio up to here has been heard in part; more is needed to go on."""
        self._quiet_since = 0.0
        """When the last audio came in, as far as that was before the session was parked."""
        self._drain_deadline: float | None = None
        self._drain = Flag()

    # ---- states -----------------------------------------------------------------------------

    def _go(self, state: State, **extra: Any) -> None:
        if self.state in _ENDS or (state not in _ENDS and state not in _NEXT[self.state]):
            raise RuntimeError(f"session {self.key}: no way from {self.state} to {state}")
        self.state = state
        self.trace.moved(state.name, extra)
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
                async with controlled(self._services.broker, self):
                    await self._serve()
                await self._give_up_slot()
                detail = self._limit_detail if self._end_reason == BUDGET else None
                await self._end("closed", self._end_reason or "end of audio", detail)
                self._go(State.CLOSED, reason=self._end_reason, detail=detail)
            except _Failed as failure:
                await self._scribe.resume()
                await self._end("failed", str(failure))
                self._go(State.FAILED, reason=str(failure))
            except _HandOver:
                await self._scribe.resume()
                await self._scribe.status("handed_over", "drain")
                await self._write_checkpoint(state=State.HANDED_OVER)
                self._go(State.HANDED_OVER)
        except _Finished:
            self._go(State.CLOSED, reason="closed before")
        except LeaseLost as lost:
            self._metrics.leases_lost.inc()
            if self._publisher.fenced:
                self._metrics.fenced.inc()
            self._go(State.LOST, reason=str(lost))
        except Busy:
            raise
        except Exception:  # a fault of ours, whatever it is; it goes on to the lease's task
            # Whoever takes the session over should know what it has cost so far.
            if self.state is State.TAKING_OVER:
                raise  # nothing yet; and the checkpoint may not be ours
            with contextlib.suppress(LeaseLost, BrokerError, TimeoutError):
                async with asyncio.timeout(_PARTING_SECONDS):
                    await self._write_checkpoint()
            raise
        finally:
            await self._give_up_slot()
        return self.state

    async def _end(self, state: StatusState, reason: str, detail: str | None = None) -> None:
        """The closing event, with the session's account; after it the session is over for all."""
        await self._scribe.end_turn()
        if self._ledger.usage():
            await self._scribe.usage(self._ledger)
        if reason == BUDGET:
            scope = "session" if (detail or "").startswith("max_seconds") else "tenant"
            self._metrics.budget_ended.labels(scope).inc()
        await self._scribe.status(state, reason, detail=detail, account=self._account())
        await self._write_checkpoint(closed=True)

    # ---- taking over ------------------------------------------------------------------------

    async def _take_over(self) -> None:
        """Become the session's one holder, then learn where to resume."""
        while True:
            await self._read_checkpoint()
            try:
                await self._write_checkpoint()
            except Overtaken:
                continue  # what was read was not the last: a write that succeeds proves that it was
            break
        if self._assumed is not None:
            with contextlib.suppress(PluginError):
                provider, seconds = self._assumed
                price = self._price(provider, None, self.spec.language, 1)
                self._ledger.assume(provider, price, seconds)
        before = await self._publisher.establish(
            lambda n: self._scribe.status_event(n, "assigned").encode()
        )
        if isinstance(before, StatusEvent) and before.closing:
            await self._write_checkpoint(closed=True)
            raise _Finished
        if self._problem is not None:
            raise _Failed(self._problem)
        if before is not None:
            await self._scribe.resume()

    async def _read_checkpoint(self) -> None:
        """Adopt what is stored of this session, if it is ours to take over. Raises LeaseLost, Busy,
        _Finished."""
        stored = await self._checkpoints.read()
        if stored is not None and self.id in stored.closed_before:
            raise _Finished  # its request came again, after others had used the key
        if stored is None or stored.session_id != self.id:
            # Sessions of one key come one after another, in the order of their requests.
            if await self._queued(1) != self._request_sequence:
                raise Busy
            if stored is not None:
                closed = [*stored.closed_before, stored.session_id][-_MAX_CLOSED_BEFORE:]
                self._checkpoint.closed_before = closed
        elif stored.closed:
            raise _Finished
        elif stored.request_sequence not in (0, self._request_sequence) and (
            await self._queued(stored.request_sequence) == stored.request_sequence
        ):
            raise _Finished  # a second request for a session that is under way
        elif stored.epoch >= self.epoch:
            raise LeaseLost(f"{stored.worker} has epoch {stored.epoch}")
        else:
            await self._adopt(stored)

    async def _queued(self, sequence: int) -> int | None:
        """Sequence of the first request for this key in the queue, from `sequence` on. Raises Busy
        when the broker does not say."""
        try:
            found = await self._services.js.get_msg(
                streams.SESSIONS, seq=sequence, subject=session_subject(self.key), next=True
            )
        except NotFoundError:
            return None
        except (NatsError, TimeoutError):
            raise Busy from None
        return found.seq

    async def _adopt(self, stored: Checkpoint) -> None:
        """Go on from what another worker, or an earlier try, has left."""
        # A worker that held it without a stream, or gave it back in order, did not die of it.
        dangerous = {State.CONNECTING.value, State.STREAMING.value, State.FINISHING.value}
        crashes = stored.crashes + 1 if stored.state in dangerous else 0
        if crashes > _MAX_CRASHES:
            self._problem = f"{crashes} workers in a row died with it before its next final"
        account, stored.account = stored.account or Account(), None
        self._checkpoint = replace(
            stored,
            epoch=self.epoch,
            worker=self._settings.name,
            holder=self._checkpoint.holder,
            instance=self._checkpoint.instance,
            request_sequence=self._request_sequence,
            crashes=crashes,
        )
        self._scribe.position = stored.position
        self._scribe.provider = stored.provider
        self._configured = dict(stored.configured)
        if stored.limit is not None:
            self._limit, self._limit_reason = stored.limit, stored.limit_reason
            self._limit_detail = stored.limit_detail
        self._warned = self._warnings_due()
        self._books.adopt(account, stored.gaps_until)
        self._ticket = stored.slot
        await self._adopt_ledger(stored, account)

    async def _adopt_ledger(self, stored: Checkpoint, account: Account) -> None:
        """Go on from what the holder before us has used: as the checkpoint says, or, if it died
        after that, as it told the roster last; and half of the time between two tellings."""
        self._assumed = None
        self._ledger.adopt(account.providers, stored.sent_until, account.captured_seconds)
        if stored.state == State.HANDED_OVER.value or not stored.instance:
            return
        report = self._services.report
        told = await report.of(stored.instance, stored.holder, self.spec.tenant)
        if told is None:
            return
        later = {
            name: usage
            for name, usage in told.providers.items()
            if name not in account.providers
            or usage.sent_seconds >= account.providers[name].sent_seconds
        }
        captured = max(told.captured_seconds, account.captured_seconds)
        sent_until = max(told.sent_until, stored.sent_until)
        provider = stored.provider or told.provider
        killed = stored.instance != report.instance and provider is not None
        idle = {State.WAITING.value, State.RECOVERING.value}
        if killed and not (told.state in idle and stored.state != State.STREAMING.value):
            unknown = REPORT_SECONDS / 2
            sent_until += round(unknown * self.spec.sample_rate)
        else:
            unknown = 0.0
        self._ledger.adopt({**account.providers, **later}, sent_until, captured)
        self._assumed = (provider, unknown) if unknown and provider is not None else None

    def _warnings_due(self) -> int:
        """How many thresholds of `max_seconds` are passed."""
        most = self.spec.max_seconds
        if most is None:
            return 0
        relay = self._relay
        reached = self.position if relay is None else relay.timeline.position
        used = reached / self.spec.sample_rate / most
        return sum(used >= threshold for threshold in self._settings.warning_fractions)

    def _warn(self) -> None:
        """Have a warning published when a threshold of `max_seconds` is newly passed."""
        due = self._warnings_due()
        if due > self._warned and self.spec.max_seconds is not None:
            self.low(max(0.0, self.spec.max_seconds - self.sent_seconds))
        self._warned = due

    def _price(self, name: str, model: str | None, language: str | None, channels: int) -> Price:
        """Raises PluginError."""
        services = self._services
        provider = services.providers.get(name).plugin
        return price_of(provider, model, language, channels, services.prices)

    # ---- serving ----------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Stream until the audio has ended and every final is out."""
        delay = self._settings.backoff_seconds
        while True:
            before = self.position
            try:
                with contextlib.suppress(_Parked):
                    if await self._stream_once():
                        return
                # Parked: audio may come later, and what was not made final comes again.
                await self._give_up_slot()
                await self._scribe.resume()
                delay, self._failing_since = self._settings.backoff_seconds, None
                self._chain.progress()
                continue
            except _Enough:
                self._end_reason = self._limit_reason
                return
            except ProviderError as error:
                fault = error
            except PluginError as error:
                fault = RequestRefused(self._chain.name, "request", str(error))
            self.trace.fault(fault.cause)
            await self._scribe.resume()
            if self._configured and isinstance(fault, RequestRefused) and fault.cause == "request":
                # Most likely a change that was asked for in mid-stream: the words matter more.
                self._configured = {}
                await self._scribe.status("recovering", f"changed settings are dropped: {fault}")
                await self._write_checkpoint()
                self._go(State.RECOVERING, cause=fault.cause, reason=str(fault))
                continue
            lasted = self._answered and self._lasted > self._settings.max_backoff_seconds
            progress = self.position > before or lasted
            if progress:
                delay, self._failing_since = self._settings.backoff_seconds, None
            await self._recover(fault, delay, progress=progress)
            delay = min(delay * 2, self._settings.max_backoff_seconds)

    async def _recover(self, fault: ProviderError, delay: float, *, progress: bool) -> None:
        """Decide on another try after a fault, and wait for it. Raises _Failed."""
        known = fault.provider if fault.provider in available() else "unknown"
        self._metrics.provider_errors.labels(known, fault.cause).inc()
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        if now - self._failing_since > self._settings.recovery_seconds:
            raise _Failed(f"no provider for {self._settings.recovery_seconds:g} s: {fault}")
        failed = self._chain.name
        try:
            self._chain.fails(fault, now, answered=self._answered, progress=progress)
        except Exhausted as exhausted:
            raise _Failed(str(exhausted)) from None
        finally:
            if fault.cause in SHARED_CAUSES:
                seconds = self._services.providers.breaker(failed).seconds_left(now)
                if seconds > 0:
                    await self._services.governor.announce(failed, fault.cause, seconds)
        self._fault = fault.cause, now
        reason = f"{fault.cause}: {fault}"
        if self._chain.name != failed:
            reason += f"; {self._chain.name} takes over"
            delay = 0.0 if self._chain.untried else delay
        self._books.recovery(fault.cause)
        self._go(State.RECOVERING, cause=fault.cause, reason=reason)
        await self._scribe.status("recovering", reason)
        await self._pause(delay * random.uniform(0.5, 1))  # noqa: S311 - jitter

    async def _pause(self, seconds: float) -> None:
        """Wait, or hand over at once when the worker drains."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._drain.wait()
        if self._drain.is_set():
            raise _HandOver

    async def _stream_once(self) -> bool:
        """Audio from `position` through one provider stream. True at the end of the session's
        audio; False when the stream was closed because no audio came for long."""
        self._go(State.WAITING)
        self._end_reason = None
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
            if not await self._begun(feed):
                return True
            provider, stream, converter, price = await self._connect()
            try:
                return await self._stream(feed, provider, stream, converter, price)
            finally:
                await stream.close()
        finally:
            self._books.feed_ended(feed)
            self._feed = None
            await feed.close()

    async def _begun(self, feed: Feed) -> bool:
        """Wait for audio: providers are dialled only then, since most drop a connection that gets
        none. False when the session is to end without more."""
        while True:
            if self._limit is not None and self.position >= self._limit:
                self._end_reason = self._limit_reason
                return False
            await self._make_sure()
            item = await feed.next(0.25)
            if self._drain.is_set():
                raise _HandOver
            if item is None:
                if time.monotonic() - feed.heard > _LOOK_SECONDS:
                    await self._give_up_slot()  # who has nothing to send needs none
                if await self._over(feed):
                    return False
            elif isinstance(item, Gap) or item.frames:
                await self._unparked(feed)
                feed.give_back(item)
                return True
            elif item.end:
                return False

    async def _unparked(self, feed: Feed) -> None:
        """After a pause amid a sound: return when there is more audio, or none will come."""
        head, self._parked_head = self._parked_head, None
        if head is None:
            return
        feed.heard = self._quiet_since  # the silence of before goes on
        look_at = 0.0
        while max(feed.head, self.position) <= head and self._end_reason is None:
            now = time.monotonic()
            if self._drain.is_set():
                self._parked_head = head
                raise _HandOver
            known = max(feed.head, self.position)
            if self._limit is not None and known >= self._limit:
                return  # what there is, is all
            if now - feed.heard > self._settings.idle_seconds:
                return
            if now >= look_at:
                look_at = now + _LOOK_SECONDS
                if await self._stored_head() > head:
                    return
                with contextlib.suppress(Busy):
                    later = await self._queued(self._request_sequence + 1)
                    if feed.superseded and later is not None:
                        return
            await self._make_sure()
            await asyncio.sleep(0.25)

    async def _over(self, feed: Feed) -> bool:
        """Whether audio has stopped without an end for so long that none will come."""
        quiet = time.monotonic() - feed.heard
        if not feed.caught_up:
            return False
        if quiet > self._settings.idle_seconds:
            self._end_reason = f"idle: no audio for {self._settings.idle_seconds:g} s"
        elif feed.superseded and quiet > self._settings.superseded_seconds:
            # Late chunks of an older session on the key look the same: ask the queue.
            with contextlib.suppress(Busy):
                feed.superseded = await self._queued(self._request_sequence + 1) is not None
                quiet = time.monotonic() - feed.heard  # audio may have come meanwhile
                if feed.superseded and quiet > self._settings.superseded_seconds:
                    self._end_reason = "superseded: a newer session uses the key"
        return self._end_reason is not None

    async def _connect(self) -> tuple[Provider, ProviderStream, convert.Converter, Price]:
        """Open a stream at the provider whose turn it is."""
        self._answered = False
        await self._see_budget()
        while True:
            name = await self._dialable()
            await self._admitted(name)
            # That may have taken long: has somebody been refused meanwhile?
            if self._services.providers.breaker(name).state is not BreakerState.OPEN:
                break
        self._go(State.CONNECTING, provider=name)
        provider = self._services.providers.get(name)
        source = self.spec.audio_format
        target = convert.wire_format(source, provider.capabilities)
        try:
            converter = convert.Converter(source, target, provider.capabilities.frame_ms)
        except ValueError as error:
            raise RequestRefused(name, "request", str(error)) from None
        configured = {
            k: v for k, v in self._configured.items() if k in provider.capabilities.configurable
        }
        request = self._chain.request(self.spec, target, configured)
        price = self._price(name, request.model, request.language, target.channels)
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
        return provider, stream, converter, price

    def _see_limit(self) -> None:
        """Raises _Enough when nothing is to be sent any more."""
        if self._limit is not None and self.position >= self._limit:
            raise _Enough

    async def _dialable(self) -> str:
        """The provider to dial, once its breaker allows it."""
        while True:
            self._see_limit()
            now = time.monotonic()
            try:
                wait = self._chain.choose(now)
            except Exhausted as exhausted:
                raise _Failed(str(exhausted)) from None
            if wait == 0:
                return self._chain.name
            self._failing_since = self._failing_since or now
            if now - self._failing_since > self._settings.recovery_seconds:
                raise _Failed(f"no provider for {self._settings.recovery_seconds:g} s")
            self._queue("its breaker is open")
            await self._pause(wait)

    def _queue(self, reason: str) -> None:
        if self.state is State.WAITING:
            self._go(State.QUEUED, reason=reason)

    async def _see_budget(self) -> None:
        """Dial nobody for a tenant whose budget is used up. Raises _Enough."""
        budgets = self._services.budgets
        await budgets.ready(self.spec.tenant)
        if detail := budgets.spent(self.spec.tenant):
            self.exhaust(detail)
            self._see_limit()

    async def _admitted(self, name: str) -> None:
        """Have a slot of the provider's account, and leave to dial: at once, where neither is
        limited. The session keeps its slot until it ends, parks, or another provider's turn comes.
        """
        governor = self._services.governor
        if self._permit is not None and (
            governor.account(name) != self._permit_account or not self._permit.sure
        ):
            await self._give_up_slot()
        if self._permit is None:
            admitting = governor.admit(name, self.spec.tenant, adopt=self._ticket)
            permit = await self._wait_for(admitting, f"a connection of account {name}")
            self._ticket = None
            if permit is not None:
                self._permit, self._permit_account = permit, governor.account(name)
                # Whoever comes after us has the slot at once, not when its time has run out.
                await self._write_checkpoint()
        await self._wait_for(governor.dial(name), f"leave to dial, of account {name}")

    async def _wait_for(self, wanted: Coroutine[Any, Any, T], what: str) -> T:
        """What is `wanted`; said when that takes long. Raises _HandOver, _Enough, LeaseLost."""
        task = asyncio.ensure_future(wanted)
        draining = asyncio.ensure_future(self._drain.wait())
        began, said, taken = time.monotonic(), False, False
        try:
            while True:
                await asyncio.wait({task, draining}, timeout=_LOOK_SECONDS / 4,
                                   return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
                if task.done():
                    taken = True
                    return task.result()
                if draining.done():
                    raise _HandOver
                self._see_limit()
                await self._make_sure()
                if not said and not task.done():
                    said = True
                    self._queue(f"waiting for {what}")
                    await self._scribe.status("assigned", f"waiting for {what}")
        finally:
            draining.cancel()
            if self._failing_since is not None:
                self._failing_since += time.monotonic() - began  # nobody failed meanwhile
            if not taken:
                task.cancel()
                await asyncio.wait({task})
                if not task.cancelled() and task.exception() is None:
                    permit = task.result()  # it came at the last moment
                    if isinstance(permit, Permit):
                        await permit.release()

    async def _give_up_slot(self) -> None:
        """Let the provider's slot go, if one is held. Whoever takes the session over has it."""
        permit, self._permit = self._permit, None
        if permit is None:
            return
        if self.state in (State.HANDED_OVER, State.LOST):
            permit.leave()
        else:
            await permit.release()

    async def _stream(
        self,
        feed: Feed,
        provider: Provider,
        stream: ProviderStream,
        converter: convert.Converter,
        price: Price,
    ) -> bool:
        """Relay audio out and transcripts in, until both are at their end."""
        self._ledger.opened(provider.name, price, self.position)
        relay = self._relay = Relay(
            provider, stream, converter, self.spec, self.position, self._settings, self._metrics,
            self._ledger,
        )  # fmt: skip
        relay.limit = self._limit
        self._scribe.provider = self._checkpoint.provider = provider.name
        self._go(State.STREAMING, provider=provider.name, reference=stream.reference)
        if self._fault is not None:
            (cause, at), self._fault = self._fault, None
            self._metrics.recovery_time.labels(cause).observe(time.monotonic() - at)
        try:
            await self._scribe.status("streaming")
            async with asyncio.TaskGroup() as tasks:
                guard = tasks.create_task(self._guard(relay), name=f"guard {self.key}")
                sender = tasks.create_task(self._send(relay, feed), name=f"send {self.key}")
                await self._receive(relay)
                if not relay.finishing:
                    raise Dropped(provider.name, "the provider ended the stream before the audio")
                ended = await sender
                guard.cancel()
        except BaseExceptionGroup as group:
            raise _most_telling(group) from group
        finally:
            relay.count_last()
            self._lasted = relay.connected_seconds
            self._relay = None
        # The provider has said all that was due: what no final covers was silence.
        self._scribe.position = max(self.position, relay.timeline.position)
        return ended

    async def _send(self, relay: Relay, feed: Feed) -> bool:
        ended = await relay.send(feed, self._books, self._over)
        if not ended and relay.cut_short:
            self._parked_head, self._quiet_since = feed.head, feed.heard
            raise _Parked
        self._go(State.FINISHING)
        await relay.finish()
        if self._limit is not None and relay.timeline.position >= self._limit and not feed.ended:
            self._end_reason = self._limit_reason
        return ended

    async def _guard(self, relay: Relay) -> None:
        """Do what the watchdog asks for: end the stream, make sure of the lease, tell the usage."""
        while True:
            await relay.alarmed()
            await self._make_sure()
            if self._low is not None:
                (left,), self._low = self._low, None
                await self._scribe.usage(self._ledger, remaining_seconds=left, low=True)
            if self._usage_due:
                self._usage_due = False
                await self._scribe.usage(self._ledger)

    async def _receive(self, relay: Relay) -> None:
        """Publish what the provider says, until it has said all."""
        latencies = Latencies(self._metrics, relay.provider.name)
        async for event in relay.stream:
            relay.handling = True
            if not self._answered or isinstance(event, Final):
                self._chain.works(fresh=not self._answered)
                self._answered = True
            if self._unsure:
                await self._make_sure()
            if isinstance(event, Interim):
                latencies.heard(relay.timeline, event)
                latencies.interim(await self._scribe.interim(relay.timeline, event))
            elif isinstance(event, Final):
                if self._books.gaps_until > self._checkpoint.gaps_until:
                    # Who resumes behind the final sees no gap before it.
                    await self._write_checkpoint()
                latencies.heard_final(relay.timeline, event)
                latencies.final(await self._scribe.final(relay.timeline, event))
                if self._settings.log_transcripts and event.text:
                    log.info("final", extra=fields(session=str(self.key), text=event.text))
                await self._checkpoint_if_due(event)
                if self._drain.is_set() and not relay.finishing:
                    # A moment later: the end of the turn may come with its last final.
                    loop = asyncio.get_running_loop()
                    loop.call_later(_TURN_END_SECONDS, relay.fail, _HandOver())
            else:
                await self._other(relay, event)
                if isinstance(event, ProviderTurn) and event.event == "ended":
                    latencies.turn_ended()
            relay.handling = False
            relay.heard()
            del event  # with all its words, until the next one comes

    async def _other(self, relay: Relay, event: ProviderEvent) -> None:
        if isinstance(event, ProviderTurn):
            await self._scribe.turn(event, relay.timeline.to_seconds(event.at))
        elif isinstance(event, Usage):
            await self._used(relay, event)
        elif isinstance(event, Notice):
            self._metrics.provider_notices.labels(relay.provider.name, event.code).inc()
            log.debug(
                "provider notice %s: %s",
                event.code,
                event.message,
                extra=fields(session=str(self.key)),
            )

    async def _used(self, relay: Relay, usage: Usage) -> None:
        """The provider has said what the stream has used, or what is left."""
        if usage.audio_seconds is not None:
            self._ledger.reported(usage.audio_seconds)
        left = usage.credits_remaining_seconds
        if left is not None:
            self._metrics.credits_remaining.labels(relay.provider.name, "seconds").set(left)
        if usage.low or left is not None:
            relay.count()
            await self._scribe.usage(self._ledger, remaining_seconds=left, low=usage.low)

    # ---- checkpoint -------------------------------------------------------------------------

    async def _checkpoint_if_due(self, event: Final) -> None:
        silence = (self.position - self._checkpoint.position) / self.spec.sample_rate
        if event.text or silence >= _CHECKPOINT_SECONDS:
            await self._write_checkpoint()

    async def _write_checkpoint(self, *, closed: bool = False, state: State | None = None) -> None:
        """Raises LeaseLost when the session is another worker's by now."""
        feed, mark = self._feed, self._checkpoint.mark
        if feed is not None:
            now = time.monotonic()
            if now - self._marked_at > _MARK_SECONDS:
                self._marked_at = now
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(feed.probe(), _PROBE_SECONDS)
            mark = feed.mark_before(self.position)
        checkpoint, books = self._checkpoint, self._books
        if self.position > checkpoint.position:
            checkpoint.crashes = 0
        checkpoint.state = (state or self.state).value
        checkpoint.closed = closed or checkpoint.closed
        checkpoint.position = self.position
        checkpoint.mark_position, checkpoint.mark_seq, checkpoint.mark_stream_sequence = mark
        checkpoint.gaps_until = books.gaps_until
        checkpoint.slot = self._ticket if self._permit is None else self._permit.ticket
        checkpoint.limit, checkpoint.limit_reason = self._limit, self._limit_reason
        checkpoint.limit_detail, checkpoint.configured = self._limit_detail, self._configured
        # At finals no newer than what the roster has, of the same second.
        reached = self._count(exact=state is not None or closed)
        account = books.json(final=self.position, reached=reached, feed=self._feed)
        checkpoint.sent_until, checkpoint.updated_at = self._sent_until, datetime.now(UTC)
        await self._checkpoints.write(checkpoint, account)

    def _account(self) -> Account:
        reached = self._count(exact=True)
        return self._books.account(final=self.position, reached=reached, feed=self._feed)

    def _count(self, *, exact: bool) -> int:
        """Bring the ledger up to date; the position that audio has been sent up to."""
        relay, reached = self._relay, self.position
        if relay is not None:
            relay.count(None if exact else time.monotonic())
            reached = relay.timeline.position
        self._ledger.captured(
            self._books.captured_until(reached, self._feed) / self.spec.sample_rate
        )
        return reached

    @property
    def _sent_until(self) -> int:
        relay = self._relay
        return self._ledger.sent_until(None if relay is None else relay.timeline.position)

    def record(self, now: float) -> str:
        """This session's part of the worker's record in the roster, as JSON (SessionRecord). Brings
        the ledger up to date."""
        relay, rate = self._relay, self.spec.sample_rate
        head = self._books.captured if self._feed is None else self._feed.head
        if relay is not None:
            relay.count()
            self._warn()
            if now - self._usage_at >= self._settings.usage_seconds:
                self._usage_at, self._usage_due = now, True
            if self._usage_due or self._low is not None:
                relay.alarm()
        captured = max(head, self.position) / rate
        self._ledger.captured(captured)
        provider = json.dumps(self._scribe.provider)
        return (
            f'{self._record_head},"state":"{self.state.value}","provider":{provider},'
            f'"lag_seconds":{self.lag_seconds:.2f},"captured_seconds":{captured:.3f},'
            f'"final_seconds":{self.position / rate:.3f},"sent_until":{self._sent_until},'
            f'"providers":{{{self._ledger.json()}}}}}'
        )

    # ---- control ----------------------------------------------------------------------------

    @property
    def provider_name(self) -> str:
        """The provider whose turn it is."""
        return self._chain.name

    @property
    def able(self) -> Capabilities:
        """What that provider can do. Raises PluginError."""
        return self._services.providers.get(self._chain.name).capabilities

    @property
    def sent_seconds(self) -> float:
        """Position of the next frame that goes to the provider."""
        relay = self._relay
        reached = self.position if relay is None else relay.timeline.position
        return round(reached / self.spec.sample_rate, 6)

    @property
    def _open_stream(self) -> ProviderStream:
        """Raises NoStream when none is open, or it is at its end."""
        if self._relay is None or self._relay.finishing:
            raise NoStream
        return self._relay.stream

    async def finalize(self) -> None:
        """Ask the provider to make final what it has. Raises ProviderError, NoStream."""
        await self._open_stream.finalize()

    async def configure(self, settings: dict[str, Any]) -> None:
        """Change settings now, and for every stream to come. Raises ProviderError, NoStream,
        LeaseLost."""
        await self._open_stream.configure(settings)
        self._configured |= settings
        await self._write_checkpoint()

    async def _stored_head(self) -> int:
        """End of this session's newest stored chunk, as far as that is known."""
        try:
            stored = await self._services.store.last(audio_subject(self.key))
            if stored is None or stored.headers.get(SESSION_ID) != self.id:
                return 0
            size = len(stored.data)
            header = decode_chunk_headers(stored.headers, size, self.spec.audio_format)
        except (StoreUnavailable, BadChunk):
            return 0
        return header.pos + self.spec.audio_format.frames(size)

    async def stop(self, reason: str) -> float:
        """End the session where its audio is now; that position in seconds. Raises LeaseLost."""
        reached = self.position if self._relay is None else self._relay.timeline.position
        head = max(reached, self._books.captured, await self._stored_head())
        if self._feed is not None:
            head = max(head, self._feed.head)
        end = head if self._limit is None else min(self._limit, head)
        self._end_at(end)
        self._limit_reason, self._limit_detail = stop_reason(reason), None
        await self._write_checkpoint()
        return round(end / self.spec.sample_rate, 6)

    # ---- budgets ----------------------------------------------------------------------------

    def low(self, remaining_seconds: float | None) -> None:
        """Warn subscribers that the session will soon be ended, in so many seconds of audio if that
        is known."""
        self._low = (remaining_seconds,)

    def exhaust(self, detail: str) -> None:
        """End the session where audio has been sent up to, with the reason `budget`. Idempotent."""
        reached = max(self.position, self._sent_until)
        if self._limit is None or reached < self._limit:
            self._end_at(reached)
            self._limit_reason, self._limit_detail = BUDGET, detail

    def _end_at(self, position: int) -> None:
        """End the session at `position`, whatever audio follows."""
        self._limit = position
        if self._relay is not None:
            self._relay.limit = position

    # ---- what the worker tells and asks -----------------------------------------------------

    @property
    def position(self) -> int:
        """Frames of the session: all before it is final."""
        return self._scribe.position

    @property
    def lag_seconds(self) -> float:
        """Audio known of and not yet sent."""
        feed, relay = self._feed, self._relay
        if feed is None:
            return 0.0
        reached = self.position if relay is None else relay.timeline.position
        return max(0, feed.head + feed.unread - reached) / self.spec.sample_rate

    def drain(self) -> None:
        """Give the session back at its next final, at the latest after the drain time."""
        self._drain_deadline = time.monotonic() + self._settings.drain_seconds
        self._drain.set()

    def doubt(self) -> None:
        """The lease may have run out while this process or its connection stood still: publish
        nothing more before the checkpoint shows that it is still ours."""
        self._unsure = True
        if self._relay is not None:
            self._relay.alarm()

    async def _make_sure(self) -> None:
        """Raises LeaseLost if the session is no longer ours."""
        if self._unsure:
            await self._write_checkpoint()
            self._unsure = False

    def tick(self, now: float, *, listening: bool, stood: float = 0) -> None:
        """Watch the provider stream; called a few times a second. `listening`: the broker takes
        what the provider says. `stood`: seconds since the last call in which we stood still."""
        relay, permit = self._relay, self._permit
        if relay is None:
            return
        if permit is not None and permit.lost.is_set():
            name = relay.provider.name
            relay.fail(Dropped(name, "its slot was taken over: this process stood still"))
        relay.watch(now, listening=listening, stood=stood)
        if self._drain_deadline is not None and now > self._drain_deadline:
            relay.fail(_HandOver())


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
    for kind in (LeaseLost, _HandOver, RequestRefused, ProviderError, _Parked):
        for cause in causes:
            if isinstance(cause, kind):
                return cause
    return causes[0]
