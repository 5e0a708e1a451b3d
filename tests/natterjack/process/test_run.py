"""Starting and ending programs."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from natterjack.process.run import end_tasks, requires_extra, run_loop
from tests.waiting import within


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
    message = f"{program}: the module {module} is missing: pip install 'natterjack[{extra}]'\n"
    assert done.stderr == message


async def test_a_task_that_drops_a_cancellation_ends() -> None:
    """A task that awaits NATS can drop it if the reply arrives at the same time."""
    reply: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    rounds = 0

    async def request_repeatedly() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.wait_for(reply if rounds == 1 else asyncio.Event().wait(), 600)

    task = asyncio.create_task(request_repeatedly())
    await asyncio.sleep(0)  # let the task start waiting
    await asyncio.sleep(0)
    reply.set_result(None)
    task.cancel()
    await asyncio.sleep(0)
    async with within(10):
        await end_tasks([task])
    assert task.cancelled()


def test_a_missing_module_of_an_extra_ends_the_program(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended, requires_extra("natterjack-edge", "edge"):
        raise ModuleNotFoundError("No module", name="rich.table")
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "natterjack-edge: the module rich is missing: pip install 'natterjack[edge]'\n"
    )


@pytest.mark.parametrize("name", ["worker.nothing", "natterjack", "edge_capture.x", None])
def test_a_missing_module_of_ours_is_an_error(name: str | None) -> None:
    with pytest.raises(ModuleNotFoundError), requires_extra("natterjack-edge", "edge"):
        raise ModuleNotFoundError("No module", name=name)


def test_run_loop_returns_the_result() -> None:
    async def main() -> int:
        return 7

    assert run_loop(main()) == 7
