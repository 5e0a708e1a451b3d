"""Speaking: one voice stream after another, until the session is over."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from natterjack.plugin.errors import PluginError, ProviderError, RequestRefused
from natterjack.telemetry.log import fields
from natterjack.voice.spec import VoiceSpec
from worker.dialing import OpenedVoice, VoiceDialer
from worker.drain import Drain
from worker.services import Services
from worker.session.admission import Admission, CutoffReached, Held, Stuck
from worker.session.cutoff import BUDGET
from worker.session.lease import Lifecycle
from worker.session.results import decisive
from worker.session.retry import Retry
from worker.session.states import State

from .interrupts import Interrupter
from .lease import VoiceLease
from .progress import LOOK_SECONDS, Progress
from .relay import Relay
from .speech import Overheard
from .text.feed import TextFeed

log = logging.getLogger(__name__)

_UNSPEAKABLE = "no voice can speak a part of the text, which is left out"


class Speaker:
    """Opens the streams of one session, and recovers from their faults."""

    def __init__(
        self,
        services: Services,
        spec: VoiceSpec,
        progress: Progress,
        lease: VoiceLease,
        lifecycle: Lifecycle,
        drain: Drain,
        wake: Callable[[], None],
    ) -> None:
        """`wake` makes the session's tasks look again."""
        settings = services.settings
        self._services = services
        self._spec = spec
        self._progress = progress
        self._lease = lease
        self._lifecycle = lifecycle
        self._drain = drain
        self._wake = wake
        self._retry = Retry(
            settings.backoff_seconds, settings.max_backoff_seconds, settings.recovery_seconds
        )
        self.admission = Admission(
            services, VoiceDialer(services, spec), spec.tenant, drain, self._retry, lease,
            lifecycle.enter, sample_rate=0,
        )  # fmt: skip
        self._order = asyncio.Lock()
        self.interrupter = Interrupter(progress, services.metrics, spec.sample_rate, self._order)
        self._interrupting = asyncio.Lock()
        self._reason = ""
        self.superseded = False
        self._parked: float | None = None
        """When the last text had arrived before a stream was closed because nothing was said."""
        self._feed: TextFeed
        self.relay: Relay | None = None
        """The open stream, if any."""

    async def find_frontier(self) -> None:
        """Shut out older holders, and find out which audio after the checkpoint is published
        already. Raises LeaseLost."""
        progress, speech = self._progress, self._progress.speech
        newest, frames = (found := await speech.fence()).header, found.frames
        if newest is None or newest.next_seq <= speech.seq:
            return
        end = newest.pos + frames
        progress.playback.publish(end - speech.position, time.monotonic())
        speech.seq, speech.position = newest.next_seq, end
        if progress.utterance <= progress.over:  # it ended after the checkpoint was written
            progress.begin(progress.over + 1, 0)
        elif end > progress.phrase_position:
            progress.spoken().begin_phrase(progress.phrase_position, progress.offset)
        if newest.cut and newest.next_seq - 1 != progress.rewound:
            progress.unfinished_cut = newest.utterance
        elif newest.utterance >= progress.utterance and newest.end:
            progress.spoken().end = end
            progress.begin(newest.utterance + 1, 0)

    async def serve(self, feed: TextFeed) -> str:
        """Speak until the session is over. Return the reason for the end. Raises HandOver,
        NoProvider, LeaseLost."""
        self._feed = feed
        lease, progress = self._lease, self._progress
        while True:
            before = progress.utterance, progress.offset
            try:
                await self.admission.hold()
                if await self._stream_once():
                    return self._reason
                await self.admission.release()
                self.admission.reset()
                continue
            except Held:
                continue
            except CutoffReached:
                return self._lease.cutoff.reason or BUDGET
            except Overheard:
                log.info("an older holder still speaks", extra=fields(session=str(self._spec.key)))
                async with self._interrupting:
                    await self.find_frontier()
                    await self._finish_cut()
                self._lifecycle.enter(State.RECOVERING, cause="overheard")
                continue
            except ProviderError as error:
                fault = error
            except PluginError as error:
                fault = RequestRefused(self.admission.chain.name, "request", str(error))
            self._lifecycle.trace.fault(fault.cause)
            await self._progress.speech.settle()
            await progress.writer.resume()
            configured = lease.checkpoint.configured
            if configured and isinstance(fault, RequestRefused) and fault.cause == "request":
                lease.checkpoint.configured = {}
                await progress.writer.status("recovering", f"changed settings are dropped: {fault}")
                await lease.write()
                self._lifecycle.enter(State.RECOVERING, cause=fault.cause, reason=str(fault))
                continue
            place = progress.phrase_seq
            self.admission.repeated_failures.failed(
                self.admission.chain.name, fault.cause, place, place + 1
            )
            moved = (progress.utterance, progress.offset) > before
            try:
                await self.admission.recover(fault, finals_moved=moved)
            except Stuck:
                self.admission.repeated_failures.leave_out(place)
                self._retry.reset()
                self._lifecycle.enter(State.RECOVERING, cause=fault.cause, reason=_UNSPEAKABLE)
                await progress.writer.status("recovering", f"{_UNSPEAKABLE}: {fault}")
                await self.interrupt("failed", str(fault), progress.utterance)

    async def _stream_once(self) -> bool:
        """Speak through one stream. True when the session is over; False if the stream was closed
        because there was nothing to say."""
        self._lifecycle.enter(State.WAITING)
        if await self._wait_for_text():
            return True
        opened = await self.admission.connect()
        try:
            return await self._stream(opened)
        finally:
            await opened.stream.close()

    async def _wait_for_text(self) -> bool:
        """Wait until there is text to speak; a session that starts connects before that. True if
        the session is over."""
        progress, script = self._progress, self._progress.script
        begun = self._lease.checkpoint.provider is not None
        while not self._is_over():
            utterance = script.following(progress.utterance)
            new = utterance is not None and (
                utterance.complete or self._feed.last_arrival != self._parked
            )
            if new or not begun:
                return False
            await self._drain.pause(LOOK_SECONDS)
        return True

    async def _stream(self, opened: OpenedVoice) -> bool:
        """Speak through an open stream. Return as `_stream_once` does."""
        provider, services = opened.provider, self._services
        progress, retry = self._progress, self._retry
        progress.ledger.opened(provider.name, provider.capabilities)
        progress.writer.provider = self._lease.checkpoint.provider = provider.name
        reference = opened.stream.reference
        self._lifecycle.enter(State.STREAMING, provider=provider.name, reference=reference)
        if (recovered := retry.recovered(time.monotonic())) is not None:
            cause, seconds = recovered
            services.metrics.recovery_time.labels(cause).observe(seconds)
        async with self._interrupting:  # an interrupt that goes on would not know of it
            self.relay = relay = Relay(
                opened, progress, self._lease, self.admission.chain, self._drain, services.settings,
                services.metrics, self._spec.sample_rate, self._order,
            )  # fmt: skip
        try:
            if relay.divided:
                await self._lease.write()
            await progress.writer.status("streaming")
            async with asyncio.TaskGroup() as tasks:
                side = [
                    tasks.create_task(relay.receive(), name=f"receive {self._spec.key}"),
                    tasks.create_task(relay.failed(), name=f"watch {self._spec.key}"),
                ]
                over = await relay.send(self._is_over)
                self._parked = None if relay.pending else self._feed.last_arrival
                for task in side:
                    task.cancel()
        except BaseExceptionGroup as group:
            raise decisive(group) from group
        finally:
            self.relay = None
            progress.ledger.closed()
            retry.answered_seconds = relay.connected_seconds if relay.answered else None
            retry.pending = bool(relay.outstanding)
        return over

    def _is_over(self) -> bool:
        """True if all that the session is to say was said, or nothing has been said for long."""
        if self._interrupting.locked():
            return False  # an interrupt is finished first
        progress, settings = self._progress, self._services.settings
        last = progress.script.last
        if last is not None and progress.over >= last:
            self._reason = progress.close_reason or "end of text"
            return True
        if self._lease.cutoff.position is not None:
            self._reason = self._lease.cutoff.reason or BUDGET
            return True
        if self.superseded and progress.idle:
            self._reason = "superseded: a newer session uses the key"
            return True
        playback = progress.playback
        active = max(self._feed.last_arrival, playback.published_at)
        quiet = time.monotonic() - active > settings.idle_seconds
        # The text of an utterance that was begun may never end: its application has died.
        if quiet and playback.played >= playback.published and not self._has_text:
            self._reason = f"idle: no text for {settings.idle_seconds:g} s"
            return True
        return False

    @property
    def _has_text(self) -> bool:
        """Whether there is text that is to be spoken."""
        if self.relay is not None:
            return bool(self.relay.outstanding) or self.relay.pending
        utterance = self._progress.script.following(self._progress.utterance)
        return utterance is not None and utterance.complete

    def supersede(self) -> None:
        """End the session once the text that has arrived was played: a newer one uses the key."""
        self.superseded = True
        self._progress.script.end_open()
        self._wake()

    async def interrupt(
        self, reason: str, detail: str | None = None, last: int | None = None
    ) -> tuple[int | None, float]:
        """Drop all text, or that of the utterances up to `last`, and all audio that was not played.
        Return the utterance that was cut, if there is one, and the seconds of speech that were
        played. Raises LeaseLost."""
        async with self._interrupting:
            await self._finish_cut()
            await self.interrupter.finish_played()
            try:
                found = await self.interrupter.interrupt(reason, detail, self.relay, last)
            except Overheard:  # after this one, an older holder cannot speak any more
                await self.find_frontier()
                self._progress.unfinished_cut = None  # this one drops as much
                found = await self.interrupter.interrupt(reason, detail, self.relay, last)
            await self._lease.write()
        if self.relay is not None:
            self.relay.resume()
        self._wake()
        return found

    async def rewind(self) -> None:
        """Speak audio again that was published, is lost, and was not played. Raises LeaseLost."""
        log.warning("speech is lost, speaking it again", extra=fields(session=str(self._spec.key)))
        async with self._interrupting:
            await self.interrupter.rewind(self.relay, self._lease.write)
        if self.relay is not None:
            self.relay.resume()
        self._wake()

    async def finish_played(self) -> None:
        """Publish the end of the utterances that were played to their ends. Raises LeaseLost."""
        async with self._interrupting:
            if await self.interrupter.finish_played():
                await self._lease.write()
                self._wake()

    async def finish_cut(self) -> None:
        """Finish the interrupt of a former holder, if only its cut was published. Call it when the
        stored text is read. Raises LeaseLost."""
        async with self._interrupting:
            await self._finish_cut()

    async def _finish_cut(self) -> None:
        progress = self._progress
        through, progress.unfinished_cut = progress.unfinished_cut, None
        if through is not None:
            await self.interrupter.finish(through)
            await self._lease.write()
