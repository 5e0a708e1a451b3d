"""What both programs begin with."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from natterjack.process.run import end_tasks
from tests.waiting import soon, within


@pytest.mark.process
@pytest.mark.parametrize(
    ("package", "module", "program"),
    [("edge_capture", "rich", "natterjack-edge"), ("worker", "aiohttp", "natterjack-worker")],
)
def test_a_program_without_its_extra_names_it(package: str, module: str, program: str) -> None:
    extra = program.removeprefix("natterjack-")
    start = f"import sys; sys.modules[{module!r}] = None; from {package}.start import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", start], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    said = f"{program}: the module {module} is missing: pip install 'natterjack[{extra}]'\n"
    assert done.stderr == said


async def test_a_task_that_swallows_a_cancellation_ends_all_the_same() -> None:
    """As one does that awaits NATS when the answer and the cancellation come together."""
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    rounds = 0

    async def ask_for_ever() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await soon(answer if rounds == 1 else asyncio.Event().wait(), 600)

    task = asyncio.create_task(ask_for_ever())
    await asyncio.sleep(0)  # it has begun to wait
    await asyncio.sleep(0)
    answer.set_result(None)
    task.cancel()
    await asyncio.sleep(0)
    async with within(10):
        await end_tasks([task])
    assert task.cancelled()
