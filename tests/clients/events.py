"""Events of one session, as a worker publishes them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from natterjack.broker import streams
from natterjack.events import Event, FinalEvent, InterimEvent, StatusEvent, StatusState

from ..deploy.secured import SecuredServer, guest
from ..waiting import within


class Session:
    """Makes the events of one session in their order."""

    def __init__(self, session_id: str, speaker: str = "agent", conversation: str = "call") -> None:
        self._common: dict[str, Any] = {
            "session_id": session_id, "tenant": "acme", "conversation": conversation,
            "speaker": speaker, "epoch": 1,
        }  # fmt: skip
        self._sequence = 0
        self._segment = 0

    def _next(self) -> dict[str, Any]:
        number, self._sequence = self._sequence, self._sequence + 1
        return {**self._common, "published_at": datetime.now(UTC), "sequence": number}

    def final(self, text: str) -> FinalEvent:
        segment, self._segment = self._segment, self._segment + 1
        times = {"start": float(segment), "end": segment + 0.9, "started_at": datetime.now(UTC)}
        return FinalEvent(**self._next(), segment=segment, text=text, **times)

    def interim(self, text: str) -> InterimEvent:
        common = {**self._common, "published_at": datetime.now(UTC)}
        start = float(self._segment)
        return InterimEvent(**common, segment=self._segment, text=text, start=start, end=start + 1)

    def status(self, state: StatusState) -> StatusEvent:
        return StatusEvent(**self._next(), state=state, worker="w")


async def publish(server: SecuredServer, *events: Event) -> None:
    """Publish events as the user of workers; durable ones are stored when this returns."""
    async with guest(server, "worker") as worker, within(30):
        for event in events:
            subject = f"stt.transcript.{event.key}.{event.type}"
            if event.type == "interim":
                await worker.client.publish(subject, event.encode())
            else:
                answer = await worker.client.request(subject, event.encode(), timeout=30)
                assert json.loads(answer.data)["stream"] == streams.TRANSCRIPTS, answer.data
        await worker.client.flush()
