"""Disk operations in threads of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_capture.disk.apart import apart
from tests.waiting import bound

HANGING = """
import asyncio, threading
from edge_capture.disk.apart import apart
from natterjack.process.run import end_tasks, run_loop

async def main():
    began, answer = threading.Event(), threading.Event()
    task = asyncio.create_task(apart(lambda: (began.set(), answer.wait())))
    while not began.is_set():
        await asyncio.sleep(0.01)
    await end_tasks([task])

run_loop(main())
print("ended")
"""


async def test_what_the_work_returns_or_raises_reaches_the_caller(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    assert await apart((tmp_path / "file").read_text) == "text"
    (tmp_path / "file").unlink()
    with pytest.raises(FileNotFoundError):
        await apart((tmp_path / "file").read_text)


@pytest.mark.process
def test_a_process_ends_although_the_work_never_does() -> None:
    program = [sys.executable, "-c", HANGING]
    done = subprocess.run(program, capture_output=True, text=True, timeout=bound(60), check=True)
    assert done.stdout == "ended\n"
