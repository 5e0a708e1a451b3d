"""A process of a durable consumer, which may be killed at any time.

    python -m tests.faults.consumer_program NAME FILE SEED

Each event that it handles becomes a line of FILE, which all processes share. Now and then it tries
an event again, is slow, takes events in batches, or crashes in the middle of one.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from pathlib import Path

import natterjack
from natterjack.settings import LogSettings, load
from natterjack.telemetry.log import configure


def note(file: int, delivery: natterjack.Delivery) -> None:
    event = delivery.event
    line = {
        "id": event.id, "session": event.session_id, "position": delivery.position,
        "attempt": delivery.attempt, "pid": os.getpid(), "text": getattr(event, "text", None),
    }  # fmt: skip
    os.write(file, json.dumps(line).encode() + b"\n")


async def one_by_one(deliveries: natterjack.Deliveries, file: int, chance: random.Random) -> None:
    async with asyncio.TaskGroup() as tasks:

        async def handle(delivery: natterjack.Delivery) -> None:
            await asyncio.sleep(chance.choice((0, 0, 0.002, 0.02)))
            if delivery.attempt < 5 and chance.random() < 0.03:
                await delivery.retry(chance.choice((0, 0.1)))
                return
            note(file, delivery)
            await asyncio.sleep(chance.choice((0, 0, 0.005)))
            await delivery.ack()

        async for delivery in deliveries:
            tasks.create_task(handle(delivery))


async def in_batches(deliveries: natterjack.Deliveries, file: int, chance: random.Random) -> None:
    async for batch in deliveries.batches(chance.choice((3, 20)), 0.05):
        failed: set[str] = set()
        for delivery in batch:
            session = delivery.event.session_id
            if session in failed:
                continue
            if chance.random() < 0.02:
                failed.add(session)
                await delivery.retry()
                continue
            note(file, delivery)
            await asyncio.sleep(0)
            await delivery.ack()


async def main(name: str, path: Path, seed: int) -> None:
    chance = random.Random(seed)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    async with natterjack.durable(name, "acme", start="start", max_in_flight=64) as deliveries:
        await (one_by_one if chance.random() < 0.5 else in_batches)(deliveries, file, chance)


if __name__ == "__main__":
    configure(load(LogSettings))
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
