"""One stream of a voice: phrases go out, and their audio is published."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable

from natterjack.audio import AudioFormat
from natterjack.plugin.errors import Dropped, RemoteProtocolError, Stalled
from natterjack.plugin.provider import Notice
from natterjack.plugin.voice import Interrupted, Mark, PhraseEnd, Speech
from worker.audio.convert import Converter
from worker.dialing import OpenedVoice
from worker.drain import Drain, HandOver
from worker.metrics import Metrics
from worker.providers.chain import Chain
from worker.settings import WorkerSettings

from .lease import VoiceLease
from .playback import Spoken
from .progress import LOOK_SECONDS, Progress
from .text import phrases
from .text.pacing import Pacer
from .text.phrases import CHARACTERS_PER_SECOND, Phrase, limits

log = logging.getLogger(__name__)

_CHUNK_SECONDS = 0.08
"""Shorter audio is collected, except for the first of an utterance, which somebody waits for."""
_ANSWER_SECONDS = 2.0
"""How long the session waits for the provider's word on what was spoken before an interrupt."""
_RENEW = 0.9
"""The share of the longest duration of a stream after which another is opened."""


class Relay:
    """One open stream of a session."""

    def __init__(
        self,
        opened: OpenedVoice,
        progress: Progress,
        lease: VoiceLease,
        chain: Chain,
        drain: Drain,
        settings: WorkerSettings,
        metrics: Metrics,
        sample_rate: int,
        order: asyncio.Lock,
    ) -> None:
        """`sample_rate` is that of the session's audio. Whoever publishes audio, or drops text,
        holds `order`."""
        self.provider, self.stream, self._source = opened
        self._progress = progress
        self._lease = lease
        self._chain = chain
        self._drain = drain
        self._settings = settings
        self._metrics = metrics
        self._rate = sample_rate
        self._order = order
        capabilities = self.provider.capabilities
        self._limits = limits(capabilities.max_phrase_characters, capabilities.flushes_per_minute)
        self._pacer = Pacer(capabilities)
        self._target = AudioFormat("linear16", sample_rate, 1)
        self._chunk_bytes = 2 * round(_CHUNK_SECONDS * sample_rate)
        self._published_seconds = metrics.voice_audio.labels(self.provider.name)
        self._converter = Converter(self._source, self._target)
        self._collected: list[bytes] = []
        """Audio that is not published yet, and below its length."""
        self._collected_bytes = 0
        self.divided = progress.change_voice(self.provider.name)
        """Whether the current phrase was divided, because another voice has begun it."""
        self._skip = progress.skip
        """Frames to leave out: they are published already."""
        self._behind = 0  # how many of them were still to come at the last interrupt
        self._place = progress.utterance, progress.offset
        """The place in the text up to which phrases are sent."""
        self._sending = asyncio.Lock()
        self._interrupting = False
        self._answers: deque[asyncio.Future[Interrupted]] = deque()
        """Interrupts that the provider has not answered. Until then, its audio is old."""
        self._frames = 0
        """Frames of this stream's audio, without those that were dropped."""
        self._phrase_frames = 0
        """Frames of the current phrase, as the provider has made them."""
        self._wake = asyncio.Event()
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._opened = self._active_at = self._received_at = time.monotonic()
        self._send_started: float | None = None
        self._handling = False
        self.outstanding: deque[Phrase] = deque()
        """Phrases that have not ended, in order."""
        self.answered = False
        self._begun: Phrase | None = None
        """The phrase whose beginning is noted."""

    @property
    def connected_seconds(self) -> float:
        return time.monotonic() - self._opened

    # ---- text out -------------------------------------------------------------------------------

    def wake(self) -> None:
        """Make `send` look again."""
        self._wake.set()

    async def send(self, is_over: Callable[[], bool]) -> bool:
        """Send phrases as they are due. True when the session is over; False if this stream is too
        old to be kept, or has had nothing to say for too long. Raises HandOver."""
        while True:
            self._wake.clear()
            if self._drain.requested and not (self.outstanding or self._interrupting):
                raise HandOver
            if is_over():
                return True
            old = self._is_old(time.monotonic())
            if not (self._drain.requested or old) and await self._send_next():
                continue
            if not self.outstanding and (old or self._is_idle(time.monotonic())):
                return False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._wake.wait()

    def _is_old(self, now: float) -> bool:
        most = self.provider.capabilities.max_seconds
        return most is not None and now - self._opened > most * _RENEW

    def _is_idle(self, now: float) -> bool:
        return now - self._active_at > self._settings.park_seconds and self._next() is None

    @property
    def pending(self) -> bool:
        """True if there is text to send."""
        return self._next() is not None

    def _next(self) -> Phrase | None:
        """The next phrase of the text; None if there is none yet."""
        number, start = self._place
        utterance = self._progress.script.following(number)
        if utterance is None:
            return None
        if utterance.number != number:  # the text of those before it is lost
            number, start = utterance.number, 0
        text = utterance.text
        if utterance.headless and start:
            return Phrase(number, start, start, True, "") if utterance.complete else None
        end = phrases.phrase_end(text, start, self._limits, complete=utterance.complete)
        if end is None:
            if not utterance.complete:
                return None
            end = start
        last = utterance.complete and end == len(text)
        return Phrase(number, start, end, last, phrases.speakable(text[start:end]))

    def _allowed(self) -> Phrase | None:
        """The next phrase, if it may be sent now."""
        phrase = None if self._interrupting else self._next()
        if phrase is None:
            return None
        now = time.monotonic()
        waiting = sum(len(one.text) for one in self.outstanding) / CHARACTERS_PER_SECOND
        ahead = self._progress.playback.ahead_seconds(now) + waiting
        if ahead >= self._settings.voice_ahead_seconds:
            return None
        if not phrase.silent and self._pacer.wait(len(phrase.text), now) > 0:
            return None
        return phrase

    async def _send_next(self) -> bool:
        """Send the next phrase, if it may be sent now."""
        async with self._sending:
            phrase = self._allowed()
            if phrase is None:
                return False
            number, end = phrase.utterance, phrase.end
            self._place = (number + 1, 0) if phrase.last else (number, end)
            self.outstanding.append(phrase)
            now = self._active_at = time.monotonic()
            if not phrase.silent:
                if len(self.outstanding) == 1:
                    self._received_at = now  # the provider had nothing to answer before
                self._pacer.sent(len(phrase.text), now)
                self._progress.count_sent(phrase)
                self._send_started = now
                await self.stream.speak(phrase.text)
                await self.stream.flush()
                self._send_started = None
        if phrase.silent:
            async with self._order:
                await self._end_silent()
        return True

    # ---- audio in -------------------------------------------------------------------------------

    async def receive(self) -> None:
        """Publish audio until the stream ends, which is a fault. Raises ProviderError, LeaseLost,
        Overheard."""
        async for event in self.stream:
            self._handling = True
            self._received_at = time.monotonic()
            if not self.answered or isinstance(event, PhraseEnd):
                self._chain.record_success(first_answer=not self.answered)
                self.answered = True
                await self._lease.served()
            if self._lease.unconfirmed:
                await self._lease.confirm()
            if isinstance(event, Notice):
                self._notice(event)
            elif isinstance(event, Interrupted):
                self._interrupted(event)
            else:
                async with self._order:
                    if not self._answers:
                        await self._event(event)
            self._handling = False
            self._received_at = time.monotonic()
        raise Dropped(self.provider.name, "the provider ended the stream")

    def _notice(self, notice: Notice) -> None:
        self._metrics.provider_notices.labels(self.provider.name, notice.code).inc()
        log.debug("provider notice %s: %s", notice.code, notice.message)

    def _interrupted(self, answer: Interrupted) -> None:
        if self._answers:
            waiting = self._answers.popleft()
            if not waiting.done():
                waiting.set_result(answer)

    async def _event(self, event: Speech | Mark | PhraseEnd) -> None:
        await self._end_silent()
        if not self.outstanding:
            raise RemoteProtocolError(self.provider.name, f"a {type(event).__name__} without text")
        phrase = self.outstanding[0]
        if isinstance(event, Speech):
            self._collect(self._converter.convert(event.audio))
            at_once = self._progress.started < phrase.utterance
            if at_once or self._collected_bytes >= self._chunk_bytes:
                await self._publish(phrase)
        elif isinstance(event, Mark):
            if 0 <= event.character < len(phrase.text) and 0 <= event.seconds < 1e6:
                position = self._progress.phrase_position + round(event.seconds * self._rate)
                character = phrase.start + event.character
                self._begin(phrase).begin_word(position, character)
        else:
            self._collect(self._converter.flush())
            await self._publish(phrase)
            if event.billed_characters is not None:
                self._progress.ledger.billed(len(phrase.text), event.billed_characters)
            await self._end(phrase)
            await self._end_silent()

    def _collect(self, audio: Iterable[bytes]) -> None:
        for pcm in audio:
            self._collected.append(pcm)
            self._collected_bytes += len(pcm)

    def _begin(self, phrase: Phrase) -> Spoken:
        """Note where the phrase begins, once."""
        progress = self._progress
        if self._begun is phrase:
            return progress.spoken()
        self._begun = phrase
        return progress.begin_phrase(phrase)

    async def _publish(self, phrase: Phrase) -> None:
        """Publish the audio that is collected, except for what is published already."""
        audio = b"".join(self._collected)  # of one part, it is the part itself
        self._collected, self._collected_bytes = [], 0
        self._frames += len(audio) // 2
        self._phrase_frames += len(audio) // 2
        if self._phrase_frames > phrases.longest_seconds(phrase.text) * self._rate:
            raise RemoteProtocolError(self.provider.name, "the speech of a phrase does not end")
        left_out = min(self._skip, len(audio) // 2)
        self._skip -= left_out
        audio = audio[2 * left_out :]
        if not audio:
            return
        self._begin(phrase)
        await self._progress.speech.publish(phrase.utterance, audio)
        seconds = len(audio) / 2 / self._rate
        self._published_seconds.inc(seconds)
        await self._started(phrase.utterance)

    async def _started(self, number: int) -> None:
        """Publish that an utterance has started, once."""
        progress = self._progress
        if progress.started >= number:
            return
        utterance = progress.script.utterances.get(number)
        latency = None if utterance is None else time.monotonic() - utterance.arrived_at
        if latency is not None:
            self._metrics.voice_first_audio.labels(self.provider.name).observe(latency)
            latency = round(latency, 4)
        start = round(progress.spoken().start / self._rate, 6)
        async with progress.announcing():
            progress.started = number
            await progress.writer.utterance(number, "started", start=start, latency=latency)

    async def _end_silent(self) -> None:
        """End the phrases at the front that have nothing to speak."""
        while self.outstanding and self.outstanding[0].silent:
            await self._end(self.outstanding[0])

    async def _end(self, phrase: Phrase) -> None:
        """Note that all audio of the oldest phrase is published, and store the new place."""
        progress, speech = self._progress, self._progress.speech
        self._skip = self._phrase_frames = 0
        self._converter = Converter(self._source, self._target)
        spoken = self._begin(phrase)
        frames = speech.position - progress.phrase_position
        progress.playback.spoke(self.provider.name, len(phrase.text), frames)
        if phrase.last:
            await self._started(phrase.utterance)
            await speech.publish(phrase.utterance, end=True)
            spoken.end = speech.position
            progress.begin(phrase.utterance + 1, 0)
        else:
            progress.begin(phrase.utterance, phrase.end)
            spoken.begin_phrase(speech.position, phrase.end, phrase.end)  # known from now on
        if self.outstanding and self.outstanding[0] is phrase:
            self.outstanding.popleft()
        self._active_at = time.monotonic()
        await self._lease.write()
        self._wake.set()
        progress.wake()

    # ---- interrupts -----------------------------------------------------------------------------

    def cut(self, utterance: int, offset: int = 0) -> Phrase | None:
        """Drop all phrases, and whatever the provider still sends of them. The text from this place
        on follows. Return the phrase that was being spoken. Call `interrupt` next."""
        phrase = self.outstanding[0] if self.outstanding else None
        if not self._interrupting:  # else the cut is tried again
            self._interrupting = True
            self._answers.append(asyncio.get_running_loop().create_future())
            self._behind = self._skip
        self.outstanding.clear()
        self._collected, self._collected_bytes = [], 0
        self._converter = Converter(self._source, self._target)
        self._skip = self._phrase_frames = 0
        self._place = (utterance, offset)
        return phrase

    async def interrupt(self, unplayed: int) -> Interrupted | None:
        """Tell the provider. `unplayed` frames of the published audio were not played. Return the
        provider's answer if it says what was spoken. Raises ProviderError."""
        answer = self._answers[-1]
        async with self._sending:
            played = self._frames + self._behind - unplayed
            spoken_here = played <= self._frames  # else an earlier stream spoke what was heard
            self._frames = max(0, min(played, self._frames))
            await self.stream.interrupt(self._frames / self._rate)
        if not (spoken_here and self.provider.capabilities.reports_spoken):
            return None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await asyncio.shield(answer)
        return None

    def resume(self) -> None:
        """Send text again: the interrupt is stored in the checkpoint."""
        self._interrupting = False
        if not self.outstanding:
            self._skip = self._progress.skip
        self._wake.set()

    # ---- watchdog -------------------------------------------------------------------------------

    def fail(self, error: Exception) -> None:
        """End this stream with `error`."""
        if not self._failure.done():
            self._failure.set_exception(error)

    async def failed(self) -> None:
        """Wait for `fail`. Raises its error."""
        await self._failure

    def watch(self, now: float, *, connected: bool, paused: float) -> None:
        """Check for a stalled stream; called a few times a second. Arguments as the session's
        `tick`."""
        name, settings = self.provider.name, self._settings
        if paused:
            self._received_at = min(now, self._received_at + paused)
            if self._send_started is not None:
                self._send_started = min(now, self._send_started + paused)
        blocked = 0.0 if self._send_started is None else now - self._send_started
        if blocked > settings.send_blocked_seconds:
            self.fail(Stalled(name, "send_blocked", "it accepts no more text"))
        due = any(not phrase.silent for phrase in self.outstanding) or bool(self._answers)
        if self._handling or not connected or not due:
            self._received_at = now
        elif now - self._received_at > settings.mute_seconds:
            self.fail(Stalled(name, "mute", "it does not speak the text"))
