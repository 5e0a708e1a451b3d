"""Changes on an open stream: one in flight, later ones merged, each confirmed, rejected or timed
out."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest

from natterjack.plugin.errors import Dropped, RequestRefused, Stalled
from worker.providers.deepgram_flux.configure import Configuring
from worker.providers.deepgram_flux.protocol import Configured, ConfigureFailed


def ask(configuring: Configuring, **changes: Any) -> asyncio.Future[None]:
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    configuring.ask(changes, waiter)
    return waiter


def sent(configuring: Configuring, now: float = 0) -> dict[str, Any] | None:
    message = configuring.due(now)
    return None if message is None else dict(json.loads(message))


async def test_one_change_is_in_flight_and_later_ones_are_merged() -> None:
    configuring = Configuring(5)
    assert configuring.deadline == math.inf
    first = ask(configuring, keyterms=["a"], eot_threshold=0.8)
    assert configuring.deadline == 0
    assert sent(configuring) == {
        "type": "Configure",
        "keyterms": ["a"],
        "thresholds": {"eot_threshold": 0.8},
    }
    assert configuring.deadline == 5
    second = ask(configuring, keyterms=["b"], eot_timeout_ms=900)
    third = ask(configuring, keyterms=["c"], numerals=True)
    assert sent(configuring, 1) is None
    configuring.answered(Configured({}))
    await first
    assert not second.done()
    assert sent(configuring, 2) == {
        "type": "Configure",
        "keyterms": ["c"],
        "numerals": True,
        "thresholds": {"eot_timeout_ms": 900},
    }
    configuring.answered(Configured({}))
    await second
    await third
    assert configuring.deadline == math.inf


async def test_a_rejection_reaches_all_callers() -> None:
    configuring = Configuring(5)
    waiting = [ask(configuring, numerals=True), ask(configuring, keyterms=[])]
    assert sent(configuring)
    configuring.answered(ConfigureFailed("INVALID_THRESHOLD", "too high"))
    for waiter in waiting:
        with pytest.raises(RequestRefused, match="INVALID_THRESHOLD: too high"):
            await waiter


async def test_no_response_and_a_late_one() -> None:
    configuring = Configuring(5)
    first, second = ask(configuring, keyterms=["a"]), None
    assert sent(configuring, 10)
    second = ask(configuring, keyterms=["b"])
    assert sent(configuring, 14.9) is None
    assert sent(configuring, 15) == {"type": "Configure", "keyterms": ["b"]}
    with pytest.raises(Stalled, match="no response to Configure"):
        await first
    configuring.answered(Configured({"keyterms": ["a"]}))
    assert not second.done(), "that was the late answer to the first"
    configuring.answered(Configured({"keyterms": ["b"]}))
    await second
    configuring.answered(Configured({}))  # no change is waiting


async def test_a_cancelled_caller_is_skipped() -> None:
    configuring = Configuring(5)
    waiter = ask(configuring, numerals=True)
    assert sent(configuring)
    waiter.cancel()
    configuring.answered(Configured({}))
    assert waiter.cancelled()


async def test_the_end_of_the_stream() -> None:
    configuring = Configuring(5)
    first = ask(configuring, numerals=True)
    assert sent(configuring)
    second = ask(configuring, numerals=False)
    configuring.fail(Dropped("deepgram-flux", "gone"))
    for waiter in (first, second):
        with pytest.raises(Dropped):
            await waiter
