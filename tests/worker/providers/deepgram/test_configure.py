"""Changes on an open stream: one in flight, later ones merged, each confirmed, rejected or timed
out."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from natterjack.plugin.errors import (
    RequestRefused,
    Stalled,
)
from tests.waiting import settle, soon, until
from worker.providers.deepgram.configure import Configuring
from worker.providers.deepgram.protocol import ConfigureAnswer

UNANSWERED = "configure_unanswered"


class Wire:
    """Records the messages that a Configuring sends."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def send(self, message: str) -> None:
        await self.open.wait()
        self.sent.append(json.loads(message))


async def test_one_change_is_in_flight_and_later_ones_are_merged() -> None:
    wire = Wire()
    configuring = Configuring(wire.send, 60)
    first = asyncio.create_task(configuring.ask({"keyterms": ["a"]}))
    await until(lambda: len(wire.sent) == 1, "the first is sent")
    later = [
        asyncio.create_task(configuring.ask(changes))
        for changes in ({"keyterms": ["b"]}, {"numerals": True}, {"keyterms": ["c"]})
    ]
    with pytest.raises(RequestRefused):
        await configuring.ask({"nonsense": 1})
    await settle()
    assert len(wire.sent) == 1
    configuring.answered(ConfigureAnswer(keyterms=["a"]))
    await first
    await until(lambda: len(wire.sent) == 2, "the rest is sent")
    configuring.answered(ConfigureAnswer(refusal="why"))
    for one in later:
        with pytest.raises(RequestRefused, match="why"):
            await one
    assert wire.sent[1] == {"type": "Configure", "keyterms": ["c"], "features": {"numerals": True}}
    assert configuring.notices() == []


async def test_a_late_response_is_not_matched_to_the_next_change() -> None:
    wire = Wire()
    configuring = Configuring(wire.send, 0.02)
    await configuring.ask({"keyterms": ["a"]})
    (notice,) = configuring.notices()
    assert notice.code == UNANSWERED
    configuring._timeout = 60
    asking = asyncio.create_task(configuring.ask({"keyterms": ["b"]}))
    await until(lambda: len(wire.sent) == 2, "the second is sent")
    configuring.answered(ConfigureAnswer(keyterms=["a"]))
    await settle()
    assert not asking.done()
    configuring.answered(ConfigureAnswer(refusal="why"))
    with pytest.raises(RequestRefused):
        await asking
    configuring.answered(ConfigureAnswer())  # no change is waiting


async def test_a_waiting_change_can_be_cancelled() -> None:
    wire = Wire()
    configuring = Configuring(wire.send, 60)
    first = asyncio.create_task(configuring.ask({"keyterms": ["a"]}))
    await until(lambda: len(wire.sent) == 1, "the first is sent")
    first.cancel()
    second = asyncio.create_task(configuring.ask({"keyterms": ["b"]}))
    await until(lambda: len(wire.sent) == 2, "the second is sent")
    configuring.answered(ConfigureAnswer(keyterms=["a"]))
    configuring.answered(ConfigureAnswer(keyterms=["b"]))
    await soon(second, 1)
    assert first.cancelled()


async def test_a_change_that_cannot_be_sent_fails() -> None:
    wire = Wire()
    wire.open.clear()
    configuring = Configuring(wire.send, 0.02)
    with pytest.raises(Stalled):
        await configuring.ask({"numerals": True})
    assert configuring.notices() == []


async def test_no_change_is_sent_after_finish() -> None:
    wire = Wire()
    configuring = Configuring(wire.send, 60)
    first = asyncio.create_task(configuring.ask({"numerals": True}))
    await until(lambda: len(wire.sent) == 1, "the first is sent")
    second = asyncio.create_task(configuring.ask({"numerals": False}))
    await settle()
    configuring.finish()
    configuring.answered(ConfigureAnswer())
    await first
    with pytest.raises(RequestRefused, match="finished"):
        await second
    assert len(wire.sent) == 1
