from __future__ import annotations

import asyncio
import os
from pathlib import Path

import numpy as np

from edge_capture.settings import StdinSettings
from edge_capture.sources.pipe import PipeSource
from tests.waiting import soon

SETTINGS = StdinSettings(raw=True, live=True)


async def heard(source: PipeSource) -> list[int]:
    """Read until the writers are gone."""
    return [
        int(each) for block in [b async for b in source.blocks()] for each in block.samples.ravel()
    ]


async def test_a_writer_that_comes_while_the_pipe_ends_loses_nothing(tmp_path: Path) -> None:
    """The next source opens the pipe again, and reads all that came before and after the end."""
    path = tmp_path / "pipe"
    os.mkfifo(path)

    def opened() -> int:
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK)

    def write(writer: int, value: int) -> None:
        os.write(writer, np.full(100, value, np.int16).tobytes())

    first = PipeSource(path, SETTINGS, 20)
    writer = opened()
    write(writer, 1)
    await soon(first.open(), 10)
    reading = asyncio.create_task(heard(first))
    os.close(writer)
    assert set(await soon(reading, 10)) == {1}
    writer = opened()
    write(writer, 2)
    first.close()
    write(writer, 3)
    second = PipeSource(path, SETTINGS, 20)
    await soon(second.open(), 10)
    reading = asyncio.create_task(heard(second))
    os.close(writer)
    assert await soon(reading, 10) == [2] * 100 + [3] * 100
    second.close()
