"""Receiving the events of one provider stream: publishes them, and observes their latency."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import replace

from natterjack.plugin.errors import ProviderError, RemoteProtocolError, RequestRefused
from natterjack.plugin.provider import Final, Interim, Notice, ProviderEvent, Turn, Usage
from natterjack.subjects import SessionKey
from natterjack.telemetry.log import fields
from worker.drain import Drain, HandOver
from worker.errors import LeaseLost
from worker.joint import Joint
from worker.metrics import Metrics
from worker.providers.chain import Chain
from worker.providers.guard import Guard

from .intake import Parked
from .lease import Lease
from .output.timeline import Timeline
from .progress import Progress
from .relay import Relay

log = logging.getLogger(__name__)

_TURN_END_SECONDS = 0.1


class Latencies:
    """Observes how late the transcripts of one provider stream are."""

    __slots__ = (
        "_after_speech", "_captured_ns", "_final", "_first", "_goal", "_has_begun", "_interim",
        "_late", "_late_seconds", "_live", "_opened", "_seconds", "_speech_seconds", "_spoken_at",
    )  # fmt: skip

    def __init__(self, metrics: Metrics, provider: str, *, live: bool = True) -> None:
        """`live` is False if the session repeats an earlier one, whose speech cannot be in time."""
        self._live = live
        # Looking up labels is slow: once for each stream.
        self._interim = metrics.latency.labels("interim", provider)
        self._final = metrics.latency.labels("final", provider)
        self._first = metrics.first_interim.labels(provider)
        self._after_speech = metrics.final_delay.labels(provider)
        self._speech_seconds = metrics.speech_seconds.labels(provider)
        self._late_seconds = metrics.speech_late_seconds.labels(provider)
        self._goal = metrics.final_goal_seconds
        self._seconds = 0.0
        """How long the speech of the last final is."""
        self._captured_ns: int | None = None
        """When the end of that speech was captured, by the edge's clock."""
        self._opened = time.monotonic()
        self._has_begun = False
        self._spoken_at: float | None = None
        self._late: float | None = None

    def received(self, timeline: Timeline, event: Interim | Final) -> None:
        """Note a transcript. Call it before publishing the event, after which the timeline drops
        its times."""
        if self._has_begun or not event.text:
            return
        self._has_begun = True
        start = event.words[0].start if event.words else None
        at = timeline.to_position(event.start if start is None else start)
        arrived = timeline.arrived(at + 1)
        if arrived is not None:
            self._first.observe(time.monotonic() - max(arrived, self._opened))

    def received_final(self, timeline: Timeline, event: Final) -> None:
        """Note a final, like `received`."""
        self.received(timeline, event)
        start = event.words[0].start if event.words else None
        end = event.words[-1].end if event.words else None
        self._spoken_at = None if end is None else timeline.arrived(timeline.to_position(end))
        if start is None or end is None:
            start, end = event.start, event.end
        last = timeline.to_position(end)
        spoken = timeline.to_seconds(end) - timeline.to_seconds(start)
        self._seconds = max(0.0, spoken) if event.text else 0.0
        self._captured_ns = timeline.captured_ns(last)

    def interim(self, latency: float | None) -> None:
        """Observe the latency of an interim that was published."""
        if latency is not None:
            self._interim.observe(latency)

    def final(self, latency: float | None) -> None:
        """Observe the latency of a final that was published, and whether its speech was final
        within the goal: since its capture, so that an outage counts; without the edge's clock,
        since its arrival."""
        if self._live:
            self._count_speech(latency)
        if latency is None:
            return
        self._final.observe(latency)
        self._late = None if self._spoken_at is None else time.monotonic() - self._spoken_at

    def _count_speech(self, latency: float | None) -> None:
        self._speech_seconds.inc(self._seconds)
        delay = latency
        if self._captured_ns is not None:
            delay = (time.time_ns() - self._captured_ns) / 1e9
        if delay is None or delay > self._goal:
            self._late_seconds.inc(self._seconds)

    def turn_ended(self) -> None:
        """Observe the delay between the end of a turn's speech and its last final."""
        if self._late is not None:
            self._after_speech.observe(self._late)
            self._late = None


class Results:
    """Publishes the events of one provider stream, and stores checkpoints after its finals."""

    __slots__ = (
        "_chain", "_drain", "_key", "_lease", "_live", "_log_transcripts", "_metrics", "_progress",
        "_relay", "_writer", "end", "heard", "pending",
    )  # fmt: skip

    def __init__(
        self,
        relay: Relay,
        progress: Progress,
        lease: Lease,
        chain: Chain,
        drain: Drain,
        metrics: Metrics,
        key: SessionKey,
        *,
        log_transcripts: bool,
        live: bool = True,
    ) -> None:
        """`live` is False if the session repeats an earlier one."""
        self._live = live
        self._relay = relay
        self._progress = progress
        self._writer = progress.writer
        self._lease = lease
        self._chain = chain
        self._drain = drain
        self._metrics = metrics
        self._key = key
        self._log_transcripts = log_transcripts
        self.end: int | None = None
        """Where the audio ends that the session keeps; None for all that was sent."""
        self.heard = False
        """Whether text has arrived since the last final."""
        self.pending = False
        """Whether the last interim had text, which is not final yet."""

    async def run(self) -> None:
        """Publish events until the provider ends the stream. Raises ProviderError, LeaseLost."""
        guard = Guard(self._relay.provider.name)
        try:
            await self._receive(guard)
        except RemoteProtocolError as error:
            error.readable = guard.new_part(error.readable, self._relay.timeline.sent_seconds)
            raise

    async def _receive(self, guard: Guard) -> None:
        relay, writer, lease = self._relay, self._writer, self._lease
        latencies = Latencies(self._metrics, relay.provider.name, live=self._live)
        async for received in relay.stream:
            event = guard.check(received, relay.timeline.sent_seconds)
            del received
            relay.handling = True
            if not relay.answered or isinstance(event, Final):
                self._chain.record_success(first_answer=not relay.answered)
                relay.answered = True
                await lease.served()
            if lease.unconfirmed:
                await lease.confirm()
            if isinstance(event, Interim):
                self.pending = bool(event.text)
                self.heard = self.heard or self.pending
                latencies.received(relay.timeline, event)
                latencies.interim(await writer.interim(relay.timeline, event))
            elif relay.joint is not None and isinstance(event, Final | Turn):
                if isinstance(event, Final):
                    self.heard = self.pending = False
                for ready in relay.joint.next(event):
                    await self._joined(ready, latencies)
            elif isinstance(event, Final):
                self.heard = self.pending = False
                await self._final(event, latencies)
                if self._drain.requested and not relay.finishing:
                    # The end of the turn may come right after its last final: give it a moment.
                    loop = asyncio.get_running_loop()
                    loop.call_later(_TURN_END_SECONDS, relay.fail, HandOver())
            elif event is not None:
                await self._other(event, latencies)
            relay.handling = False
            relay.restart_watchdog()
            del event  # free it, with all its words, before waiting for the next one
        guard.end(heard=self.heard)
        if relay.joint is not None:
            await self._join(relay.joint, latencies)

    async def _final(self, event: Final, latencies: Latencies) -> None:
        timeline, lease = self._relay.timeline, self._lease
        await lease.before_final()
        latencies.received_final(timeline, event)
        latencies.final(await self._writer.final(timeline, event))
        if self._log_transcripts and event.text:
            log.info("final", extra=fields(session=str(self._key), text=event.text))
        await lease.after_final(event)

    async def _join(self, joint: Joint, latencies: Latencies) -> None:
        """Publish the last final of a session that ends in speech, as far as it is this session's,
        and end the session there."""
        timeline, progress, limit = self._relay.timeline, self._progress, self._relay.limit
        final, end = joint.last()
        cut_off = limit is not None and timeline.position >= limit
        if cut_off and max(progress.final, timeline.to_position(end)) <= progress.start:
            final, end = joint.whole()  # or its successor would send all of it again, and so on
        self.end = timeline.to_position(end)
        if final is not None:
            await self._final(final, latencies)
        for turn in joint.turns:
            await self._other(replace(turn, at=min(turn.at, end)), latencies)

    async def _joined(self, event: Final | Turn, latencies: Latencies) -> None:
        if isinstance(event, Final):
            await self._final(event, latencies)
        else:
            await self._other(event, latencies)

    async def _other(self, event: ProviderEvent, latencies: Latencies) -> None:
        relay = self._relay
        if isinstance(event, Turn):
            at = None if math.isnan(event.at) else relay.timeline.to_seconds(event.at)
            await self._writer.turn(event, at)
            if event.event == "ended":
                latencies.turn_ended()
        elif isinstance(event, Usage):
            await self._usage(event)
        elif isinstance(event, Notice):
            self._metrics.provider_notices.labels(relay.provider.name, event.code).inc()
            log.debug(
                "provider notice %s: %s",
                event.code,
                event.message,
                extra=fields(session=str(self._key)),
            )

    async def _usage(self, usage: Usage) -> None:
        """Count what the provider says the stream has used, and publish what is left."""
        relay, ledger = self._relay, self._progress.ledger
        if usage.audio_seconds is not None:
            ledger.reported(usage.audio_seconds)
        left = usage.credits_remaining_seconds
        if left is not None:
            self._metrics.credits_remaining.labels(relay.provider.name, "seconds").set(left)
        if usage.low or left is not None:
            relay.count()
            await self._writer.usage(ledger, remaining_seconds=left, low=usage.low)


def decisive(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that decides what happens next, among those that the tasks of a stream raised."""
    causes: list[BaseException] = []
    stack: list[BaseException] = [group]
    while stack:
        error = stack.pop()
        if isinstance(error, BaseExceptionGroup):
            stack.extend(error.exceptions)
        else:
            causes.append(error)
    for kind in (LeaseLost, HandOver, RequestRefused, ProviderError, Parked):
        for cause in causes:
            if isinstance(cause, kind):
                return cause
    return causes[0]
