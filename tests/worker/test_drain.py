"""Waiting for one thing or the drain: whichever is first, and nothing is lost on the way."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import pytest

from tests.waiting import soon
from worker.drain import Drain, HandOver


class Desk:
    """Gives out one permit, when told to; it can be told after the applicant was cancelled."""

    def __init__(self, *, late: bool = False) -> None:
        self.applied = asyncio.Event()
        self.grant = asyncio.Event()
        self.returned: list[str] = []
        self.withdrawn = False
        self._late = late

    async def apply(self) -> str:
        self.applied.set()
        try:
            await self.grant.wait()
        except asyncio.CancelledError:
            self.withdrawn = True
            if not self._late:
                raise
        return "permit"

    async def give_back(self, permit: str) -> None:
        self.returned.append(permit)


async def start(
    drain: Drain, desk: Desk, check: Callable[[], Awaitable[None]] | None = None
) -> asyncio.Task[str]:
    waiting = asyncio.create_task(drain.wait_for(desk.apply(), discard=desk.give_back, check=check))
    await soon(desk.applied.wait(), 5)
    return waiting


async def test_the_result_is_returned() -> None:
    desk = Desk()
    waiting = await start(Drain(), desk)
    desk.grant.set()
    assert await soon(waiting, 5) == "permit"
    assert not desk.returned
    assert not desk.withdrawn


async def test_a_result_that_is_there_counts_even_while_draining() -> None:
    drain, desk = Drain(), Desk()
    drain.request(0.0)
    desk.grant.set()
    assert await soon(drain.wait_for(desk.apply(), discard=desk.give_back), 5) == "permit"


async def test_the_drain_ends_the_wait() -> None:
    drain, desk = Drain(), Desk()
    waiting = await start(drain, desk)
    drain.request(0.0)
    with pytest.raises(HandOver):
        await soon(waiting, 5)
    assert desk.withdrawn
    assert not desk.returned


async def test_what_arrives_at_the_last_moment_is_given_back() -> None:
    drain, desk = Drain(), Desk(late=True)
    waiting = await start(drain, desk)
    drain.request(0.0)
    with pytest.raises(HandOver):
        await soon(waiting, 5)
    assert desk.returned == ["permit"]


@pytest.mark.parametrize("late", [False, True])
async def test_a_cancelled_wait_is_cancelled_and_keeps_nothing(late: bool) -> None:
    desk = Desk(late=late)
    waiting = await start(Drain(), desk)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(waiting, 5)
    assert desk.withdrawn
    assert desk.returned == ["permit"] * late


async def test_a_result_that_comes_together_with_the_cancellation_is_given_back() -> None:
    desk = Desk()
    waiting = await start(Drain(), desk)
    desk.grant.set()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(waiting, 5)
    await soon(_until(lambda: desk.returned == ["permit"] or desk.withdrawn), 5)


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


async def test_an_error_of_what_is_waited_for_is_raised() -> None:
    async def refuse() -> str:
        raise ConnectionRefusedError

    desk = Desk()
    with pytest.raises(ConnectionRefusedError):
        await soon(Drain().wait_for(refuse(), discard=desk.give_back), 5)


async def test_an_error_on_the_way_out_does_not_hide_the_drain() -> None:
    applied = asyncio.Event()

    async def clumsy() -> str:
        applied.set()
        try:
            return await asyncio.Future()
        finally:
            raise ConnectionResetError

    drain, desk = Drain(), Desk()
    waiting = asyncio.create_task(drain.wait_for(clumsy(), discard=desk.give_back))
    await soon(applied.wait(), 5)
    drain.request(0.0)
    with pytest.raises(HandOver):
        await soon(waiting, 5)


async def test_what_ignores_its_cancellation_does_not_hold_up_the_drain() -> None:
    applied, freed, returned = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def stubborn() -> str:
        applied.set()
        while not freed.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await freed.wait()
        return "permit"

    async def give_back(permit: str) -> None:
        assert permit == "permit"
        returned.set()

    drain = Drain()
    waiting = asyncio.create_task(drain.wait_for(stubborn(), discard=give_back))
    await soon(applied.wait(), 5)
    drain.request(0.0)
    try:
        with pytest.raises(HandOver):
            await soon(waiting, 10)
        assert not returned.is_set()
    finally:
        freed.set()
    await soon(returned.wait(), 5)


async def test_a_check_may_end_the_wait() -> None:
    class Enough(Exception):
        pass

    async def check() -> None:
        raise Enough

    desk = Desk()
    waiting = await start(Drain(), desk, check)
    with pytest.raises(Enough):
        await soon(waiting, 10)
    assert desk.withdrawn


async def test_checks_go_on_until_the_result() -> None:
    desk, checks = Desk(), 0

    async def check() -> None:
        nonlocal checks
        checks += 1
        if checks == 2:
            desk.grant.set()

    assert await soon(await start(Drain(), desk, check), 10) == "permit"
    assert checks == 2


async def test_waits_may_follow_each_other_at_once() -> None:
    drain, desk = Drain(), Desk()
    desk.grant.set()
    for _ in range(3):
        assert await drain.wait_for(desk.apply(), discard=desk.give_back) == "permit"
        await drain.pause(0)


async def test_a_pause_ends_with_its_time_or_with_the_drain() -> None:
    drain = Drain()
    began = time.monotonic()
    await soon(drain.pause(0.05), 5)
    assert time.monotonic() - began >= 0.04
    pausing = asyncio.create_task(drain.pause(60))
    await asyncio.sleep(0)
    drain.request(0.0)
    with pytest.raises(HandOver):
        await soon(pausing, 5)
    with pytest.raises(HandOver):
        await soon(drain.pause(60), 5)


def test_the_drain_is_overdue_after_its_deadline() -> None:
    drain = Drain()
    assert not drain.overdue(1e12)
    drain.request(10.0)
    assert drain.requested
    assert not drain.overdue(10.0)
    assert drain.overdue(10.1)
