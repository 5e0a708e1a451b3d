"""Faults behind the gateway, as the vendors' clients see them: not at all. Their sockets stay, and
every word is final once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from signal import SIGKILL

import pytest

from natterjack.local.embedded import EmbeddedServer
from tests.waiting import until
from tests.worker.programs import holder

from .house import House, Speech
from .talkers import TALKERS, Talker

pytestmark = [pytest.mark.process, pytest.mark.slow]

PROVIDER = {
    "deepgram-sdk v2": "deepgram-flux",
    "speechmatics-rt": "speechmatics",
    "speechmatics-agent-stt": "speechmatics-agent",
}
OTHER = {
    "deepgram-sdk v2": "speechmatics",
    "speechmatics-rt": "deepgram",
    "speechmatics-agent-stt": "deepgram-flux",
}
"""A provider of another vendor."""
Fault = Callable[[House, str, Talker], Awaitable[None]]
OUTAGE_SECONDS = 20.0


async def worker_killed(house: House, provider: str, talker: Talker) -> None:
    (await holder(house.workers)).signal(SIGKILL)


async def provider_drops(house: House, provider: str, talker: Talker) -> None:
    (await house.emulator(provider)).drop()


async def provider_mute(house: House, provider: str, talker: Talker) -> None:
    emulator = await house.emulator(provider)
    await emulator.set(mute_after_seconds=0.0, connections=1)


async def provider_out(house: House, provider: str, talker: Talker) -> None:
    """No connection to the provider for 20 s."""
    emulator = await house.emulator(provider)
    await emulator.set(refuse=True)
    emulator.drop()
    await asyncio.sleep(OUTAGE_SECONDS)  # the length of the outage, not a wait for a condition
    await emulator.set(refuse=False)


FAULTS: dict[str, Fault] = {
    fault.__name__: fault for fault in (worker_killed, provider_drops, provider_mute, provider_out)
}


async def talk(house: House, client: str, provider: str, fault: Fault, words: int = 40) -> Talker:
    """Speak, have the fault in the middle of it, and return the client with all its words."""
    settings = {"WORKER_MUTE_SECONDS": "3", "SPEECHMATICS_RETRY_SECONDS": "0.5"}
    await asyncio.gather(
        house.start_worker(provider, **settings),
        house.start_worker(provider, **settings),
        house.start_gateway(),
    )
    speech, talker = Speech(words), TALKERS[client](house)
    await talker.start()
    speaking = asyncio.create_task(speech.play(talker.send, speed=2.0))
    await until(lambda: talker.heard > 8, "the second phrase", 30)
    await fault(house, provider, talker)
    await speaking
    await talker.finish(words)
    speech.check(talker.words)
    assert not talker.broken
    return talker


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("client", TALKERS)
async def test_the_socket_stays_and_each_word_is_final_once(
    house: House, client: str, fault: str
) -> None:
    await talk(house, client, PROVIDER[client], FAULTS[fault])


@pytest.mark.parametrize("client", TALKERS)
async def test_the_same_with_the_provider_of_another_vendor(house: House, client: str) -> None:
    await talk(house, client, OTHER[client], worker_killed)


@pytest.mark.parametrize("client", TALKERS)
async def test_a_broker_that_starts_anew(
    house: House, nats_server: EmbeddedServer, client: str
) -> None:
    async def broker_killed(house: House, provider: str, talker: Talker) -> None:
        nats_server.kill()
        nats_server.start()

    await talk(house, client, PROVIDER[client], broker_killed)
