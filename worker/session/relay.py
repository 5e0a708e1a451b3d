"""Sending the audio of a session to one provider stream: paced, converted, and watched."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from natterjack.plugin.errors import Stalled
from natterjack.plugin.provider import Provider, ProviderStream
from natterjack.spec import SessionSpec
from worker.audio import convert
from worker.audio.feed import Feed, Gap
from worker.audio.reorder import Chunk
from worker.joint import Joint
from worker.metering.account import AccountBuilder
from worker.metering.ledger import Ledger
from worker.metrics import Metrics
from worker.providers.auto_reset import AutoResetEvent
from worker.settings import WorkerSettings

from .output.timeline import Timeline

_BURST_SECONDS = 0.5
"""The length of audio that may be sent at once, before the catch-up rate applies."""
_CHECK_SECONDS = 2.0
"""How often to check whether the audio is over."""
_COUNT_SECONDS = 0.9
_MUTE_AUDIO_SECONDS = 3.0
"""A provider is mute only if this much audio or more is unanswered."""


class Relay:
    """One provider stream of a session, its timeline, and its watchdog."""

    __slots__ = (
        "_answered_audio", "_burst", "_capture_delay", "_converter", "_counted_at",
        "_failure", "_format", "_guard_event", "_last", "_ledger", "_next_send_at", "_nudge_feed",
        "_opened", "_passthrough", "_rate", "_received_at", "_sampled", "_seconds_per_frame",
        "_send_started", "_settings", "_unanswered_since", "_unsent", "answered", "finishing",
        "handling", "joint", "limit", "provider", "stream", "timeline",
    )  # fmt: skip

    def __init__(
        self,
        provider: Provider,
        stream: ProviderStream,
        converter: convert.Converter,
        spec: SessionSpec,
        position: int,
        settings: WorkerSettings,
        metrics: Metrics,
        ledger: Ledger,
    ) -> None:
        """`position` is that of the first frame to send. `ledger` has the stream open."""
        self.provider = provider
        self.stream = stream
        self.timeline = Timeline(spec.sample_rate, position)
        self.limit: int | None = None
        """The position at which the session ends, whatever audio follows."""
        self.joint: Joint | None = None
        """Set if the audio is cut off in speech that a successor will have whole."""
        self.finishing = False
        """Set once the provider knows that no audio follows."""
        self._converter = converter
        self._passthrough = converter.passthrough
        self._format = spec.audio_format
        self._rate = spec.sample_rate
        self._settings = settings
        self._opened = time.monotonic()
        self._next_send_at = 0.0
        rate = provider.capabilities.catch_up_rate
        self._burst = _BURST_SECONDS / rate
        self._seconds_per_frame = 1 / (spec.sample_rate * rate)
        self._unsent: list[bytes] = []
        """Audio that the stream did not accept at once."""
        self._nudge_feed: Callable[[], None]
        self._last: tuple[int, int, bytes, int, float] | None = None
        """The last chunk: number, frames, payload, wall clock (0 if it was stored), arrival."""
        self._sampled = -1
        """The number of the last chunk whose delay was sampled."""
        self._counted_at = 0.0
        self._send_started: float | None = None
        self._unanswered_since: float | None = None
        self._answered_audio = 0.0
        self._received_at = self._opened
        self.answered = False
        """Set once the provider has sent an event."""
        self.handling = False
        """Set while an event is being published. The watchdog does not count that time, in which no
        event is received."""
        self._failure: Exception | None = None
        self._guard_event = AutoResetEvent()
        self._ledger = ledger
        self._capture_delay = metrics.capture_delay.labels(metrics.tenant(spec.tenant))

    @property
    def connected_seconds(self) -> float:
        return time.monotonic() - self._opened

    # ---- audio out --------------------------------------------------------------------------

    async def send(
        self,
        feed: Feed,
        account_builder: AccountBuilder,
        is_over: Callable[[Feed], Awaitable[bool]],
    ) -> bool:
        """Send the audio of the feed.

        True when the audio has ended or reached `limit`, or when `is_over` says that no more will
        come; False when it has only paused for `park_seconds`.
        """
        feed.sink, self._nudge_feed = self.send_live, feed.nudge
        try:
            ended = await self._send_all(feed, account_builder, is_over)
        finally:
            feed.sink = None
        for audio in self._converter.flush():
            await self._send_audio(audio)
        return ended

    async def _send_all(
        self,
        feed: Feed,
        account_builder: AccountBuilder,
        is_over: Callable[[Feed], Awaitable[bool]],
    ) -> bool:
        while True:
            item = await feed.next(_CHECK_SECONDS)
            while self._unsent:
                await self._send_audio(self._unsent.pop(0))
            if isinstance(item, Chunk):
                if item.note and account_builder.notice(item):
                    self.wake_guard()  # which publishes it
                if item.frames:
                    await self._send_chunk(item)
                if item.end:
                    return True
            elif item is not None:
                account_builder.gap(item)
                await self._send_gap(item)
            elif await is_over(feed):
                return True
            elif (
                feed.caught_up
                and time.monotonic() - feed.last_arrival > self._settings.park_seconds
            ):
                return False
            if self.limit is not None and self.timeline.position >= self.limit:
                return True

    def send_live(self, seq: int, frames: int, payload: bytes, time_ns: int, now: float) -> bool:
        """Send a live chunk at once, without waking the task in `send`. False if that task has to
        send it."""
        limit, timeline, due = self.limit, self.timeline, self._next_send_at
        if due > now:
            return False
        if limit is not None and timeline.position + frames >= limit:
            return False
        since = now - self._burst  # paced as in `_pace`
        self._next_send_at = (since if since > due else due) + frames * self._seconds_per_frame
        timeline.advance(frames, now, time_ns)
        self._last = (seq, frames, payload, time_ns, now)
        if self._unanswered_since is None:
            self._unanswered_since = now
        pieces = (payload,) if self._passthrough else self._converter.convert(payload)
        try:
            for audio in pieces:
                if self._unsent or not self.stream.send_nowait(audio):
                    self._unsent.append(audio)
        except Exception as error:  # noqa: BLE001 - a plugin's fault must not reach the NATS reader
            self.fail(error)
        if self._unsent:
            self._nudge_feed()
        return True

    @property
    def cut_short(self) -> bool:
        """Whether the sent audio ends in speech, possibly mid-word."""
        return self._last is not None and convert.loud_end(self._format, self._last[2])

    async def finish(self) -> None:
        """Tell the provider that no audio follows."""
        self._received_at = time.monotonic()
        self.finishing = True
        await self.stream.finish()

    async def _pace(self, frames: int) -> None:
        """Wait until `frames` more frames are within the provider's catch-up rate."""
        now = time.monotonic()
        self._next_send_at = max(self._next_send_at, now - self._burst)
        if self._next_send_at > now:
            await asyncio.sleep(self._next_send_at - now)
        self._next_send_at += frames * self._seconds_per_frame

    async def _send_chunk(self, chunk: Chunk) -> None:
        await self._pace(chunk.frames)
        self.timeline.advance(chunk.frames, chunk.arrived, chunk.time_ns)
        time_ns = 0 if chunk.stream_sequence else chunk.time_ns
        self._last = (chunk.seq, chunk.frames, chunk.payload, time_ns, chunk.arrived)
        for audio in self._converter.convert(chunk.payload):
            await self._send_audio(audio)

    async def _send_gap(self, gap: Gap) -> None:
        """Send silence in place of the gap, up to `max_gap_seconds`; skip the rest."""
        frames = min(gap.frames, round(self._settings.max_gap_seconds * self._rate))
        self.timeline.advance_gap(gap.frames, frames)
        piece = max(1, self._rate // 10)
        for start in range(0, frames, piece):
            size = min(piece, frames - start)
            await self._pace(size)
            for audio in self._converter.convert(self._format.silence(size)):
                await self._send_audio(audio)

    async def _send_audio(self, audio: bytes) -> None:
        self._send_started = now = time.monotonic()
        if self._unanswered_since is None:
            self._unanswered_since = now
        await self.stream.send(audio)
        self._send_started = None

    # ---- watchdog ---------------------------------------------------------------------------

    def restart_watchdog(self) -> None:
        """Note that the provider has sent something, or that this worker could not receive it."""
        self._unanswered_since = None
        self._answered_audio = self.timeline.sent_seconds
        self._received_at = time.monotonic()

    def fail(self, error: Exception) -> None:
        """End this stream with `error`."""
        self._failure = self._failure or error
        self._guard_event.set()

    def wake_guard(self) -> None:
        """Wake the task that waits in `wait_guard`."""
        self._guard_event.set()

    async def wait_guard(self) -> None:
        """Wait for the next call of `wake_guard`. Raises the first error given to `fail`."""
        await self._guard_event.wait()
        if self._failure is not None:
            raise self._failure

    def watch(self, now: float, *, connected: bool, paused: float = 0) -> None:
        """Check for a stalled stream; called a few times a second. `connected`: the broker accepts
        transcripts. `paused`: seconds since the last call for which the process was suspended."""
        settings, name = self._settings, self.provider.name
        if paused:
            self._leave_out_pause(now, paused)
        blocked = 0.0 if self._send_started is None else now - self._send_started
        if blocked > settings.send_blocked_seconds:
            self.fail(Stalled(name, "send_blocked", "it accepts no more audio"))
        if self.handling or not connected:
            self.restart_watchdog()  # results may have arrived unread
        elif self.finishing:
            if now - self._received_at > settings.finish_seconds:
                self.fail(Stalled(name, "finish", "it does not end the stream"))
        elif self.provider.capabilities.answers_silence and self._unanswered_since is not None:
            unanswered = self.timeline.sent_seconds - self._answered_audio
            waited = now - self._unanswered_since
            if waited > settings.mute_seconds and unanswered > _MUTE_AUDIO_SECONDS:
                self.fail(Stalled(name, "mute", f"no answer to {unanswered:.0f} s of audio"))

    def _leave_out_pause(self, now: float, paused: float) -> None:
        """Leave out time for which the process was suspended: results may have arrived unread."""
        self._received_at = min(now, self._received_at + paused)
        if self._send_started is not None:
            self._send_started = min(now, self._send_started + paused)
        if self._unanswered_since is not None:
            self._unanswered_since = min(now, self._unanswered_since + paused)

    # ---- metering ---------------------------------------------------------------------------

    def count(self, now: float | None = None) -> None:
        """Bring the ledger up to date, and sample the delay of live audio. With `now`, on the
        monotonic clock, do so only if the last count is about a second old."""
        if now is not None and now - self._counted_at < _COUNT_SECONDS:
            return
        self._counted_at = time.monotonic()
        timeline = self.timeline
        self._count_reported()
        self._ledger.progress(timeline.position, timeline.sent_seconds, self.connected_seconds)
        if self._last is None:
            return
        seq, frames, _, time_ns, arrived = self._last
        if seq != self._sampled and time_ns:
            self._sampled = seq
            arrived_wall = time.time() - (time.monotonic() - arrived)
            self._capture_delay.observe(arrived_wall - time_ns / 1e9 - frames / self._rate)

    def count_last(self) -> None:
        """Close the stream in the ledger. Idempotent."""
        timeline = self.timeline
        self._count_reported()
        self._ledger.closed(timeline.position, timeline.sent_seconds, self.connected_seconds)

    def _count_reported(self) -> None:
        if self.stream.used_seconds is not None:
            self._ledger.reported(self.stream.used_seconds)
