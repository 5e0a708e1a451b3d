"""A load that creates nearly every series of a worker."""

from __future__ import annotations

import asyncio

from natterjack.audio import SESSION_ID
from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.fleet.budgets import Budget, budget_key
from natterjack.fleet.limits import AccountLimit, limit_key
from natterjack.settings import BrokerSettings
from natterjack.subjects import audio_subject

from ..worker.programs import Speaker, closed

SETTINGS = {
    "WORKER_PRICES": "deepgram=3.6",
    "WORKER_USAGE_SECONDS": "1",
    "WORKER_HOLE_SECONDS": "1",
    "WORKER_MAX_SESSIONS": "6",
}
_WORDS = 30


class Load:
    """Sessions of three tenants with a provider that drops streams and sends invalid messages."""

    def __init__(
        self, broker: Broker, settings: BrokerSettings, emulator: DeepgramEmulator
    ) -> None:
        self._broker = broker
        self._settings = settings
        self._emulator = emulator

    async def limits(self) -> None:
        """Set a budget that is not exhausted, and a connection limit that makes sessions wait."""
        budget = Budget(seconds_per_day=36000, cost_per_day=100)
        limit = AccountLimit(connections=3, dials_per_second=20)
        for key, entry in (
            (budget_key("acme"), budget.encode()),
            (limit_key("deepgram"), limit.model_dump_json().encode()),
        ):
            subject = streams.bucket_subject(streams.BUDGETS_BUCKET, key)
            await self._broker.client.jetstream().publish(subject, entry)

    async def run(self) -> None:
        """Run until all sessions have ended."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._break())
            tasks.create_task(self._session("acme", 0, delay=0))
            tasks.create_task(self._session("acme", 1, delay=1, left_out={40, 100}))
            tasks.create_task(self._session("beta", 2, delay=3, bad=True))
            tasks.create_task(self._session("gamma", 3, delay=5, max_seconds=4.0))
            for seconds in (2, 6):
                tasks.create_task(self._hopeless(seconds))

    async def _break(self) -> None:
        """Drop every connection a few times, after each has received an invalid message."""
        await self._emulator.set(garbage=("not_json",))
        for _ in range(4):
            await asyncio.sleep(3)  # between two faults
            self._emulator.drop()

    async def _session(
        self,
        tenant: str,
        number: int,
        *,
        delay: float,
        left_out: set[int] | None = None,
        bad: bool = False,
        max_seconds: float | None = None,
    ) -> None:
        """Run a session; `left_out` chunks are missing, and `bad` adds chunks with bad headers."""
        await asyncio.sleep(delay)
        speaker = Speaker(
            self._settings, _WORDS, speed=1.5, tenant=tenant, conversation=f"c{number}",
            max_seconds=max_seconds,
        )  # fmt: skip
        speaker.left_out = left_out or set()
        if bad:
            js = self._broker.client.jetstream()
            await js.publish(
                audio_subject(speaker.spec.key),
                b"no sound",
                headers={SESSION_ID: speaker.spec.session_id},
            )
        await speaker.speak()
        await closed(self._broker, speaker.spec, 60)

    async def _hopeless(self, delay: float) -> None:
        """Run a session that no provider can serve."""
        await asyncio.sleep(delay)
        speaker = Speaker(
            self._settings, 1, tenant="delta", conversation=f"h{delay:g}", provider="nobody"
        )
        await speaker.speak()
        await closed(self._broker, speaker.spec, 60)
