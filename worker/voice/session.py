"""One voice session in the worker, from takeover to the end of the lease.

Every fault is handled the same way: audio that is published goes on being played, and the phrase
that was not published completely is spoken again, without the frames that were published.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from natterjack.broker import streams
from natterjack.errors import BrokerError
from natterjack.events import StatusState
from natterjack.plugin.errors import Dropped
from natterjack.spec import MAX_STORED_BYTES
from natterjack.subjects import SessionKey, voice_session_subject
from natterjack.voice.events import UtteranceEvent
from natterjack.voice.spec import VoiceSpec
from worker.drain import Drain, HandOver
from worker.errors import LeaseLost
from worker.metering.voice_ledger import VoiceLedger
from worker.services import Services
from worker.session.admission import NoProvider
from worker.session.checkpoint import CheckpointStore
from worker.session.cutoff import BUDGET, Cutoff
from worker.session.intake import first_queued
from worker.session.lease import AlreadyClosed, KeyBusy, Lifecycle, QueueUnknown
from worker.session.output.publish import Publisher
from worker.session.results import decisive
from worker.session.states import State
from worker.session.takeover import Claimant, give_up_reason
from worker.trace import lease_trace

from .checkpoint import VoiceCheckpoint
from .control import Refused, carry_out
from .events import VOICE, EventWriter
from .incoming import Incoming
from .lease import VoiceLease
from .progress import LOOK_SECONDS, Progress, record_prefix
from .speaker import Speaker
from .speech import Speech

log = logging.getLogger(__name__)

_SAVE_SECONDS = 2.0
_QUEUE_LOOK_SECONDS = 10.0
_REMAINING_CHARACTERS = 16 * 1024


class VoiceSession:
    """A voice session under a lease. `run` returns how it ended."""

    def __init__(
        self,
        services: Services,
        spec: VoiceSpec,
        epoch: int,
        request_sequence: int,
        *,
        problem: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """The arguments are those of `worker.session.session.Session`."""
        self._services = services
        settings, metrics = services.settings, services.metrics
        self.spec = spec
        self.key: SessionKey = spec.key
        self.id = spec.session_id
        self.epoch = epoch
        self.since = time.monotonic()
        self.next_heartbeat = 0.0
        """When the lease is to be renewed, by the monotonic clock."""
        self.claim_after = 0.0
        """Seconds after a handover in which no worker is to claim the session."""
        self._problem = problem
        holder, instance = secrets.token_hex(8), services.report.instance
        self._publisher = Publisher(
            services.broker, services.js, spec.key, self.id, epoch, holder, VOICE
        )
        self._speech = Speech(services.broker, services.js, spec, epoch)
        self.progress = Progress(
            spec,
            EventWriter(self._publisher, spec, epoch, settings.name, metrics),
            self._speech,
            VoiceLedger(spec.tenant, metrics, services.tally),
            metrics,
        )
        self._cutoff = Cutoff(spec.sample_rate, None, ())
        assert services.voice_checkpoints is not None
        self._lease = VoiceLease(
            CheckpointStore(services.broker, services.voice_checkpoints, spec.key, VoiceCheckpoint),
            Claimant(self.id, request_sequence, epoch, settings.name, holder, instance),
            spec,
            self.progress,
            self._cutoff,
        )
        self.trace = lease_trace(spec, epoch, settings.name, headers)
        self._lifecycle = Lifecycle(spec.key, self._lease, self.trace)
        self._record_prefix = record_prefix(spec, epoch, holder)
        self._drain = Drain()
        self._speaker = Speaker(
            services, spec, self.progress, self._lease, self._lifecycle, self._drain, self._wake
        )
        self._first_queued = partial(
            first_queued, services.js, streams.VOICE_SESSIONS, voice_session_subject(self.key)
        )
        self._queue_look_at = 0.0
        """When to look again for a later request for the key."""
        self._look = asyncio.Event()
        self._incoming: Incoming
        self._usage_at = time.monotonic() + settings.usage_seconds
        self.progress.wake = self._wake

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
                async with self._incoming.receiving(partial(carry_out, self)):
                    reason = await self._serve_and_guard()
                await self._speaker.admission.release()
                detail = self._cutoff.detail if reason == BUDGET else None
                remaining = self._remaining()
                await self._speaker.interrupter.give_up(reason.partition(":")[0])
                await self._end("closed", reason, detail, **remaining)
                self._lifecycle.enter(State.CLOSED, reason=reason, detail=detail)
            except NoProvider as failure:
                await writer.resume()
                remaining = self._remaining()
                await self._speaker.interrupter.give_up("failed")
                await self._end("failed", str(failure), None, **remaining)
                self._lifecycle.enter(State.FAILED, reason=str(failure))
            except HandOver as handover:
                self.claim_after = handover.seconds
                await self._speech.settle()
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
                raise
            with contextlib.suppress(LeaseLost, BrokerError, TimeoutError):
                async with asyncio.timeout(_SAVE_SECONDS):
                    await self._lease.write()
            raise
        finally:
            self._speech.abandon()
            await self._speaker.admission.release(
                hand_over=self.state in (State.HANDED_OVER, State.LOST)
            )
        return self.state

    def _remaining(self) -> dict[str, Any]:
        """The members of the closing event about text that was not spoken."""
        progress = self.progress
        left = progress.script.utterances
        if not left:
            return {}
        first = min(left)
        said = progress.offset if first == progress.utterance else 0
        text = progress.script.unspoken[said:][:_REMAINING_CHARACTERS]
        return {"utterance": first, "text_remaining": text}

    async def _end(self, state: StatusState, reason: str, detail: str | None, **more: Any) -> None:
        """Publish the closing event."""
        progress = self.progress
        if progress.ledger.usage():
            await progress.publish_usage()
        if reason == BUDGET:
            self._services.metrics.budget_ended.labels(self._cutoff.budget_scope).inc()
        payload = self.spec.encode()
        small = not self._problem and len(payload) <= MAX_STORED_BYTES
        request = json.loads(payload) if small else None
        await progress.writer.status(state, reason, detail=detail, request=request, **more)
        await self._lease.write(closed=True)

    async def _take_over(self) -> None:
        """Become the session's only holder, and find the place to go on at."""
        writer, publisher, services = self.progress.writer, self._publisher, self._services
        before = await publisher.look()
        await self._lease.acquire(self._first_queued, services.report.record_of, publisher.end_of)
        self._speaker.admission.adopt()
        before = await publisher.establish(
            before, lambda n: writer.status_event(n, "assigned").encode(), self._lease.write
        )
        if before is not None and before.closing:
            await self._lease.write(closed=True)
            raise AlreadyClosed
        if problem := self._problem or give_up_reason(self._lease.checkpoint.crashes):
            raise NoProvider(problem)
        if before is not None:
            await writer.resume()
        checkpoint = self._lease.checkpoint
        newest = await publisher.newest("utterance")
        if isinstance(newest, UtteranceEvent):  # it may be newer than the checkpoint
            checkpoint.started = max(checkpoint.started, newest.utterance)
            if newest.event != "started":
                checkpoint.over = max(checkpoint.over, newest.utterance)
        self.progress.restore(checkpoint)
        self._incoming = Incoming(
            services, self.spec, self.progress, checkpoint.text_sequence, self._wake,
            self._lease.mark_unconfirmed,
        )  # fmt: skip
        self._speech.on_published = self.progress.published
        await self._speaker.find_frontier()
        if self.progress.offset or self.progress.skip:
            self.progress.script.begun = self.progress.utterance

    # ---- speaking -------------------------------------------------------------------------------

    async def _serve_and_guard(self) -> str:
        """Speak until the session is over, and guard it meanwhile. Return the reason for the
        end."""
        feed = self._incoming.feed
        try:
            async with asyncio.TaskGroup() as tasks:
                side = [
                    tasks.create_task(feed.run(), name=f"text {self.key}"),
                    tasks.create_task(self._guard(), name=f"guard {self.key}"),
                ]
                await feed.ready.wait()
                await self._speaker.finish_cut()
                reason = await self._speaker.serve(feed)
                for task in side:
                    task.cancel()
        except BaseExceptionGroup as group:
            raise decisive(group) from group
        return reason

    def _wake(self) -> None:
        """Make the tasks of the session look again."""
        self._look.set()
        if self._speaker.relay is not None:
            self._speaker.relay.wake()

    # ---- guarding -------------------------------------------------------------------------------

    async def _guard(self) -> None:
        """Confirm the lease, interrupt, and publish the ends of utterances and what was used."""
        while True:
            self._look.clear()
            await self._lease.confirm()
            if self._incoming.feed.ready.is_set():  # else the text of what was spoken is not known
                await self._look_after(time.monotonic())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._look.wait()

    async def _look_after(self, now: float) -> None:
        """As `_guard`, once."""
        progress, settings = self.progress, self._services.settings
        if self._incoming.turn_started:
            self._incoming.turn_started = False
            await self._speaker.interrupt("turn")
        if progress.playback.stale(now, settings.voice_unplayed_seconds):
            await self._speaker.interrupt("no_player")
        await self._speaker.finish_played()
        if now >= self._usage_at:
            self._usage_at = now + settings.usage_seconds
            if progress.ledger.usage():
                await progress.publish_usage()
        if await self._incoming.republish(now):
            await self._speaker.rewind()
        if await self._is_superseded(now):
            self._speaker.supersede()

    async def _is_superseded(self, now: float) -> bool:
        """True if a later request for the key is in the queue, once no text has arrived for a
        while."""
        feed, speaker = self._incoming.feed, self._speaker
        quiet = now - feed.last_arrival > self._services.settings.superseded_seconds
        if speaker.superseded or not quiet or not (feed.foreign or now >= self._queue_look_at):
            return False
        feed.foreign, self._queue_look_at = False, now + _QUEUE_LOOK_SECONDS
        with contextlib.suppress(QueueUnknown):
            later = await self._first_queued(self._lease.checkpoint.request_sequence + 1)
            return later is not None and feed.last_arrival <= now
        return False

    # ---- requests: control.Controllable ---------------------------------------------------------

    @property
    def provider_name(self) -> str:
        """The current provider of the chain."""
        return self._speaker.admission.chain.name

    @property
    def configurable(self) -> frozenset[str]:
        """The settings that can be changed mid-stream. Raises PluginError."""
        return self._services.voices.get(self.provider_name).capabilities.configurable

    async def interrupt(self, reason: str, detail: str | None = None) -> tuple[int | None, float]:
        """Drop all text and audio that was not played. Return the utterance that was cut, and the
        seconds of speech that were played. Raises LeaseLost."""
        await self._incoming.feed.ready.wait()
        return await self._speaker.interrupt(reason, detail)

    async def configure(self, settings: dict[str, Any]) -> None:
        """Change settings of this stream and of all later ones. Raises ProviderError, LeaseLost."""
        relay = self._speaker.relay
        if relay is None:
            raise Refused("no provider stream is open now; ask again when the session is streaming")
        await relay.stream.configure(settings)
        self._lease.checkpoint.configured |= settings
        await self._lease.write()

    async def close_when_spoken(self, reason: str) -> None:
        """End the session when its text has been spoken. Raises LeaseLost."""
        await self._incoming.feed.ready.wait()
        script = self.progress.script
        self.progress.close_reason = f"closed: {reason}"
        script.end_open()
        script.last = script.newest
        await self._lease.write()
        self._wake()

    # ---- budgets: metering.budgets.Budgeted -----------------------------------------------------

    def warn_budget(self, remaining_seconds: float | None) -> None:
        """Have the use published soon."""
        self._usage_at = 0.0

    def exhaust(self, detail: str) -> None:
        """End the session now, with the reason `budget`. Idempotent."""
        self._cutoff.exhaust(detail, self.progress.frontier)
        self._wake()

    # ---- called by the worker -------------------------------------------------------------------

    def record(self, now: float) -> str:
        """This session's part of the worker's roster record, as JSON (SessionRecord)."""
        return f'{self._record_prefix},"state":"{self.state.value}",{self.progress.record_json()}}}'

    def drain(self) -> None:
        """Hand the session over at the end of a phrase, or after the drain time."""
        self._drain.request(time.monotonic() + self._services.settings.drain_seconds)
        self._wake()

    def mark_unconfirmed(self) -> None:
        """Publish nothing more before the checkpoint proves that the lease still holds."""
        self._lease.mark_unconfirmed()

    def tick(self, now: float, *, connected: bool, paused: float = 0) -> None:
        """Watch the provider stream; called a few times a second. `connected`: the broker accepts
        speech. `paused`: seconds since the last call for which the process was suspended."""
        relay, permit = self._speaker.relay, self._speaker.admission.permit
        if not connected:
            self.progress.playback.listening(now)  # once it is connected again
        if relay is None:
            return
        if permit is not None and permit.lost.is_set():
            reason = "its permit was taken over while this process was suspended"
            relay.fail(Dropped(relay.provider.name, reason))
        relay.watch(now, connected=connected, paused=paused)
        if self._drain.requested and self._drain.overdue(now):
            relay.fail(HandOver())
