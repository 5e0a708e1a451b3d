"""A worker whose provider is a gateway: the provider `managed` at the door `/ws/transcribe`."""

from __future__ import annotations

import asyncio
from signal import SIGKILL

import pytest

from natterjack.broker.connection import Broker
from natterjack.events import UsageEvent
from natterjack.settings import BrokerSettings
from tests.ports import free_port
from tests.waiting import within
from tests.worker.programs import UNDISTURBED, Speaker, closed, spoken

from ..house import House

pytestmark = pytest.mark.process


async def start(house: House, **worker: str | None) -> None:
    """A gateway whose sessions the provider deepgram serves, and a worker that can dial both."""
    token = house.key(doors=("managed",), tenant="behind", provider=("deepgram",))
    port = str(free_port())
    await house.start_gateway(GATEWAY_HTTP_PORT=port)
    await house.start_worker(
        "deepgram", MANAGED_URL=f"ws://127.0.0.1:{port}", MANAGED_TOKEN=token,
        MANAGED_CATCH_UP_RATE="4", **worker,
    )  # fmt: skip


async def test_a_gateway_can_be_the_provider_of_a_worker(
    house: House, broker_settings: BrokerSettings, ready_broker: Broker
) -> None:
    await start(house, **UNDISTURBED)
    speaker = Speaker(broker_settings, 24, provider="managed", speed=2)
    async with within(90):
        await speaker.speak()
        transcript = await closed(ready_broker, speaker.spec, 60)
    assert transcript.words == speaker.words
    assert transcript.closing[0].state == "closed"
    account = transcript.closing[0].account
    assert account is not None
    assert account.providers["managed"].connections == 1
    assert any(isinstance(event, UsageEvent) for event in transcript.events)


async def test_a_gateway_that_is_killed_loses_the_worker_no_word(
    house: House, broker_settings: BrokerSettings, ready_broker: Broker
) -> None:
    await start(house)
    speaker = Speaker(broker_settings, 32, provider="managed", speed=2)
    async with within(120):
        speaking = asyncio.create_task(speaker.speak())
        await spoken(speaker, 5)
        port = house.gateway.port
        house.gateway.signal(SIGKILL)
        await house.gateway.wait()
        await house.start_gateway(GATEWAY_HTTP_PORT=str(port))
        await speaking
        transcript = await closed(ready_broker, speaker.spec, 60)
    assert transcript.words == speaker.words
    account = transcript.closing[0].account
    assert account is not None
    assert account.providers["managed"].connections > 1
