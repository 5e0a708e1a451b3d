"""Audio of another program, where the event loop watches its pipes, and where none can."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from edge_capture.errors import SourceError
from edge_capture.sources.process import ProcessSource
from natterjack.audio import AudioFormat
from tests.waiting import soon, until

pytestmark = pytest.mark.process

FORMAT = AudioFormat("linear16", 16000, 1)


class _NoPipes(asyncio.SelectorEventLoop):
    """As on Windows, where no event loop watches pipes."""

    def add_reader(self, *_: object) -> None:
        raise NotImplementedError

    remove_reader = add_reader  # type: ignore[assignment]


@pytest.fixture(params=["watched", "by threads"])
def loop(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[asyncio.Runner]:
    threads = request.param == "by threads"
    if threads:
        monkeypatch.delattr(os, "killpg")
        monkeypatch.delattr(os, "set_blocking")
        monkeypatch.delattr(signal, "SIGKILL")
    with asyncio.Runner(loop_factory=_NoPipes if threads else None) as runner:
        yield runner


def source(code: str) -> ProcessSource:
    return ProcessSource(
        "program", [sys.executable, "-c", f"import sys, time, numpy as np\n{code}"], FORMAT,
        wait_seconds=0, cure="install it",
    )  # fmt: skip


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_what_a_program_writes_is_read_until_it_ends(loop: asyncio.Runner) -> None:
    async def read() -> None:
        one = source(
            "sys.stderr.write('a warning\\n')\n"
            "sys.stdout.buffer.write((np.arange(100000) % 30000).astype('<i2').tobytes())"
        )
        await soon(one.open(), 30)
        received: list[int] = []
        async for block in one.blocks():
            received += block.samples[:, 0].tolist()
            if len(received) == 100_000:
                break
        assert received == (np.arange(100_000) % 30_000).tolist()
        one.close()
        one.close()

    before = open_files()
    loop.run(read())
    loop.run(until(lambda: open_files() <= before + 3, "its pipes are closed"))


def test_a_program_without_audio_is_named_with_its_last_words(loop: asyncio.Runner) -> None:
    async def fail() -> None:
        one = source("sys.stderr.write('no such camera\\n'); sys.exit(3)")
        with pytest.raises(SourceError, match="program: no such camera"):
            await soon(one.open(), 30)

    loop.run(fail())


def test_a_program_that_writes_on_is_ended(loop: asyncio.Runner) -> None:
    async def end() -> None:
        one = source("while True: sys.stdout.buffer.write(bytes(3200)); time.sleep(0.01)")
        await soon(one.open(), 30)
        async for _ in one.blocks():
            break
        process = one._program._process  # type: ignore[union-attr]
        one.close()
        assert process.poll() is not None

    loop.run(end())
