"""The order of sessions from the spool, and how long a run waits for them, without a broker."""

from __future__ import annotations

import asyncio

import pytest

from edge_capture.delivery import leftovers as module
from edge_capture.delivery.backlog import Backlog
from edge_capture.delivery.chain import Chain
from edge_capture.delivery.leftovers import Leftovers
from edge_capture.delivery.publisher import Publisher
from natterjack.spec import SessionSpec
from tests.waiting import soon

from . import samples


@pytest.fixture(autouse=True)
def poll_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POLL_S", 0.001)


def chain(speaker: str) -> Chain:
    spec = SessionSpec(tenant="t", conversation="c", speaker=speaker, sample_rate=16000)
    publisher = Publisher(Backlog(spec, max_seconds=60), window_chunks=4)
    publisher.offer(samples.chunk(0))
    return Chain(publisher, live=False)


def test_sessions_of_one_key_stay_in_order() -> None:
    first, other, second = chain("a"), chain("b"), chain("a")
    groups = Leftovers([first, other, second]).by_key()
    assert list(groups.values()) == [[first, second], [other]]


async def test_nothing_is_waited_for_when_nothing_is_left() -> None:
    await soon(Leftovers([]).wait_stored(None), 5)


async def test_a_run_does_not_wait_for_what_the_broker_refuses() -> None:
    refused = chain("a")
    refused.publisher._failed("audio", "no stream")
    await soon(Leftovers([refused]).wait_stored(0.005), 5)


@pytest.mark.parametrize("refused_seconds", [None, 0.005])
async def test_a_run_waits_for_what_is_being_sent(refused_seconds: float | None) -> None:
    sending = chain("a")
    waiting = asyncio.create_task(Leftovers([sending]).wait_stored(refused_seconds))
    if refused_seconds is None:
        sending.publisher._failed("audio", "no stream")
    done, _ = await asyncio.wait({waiting}, timeout=0.1)
    assert not done
    waiting.cancel()


async def test_a_refused_session_does_not_count_while_others_are_stored() -> None:
    refused, sending = chain("a"), chain("b")
    refused.publisher._failed("audio", "no stream")
    waiting = asyncio.create_task(Leftovers([refused, sending]).wait_stored(0.02))

    async def store() -> None:
        while True:
            sending.publisher.acknowledged += 1
            await asyncio.sleep(0)

    storing = asyncio.create_task(store())
    done, _ = await asyncio.wait({waiting}, timeout=0.1)
    assert not done
    storing.cancel()
    await soon(waiting, 5)


async def test_a_source_that_can_wait_is_paused_until_the_session_is_abandoned() -> None:
    spec = SessionSpec(tenant="t", conversation="c", speaker="a", sample_rate=16000)
    made = Publisher(Backlog(spec, max_seconds=60, ahead_chunks=1), window_chunks=4)
    await soon(made.wait_for_room(), 5)
    made.offer(samples.chunk(0))
    waiting = asyncio.create_task(made.wait_for_room())
    await asyncio.sleep(0)
    assert not waiting.done()
    made.abandon()
    await soon(waiting, 5)
    assert made.finished.is_set()
    made.offer(samples.chunk(1))
    assert len(made.backlog) == 1, "nothing more is accepted"
