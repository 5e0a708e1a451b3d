"""Sending the dead letters of a webhook again."""

from __future__ import annotations

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.consume.dead_letters import dead_letters
from natterjack.errors import NatterjackError

from .sender import Sender
from .settings import WebhookSettings
from .signature import usable_id


class NotSent(NatterjackError):
    """The receiver did not accept a dead letter."""


async def send_again(broker: Broker, sender: Sender, settings: WebhookSettings) -> tuple[int, int]:
    """Send the dead letters, oldest first, and remove each that the receiver accepts. Returns the
    number of those, and of those that cannot be sent and are left where they are: they do not hold
    their event, or its ID cannot be signed.

    Raises: NotSent for the first one that is not accepted; BrokerError.
    """
    sent = left = 0
    js = broker.client.jetstream()
    async with sender:
        letters = dead_letters(
            settings.name, settings.tenant, settings.conversation, settings.speaker, broker=broker
        )
        async for letter in letters:
            event = letter.event
            webhook_id = (event and event.id) or ""
            if event is None or not usable_id(webhook_id):
                left += 1
                continue
            answer = await sender.send(webhook_id, event.source)
            if answer.outcome != "delivered":
                raise NotSent(f"{webhook_id} was not accepted, after {sent} were: {answer.reason}")
            await js.delete_msg(streams.DEAD_LETTERS, letter.sequence)
            sent += 1
    return sent, left
