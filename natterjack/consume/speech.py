"""The events of voice sessions, for what shows both sides of a conversation."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable

from nats.errors import Error as NatsError

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.decoding import check_subject
from natterjack.errors import BadEvent
from natterjack.subjects import voice_event_filter
from natterjack.voice.events import VoiceEvent, parse_voice_event

from .reader import DurableReader, Since

_WAIT_S = 60.0


async def speech(
    broker: Broker,
    tenant: str,
    conversation: str | None = None,
    *,
    since: Since = "start",
    stored: bool,
    on_caught_up: Callable[[], None] = lambda: None,
) -> AsyncGenerator[VoiceEvent, None]:
    """Iterate over events of voice sessions; with `stored`, only over those that are stored now.
    Events of later releases are left out. Raises: StreamMissing; NotAllowed."""
    reader = DurableReader(
        broker, streams.VOICE_EVENTS, voice_event_filter(tenant, conversation),
        since=since, cure="a worker that speaks creates it",
    )  # fmt: skip
    try:
        await reader.begin()
        while True:
            if reader.settled and not reader.pending and not reader.waiting:
                on_caught_up()
                if stored:
                    return
            message = await reader.next(_WAIT_S)
            if message is not None:
                try:
                    event = parse_voice_event(message.data)
                    check_subject(event, message.subject)
                except BadEvent:
                    continue
                yield event
    finally:
        with contextlib.suppress(NatsError, TimeoutError):
            await reader.stop()
