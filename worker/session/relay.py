"""Audio of a session out to one provider stream: paced, converted, and watched."""

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
from worker.metering.account import Books
from worker.metering.ledger import Ledger
from worker.metrics import Metrics
from worker.providers.auto_reset import AutoResetEvent
from worker.settings import WorkerSettings

from .timeline import Timeline

_BURST_SECONDS = 0.5
"""Audio that may go out at once before the catch-up rate holds."""
_LOOK_SECONDS = 2.0
"""How often it is asked whether more audio will come."""
_COUNT_SECONDS = 0.9
_MUTE_AUDIO_SECONDS = 3.0
"""A provider is mute only if it owes an answer to at least so much audio."""


class Relay:
    """One provider stream of a session, its place on the clock, and its watchdog."""

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
        """`position`: of the first frame that will be sent. `ledger`: has this stream open."""
        self.provider = provider
        self.stream = stream
        self.timeline = Timeline(spec.sample_rate, position)
        self.limit: int | None = None
        """Position at which the session ends, whatever audio follows."""
        self.finishing = False
        """The provider has been told that no audio follows."""
        self._converter = converter
        self._passes = converter.passes
        self._format = spec.audio_format
        self._rate = spec.sample_rate
        self._settings = settings
        self._opened = time.monotonic()
        self._go_at = 0.0
        rate = provider.capabilities.catch_up_rate
        self._burst = _BURST_SECONDS / rate
        self._seconds_a_frame = 1 / (spec.sample_rate * rate)
        self._unsent: list[bytes] = []
        """What the stream did not take at once."""
        self._nudge: Callable[[], None]
        self._last: tuple[int, int, bytes, int, float] | None = None
        """Of the last chunk: number, frames, payload, wall clock (0 if it was stored), arrival."""
        self._sampled = -1
        """Number of the last chunk whose delay was sampled."""
        self._counted_at = 0.0
        self._send_started: float | None = None
        self._unanswered_since: float | None = None
        self._answered_audio = 0.0
        self._heard_at = self._opened
        self.handling = False
        """An event of the provider is being published: its silence meanwhile is ours."""
        self._trouble: Exception | None = None
        self._alarm = AutoResetEvent()
        self._ledger = ledger
        self._capture_delay = metrics.capture_delay.labels(metrics.tenant(spec.tenant))

    @property
    def connected_seconds(self) -> float:
        return time.monotonic() - self._opened

    # ---- audio out --------------------------------------------------------------------------

    async def send(
        self,
        feed: Feed,
        books: Books,
        over: Callable[[Feed], Awaitable[bool]],
    ) -> bool:
        """Send what the feed gives.

        True when the session's audio is at its end, has reached `limit`, or `over` says
        that none will come; False when it has only paused for `park_seconds`.
        """
        feed.sink, self._nudge = self.take, feed.nudge
        try:
            ended = await self._send_all(feed, books, over)
        finally:
            feed.sink = None
        for audio in self._converter.flush():
            await self._send_audio(audio)
        return ended

    async def _send_all(
        self,
        feed: Feed,
        books: Books,
        over: Callable[[Feed], Awaitable[bool]],
    ) -> bool:
        while True:
            item = await feed.next(_LOOK_SECONDS)
            while self._unsent:
                await self._send_audio(self._unsent.pop(0))
            if isinstance(item, Chunk):
                if item.frames:
                    await self._send_chunk(item)
                if item.end:
                    return True
            elif item is not None:
                books.gap(item)
                await self._send_gap(item)
            elif await over(feed):
                return True
            elif feed.caught_up and time.monotonic() - feed.heard > self._settings.park_seconds:
                return False
            if self.limit is not None and self.timeline.position >= self.limit:
                return True

    def take(self, seq: int, frames: int, payload: bytes, time_ns: int, now: float) -> bool:
        """Send a live chunk at once, without waking the sender; False: it has to be woken."""
        limit, timeline, go_at = self.limit, self.timeline, self._go_at
        if go_at > now:
            return False
        if limit is not None and timeline.position + frames >= limit:
            return False
        since = now - self._burst  # as `_pace`
        self._go_at = (since if since > go_at else go_at) + frames * self._seconds_a_frame
        timeline.advance(frames, now, time_ns)
        self._last = (seq, frames, payload, time_ns, now)
        if self._unanswered_since is None:
            self._unanswered_since = now
        pieces = (payload,) if self._passes else self._converter.convert(payload)
        try:
            for audio in pieces:
                if self._unsent or not self.stream.send_nowait(audio):
                    self._unsent.append(audio)
        except Exception as error:  # noqa: BLE001 - a task boundary: who calls reads from the broker
            self.fail(error)
        if self._unsent:
            self._nudge()
        return True

    @property
    def cut_short(self) -> bool:
        """Whether what was sent ends amid a sound: perhaps in a word that goes on later."""
        return self._last is not None and convert.loud_end(self._format, self._last[2])

    async def finish(self) -> None:
        """Tell the provider that no audio follows."""
        self._heard_at = time.monotonic()
        self.finishing = True
        await self.stream.finish()

    async def _pace(self, frames: int) -> None:
        """Wait until `frames` more frames are within the provider's catch-up rate."""
        now = time.monotonic()
        self._go_at = max(self._go_at, now - self._burst)
        if self._go_at > now:
            await asyncio.sleep(self._go_at - now)
        self._go_at += frames * self._seconds_a_frame

    async def _send_chunk(self, chunk: Chunk) -> None:
        await self._pace(chunk.frames)
        self.timeline.advance(chunk.frames, chunk.arrived, chunk.time_ns)
        time_ns = 0 if chunk.stream_sequence else chunk.time_ns
        self._last = (chunk.seq, chunk.frames, chunk.payload, time_ns, chunk.arrived)
        for audio in self._converter.convert(chunk.payload):
            await self._send_audio(audio)

    async def _send_gap(self, gap: Gap) -> None:
        """Silence of the gap's length, or of a bounded length: then the clock jumps."""
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

    def heard(self) -> None:
        """The provider said something, or could not be heard for reasons of ours."""
        self._unanswered_since = None
        self._answered_audio = self.timeline.sent_seconds
        self._heard_at = time.monotonic()

    def fail(self, error: Exception) -> None:
        """End this stream with `error`."""
        self._trouble = self._trouble or error
        self._alarm.set()

    def alarm(self) -> None:
        """Wake whoever awaits `alarmed`."""
        self._alarm.set()

    async def alarmed(self) -> None:
        """Return after each `alarm`; raise what `fail` was given."""
        await self._alarm.wait()
        if self._trouble is not None:
            raise self._trouble

    def watch(self, now: float, *, listening: bool, stood: float = 0) -> None:
        """Called a few times a second. `listening`: the broker takes what the provider says.
        `stood`: seconds since the last call in which this process stood still."""
        settings, name = self._settings, self.provider.name
        if stood:
            self._excuse(now, stood)
        blocked = 0.0 if self._send_started is None else now - self._send_started
        if blocked > settings.send_blocked_seconds:
            self.fail(Stalled(name, "send_blocked", "it takes no more audio"))
        if self.handling or not listening:
            self.heard()  # it may have spoken, and we could not listen
        elif self.finishing:
            if now - self._heard_at > settings.finish_seconds:
                self.fail(Stalled(name, "finish", "it does not end the stream"))
        elif self.provider.capabilities.answers_silence and self._unanswered_since is not None:
            owed = self.timeline.sent_seconds - self._answered_audio
            waited = now - self._unanswered_since
            if waited > settings.mute_seconds and owed > _MUTE_AUDIO_SECONDS:
                self.fail(Stalled(name, "mute", f"no answer to {owed:.0f} s of audio"))

    def _excuse(self, now: float, stood: float) -> None:
        """Nobody was waited for meanwhile: what was said may be there, and is read in a moment."""
        self._heard_at = min(now, self._heard_at + stood)
        if self._send_started is not None:
            self._send_started = min(now, self._send_started + stood)
        if self._unanswered_since is not None:
            self._unanswered_since = min(now, self._unanswered_since + stood)

    # ---- books ------------------------------------------------------------------------------

    def count(self, now: float | None = None) -> None:
        """Bring the ledger up to date, and sample how long live audio was on its way. `now`, by the
        monotonic clock: only if it is a second old."""
        if now is not None and now - self._counted_at < _COUNT_SECONDS:
            return
        self._counted_at = time.monotonic()
        timeline = self.timeline
        self._note_used()
        self._ledger.progress(timeline.position, timeline.sent_seconds, self.connected_seconds)
        if self._last is None:
            return
        seq, frames, _, time_ns, arrived = self._last
        if seq != self._sampled and time_ns:
            self._sampled = seq
            came = time.time() - (time.monotonic() - arrived)
            self._capture_delay.observe(came - time_ns / 1e9 - frames / self._rate)

    def count_last(self) -> None:
        """The stream is over. Idempotent."""
        timeline = self.timeline
        self._note_used()
        self._ledger.closed(timeline.position, timeline.sent_seconds, self.connected_seconds)

    def _note_used(self) -> None:
        if self.stream.used_seconds is not None:
            self._ledger.reported(self.stream.used_seconds)
