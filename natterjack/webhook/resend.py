"""Sending the dead letters of a webhook again."""

from __future__ import annotations

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.consume.dead_letters import dead_letters
from natterjack.errors import NatterjackError

from .sender import Sender
from .settings import WebhookSettings


class NotSent(NatterjackError):
    """The receiver did not accept a dead letter."""


async def send_again(broker: Broker, sender: Sender, settings: WebhookSettings) -> int:
    """Send the dead letters, oldest first, and remove each that the receiver accepts. Returns their
    number. One that does not hold its event is left where it is.

    Raises: NotSent for the first one that is not accepted; BrokerError.
    """
    sent = 0
    js = broker.client.jetstream()
    async with sender:
        letters = dead_letters(
            settings.name, settings.tenant, settings.conversation, settings.speaker, broker=broker
        )
        async for letter in letters:
            event = letter.event
            if event is None or event.id is None:
                continue
            answer = await sender.send(event.id, event.source)
            if answer.outcome != "delivered":
                raise NotSent(f"{event.id} was not accepted, after {sent} were: {answer.reason}")
            await js.delete_msg(streams.DEAD_LETTERS, letter.sequence)
            sent += 1
    return sent
