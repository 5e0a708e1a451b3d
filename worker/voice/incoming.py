"""Receiving for a voice session: text, reports of its player, turns of a speaker, requests."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from pydantic import BaseModel

from natterjack.broker.client.parser import Receive
from natterjack.errors import BadEvent
from natterjack.events import TurnEvent, parse_event
from natterjack.subjects import (
    SessionKey,
    played_subject,
    transcript_subject,
    voice_control_subject,
)
from natterjack.voice.spec import VoiceSpec, parse_played
from worker.services import Services
from worker.session.control import answering

from .progress import Progress
from .text.feed import TextFeed

log = logging.getLogger(__name__)

_REPUBLISH_SECONDS = 0.5
"""The shortest interval between two answers to a player that lacks chunks."""


class Incoming:
    """Receives for one session. `wake` is called when there is something new."""

    def __init__(
        self,
        services: Services,
        spec: VoiceSpec,
        progress: Progress,
        text_sequence: int,
        wake: Callable[[], None],
        on_lost: Callable[[], None],
    ) -> None:
        """`text_sequence` is where the text that is not over begins in its stream. `on_lost` is
        called if a request shows that the lease is lost."""
        assert services.texts is not None
        self._services = services
        self._spec = spec
        self._progress = progress
        self._wake = wake
        self._on_lost = on_lost
        self.feed = TextFeed(
            services.broker, services.texts, spec.key, spec.session_id, progress.script,
            text_sequence, services.settings.hole_seconds, wake, lambda: progress.lacks_text,
        )  # fmt: skip
        progress.first_sequence = self.feed.first_sequence
        self.turn_started = False
        """The speaker of `interrupt_on` has begun a turn."""
        self._missing: int | None = None
        """The number of the first chunk that the player lacks."""
        self._republished_at = 0.0

    @contextlib.asynccontextmanager
    async def receiving(
        self, answer: Callable[[bytes], Awaitable[BaseModel]]
    ) -> AsyncIterator[None]:
        """Receive during the block; `answer` carries out a request and returns its reply."""
        broker, key = self._services.broker, self._spec.key
        listening: list[tuple[str, Receive]] = [(played_subject(key), self._played)]
        if self._spec.interrupt_on is not None:
            other = SessionKey.parse(self._spec.interrupt_on)
            listening.append((transcript_subject(other, "turn"), self._turn))
        async with contextlib.AsyncExitStack() as stack:
            for subject, receive in listening:
                arrivals = await broker.client.listen(subject, receive)
                stack.push_async_callback(arrivals.end)
            self._progress.playback.listening(time.monotonic())
            await self.feed.open()
            stack.push_async_callback(self.feed.close)
            requests = answering(broker, voice_control_subject(key), answer, self._on_lost)
            await stack.enter_async_context(requests)
            yield

    def _played(self, _subject: bytes, _reply: bytes, _raw: bytes | None, data: bytes) -> None:
        try:
            played = parse_played(data)
        except BadEvent as error:
            log.debug("a player's report cannot be read: %s", error)
            return
        if played.session_id != self._spec.session_id:
            return
        playback = self._progress.playback
        before = playback.played_frames
        playback.report(played, time.monotonic())
        seconds = (playback.played_frames - before) / self._spec.sample_rate
        self._services.metrics.voice_played.inc(seconds)
        if played.missing is not None:
            known = self._missing
            self._missing = played.missing if known is None else min(known, played.missing)
        self._progress.reported.set()
        self._wake()

    def _turn(self, _subject: bytes, _reply: bytes, _raw: bytes | None, data: bytes) -> None:
        with contextlib.suppress(BadEvent):
            event = parse_event(data)
            if isinstance(event, TurnEvent) and event.event == "started":
                self.turn_started = True
                self._wake()

    async def republish(self, now: float) -> bool:
        """Publish the chunks again that the player lacks, if it has asked for any. True if some of
        them are not stored any more, so that they have to be spoken again."""
        first, playback = self._missing, self._progress.playback
        if first is None or now - self._republished_at < _REPUBLISH_SECONDS:
            return False
        self._missing, self._republished_at = None, now
        store, speech = self._services.speech, self._progress.speech
        assert store is not None
        played = max(playback.played, playback.cut)
        found = await speech.republish(store, first, played)
        if found is None:
            return False
        self._services.metrics.voice_republished.inc(found.chunks)
        lost = found.seq > first and found.position > played
        if not lost:
            speech.answer(found.first)
        # A player that still plays what it has would hear that again. It asks until it has no more.
        return lost and playback.published > played and playback.waits(now)
