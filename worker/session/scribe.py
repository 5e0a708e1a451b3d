"""What a provider says becomes the session's events: on its clock, numbered, and published."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from natterjack.events import (
    FinalEvent,
    InterimEvent,
    StatusEvent,
    StatusState,
    TurnEvent,
    UsageEvent,
)
from natterjack.plugin.provider import Final, Interim, Turn
from natterjack.spec import SessionSpec
from worker.metering.ledger import Ledger

from .publish import Publisher
from .timeline import Timeline
from .turns import Turns


class Scribe:
    """Makes and publishes the events of one session under one lease.

    `position` (frames of the session) is where finals end: the place to resume at.
    """

    def __init__(self, publisher: Publisher, spec: SessionSpec, epoch: int, worker: str) -> None:
        self._publisher = publisher
        self._spec = spec
        self._rate = spec.sample_rate
        self._worker = worker
        self._identity = {"session_id": spec.session_id, **spec.key._asdict(), "epoch": epoch}
        self._segment = 0
        self._turns = Turns()
        self.provider: str | None = None
        """Whose words these are."""
        self.position = 0

    async def resume(self) -> None:
        """Learn from the broker where finals end. An event that was being published when its task
        was cancelled may be stored or not: the broker knows. Raises LeaseLost."""
        await self._publisher.resume()
        final = await self._publisher.last_final()
        if final is not None:
            self._segment = final.segment + 1
            self.position = max(self.position, round(final.end * self._rate))
        self._turns = Turns(await self._publisher.last_turn())

    def _common(self) -> dict[str, Any]:
        """Fields that every event has."""
        return {
            **self._identity,
            "provider": self.provider,
            "model": self._spec.model,
            "published_at": datetime.now(UTC),
        }

    def _transcript(
        self, timeline: Timeline, event: Interim | Final, start: int, end: int
    ) -> dict[str, Any]:
        """Fields that interims and finals share."""
        arrived = timeline.arrived(end)
        clock = timeline.wall_clock_ns(start)
        return {
            **self._common(),
            "segment": self._segment,
            "text": event.text,
            "words": timeline.words(event.words),
            "start": round(start / self._rate, 6),
            "end": round(end / self._rate, 6),
            "times_estimated": event.times_estimated,
            "confidence": event.confidence,
            "language": event.language,
            "started_at": None if clock is None else datetime.fromtimestamp(clock / 1e9, UTC),
            "latency": None if arrived is None else round(time.monotonic() - arrived, 4),
        }

    def _span(self, timeline: Timeline, event: Interim | Final) -> tuple[int, int]:
        """Positions of an event's start and end; nothing reaches behind what is final."""
        start = max(timeline.to_position(event.start), self.position)
        return start, max(timeline.to_position(event.end), start)

    async def interim(self, timeline: Timeline, event: Interim) -> float | None:
        """Publish an interim. Its latency in seconds, if it has text and that is known."""
        if not event.text:
            return None
        made = self._transcript(timeline, event, *self._span(timeline, event))
        await self._publisher.interim(InterimEvent.model_validate(made).encode())
        latency: float | None = made["latency"]
        return latency

    async def final(self, timeline: Timeline, event: Final) -> float | None:
        """Publish a final, if it has text, and move the position to its end. Latency as above."""
        start, end = self._span(timeline, event)
        latency = None
        if event.text:
            made = self._transcript(timeline, event, start, end)
            latency = made["latency"]
            await self._publisher.durable(
                "final", lambda n: FinalEvent.model_validate(made | {"sequence": n}).encode()
            )
            self._segment += 1
        self.position = end
        timeline.forget(end)
        return latency

    async def turn(self, event: Turn, at: float) -> None:
        """Publish a turn event that holds at `at` seconds, unless the turn is there already."""
        index = self._turns.admit(event.event)
        if index is None:
            return
        ends = event.event in ("ended", "eager_end")
        made: dict[str, Any] = {
            **self._common(),
            "turn": index,
            "event": event.event,
            "text": event.text,
            "start": None if ends else at,
            "end": at if ends else None,
            "confidence": event.confidence,
        }
        await self._publisher.durable("turn", lambda n: TurnEvent(**made, sequence=n).encode())

    async def end_turn(self) -> None:
        """End a turn that is open, where finals end: nobody else will."""
        if self._turns.open:
            await self.turn(Turn("ended", 0.0), round(self.position / self._rate, 6))

    async def usage(
        self, ledger: Ledger, *, remaining_seconds: float | None = None, low: bool = False
    ) -> None:
        """Publish what the session has used so far."""
        cost, currency = ledger.cost()
        made: dict[str, Any] = {
            **self._common(),
            "audio_seconds": round(ledger.sent_seconds, 3),
            "connected_seconds": round(ledger.connected_seconds, 3),
            "cost": None if currency is None else round(cost, 6),
            "currency": currency,
            "credits_remaining_seconds": remaining_seconds,
            "low": low,
            "providers": ledger.usage(),
        }
        await self._publisher.durable("usage", lambda n: UsageEvent(**made, sequence=n).encode())

    def status_event(
        self, sequence: int, state: StatusState, reason: str | None = None, **extra: Any
    ) -> StatusEvent:
        """A status event that is not published yet."""
        return StatusEvent(
            **self._common(),
            sequence=sequence,
            state=state,
            reason=reason,
            worker=self._worker,
            **extra,
        )

    async def status(self, state: StatusState, reason: str | None = None, **extra: Any) -> None:
        """Publish a status event."""
        await self._publisher.durable(
            "status", lambda n: self.status_event(n, state, reason, **extra).encode()
        )
