"""Making a voice session's events, and publishing them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol

from natterjack.broker import streams
from natterjack.errors import BadEvent
from natterjack.events import Durable, StatusState
from natterjack.subjects import VOICE_EVENT_KINDS, VOICE_EVENT_PREFIX
from natterjack.voice.events import (
    UtteranceEvent,
    VoiceStatusEvent,
    VoiceUsage,
    parse_voice_event,
)
from natterjack.voice.spec import VoiceSpec
from worker.metrics import Metrics
from worker.session.output.publish import Channel
from worker.session.output.shortening import publish_shortened


def _parse(payload: bytes) -> Durable | None:
    with contextlib.suppress(BadEvent):
        return parse_voice_event(payload)
    with contextlib.suppress(ValueError):  # a kind of event of a later release
        return Durable.model_validate_json(payload)
    return None


VOICE = Channel(streams.VOICE_EVENTS, VOICE_EVENT_PREFIX, VOICE_EVENT_KINDS, _parse)


class Outlet(Protocol):
    """The destination of events; worker.session.output.publish.Publisher implements it."""

    async def resume(self) -> None: ...
    async def durable(self, kind: str, make: Callable[[int], bytes]) -> None: ...


class EventWriter:
    """Makes and publishes the events of one voice session under one lease."""

    __slots__ = ("_identity", "_metrics", "_outlet", "_spec", "_worker", "provider")

    def __init__(
        self, outlet: Outlet, spec: VoiceSpec, epoch: int, worker: str, metrics: Metrics
    ) -> None:
        self._outlet = outlet
        self._metrics = metrics
        self._spec = spec
        self._worker = worker
        self._identity = {"session_id": spec.session_id, **spec.key._asdict(), "epoch": epoch}
        self.provider: str | None = None
        """The provider that speaks."""

    async def resume(self) -> None:
        """Continue the numbering after the last stored event. Raises LeaseLost."""
        await self._outlet.resume()

    def _common(self) -> dict[str, Any]:
        return {
            **self._identity,
            "provider": self.provider,
            "model": self._spec.model,
            "published_at": datetime.now(UTC),
        }

    async def _durable(self, kind: str, model: type[Durable], fields: dict[str, Any]) -> None:
        """Publish an event, shortened until the broker accepts it."""
        await publish_shortened(self._outlet.durable, self._metrics.oversized, kind, model, fields)

    def status_event(self, sequence: int, state: StatusState) -> VoiceStatusEvent:
        """Make a status event without publishing it."""
        return VoiceStatusEvent(**self._status(state, None), sequence=sequence)

    def _status(self, state: StatusState, reason: str | None) -> dict[str, Any]:
        return {**self._common(), "state": state, "reason": reason, "worker": self._worker}

    async def status(self, state: StatusState, reason: str | None = None, **extra: Any) -> None:
        """Publish a status event."""
        await self._durable("status", VoiceStatusEvent, {**self._status(state, reason), **extra})

    async def utterance(self, number: int, event: str, **extra: Any) -> None:
        """Publish the start or the end of an utterance."""
        fields = {**self._common(), "utterance": number, "event": event, **extra}
        await self._durable("utterance", UtteranceEvent, fields)

    async def usage(self, **figures: Any) -> None:
        """Publish what the session has used so far."""
        await self._durable("usage", VoiceUsage, {**self._common(), **figures})
