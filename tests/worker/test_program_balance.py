"""A worker process reports the remaining provider balance."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator

import pytest

from natterjack.broker.connection import Broker
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.settings import BrokerSettings

from ..waiting import until
from .programs import Speaker, StartWorker, closed

pytestmark = pytest.mark.process

ADMIN = "s3cret-0f-the-purse"


@pytest.fixture
async def emulator() -> AsyncIterator[DeepgramEmulator]:
    async with DeepgramEmulator(
        roles={ADMIN: "admin"}, balances=[{"amount": 100}], price_per_hour=3600
    ) as emulator:
        yield emulator


@pytest.fixture
def provider_settings(emulator: DeepgramEmulator) -> dict[str, str]:
    return {
        "DEEPGRAM_ADMIN_KEY": ADMIN,
        "DEEPGRAM_API_URL": emulator.account_url,
        "DEEPGRAM_BALANCE_SECONDS": "0.2",
    }


async def test_a_worker_reports_the_remaining_balance(
    ready_broker: Broker,
    broker_settings: BrokerSettings,
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
) -> None:
    worker = await start_worker()

    async def remaining() -> float | None:
        _, text = await worker.get("/metrics")
        name = 'natterjack_credits_remaining{provider="deepgram",unit="USD"} '
        values = [line.removeprefix(name) for line in text.splitlines() if line.startswith(name)]
        return float(values[0]) if values else None

    async def remains(amount: float) -> bool:
        return await remaining() == pytest.approx(amount, abs=0.01)

    await until(lambda: remains(100), "the first balance")
    speaker = Speaker(broker_settings, 6)
    await speaker.speak()
    await closed(ready_broker, speaker.spec)
    amount = emulator.remaining()[0].amount
    assert amount < 100 - 1
    await until(lambda: remains(amount), "the session's cost is deducted")
    await emulator.set(account_status=503)
    await until(lambda: worker.find("provider balance not available"), "the failure is logged")
    worker.signal(signal.SIGTERM)
    assert await worker.wait() == 0
