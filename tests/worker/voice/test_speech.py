"""Publishing speech: each chunk is stored once, wherever its publication is cancelled."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from natterjack.broker.connection import Broker
from worker.errors import LeaseLost
from worker.voice.speech import Speech

from .player import RATE, Application

pytestmark = pytest.mark.process

_CHUNK = bytes(2 * (RATE // 5))
"""The longest chunk at this rate."""


def _speech(broker: Broker, application: Application, epoch: int = 1) -> Speech:
    return Speech(broker, broker.client.jetstream(), application.spec, epoch)


async def _stored(application: Application) -> list[tuple[int, int, int]]:
    """Number, position and size of each chunk that is stored."""
    chunks = await application.stored_chunks()
    return [(header.seq, header.pos, len(audio)) for header, audio in chunks]


@pytest.mark.parametrize("steps", range(8))
async def test_cancelled_while_it_publishes(broker: Broker, steps: int) -> None:
    """The caller is cancelled after a number of turns of the event loop; `settle` waits for the
    rest, and what follows is in its place."""
    application = Application(broker)
    speech = _speech(broker, application)
    frames: list[int] = []
    speech.on_published = lambda count, now: frames.append(count)
    await speech.look()
    publishing = asyncio.create_task(speech.publish(0, 2 * _CHUNK))
    for _ in range(steps):
        await asyncio.sleep(0)
    publishing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await publishing
    await speech.settle()
    before = speech.seq
    assert before in ((0, 2) if steps == 0 else (2,)), "all of it was published, or nothing begun"
    await speech.publish(0, end=True)
    size = RATE // 5
    expected = [(n, n * size, 2 * size) for n in range(before)] + [(before, before * size, 0)]
    assert await _stored(application) == expected
    assert (speech.seq, speech.position) == (before + 1, before * size)
    assert frames == [size] * before + [0]


async def test_cancelled_after_it_is_stored(broker: Broker) -> None:
    """The acknowledgement has arrived when the caller is cancelled."""
    application = Application(broker)
    speech = _speech(broker, application)
    await speech.look()
    publishing = asyncio.create_task(speech.publish(0, _CHUNK))
    while not (stored := await _stored(application)):
        await asyncio.sleep(0)
    publishing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await publishing
    await speech.settle()
    assert await _stored(application) == stored
    await speech.publish(1, _CHUNK)
    assert [seq for seq, _, _ in await _stored(application)] == [0, 1]


async def test_a_lost_lease_is_known_after_a_cancellation(broker: Broker) -> None:
    application = Application(broker)
    older, newer = _speech(broker, application, 1), _speech(broker, application, 2)
    await older.look()
    await newer.look()
    await newer.publish(0, _CHUNK)
    publishing = asyncio.create_task(older.publish(0, _CHUNK))
    await asyncio.sleep(0)
    publishing.cancel()
    with pytest.raises((asyncio.CancelledError, LeaseLost)):
        await publishing
    with pytest.raises(LeaseLost):
        await older.settle()
    await older.settle()  # it is said once
    assert len(await _stored(application)) == 1


async def test_nothing_goes_on_after_the_lease(broker: Broker) -> None:
    application = Application(broker)
    speech = _speech(broker, application)
    await speech.look()
    publishing = asyncio.create_task(speech.publish(0, 3 * _CHUNK))
    await asyncio.sleep(0)
    publishing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await publishing
    speech.abandon()
    with contextlib.suppress(asyncio.CancelledError):
        await speech.settle()
    assert len(await _stored(application)) < 3
