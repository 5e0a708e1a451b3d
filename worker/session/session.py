"""One session in the worker, from takeover to the end of the lease. `states.py` has its states.

Every fault of a provider, a connection or a worker is handled the same way: `EventWriter.resume`
reads from the broker where finals end, and the audio is sent again from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Mapping

from natterjack.errors import BrokerError
from natterjack.events import StatusState
from natterjack.plugin.errors import (
    Dropped,
    PluginError,
    ProviderError,
    RequestRefused,
)
from natterjack.spec import SessionSpec
from worker.audio.feed import Feed
from worker.dialing import Opened, TranscriptDialer
from worker.drain import Drain, HandOver
from worker.errors import LeaseLost
from worker.joint import Joint
from worker.metering.account import AccountBuilder, count_ended
from worker.metering.ledger import Ledger
from worker.services import Services
from worker.trace import lease_trace

from . import takeover
from .admission import Admission, CutoffReached, Held, NoProvider, Stuck
from .checkpoint import Checkpoint, CheckpointStore
from .control import Controls, controlled
from .cutoff import BUDGET, Cutoff
from .intake import Intake, Parked, Queries
from .lease import AlreadyClosed, KeyBusy, Lease, Lifecycle
from .output.events import EventWriter, UsageSchedule
from .output.publish import Publisher
from .progress import Progress, record_prefix
from .relay import Relay
from .results import Results, decisive
from .retry import Retry
from .states import State
from .takeover import Claimant

log = logging.getLogger(__name__)

_SAVE_SECONDS = 2.0


class Session:
    """A session under a lease. `run` returns how it ended."""

    __slots__ = (
        "_admission", "_cutoff", "_dialer", "_drain", "_intake", "_lease", "_lifecycle", "_problem",
        "_publisher", "_queries", "_record_prefix", "_retry", "_services", "_usage",
        "claim_after", "epoch", "id", "key", "next_heartbeat", "progress", "since", "spec", "trace",
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
        """`epoch` is the delivery count of the request, `request_sequence` its position in the
        queue's stream, and `headers` are its headers, which may name a trace. `problem` is what
        makes the request unusable: such a session only fails."""
        self._services = services
        settings, metrics, rate = services.settings, services.metrics, spec.sample_rate
        self.spec = spec
        self.key = key = spec.key
        self.id = spec.session_id
        self.epoch = epoch
        self.since = time.monotonic()
        self.next_heartbeat = 0.0
        """When the lease is to be renewed, by the monotonic clock."""
        self.claim_after = 0.0
        """Seconds after a handover in which no worker is to claim the session."""
        self._problem = problem
        holder, instance = secrets.token_hex(8), services.report.instance
        self._publisher = Publisher(services.broker, services.js, key, self.id, epoch, holder)
        ledger = Ledger(spec.tenant, rate, metrics, services.tally)
        self.progress = Progress(
            rate,
            EventWriter(self._publisher, spec, epoch, settings.name, metrics),
            AccountBuilder(key, rate, metrics, ledger),
            ledger,
        )
        self._cutoff = Cutoff(rate, spec.max_seconds, settings.warning_fractions)
        claimant = Claimant(self.id, request_sequence, epoch, settings.name, holder, instance)
        assert services.checkpoints is not None
        store = CheckpointStore(services.broker, services.checkpoints, key, Checkpoint)
        self._lease = Lease(store, claimant, spec, self.progress, self._cutoff)
        self.trace = lease_trace(spec, epoch, settings.name, headers)
        self._lifecycle = Lifecycle(key, self._lease, self.trace)
        self._record_prefix = record_prefix(spec, epoch, holder)
        self._retry = Retry(
            settings.backoff_seconds, settings.max_backoff_seconds, settings.recovery_seconds
        )
        self._drain = Drain()
        self._dialer = TranscriptDialer(services, spec)
        self._admission = Admission(
            services, self._dialer, spec.tenant, self._drain, self._retry, self._lease,
            self._lifecycle.enter, sample_rate=rate,
        )  # fmt: skip
        self._queries = queries = Queries(services, spec)
        self._intake = Intake(
            settings, self._drain, self._lease, self._admission, queries.first_queued,
            queries.stored_head, repeats=spec.repeats is not None,
        )  # fmt: skip
        self._usage = UsageSchedule(settings.usage_seconds, time.monotonic())

    @property
    def state(self) -> State:
        return self._lifecycle.state

    async def run(self) -> State:
        """Run the session until this lease ends. The caller acks after CLOSED or FAILED, naks after
        HANDED_OVER, and does neither after LOST. Raises KeyBusy before anything was done."""
        writer = self.progress.writer
        try:
            try:
                await self._take_over()
                controls = Controls(
                    self.spec, self._admission, self._dialer, self._queries, self._lease
                )
                async with controlled(self._services.broker, controls):
                    reason = await self._serve()
                await self._admission.release()
                detail = self._cutoff.detail if reason == BUDGET else None
                await self._end("closed", reason or "end of audio", detail)
                self._lifecycle.enter(State.CLOSED, reason=reason, detail=detail)
            except NoProvider as failure:
                await writer.resume()
                await self._end("failed", str(failure))
                self._lifecycle.enter(State.FAILED, reason=str(failure))
            except HandOver as handover:
                self.claim_after = handover.seconds
                await writer.resume()
                await writer.status("handed_over", str(handover))
                await self._lease.write(handed_over=True)
                self._lifecycle.enter(State.HANDED_OVER)
        except AlreadyClosed:
            self._lifecycle.enter(State.CLOSED, reason="closed before")
        except LeaseLost as lost:
            self._services.metrics.leases_lost.inc()
            if self._publisher.fenced:
                self._services.metrics.fenced.inc()
            self._lifecycle.enter(State.LOST, reason=str(lost))
        except KeyBusy:
            raise
        except Exception:  # a defect of the worker, whatever it is; the lease's task logs it
            if self.state is State.TAKING_OVER:
                raise  # nothing was used yet; and the checkpoint may be another worker's
            # The worker that takes over should know what the session has cost so far.
            with contextlib.suppress(LeaseLost, BrokerError, TimeoutError):
                async with asyncio.timeout(_SAVE_SECONDS):
                    await self._lease.write()
            raise
        finally:
            await self._admission.release(hand_over=self.state in (State.HANDED_OVER, State.LOST))
        return self.state

    async def _end(self, state: StatusState, reason: str, detail: str | None = None) -> None:
        """Publish the closing event with the session's account."""
        writer, ledger = self.progress.writer, self.progress.ledger
        await self.progress.publish_notices()
        await writer.end_turn()
        if ledger.usage():
            await writer.usage(ledger)
        if reason == BUDGET:
            self._services.metrics.budget_ended.labels(self._cutoff.budget_scope).inc()
        account = self.progress.closing_account()
        more = {} if self._problem else self.progress.closing_fields(self.spec, reason)
        await writer.status(state, reason, detail=detail, account=account, **more)
        if self.spec.repeats is None:
            seconds = self._cutoff.seconds
            if more.get("continued_by"):
                seconds = self.progress.final_seconds  # the rest is the successor's
            count_ended(self._services.metrics, account, state, seconds)
        await self._lease.write(closed=True)

    async def _take_over(self) -> None:
        """Become the session's only holder, and find the position to resume at."""
        writer, publisher = self.progress.writer, self._publisher
        first_queued, record_of = self._queries.first_queued, self._services.report.record_of
        before = await publisher.look()
        estimate = await self._lease.acquire(first_queued, record_of, publisher.end_of)
        self._admission.adopt()
        if estimate is not None:
            with contextlib.suppress(PluginError):
                price = self._dialer.price(estimate.provider, None, self.spec.language, 1)
                self.progress.ledger.assume(estimate.provider, price, estimate.seconds)
        before = await publisher.establish(
            before, lambda n: writer.status_event(n, "assigned").encode(), self._lease.write
        )
        if before is not None and before.closing:
            await self._lease.write(closed=True)
            raise AlreadyClosed
        if problem := self._problem or takeover.give_up_reason(self._lease.checkpoint.crashes):
            raise NoProvider(problem)
        if before is not None:
            await writer.resume()

    async def _serve(self) -> str | None:
        """Stream until the audio has ended and every final is published. Return the reason for the
        end; None if it was the end of the audio."""
        lease, writer = self._lease, self.progress.writer
        while True:
            before, self.progress.timeline = writer.position, None
            try:
                await self._admission.hold()
                with contextlib.suppress(Parked):
                    if await self._stream_once():
                        return self._intake.end_reason
                # Parked. More audio may come; audio that is not final will be sent again.
                await self._admission.release()
                await writer.resume()
                self._admission.reset()
                continue
            except Held:
                continue
            except CutoffReached:
                return self._cutoff.reason
            except ProviderError as error:
                fault = error
            except PluginError as error:
                fault = RequestRefused(self._admission.chain.name, "request", str(error))
            self.trace.fault(fault.cause)
            await writer.resume()
            configured = lease.checkpoint.configured
            if configured and isinstance(fault, RequestRefused) and fault.cause == "request":
                # Most likely the provider refuses a setting that was changed mid-stream. The
                # transcript matters more than the setting.
                lease.checkpoint.configured = {}
                await writer.status("recovering", f"changed settings are dropped: {fault}")
                await lease.write()
                self._lifecycle.enter(State.RECOVERING, cause=fault.cause, reason=str(fault))
                continue
            self._admission.repeated_failures.failed(
                self._admission.chain.name, fault.cause, writer.position, self.progress.reached
            )
            try:
                await self._admission.recover(fault, finals_moved=writer.position > before)
            except Stuck:
                await self._leave_out(fault)

    async def _leave_out(self, fault: ProviderError) -> None:
        """Leave out the audio that no provider can transcribe, and continue after it."""
        done = await self.progress.leave_out(fault, self._admission.repeated_failures.reached)
        if self._admission.repeated_failures.leave_out(self.progress.final):
            self._retry.reset()
        reason = f"{fault.cause}: {fault}; {done}"
        self._lifecycle.enter(State.RECOVERING, cause=fault.cause, reason=reason)
        await self.progress.writer.status("recovering", reason)
        await self._lease.write()

    async def _stream_once(self) -> bool:
        """Send the audio from the last final on through one provider stream. True at the end of the
        session; False if the stream was closed because no audio came for a long time."""
        self._lifecycle.enter(State.WAITING)
        services, progress, mark = self._services, self.progress, self._lease.checkpoint.mark
        progress.feed = feed = Feed(
            services.broker, services.store, self.spec, mark, progress.final,
            services.settings.hole_seconds,
        )  # fmt: skip
        await feed.open()
        try:
            if not await self._intake.wait_for_audio(feed):
                return True
            opened = await self._admission.connect()
            try:
                return await self._stream(feed, opened)
            finally:
                await opened.stream.close()
        finally:
            progress.close_feed()
            await feed.close()

    async def _stream(self, feed: Feed, opened: Opened) -> bool:
        """Send audio and receive transcripts until both have ended. As `_stream_once`."""
        provider, stream, converter, price = opened
        progress, services, retry = self.progress, self._services, self._retry
        progress.ledger.opened(provider.name, price, progress.final)
        relay = progress.relay = Relay(
            provider, stream, converter, self.spec, progress.final, services.settings,
            services.metrics, progress.ledger,
        )  # fmt: skip
        relay.limit = self._cutoff.position
        progress.writer.provider = self._lease.checkpoint.provider = provider.name
        self._lifecycle.enter(State.STREAMING, provider=provider.name, reference=stream.reference)
        if (recovered := retry.recovered(time.monotonic())) is not None:
            cause, seconds = recovered
            services.metrics.recovery_time.labels(cause).observe(seconds)
        results = Results(
            relay, progress, self._lease, self._admission.chain, self._drain, services.metrics,
            self.key, log_transcripts=services.settings.log_transcripts,
            live=self.spec.repeats is None,
        )  # fmt: skip
        try:
            await progress.writer.status("streaming")
            async with asyncio.TaskGroup() as tasks:
                guard = tasks.create_task(self._guard(relay), name=f"guard {self.key}")
                sender = tasks.create_task(self._send(relay, feed), name=f"send {self.key}")
                await results.run()
                if not relay.finishing:
                    raise Dropped(provider.name, "the provider ended the stream before the audio")
                ended = await sender
                guard.cancel()
        except BaseExceptionGroup as group:
            raise decisive(group) from group
        finally:
            relay.count_last()
            retry.answered_seconds = relay.connected_seconds if relay.answered else None
            retry.pending = results.pending
            progress.timeline, progress.relay = relay.timeline, None
        await progress.publish_notices()
        # The provider has sent all that was due: what no final covers was silence.
        end = relay.timeline.position if results.end is None else results.end
        progress.writer.position = max(progress.final, end)
        return ended

    async def _send(self, relay: Relay, feed: Feed) -> bool:
        ended = await relay.send(feed, self.progress.account_builder, self._intake.is_over)
        if not ended and relay.cut_short:
            self._intake.park(feed)
            raise Parked
        self._lifecycle.enter(State.FINISHING)
        cut_off = self._cutoff.cuts(relay.timeline.position)
        if self.spec.successor and cut_off and relay.cut_short and not feed.ended:
            relay.joint = Joint(relay.timeline.sent_seconds)
        await relay.finish()
        if self._cutoff.reached(relay.timeline.position) and not feed.ended:
            self._intake.end_reason = self._cutoff.reason
        return ended

    async def _guard(self, relay: Relay) -> None:
        """Whenever woken, raise the stream's error, confirm the lease, publish what is due."""
        while True:
            await relay.wait_guard()
            await self._lease.confirm()
            await self.progress.publish_notices()
            await self._usage.publish(self.progress.writer, self.progress.ledger)

    def warn_budget(self, remaining_seconds: float | None) -> None:
        """Warn subscribers that the session will soon end, after `remaining_seconds` of audio if
        that is known."""
        self._usage.warn(remaining_seconds)

    def exhaust(self, detail: str) -> None:
        """End the session where sent audio ends, with the reason `budget`. Idempotent."""
        self._cutoff.exhaust(detail, self.progress.frontier)
        self.progress.limit(self._cutoff.position)

    def record(self, now: float) -> str:
        """This session's part of the worker's roster record, as JSON (SessionRecord). Brings the
        ledger up to date."""
        relay = self.progress.relay
        if relay is not None:
            relay.count()
            remaining = self._cutoff.warning(relay.timeline.position)
            if remaining is not None:
                self._usage.warn(remaining)
            if self._usage.check(now):
                relay.wake_guard()
        return f'{self._record_prefix},"state":"{self.state.value}",{self.progress.record_json()}}}'

    def drain(self) -> None:
        """Hand the session over at its next final, or after the drain time."""
        self._drain.request(time.monotonic() + self._services.settings.drain_seconds)

    def mark_unconfirmed(self) -> None:
        """Publish nothing more before the checkpoint proves that the lease still holds: it may have
        run out while this process or its connection was suspended."""
        self._lease.mark_unconfirmed()

    def tick(self, now: float, *, connected: bool, paused: float = 0) -> None:
        """Watch the provider stream; called a few times a second. `connected`: the broker accepts
        transcripts. `paused`: seconds since the last call for which the process was suspended."""
        relay, permit = self.progress.relay, self._admission.permit
        if relay is None:
            return
        if permit is not None and permit.lost.is_set():
            reason = "its permit was taken over while this process was suspended"
            relay.fail(Dropped(relay.provider.name, reason))
        relay.watch(now, connected=connected, paused=paused)
        if self._drain.requested and self._drain.overdue(now):
            relay.fail(HandOver())
