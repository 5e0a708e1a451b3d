"""Which conversations of a tenant have changed."""

from __future__ import annotations

import contextlib
from datetime import datetime

from natterjack.broker.connection import Broker
from natterjack.errors import NotAllowed, StreamMissing

from .listener import listen
from .options import checked_since
from .speech import speech


async def changed_conversations(
    broker: Broker, tenant: str, since: datetime, *, voice: bool | None = None
) -> list[str]:
    """Return the conversations of which an event was stored since a time, in order of their names.
    `voice` is that of `transcript`. Raises: InvalidKey; NotAllowed."""
    found: set[str] = set()
    source = listen(tenant, since=since, until="stored", interims=None, broker=broker)
    async with contextlib.aclosing(source):
        async for event in source:
            found.add(event.conversation)
    if voice is not False:
        try:
            with contextlib.suppress(StreamMissing):
                spoken = speech(broker, tenant, since=checked_since(since), stored=True)
                async with contextlib.aclosing(spoken):
                    async for each in spoken:
                        found.add(each.conversation)
        except NotAllowed:
            if voice:
                raise
    return sorted(found)
