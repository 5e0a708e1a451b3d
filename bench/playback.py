"""How soon speech is audible, and silent after a cut: `python -m bench.playback`.

Runs `natterjack-edge play` on a real nats-server and a PulseAudio server without hardware, and
records what the loudspeaker plays. All figures include the delay of the recorder.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np

from natterjack.broker.connection import Broker, connected
from natterjack.broker.streams import ensure
from natterjack.cli.table import table
from natterjack.settings import KINDS, BrokerSettings, StreamSettings
from tests.edge_capture.conftest import SoundServer
from tests.edge_capture.playback.speaker import Voice, speaking
from tests.emulators import tones
from tests.waiting import until

from .processes import broker

_RATE = 48_000
_LOUD = 500
_QUIET_S = 0.6
"""How long nothing is audible before an utterance counts as over; longer than between words."""


class Recorder:
    """Notes when audible samples arrive from the monitor of the loudspeaker."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [
                "parec", "-d", "virt.monitor", f"--rate={_RATE}", "--channels=1",
                "--format=s16le", "--latency-msec=5",
            ],
            env=environment, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.first = self.last = 0.0
        """When the first audible sample since `reset` arrived, and the last one."""
        self.blocks = 0
        threading.Thread(target=self._read, daemon=True).start()

    def reset(self) -> None:
        self.first = 0.0

    def _read(self) -> None:
        assert self._process.stdout is not None
        while data := os.read(self._process.stdout.fileno(), 65_536):
            now = time.monotonic()
            self.blocks += 1
            loud = np.flatnonzero(np.abs(np.frombuffer(data[: len(data) & ~1], "<i2")) > _LOUD)
            if len(loud):
                frames = len(data) // 2
                self.first = self.first or now - (frames - int(loud[0])) / _RATE
                self.last = now - (frames - int(loud[-1])) / _RATE

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


async def _round(voice: Voice, recorder: Recorder) -> tuple[float, float]:
    """Speak and interrupt. Returns the two delays in seconds."""
    recorder.reset()
    published = time.monotonic()
    await voice.publish(tones.encode(tones.sequence(20), voice.rate, gap_seconds=0.02))
    await until(lambda: recorder.first, "it is audible")
    await asyncio.sleep(0.7)
    cut = time.monotonic()
    await voice.cut()
    await until(lambda: time.monotonic() - recorder.last > _QUIET_S, "it is silent")
    return recorder.first - published, max(0.0, recorder.last - cut)


async def _with_player(
    settings: BrokerSettings, work: Callable[[Broker, Recorder], Awaitable[None]]
) -> None:
    with tempfile.TemporaryDirectory(prefix="pulse") as directory:
        server = SoundServer(Path(directory))
        await server.start()
        environment = os.environ | server.environment | {"NATS_URL": settings.url}
        log = Path(directory) / "player.log"
        recorder = Recorder(environment)
        with log.open("wb") as stderr:
            player = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs yet
                [
                    sys.executable, "-m", "edge_capture", "play", "--tenant", "acme",
                    "--conversation", "room",
                ],
                env=environment, stderr=stderr,
            )  # fmt: skip
        try:
            async with connected(settings, name="bench") as connection:
                await ensure(connection, StreamSettings(kinds=KINDS))
                await until(lambda: "ready to play" in log.read_text(), "the player is ready")
                await until(lambda: recorder.blocks, "the recorder records")
                await work(connection, recorder)
        finally:
            player.terminate()
            player.wait()
            recorder.close()
            server.kill()


async def measure(settings: BrokerSettings, rounds: int) -> list[tuple[float, float]]:
    """Return the delays of `rounds` utterances, in seconds: from publishing the first chunk to the
    first audible sample, and from publishing the cut to the last."""
    found: list[tuple[float, float]] = []

    async def work(connection: Broker, recorder: Recorder) -> None:
        voice = Voice(connection)
        async with speaking(connection, voice):
            for _ in range(rounds):
                found.append(await _round(voice, recorder))

    await _with_player(settings, work)
    return found


async def _measure_alone(rounds: int) -> list[tuple[float, float]]:
    async with broker() as server:
        return await measure(BrokerSettings(url=server.url), rounds)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=20, help="utterances [default 20]")
    rounds = parser.parse_args().rounds
    found = asyncio.run(_measure_alone(rounds))
    rows = [["milliseconds", "least", "median", "most"]]
    for column, name in enumerate(("to the first sample", "to silence")):
        ms = sorted(1000 * delays[column] for delays in found)
        rows.append([name, *(f"{each:.0f}" for each in (ms[0], statistics.median(ms), ms[-1]))])
    print(*table(rows, right=(1, 2, 3)), sep="\n")


if __name__ == "__main__":
    main()
