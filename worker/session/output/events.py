"""Making the session's events from a provider's events: timed, numbered, and published."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

from natterjack.broker.client.fastpath import MessageTooLarge
from natterjack.events import (
    Durable,
    FinalEvent,
    InterimEvent,
    NoticeEvent,
    StatusEvent,
    StatusState,
    TurnEvent,
    TurnKind,
    UsageEvent,
)
from natterjack.notices import Note
from natterjack.plugin.provider import Final, Interim, Turn
from natterjack.spec import SessionSpec
from natterjack.subjects import EventKind
from natterjack.telemetry.log import fields as log_fields
from worker import fitting
from worker.audio.notices import Notice, Notices, Published
from worker.errors import KindNotStored
from worker.metering.ledger import Ledger
from worker.metrics import Metrics

from .shortening import encoded, publish_shortened
from .timeline import Timeline

log = logging.getLogger(__name__)


class Outlet(Protocol):
    """The destination of events; worker.session.output.publish.Publisher implements it. It raises
    MessageTooLarge for an event that the broker would not accept, without publishing it."""

    async def resume(self) -> None: ...
    async def newest(self, kind: EventKind, *, of_key: bool = False) -> Durable | None: ...
    async def durable(self, kind: EventKind, make: Callable[[int], bytes]) -> None: ...
    async def interim(self, event: bytes) -> None: ...


class Turns:
    """The numbering of turns across provider streams: each starts once, and ends once."""

    __slots__ = ("index", "open")

    def __init__(self, last: TurnEvent | None = None) -> None:
        """`last` is the newest turn event that any worker has published for the session."""
        self.open = last is not None and last.event != "ended"
        self.index = 0 if last is None else last.turn + (not self.open)

    def admit(self, kind: TurnKind) -> int | None:
        """The turn number to publish an event under, or None if it must not be published."""
        if kind == "started":
            if self.open:
                return None
            self.open = True
            return self.index
        if not self.open:
            return None
        index = self.index
        if kind == "ended":
            self.open = False
            self.index += 1
        return index


class EventWriter:
    """Makes and publishes the events of one session under one lease."""

    __slots__ = (
        "_identity", "_metrics", "_notices_known", "_notices_lock", "_outlet", "_rate", "_segment",
        "_spec", "_turns", "_worker", "position", "provider",
    )  # fmt: skip

    def __init__(
        self, outlet: Outlet, spec: SessionSpec, epoch: int, worker: str, metrics: Metrics
    ) -> None:
        self._outlet = outlet
        self._metrics = metrics
        self._spec = spec
        self._rate = spec.sample_rate
        self._worker = worker
        self._identity = {"session_id": spec.session_id, **spec.key._asdict(), "epoch": epoch}
        self._identity |= {"repeats": spec.repeats, "continues": spec.continues}
        self._segment = 0
        self._turns = Turns()
        self._notices_lock = asyncio.Lock()
        self._notices_known = False
        """Whether it is known which notices are published."""
        self.provider: str | None = None
        """The provider that the events come from."""
        self.position = 0
        """Where finals end, in frames: the place to resume at."""

    async def resume(self) -> None:
        """Read from the broker where finals end. A publish whose task was cancelled may have been
        stored or not; only the broker knows. Raises LeaseLost."""
        await self._outlet.resume()
        final = await self._outlet.newest("final")
        if isinstance(final, FinalEvent):
            self._segment = final.segment + 1
            self.position = max(self.position, round(final.end * self._rate))
        turn = await self._outlet.newest("turn")
        self._turns = Turns(turn if isinstance(turn, TurnEvent) else None)

    def _common(self) -> dict[str, Any]:
        """The fields that every event has."""
        return {
            **self._identity,
            "provider": self.provider,
            "model": self._spec.model,
            "published_at": datetime.now(UTC),
        }

    def _transcript(
        self, timeline: Timeline, event: Interim | Final, start: int, end: int
    ) -> dict[str, Any]:
        """The fields that interims and finals share."""
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
        """The positions of an event's start and end, neither before the last final's end."""
        start = max(timeline.to_position(event.start), self.position)
        return start, max(timeline.to_position(event.end), start)

    async def interim(self, timeline: Timeline, event: Interim) -> float | None:
        """Publish an interim that has text. Return its latency in seconds, if it is known."""
        if not event.text:
            return None
        fields = self._transcript(timeline, event, *self._span(timeline, event))
        try:
            await self._outlet.interim(InterimEvent.model_validate(fields).encode())
        except MessageTooLarge:
            await self._shortened_interim(fields)
        latency: float | None = fields["latency"]
        return latency

    async def _shortened_interim(self, fields: dict[str, Any]) -> None:
        """Publish as much of an interim as the broker accepts, or nothing: the next one, or a
        final, replaces it."""
        self._metrics.oversized.labels("interim").inc()
        while (smaller := fitting.shortened(fields)) is not None:
            fields = smaller
            with contextlib.suppress(MessageTooLarge):
                await self._outlet.interim(InterimEvent.model_validate(fields).encode())
                return

    async def final(self, timeline: Timeline, event: Final) -> float | None:
        """Publish a final if it has text, and move `position` to its end. Return its latency in
        seconds, if it is known.

        A final that the broker does not accept is published as several that follow one another. A
        worker that takes over between two of them resumes where the last published one ends.
        """
        parts, latency = [event], None
        while parts:
            part = parts.pop()
            start, end = self._span(timeline, part)
            if part.text:
                fields = self._transcript(timeline, part, start, end)
                try:
                    await self._outlet.durable("final", partial(encoded, FinalEvent, fields))
                except MessageTooLarge:
                    if part is event:
                        self._metrics.oversized.labels("final").inc()
                    smaller = fitting.divided(part)
                    if not smaller:
                        raise
                    parts += reversed(smaller)
                    continue
                latency = fields["latency"]
                self._segment += 1
            self.position = end
        timeline.forget(self.position)
        return latency

    async def _durable(self, kind: EventKind, model: type[Durable], fields: dict[str, Any]) -> None:
        """Publish an event, shortened until the broker accepts it."""
        await publish_shortened(self._outlet.durable, self._metrics.oversized, kind, model, fields)

    async def turn(self, event: Turn, at: float | None) -> None:
        """Publish a turn event at `at` seconds of the session, if that is known, unless it repeats
        an earlier one."""
        index = self._turns.admit(event.event)
        if index is None:
            return
        ends = event.event in ("ended", "eager_end")
        fields: dict[str, Any] = {
            **self._common(),
            "turn": index,
            "event": event.event,
            "text": event.text,
            "start": None if ends else at,
            "end": at if ends else None,
            "confidence": event.confidence,
        }
        await self._durable("turn", TurnEvent, fields)

    async def notices(self, notices: Notices) -> None:
        """Publish the notices that are pending, each once. Raises LeaseLost.

        Several tasks may call it. One that was cancelled may have stored a notice or not, and a
        former holder, or the session before, may have published some: only the broker knows.
        """
        async with self._notices_lock:
            if not self._notices_known:
                await self._outlet.resume()
                last = await self._outlet.newest("notice", of_key=True)
                notices.resume(*self._published(last))
            self._notices_known = False
            while (found := notices.next()) is not None:
                number, notice = found
                fields = self._notice(number, notice)
                try:
                    await self._durable("notice", NoticeEvent, fields)
                except KindNotStored as error:
                    log.warning("%s", error, extra=log_fields(session=str(self._spec.key)))
                    notices.drop()
                    break
                notices.published()
            self._notices_known = True

    def _published(self, last: Durable | None) -> tuple[int, Published | None]:
        """How many notices the session has published, and the last one of its audio."""
        if not isinstance(last, NoticeEvent):
            return 0, None
        place = Published(last.audio_position, Note(last.code, last.state == "ends"))
        if last.session_id == self._spec.session_id:
            return last.notice + 1, place
        same = (last.audio_of or last.session_id) == self._spec.audio_session_id
        return 0, place if same and self._spec.repeats is None else None

    def _notice(self, number: int, notice: Notice) -> dict[str, Any]:
        position, note, time_ns = notice
        spec = self._spec
        audio_of = spec.audio_session_id
        return {
            **self._common(),
            "notice": number,
            "code": note.code,
            "state": "ends" if note.ended else "begins",
            "at": round(position / self._rate, 6),
            "audio_position": position,
            "occurred_at": datetime.fromtimestamp(time_ns / 1e9, UTC) if time_ns else None,
            "audio_of": None if audio_of == spec.session_id else audio_of,
        }

    async def end_turn(self) -> None:
        """End the open turn, if any, where finals end: no provider stream will end it."""
        if self._turns.open:
            await self.turn(Turn("ended", 0.0), round(self.position / self._rate, 6))

    async def usage(
        self, ledger: Ledger, *, remaining_seconds: float | None = None, low: bool = False
    ) -> None:
        """Publish what the session has used so far."""
        cost, currency = ledger.cost()
        fields: dict[str, Any] = {
            **self._common(),
            "audio_seconds": round(ledger.sent_seconds, 3),
            "connected_seconds": round(ledger.connected_seconds, 3),
            "cost": None if currency is None else round(cost, 6),
            "currency": currency,
            "credits_remaining_seconds": remaining_seconds,
            "low": low,
            "providers": ledger.usage(),
        }
        await self._durable("usage", UsageEvent, fields)

    def status_event(self, sequence: int, state: StatusState) -> StatusEvent:
        """Make a status event without publishing it."""
        return StatusEvent(**self._status(state), sequence=sequence)

    async def status(self, state: StatusState, reason: str | None = None, **extra: Any) -> None:
        """Publish a status event."""
        await self._durable("status", StatusEvent, {**self._status(state, reason), **extra})

    def _status(self, state: StatusState, reason: str | None = None) -> dict[str, Any]:
        fields = {**self._common(), "state": state, "reason": reason, "worker": self._worker}
        if state in ("assigned", "closed", "failed"):
            spec = self._spec
            fields |= {"labels": spec.labels, "language": spec.language}
            fields["opened_at"] = spec.opened_at
        return fields


class UsageSchedule:
    """Which usage events are due: one every `interval` seconds, and warnings."""

    __slots__ = ("_due", "_interval", "_last", "_warning")

    def __init__(self, interval: float, now: float) -> None:
        self._interval = interval
        self._last = now
        self._due = False
        self._warning: tuple[float | None] | None = None

    def warn(self, remaining_seconds: float | None) -> None:
        """Have a warning published; `remaining_seconds` of audio are left, if that is known."""
        self._warning = (remaining_seconds,)

    def check(self, now: float) -> bool:
        """Whether an event is due at `now`."""
        if now - self._last >= self._interval:
            self._last, self._due = now, True
        return self._due or self._warning is not None

    async def publish(self, writer: EventWriter, ledger: Ledger) -> None:
        """Publish the events that are due."""
        if self._warning is not None:
            (remaining,), self._warning = self._warning, None
            await writer.usage(ledger, remaining_seconds=remaining, low=True)
        if self._due:
            self._due = False
            await writer.usage(ledger)
