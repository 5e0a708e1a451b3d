"""Sessions that speak: events published as a worker publishes them, without a provider."""

from __future__ import annotations

import asyncio
import itertools
import random
from datetime import UTC, datetime

from natterjack.broker.connection import Broker
from natterjack.events import Durable, FinalEvent, StatusEvent, TurnEvent
from natterjack.subjects import EventKind, SessionKey
from worker.session.output.publish import Publisher

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


class Speech:
    """One session. `events` has what it has published, in order."""

    def __init__(self, broker: Broker, key: SessionKey, session_id: str, seed: int) -> None:
        self.key = key
        self.session_id = session_id
        self.events: list[Durable] = []
        self._random = random.Random(seed)
        self._publisher = Publisher(
            broker, broker.client.jetstream(), key, session_id, epoch=1, holder="writer"
        )

    async def _publish(self, kind: EventKind, model: type[Durable], **values: object) -> None:
        made: list[Durable] = []

        def make(sequence: int) -> bytes:
            event = model.model_validate(
                {
                    "session_id": self.session_id, **self.key._asdict(), "epoch": 1,
                    "published_at": datetime.now(UTC), "sequence": sequence, **values,
                }
            )  # fmt: skip
            made.append(event)
            return event.encode()

        await self._publisher.durable(kind, make)
        self.events.append(made[-1])

    async def run(self, finals: int, pause: float) -> None:
        """Speak `finals` times, with pauses of `pause` seconds on average."""
        await self._publish("status", StatusEvent, state="assigned", worker="w")
        for number in range(finals):
            await asyncio.sleep(self._random.uniform(0, 2 * pause))
            text = " ".join(self._random.choices(WORDS, k=self._random.randint(1, 8)))
            await self._publish(
                "final", FinalEvent, segment=number, text=text, start=number, end=number + 1
            )
            if self._random.random() < 0.3:
                await self._publish("turn", TurnEvent, turn=number, event="ended")
        await self._publish("status", StatusEvent, state="closed", worker="w")


def speeches(broker: Broker, count: int, seed: int = 0) -> list[Speech]:
    """Sessions of several conversations with two speakers each."""
    return [
        Speech(
            broker, SessionKey("acme", f"call-{number // 2}", f"speaker-{number % 2}"),
            f"session-{seed}-{number}", seed * 1000 + number,
        )
        for number in itertools.islice(itertools.count(), count)
    ]  # fmt: skip
