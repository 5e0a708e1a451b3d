"""Which signals a program heeds, and from when until when. Nothing is started."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from natterjack.process.signals import receiving, stop_signals


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in stop_signals()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "after"),
    [
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGTERM, signal.SIG_DFL),
        (signal.SIGHUP, signal.SIG_IGN),  # a terminal that is closed may send another one
    ],
)
async def test_a_signal_is_received_within_the_block(number: signal.Signals, after: object) -> None:
    received = asyncio.Queue[int]()
    with receiving(stop_signals(), received.put_nowait):
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert await received.get() == number
    assert signal.getsignal(number) == after


async def test_without_a_signal_nothing_is_ignored() -> None:
    with receiving(stop_signals(), lambda _: None):
        pass
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
