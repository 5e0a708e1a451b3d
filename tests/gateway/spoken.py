"""Conversations without a worker: their events, published as a worker does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from natterjack.broker.connection import Broker
from natterjack.events import Durable, FinalEvent, InterimEvent, StatusEvent
from natterjack.values import Account, Gap, ProviderUsage, Word


class Spoken:
    """A session whose events the test publishes, in any words and at any times."""

    def __init__(
        self,
        broker: Broker,
        conversation: str,
        speaker: str,
        *,
        tenant: str = "default",
        started: datetime | None = None,
        session_id: str | None = None,
        **common: Any,
    ) -> None:
        self._broker = broker
        self.conversation, self.speaker = conversation, speaker
        self.session_id = session_id or str(uuid4())
        self.started = started or datetime.now(UTC)
        self._common = {
            "session_id": self.session_id, "tenant": tenant, "conversation": conversation,
            "speaker": speaker, "epoch": 1, "provider": "deepgram", **common,
        }  # fmt: skip
        self._sequence = 0
        self._segment = 0
        self.at = 0.0
        """Where the next text begins, in seconds."""

    def _durable(self, seconds: float) -> dict[str, Any]:
        number, self._sequence = self._sequence, self._sequence + 1
        published = self.started + timedelta(seconds=seconds)
        return {**self._common, "published_at": published, "sequence": number}

    async def _store(self, event: Durable) -> None:
        kind = event.type  # type: ignore[attr-defined]
        subject = f"stt.transcript.{event.key}.{kind}"
        await self._broker.client.jetstream().publish(subject, event.encode())

    async def status(self, state: Any, **members: Any) -> None:
        """Publish a status event; `assigned` says when the session was opened."""
        if state == "assigned":
            members = {"opened_at": self.started, **members}
        made = StatusEvent(**self._durable(self.at), state=state, worker="worker-1", **members)
        await self._store(made)

    async def interim(self, text: str, seconds: float = 1.0, latency: float = 0.2) -> None:
        """Publish an interim of the segment that comes next."""
        made = InterimEvent(
            **self._common, published_at=self.started + timedelta(seconds=self.at + seconds),
            segment=self._segment, text=text, start=self.at, end=self.at + seconds,
            started_at=self.started + timedelta(seconds=self.at), latency=latency,
        )  # fmt: skip
        subject = f"stt.transcript.{made.key}.interim"
        await self._broker.client.publish(subject, made.encode())

    async def final(
        self,
        text: str,
        seconds: float = 2.0,
        *,
        latency: float = 0.3,
        words: list[Word] | None = None,
    ) -> None:
        """Publish a final, after which the clock stands at its end."""
        start, self.at = self.at, self.at + seconds
        made = FinalEvent(
            **self._durable(self.at + latency), segment=self._segment, text=text, start=start,
            end=self.at, started_at=self.started + timedelta(seconds=start), latency=latency,
            words=words or [],
        )  # fmt: skip
        self._segment += 1
        await self._store(made)

    async def close(self, state: Any = "closed", cost: float = 0.0, **members: Any) -> None:
        """Publish the closing event, with an account."""
        gaps: list[Gap] = members.pop("gaps", [])
        seconds: dict[str, float] = {}
        for gap in gaps:
            seconds[gap.cause] = seconds.get(gap.cause, 0) + gap.end - gap.start
        account = Account(
            captured_seconds=self.at, received_seconds=self.at, transcribed_seconds=self.at,
            gaps=gaps, gap_seconds=seconds, recoveries=members.pop("recoveries", {}),
            providers={"deepgram": ProviderUsage(connections=1, cost=cost)},
        )  # fmt: skip
        await self.status(state, account=account, **members)
