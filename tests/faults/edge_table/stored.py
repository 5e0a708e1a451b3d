"""The messages that the broker has stored of one tenant's edges: events, and the place of each
chunk of audio."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.broker.stored import Stored, StreamStore
from natterjack.errors import BadEvent
from natterjack.events import DurableEvent, InterimEvent, parse_event


async def messages(broker: Broker, stream: str, subject: str) -> AsyncIterator[Stored]:
    """All messages of a stream on a subject, in order."""
    store = StreamStore(broker, stream)
    await store.start()
    sequence, left = 1, 1
    while left:
        found, left = await store.read(subject, sequence, batch=500, max_bytes=10**7)
        for message in found:
            yield message
        sequence = found[-1].sequence + 1 if found else sequence


async def events(broker: Broker, tenant: str) -> list[DurableEvent]:
    """The stored events of all sessions."""
    found = []
    async for message in messages(broker, streams.TRANSCRIPTS, f"stt.transcript.{tenant}.>"):
        with contextlib.suppress(BadEvent):  # of a kind that does not concern these tests
            event = parse_event(message.data)
            if not isinstance(event, InterimEvent):
                found.append(event)
    return found
