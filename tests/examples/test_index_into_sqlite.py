"""examples/index_into_sqlite.py: killed again and again, it stores each final exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sqlite3
from functools import partial
from pathlib import Path

import pytest

from natterjack.broker.connection import Broker
from natterjack.events import FinalEvent
from natterjack.settings import BrokerSettings
from tests.faults.speech_writer import Speech, speeches
from tests.forking import Process, launch
from tests.waiting import until

EXAMPLE = Path(__file__).parents[2] / "examples" / "index_into_sqlite.py"


def test_the_example_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 50


def stored(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as database:
        try:
            return int(database.execute("select count(*) from final").fetchone()[0])
        except sqlite3.OperationalError:  # no table yet, or locked
            return 0


@pytest.mark.process
async def test_each_final_is_counted_once_although_processes_are_killed(
    broker_settings: BrokerSettings, ready_broker: Broker, tmp_path: Path
) -> None:
    path, chance = tmp_path / "words.db", random.Random(7)
    env = {**os.environ, "NATS_URL": broker_settings.url}
    spoken = speeches(ready_broker, 8)

    def start() -> Process:
        return launch((str(EXAMPLE), "acme", str(path)), env=env)

    processes = [start(), start()]
    try:
        speaking = asyncio.gather(*(speech.run(25, 0.3) for speech in spoken))
        for _ in range(6):
            before = stored(path)
            await until(partial(goes_on, path, before, speaking), "it goes on")
            await asyncio.sleep(chance.uniform(0, 0.5))
            victim = processes.pop(0)
            assert victim.poll() is None
            victim.kill()
            victim.wait()
            processes.append(start())
        await speaking
        finals = [event for speech in spoken for event in finals_of(speech)]
        await until(lambda: stored(path) >= len(finals), "all is stored", 60)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    with contextlib.closing(sqlite3.connect(path)) as database:
        texts = dict(database.execute("select id, text from final"))
        counts = {(c, s): n for c, s, n in database.execute("select * from words")}
    assert texts == {event.id: event.text for event in finals}
    assert counts == words(spoken)


def goes_on(path: Path, before: int, speaking: asyncio.Future[list[None]]) -> bool:
    return stored(path) > before or speaking.done()


def finals_of(speech: Speech) -> list[FinalEvent]:
    return [event for event in speech.events if isinstance(event, FinalEvent)]


def words(spoken: list[Speech]) -> dict[tuple[str, str], int]:
    return {
        (speech.key.conversation, speech.key.speaker): sum(
            len(event.text.split()) for event in finals_of(speech)
        )
        for speech in spoken
    }
