"""The events of a session, published by hand as a worker publishes them, through restarts of the
broker."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any, Literal

from nats.errors import Error as NatsError

from natterjack.broker.connection import Broker
from natterjack.events import Event, FinalEvent, InterimEvent, StatusEvent, TurnEvent
from natterjack.subjects import SessionKey, transcript_subject
from natterjack.values import Account

STARTED = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


class Session:
    """One session, a second of audio for each final."""

    def __init__(self, broker: Broker, key: SessionKey, session_id: str) -> None:
        self._broker, self.key, self._id = broker, key, session_id
        self._sequence = itertools.count()
        self.finals: list[str] = []

    def _fields(self, **fields: Any) -> dict[str, Any]:
        return {
            "session_id": self._id, **self.key._asdict(), "epoch": 1, "started_at": STARTED,
            "published_at": datetime.now(UTC), **fields,
        }  # fmt: skip

    async def _publish(self, event: Event) -> None:
        """Publish until the broker has stored it."""
        subject = transcript_subject(self.key, event.type)
        headers = {"Nats-Msg-Id": f"{self._id}:{event.sequence}"}  # type: ignore[union-attr]
        for attempt in itertools.count():
            try:
                js = self._broker.client.jetstream()
                await js.publish(subject, event.encode(), headers=headers)
                return
            except NatsError:
                if attempt == 20:
                    raise
                await self._broker.wait_connected()

    async def interim(self, text: str) -> None:
        at = len(self.finals)
        event = InterimEvent(**self._fields(segment=at, text=text, start=at, end=at + 1))
        await self._broker.client.publish(transcript_subject(self.key, event.type), event.encode())

    async def final(self, text: str) -> None:
        at = len(self.finals)
        self.finals.append(text)
        fields = self._fields(
            sequence=next(self._sequence), segment=at, text=text, start=at, end=at + 1
        )
        await self._publish(FinalEvent(**fields))

    async def turn(self, event: Literal["started", "ended"]) -> None:
        at = len(self.finals)
        fields = self._fields(sequence=next(self._sequence), event=event, turn=0, start=at)
        await self._publish(TurnEvent(**fields))

    async def closed(self) -> None:
        seconds = len(self.finals)
        account = Account(captured_seconds=seconds, received_seconds=seconds)
        fields = self._fields(
            sequence=next(self._sequence), state="closed", worker="by hand", account=account
        )
        await self._publish(StatusEvent(**fields))
