"""Events that tests publish as a worker would."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from natterjack.broker.connection import Broker
from natterjack.events import DurableEvent, FinalEvent, StatusEvent
from natterjack.subjects import transcript_subject


def _common(session: str, n: int) -> dict[str, Any]:
    return {
        "session_id": f"session-{session}", "tenant": "t", "conversation": "c",
        "speaker": session.partition(".")[0], "epoch": 1,
        "published_at": datetime.now(UTC), "sequence": n,
    }  # fmt: skip


def final(session: str, n: int) -> FinalEvent:
    return FinalEvent(**_common(session, n), segment=n, text=f"final {n} ü", start=n, end=n + 1)


def status(session: str, n: int, state: Any) -> StatusEvent:
    return StatusEvent(**_common(session, n), state=state, worker="w")


def interleaved(sessions: Iterable[str], finals: range) -> list[DurableEvent]:
    """Finals of several sessions that speak at the same time."""
    return [final(session, n) for n in finals for session in sessions]


async def publish(broker: Broker, events: Iterable[DurableEvent]) -> None:
    js = broker.client.jetstream()
    for event in events:
        await js.publish(
            transcript_subject(event.key, event.type),
            event.encode(),
            headers={"Nats-Msg-Id": event.id},
        )


def by_session(ids: Iterable[str]) -> dict[str, list[int]]:
    """Sequences by session, in the order of `ids`."""
    found: dict[str, list[int]] = {}
    for webhook_id in ids:
        session, _, sequence = webhook_id.rpartition(":")
        found.setdefault(session.removeprefix("session-"), []).append(int(sequence))
    return found
