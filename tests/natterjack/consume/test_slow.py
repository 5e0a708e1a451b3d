"""A reader that stands still does not affect others, and misses nothing when it goes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from typing import IO

import pytest

import natterjack
from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.settings import BrokerSettings
from natterjack.subjects import transcript_subject
from tests.forking import launch
from tests.freezing import freeze
from tests.waiting import bound, within

from .events import KEY, final, interim, publish

pytestmark = pytest.mark.process

COUNT = 3000


async def store(broker: Broker, first: int = 0) -> None:
    """Publish COUNT finals, without waiting for each."""
    js = broker.client.jetstream(timeout=bound(5))
    events = [final(n) for n in range(first, first + COUNT)]
    subject = transcript_subject(KEY, "final")
    for at in range(0, COUNT, 200):
        await asyncio.gather(*(js.publish(subject, e.encode()) for e in events[at : at + 200]))


async def test_a_reader_that_stands_still_is_not_sent_more_than_it_asked_for(
    broker_settings: BrokerSettings, ready_broker: Broker
) -> None:
    slow = natterjack.listen("t", since="start", interims=None, settings=broker_settings)
    await publish(ready_broker, final(0))
    async with contextlib.aclosing(slow), within(60):
        assert (await anext(slow)).type == "final"
        await store(ready_broker, first=1)
        (consumer,) = await ready_broker.client.jetstream().consumers_info(streams.TRANSCRIPTS)
        assert consumer.num_pending is not None
        assert consumer.num_pending > COUNT // 2, "the broker keeps what was not asked for"
        others = natterjack.listen(
            "t", since="start", until="stored", interims=None, settings=broker_settings
        )
        assert len([event async for event in others]) == COUNT + 1
        rest = [(await anext(slow)).id for _ in range(COUNT)]
    assert rest == [f"session-1:{n}" for n in range(1, COUNT + 1)]


async def test_a_frozen_process_delays_nobody_and_misses_no_final(
    broker_settings: BrokerSettings, ready_broker: Broker
) -> None:
    env = {**os.environ, "NATS_URL": broker_settings.url}
    tail = ("-m", "natterjack", "tail", "--tenant", "t", "--from-start", "--json")
    frozen = launch(tail, env=env, stdout=subprocess.PIPE)
    assert frozen.stdout is not None
    try:
        await publish(ready_broker, final(0))
        async with within(60):
            assert await _next_final(frozen.stdout) == "final 0"
        freeze(frozen.pid)
        text = "x" * 1000
        for n in range(COUNT):
            await publish(ready_broker, interim(1, f"{n} {text}"))
        await store(ready_broker, first=1)
        others = natterjack.listen(
            "t", since="start", until="stored", interims=None, settings=broker_settings
        )
        async with within(60):
            assert len([event async for event in others]) == COUNT + 1
            frozen.send_signal(signal.SIGCONT)
            found = [await _next_final(frozen.stdout) for _ in range(COUNT)]
        assert found == [f"final {n}" for n in range(1, COUNT + 1)]
    finally:
        frozen.kill()
        frozen.wait()
        frozen.stdout.close()


async def _next_final(output: IO[bytes]) -> str:
    while True:
        event = json.loads(await asyncio.to_thread(output.readline))
        if event["type"] == "final":
            text: str = event["text"]
            return text
