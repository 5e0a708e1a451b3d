"""Agents with several sources in this process, pipes to feed them, and what they have stored."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_capture.supervisor.supervisor import Supervisor
from natterjack.audio import decode_chunk_headers
from natterjack.broker.connection import Broker
from natterjack.broker.streams import AUDIO
from tests.edge_capture.program import Recording, requests, stored
from tests.waiting import soon, until

BLOCK = 320
"""Samples in 20 ms."""


class Counter:
    """A writer of a named pipe, whose samples count from 0, so that none can be lost unseen."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self.written = 0
        """Number of samples."""
        self._descriptor: int | None = None

    async def write(self, blocks: int, pause_s: float = 0.002) -> None:
        """Write so many blocks, with a pause after each: of 0.02 s, as if they were captured."""
        if self._descriptor is None:
            self._descriptor = await soon(asyncio.to_thread(os.open, self.path, os.O_WRONLY), 20)
        for _ in range(blocks):
            samples = np.arange(self.written, self.written + BLOCK).astype(np.int16)
            await asyncio.to_thread(os.write, self._descriptor, samples.tobytes())
            self.written += BLOCK
            await asyncio.sleep(pause_s)

    def close(self) -> None:
        """End the input. Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def pipe(name: str, counter: Counter, *lines: str) -> str:
    """A table of the configuration file. What is written to a pipe has no pauses."""
    return source(name, "pipe", f'path = "{counter.path}"', "rotate.wait_seconds = 0", *lines)


def source(name: str, kind: str, *lines: str) -> str:
    return "\n".join(["[[sources]]", f'name = "{name}"', f'kind = "{kind}"', *lines, ""])


@contextlib.asynccontextmanager
async def running(path: Path, **options: Any) -> AsyncIterator[Supervisor]:
    """Run the agent of a file, and end it in order."""
    agent, stop = Supervisor(path, **options), asyncio.Event()
    task = asyncio.create_task(agent.run(stop))
    try:
        await until(lambda: agent.sources, "the agent runs")
        yield agent
    finally:
        stop.set()
        code = await soon(task, 40)
        if agent.spool is not None:
            await agent.spool.close()
    assert code == 0


async def sessions(broker: Broker, speaker: str) -> list[Recording]:
    """The sessions of a speaker in the order in which they were opened, with what is stored."""
    found = {
        spec.session_id: Recording(spec, [], [])
        for spec in await requests(broker)
        if spec.speaker == speaker and spec.continues is None
    }
    for message in await stored(broker, AUDIO):
        session_id = (message.headers or {})["Session-Id"]
        if (recording := found.get(session_id)) is not None:
            spec = recording.spec
            size = spec.decoded_bytes(message.data)
            header = decode_chunk_headers(message.headers, size, spec.audio_format)
            recording.headers.append(header)
            recording.payloads.append(message.data)
    return [each.once_each() for each in found.values()]


async def until_stored(broker: Broker, speaker: str, samples: int) -> None:
    """Wait until so many samples of a speaker are stored."""

    async def enough() -> bool:
        found = await sessions(broker, speaker)
        return sum(len(each.samples) for each in found) >= samples

    await until(enough, f"{samples} samples of {speaker} are stored", 30)


def joined(recordings: list[Recording]) -> npt.NDArray[np.int16]:
    """The samples of sessions, one after another."""
    return np.concatenate([each.samples for each in recordings])


def counting(samples: int) -> npt.NDArray[np.int16]:
    """Return the first samples that a Counter writes."""
    return np.arange(samples).astype(np.int16)
