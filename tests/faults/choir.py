"""Many real-time sessions from one process and one connection, and all their events."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from natterjack.audio import ChunkHeader, encode_chunk_headers
from natterjack.broker.connection import Broker
from natterjack.emulators import tones
from natterjack.events import Event, InterimEvent, parse_event
from natterjack.spec import SessionSpec
from natterjack.subjects import audio_subject, session_subject

from ..worker.programs import Transcript
from .audit import Audit, audit
from .fleet import PHRASE, RATE, TAIL_SECONDS

_FRAMES = 1280
_STAGGER_TICKS = 50
"""Chunks by which the last voice lags behind the first."""


@dataclass
class Voice:
    """One session and its events."""

    spec: SessionSpec
    received: list[tuple[float, Event]] = field(default_factory=list)
    """Events in order of arrival, each with the time.monotonic() of its arrival."""


class Choir:
    """`voices` sessions with the same words, each a little later than the one before it.

    The starts are spread over 4 s, the length of a phrase, so finals are spread like those of
    unrelated sessions. Chunks are published without waiting for the broker, which must not fail
    meanwhile.
    """

    def __init__(self, broker: Broker, name: str, voices: int, seconds: float, **spec: Any) -> None:
        self.words = tones.sequence(round(seconds / 0.41))
        self.places = tones.places(self.words, **PHRASE)
        self.voices = [
            Voice(SessionSpec(tenant=name, conversation=f"c{n}", speaker="s", **spec))
            for n in range(voices)
        ]
        audio = tones.encode(self.words, RATE, tail_seconds=TAIL_SECONDS, **PHRASE)
        self.seconds = len(audio) / 2 / RATE
        self._chunks = [audio[i : i + 2 * _FRAMES] for i in range(0, len(audio), 2 * _FRAMES)]
        self._broker = broker
        self._name = name
        self._by_key = {str(voice.spec.key): voice for voice in self.voices}
        self._publishing: asyncio.Task[None] | None = None
        self._subscription: Any = None

    async def __aenter__(self) -> Choir:
        self._subscription = await self._broker.client.subscribe(
            f"stt.transcript.{self._name}.>", cb=self._received
        )
        js = self._broker.client.jetstream()
        for voice in self.voices:
            await js.publish(
                session_subject(voice.spec.key),
                voice.spec.model_dump_json(exclude_none=True).encode(),
                headers={"Nats-Msg-Id": voice.spec.session_id},
            )
        self._publishing = asyncio.create_task(self._publish())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._publishing is not None
        self._publishing.cancel()
        await asyncio.gather(self._publishing, return_exceptions=True)
        await self._subscription.unsubscribe()

    async def _received(self, message: Any) -> None:
        event = parse_event(message.data)
        voice = self._by_key[f"{event.tenant}.{event.conversation}.{event.speaker}"]
        voice.received.append((time.monotonic(), event))

    async def _publish(self) -> None:
        started, publish = time.monotonic(), self._broker.client.publish
        voices = [
            (number * _STAGGER_TICKS / len(self.voices), audio_subject(voice.spec.key), voice)
            for number, voice in enumerate(self.voices)
        ]
        for tick in range(len(self._chunks) + _STAGGER_TICKS):
            for late, subject, voice in voices:
                seq = tick - int(late)
                if not 0 <= seq < len(self._chunks):
                    continue
                due = started + (tick + late % 1) * _FRAMES / RATE
                if (wait := due - time.monotonic()) > 0.001:
                    await asyncio.sleep(wait)
                end = seq == len(self._chunks) - 1
                now, pos = time.time_ns(), seq * _FRAMES
                header = ChunkHeader(voice.spec.session_id, seq, pos, now, end)
                await publish(subject, self._chunks[seq], headers=encode_chunk_headers(header))

    async def published(self) -> None:
        """Wait until all audio is published."""
        assert self._publishing is not None
        await self._publishing

    def audit(self) -> Audit:
        """Audit all sessions by their live events, complete as long as the broker did not fail."""
        total = Audit()
        for voice in self.voices:
            events = [event for _, event in voice.received if not isinstance(event, InterimEvent)]
            events.sort(key=lambda event: event.sequence)
            total.add(audit(events, self.words, self.places, captured_seconds=self.seconds))
        return total

    def describe_failure(self) -> str:
        """Describe the first session with a violation."""
        for voice in self.voices:
            events = [event for _, event in voice.received if not isinstance(event, InterimEvent)]
            found = audit(events, self.words, self.places, captured_seconds=self.seconds)
            if not found.clean:
                return f"{found}\n{Transcript(events).describe()}"
        return ""
