"""Waiting with a limit."""

from __future__ import annotations

import asyncio
from types import ModuleType

import pytest

from natterjack.process.waiting import keep_cancellations, wait_for


@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancellation_that_arrives_with_the_result_ends_the_wait(fails: bool) -> None:
    result: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(wait_for(result, 600))
    await asyncio.sleep(0)  # it waits
    if fails:
        result.set_exception(OSError("refused"))
    else:
        result.set_result(1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_what_is_awaited_is_canceled_when_the_time_is_over() -> None:
    never: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    with pytest.raises(TimeoutError):
        await wait_for(never, 0)
    assert never.cancelled()


async def test_a_result_and_an_error_are_passed_on() -> None:
    async def give(value: int) -> int:
        await asyncio.sleep(0)
        return 12 // value

    assert await wait_for(give(4), None) == 3
    with pytest.raises(ZeroDivisionError):
        await wait_for(give(0), 600)


def test_other_modules_keep_the_rest_of_asyncio() -> None:
    module = ModuleType("other")
    vars(module)["asyncio"] = asyncio
    keep_cancellations(module)
    other = vars(module)["asyncio"]
    assert other.Queue is asyncio.Queue
    assert other.CancelledError is asyncio.CancelledError
