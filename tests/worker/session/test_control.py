"""Control requests of one session: one after another, bounded, and none after its end."""

from __future__ import annotations

import asyncio
from typing import Any

from natterjack.broker.connection import Broker, connected
from natterjack.control import ControlReply
from natterjack.plugin.provider import Capabilities
from natterjack.settings import BrokerSettings
from natterjack.subjects import SessionKey, control_subject
from tests.waiting import until
from worker.session.control import controlled

KEY = SessionKey("t", "c", "s")
REQUEST = b'{"command":"finalize"}'


class Slow:
    """A session whose provider is slow to answer."""

    id, key, provider_name, sent_seconds = "1", KEY, "slow", 1.0
    capabilities = Capabilities(encodings=("linear16",), finalize=True)

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.asked = self.at_once = self.most_at_once = 0

    async def finalize(self) -> None:
        self.asked += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.go.wait()
        finally:
            self.at_once -= 1

    async def configure(self, settings: dict[str, Any]) -> None:
        raise AssertionError("not requested")

    async def stop(self, reason: str) -> float:
        raise AssertionError("not requested")

    def mark_unconfirmed(self) -> None:
        raise AssertionError("the lease is confirmed")


async def test_a_flood_of_requests_is_bounded_and_answered_in_order(
    broker: Broker, broker_settings: BrokerSettings
) -> None:
    session, replies = Slow(), []

    async def answered(message: Any) -> None:
        replies.append(ControlReply.model_validate_json(message.data))

    async with connected(broker_settings, name="asks", once=True) as asks:
        inbox = asks.client.new_inbox()
        await asks.client.subscribe(inbox, cb=answered)
        async with controlled(broker, session):
            await broker.client.flush()  # it is subscribed
            for _ in range(300):
                asks.client.post(control_subject(KEY), REQUEST, reply=inbox)
            await asks.client.flush()
            await until(lambda: session.asked, "the first is asked")
            await broker.client.flush()  # all others are here by now
            session.go.set()
            await until(lambda: session.asked == len(replies) > 1, "those that wait are answered")
            assert session.most_at_once == 1
            assert all(reply.ok for reply in replies)
            assert len(replies) <= 101
            asks.client.post(control_subject(KEY), REQUEST, reply=inbox)
            before = len(replies)
            await until(lambda: len(replies) == before + 1, "it goes on to answer")


async def test_a_request_ends_with_its_session(
    broker: Broker, broker_settings: BrokerSettings
) -> None:
    session = Slow()
    async with connected(broker_settings, name="asks", once=True) as asks:
        async with controlled(broker, session):
            await broker.client.flush()
            asks.client.post(control_subject(KEY), REQUEST)
            await until(lambda: session.at_once, "it is asked")
        await until(lambda: session.at_once == 0, "nobody asks on")
        asks.client.post(control_subject(KEY), REQUEST)
        await asks.client.flush()
        await broker.client.flush()
        assert session.asked == 1
