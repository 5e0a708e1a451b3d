"""A player on a loudspeaker without hardware, and a recorder of what it plays.

The loudspeaker is a null sink of PulseAudio. The recorder reads its monitor.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np

from tests.edge_capture.conftest import SoundServer
from tests.waiting import until

RATE = 48_000
"""Sample rate of the recording, in hertz."""
_LOUD = 500
_CLOCK_BLOCKS = 400
"""Blocks of the recorder, of about 5 ms, by which its clock is set."""


class Recorder:
    """Notes when audible samples were played.

    The sound server plays samples evenly, but its blocks arrive late when the machine is busy. So
    the time of a sample is its number on a clock, which assumes that the blocks of the last two
    seconds began to be played when they arrived, in the median.
    """

    def __init__(self, environment: dict[str, str], *, keeps: bool = False) -> None:
        """`keeps`: keep all samples, in `audio`."""
        self._process = subprocess.Popen(
            [
                "parec", "-d", "virt.monitor", f"--rate={RATE}", "--channels=1",
                "--format=s16le", "--latency-msec=5",
            ],
            env=environment, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.first = self.last = 0.0
        """When the first audible sample since `reset` was played, and the last one: seconds of
        time.monotonic()."""
        self.blocks = 0
        self.audio = bytearray()
        self.began = 0.0
        """When the first sample was played, as far as is known."""
        self._keeps = keeps
        self._frames = 0
        self._starts: deque[float] = deque(maxlen=_CLOCK_BLOCKS)
        """When the first sample was played, according to each of the last blocks."""
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def reset(self) -> None:
        self.first = 0.0

    def _read(self) -> None:
        assert self._process.stdout is not None
        rest = b""
        while data := os.read(self._process.stdout.fileno(), 65_536):
            now = time.monotonic()
            data = rest + data
            samples = np.frombuffer(data[: len(data) & ~1], "<i2")
            rest = data[len(samples) * 2 :]
            before, self._frames = self._frames, self._frames + len(samples)
            self._starts.append(now - before / RATE)
            self.began = statistics.median(self._starts)
            self.blocks += 1
            if self._keeps:
                self.audio += samples.tobytes()
            loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > _LOUD)
            if len(loud):
                self.first = self.first or self.began + (before + int(loud[0])) / RATE
                self.last = self.began + (before + int(loud[-1])) / RATE

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reading.join()
        if self._process.stdout is not None:
            self._process.stdout.close()


@contextlib.asynccontextmanager
async def playing(
    url: str, tenant: str, conversation: str, *, keeps: bool = False
) -> AsyncIterator[Recorder]:
    """Run `natterjack-edge play` on the broker at `url`, and record it."""
    with tempfile.TemporaryDirectory(prefix="pulse") as directory:
        server = SoundServer(Path(directory))
        await server.start()
        environment = os.environ | server.environment | {"NATS_URL": url}
        log = Path(directory) / "player.log"
        recorder = Recorder(environment, keeps=keeps)
        with log.open("wb") as stderr:
            player = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs yet
                [
                    sys.executable, "-m", "edge_capture", "play", "--tenant", tenant,
                    "--conversation", conversation,
                ],
                env=environment, stderr=stderr,
            )  # fmt: skip
        try:
            await until(
                lambda: "ready to play" in log.read_text() or player.poll() is not None,
                "the player is ready",
            )
            if player.poll() is not None:
                raise RuntimeError(f"the player has ended: {log.read_text()}")
            await until(lambda: recorder.blocks, "the recorder records")
            yield recorder
        finally:
            player.terminate()
            await asyncio.to_thread(player.wait)
            recorder.close()
            server.kill()
