"""A complete installation of real processes on loopback; every part can be made to fail."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import soundfile

from natterjack.emulators import pcm, tones
from natterjack.emulators.catalog import TRANSCRIBING, settings
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings
from natterjack.spec import SessionSpec
from natterjack.subjects import SessionKey

from ..emulators.process import RemoteEmulator, emulator_process
from ..forking import Process, ended, launch, read
from ..worker.programs import WorkerProcess
from .cluster import Cluster
from .proxy import NatsProxy

RATE = 16_000
PHRASE: dict[str, Any] = {"phrase_words": 8, "pause_seconds": 0.8, "lead_seconds": 0.3}
TAIL_SECONDS = 0.5


class Line:
    """One program's connections to all broker nodes, which can be cut or stalled."""

    def __init__(self, nodes: Sequence[EmbeddedServer]) -> None:
        self._proxies = [NatsProxy(node.port) for node in nodes]

    async def __aenter__(self) -> Line:
        for proxy in self._proxies:
            await proxy.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        for proxy in self._proxies:
            await proxy.__aexit__(None, None, None)

    @property
    def url(self) -> str:
        return ",".join(proxy.url for proxy in self._proxies)

    def cut(self) -> None:
        for proxy in self._proxies:
            proxy.cut()

    def stall(self) -> None:
        for proxy in self._proxies:
            proxy.stall()

    def heal(self) -> None:
        for proxy in self._proxies:
            proxy.heal()


class Seat:
    """The place of one worker, which is replaced when it ends."""

    def __init__(self, line: Line, environment: dict[str, str]) -> None:
        self.line = line
        self._environment = environment
        self.worker = self._new()
        self.stray: list[str] = []
        """Output of earlier workers that is not in our log format, and their failed drains."""
        self.busy = asyncio.Lock()
        """Locked while a fault is applied to the worker."""

    def _new(self) -> WorkerProcess:
        return WorkerProcess(self.line.url, "", **self._environment)

    async def replace(self) -> None:
        """Start a new worker in place of one that has ended."""
        self.stray += self.worker.stray_lines
        self.worker = self._new()
        await self.worker.start()

    async def kill(self) -> None:
        """Send SIGKILL and start a new worker."""
        await self.worker.stop()
        await self.replace()

    async def drain(self) -> None:
        """Send SIGTERM, wait for the exit, and start a new worker."""
        self.worker.signal(signal.SIGTERM)
        if await self.worker.wait(60) != 0:
            self.stray.append("a drained worker ended with an error")
        await self.replace()

    async def freeze(self, seconds: float) -> None:
        """Send SIGSTOP, and SIGCONT after `seconds`."""
        self.worker.freeze()
        await asyncio.sleep(seconds)
        self.worker.signal(signal.SIGCONT)


class Talk:
    """A session: `natterjack-edge file` with known words.

    A killed process is started again with `--resume`.
    """

    def __init__(self, directory: Path, line: Line, name: str, words: int, speed: float) -> None:
        self.words = tones.sequence(words)
        self.places = tones.places(self.words, **PHRASE)
        audio = tones.encode(self.words, RATE, tail_seconds=TAIL_SECONDS, **PHRASE)
        self.seconds = len(audio) / 2 / RATE
        self.line = line
        self.specs: list[SessionSpec] = []
        """The sessions that the edge's processes announced; only key and id are meaningful. An edge
        killed after its last chunk is followed by a second session with the same words."""
        self.kills = 0
        self.errors = directory / f"{name}.log"
        self._name = name
        self._directory = directory
        self._speed = speed
        self._wav = directory / f"{name}.wav"
        soundfile.write(self._wav, pcm.to_samples(audio, "linear16"), RATE)
        self._process: Process | None = None

    async def run(self, *arguments: str) -> int:
        """Run the edge to the end, restarting it when killed. Return the last exit status."""
        while True:
            with self.errors.open("ab") as errors:
                process = self._process = launch(
                    ("-m", "edge_capture", "file", str(self._wav),
                     "--conversation", self._name, "--speed", str(self._speed),
                     "--spool", str(self._directory / f"{self._name}.spool"), "--resume",
                     "--nats-url", self.line.url, *arguments),
                    env={k: v for k, v in os.environ.items() if not k.startswith("EDGE_")},
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                )  # fmt: skip
            try:
                async with read(process.stdout) as output:
                    if announced := (await output.readline()).split():
                        key, session_id = (word.decode() for word in announced)
                        if session_id not in {spec.session_id for spec in self.specs}:
                            parts = SessionKey(*key.split("."))._asdict()
                            self.specs.append(SessionSpec(session_id=session_id, **parts))
                    status = await ended(process)
            finally:
                process.kill()
                process.wait()
            self._process = None
            if status != -signal.SIGKILL:
                return status

    def kill(self) -> bool:
        """SIGKILL a running edge that has announced exactly one session. Return whether it did."""
        if self._process is None or len(self.specs) != 1:
            return False
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self.kills += 1
        return True

    def clear(self) -> None:
        """Remove files that are not needed after the audit."""
        self._wav.unlink()
        self.errors.unlink()


class Fleet:
    """A broker cluster, workers, and an emulator process for each provider."""

    def __init__(
        self, cluster: Cluster, seats: list[Seat], emulators: dict[str, RemoteEmulator]
    ) -> None:
        self.cluster = cluster
        self.seats = seats
        self.emulators = emulators

    @property
    def broker_settings(self) -> BrokerSettings:
        return BrokerSettings(url=self.cluster.url)


def worker_environment(emulators: dict[str, RemoteEmulator]) -> dict[str, str]:
    """Return worker settings for the emulators and for fast catching up.

    Deepgram's providers share an address, so only one of them can be used.
    """
    environment: dict[str, str] = {}
    for name, emulator in emulators.items():
        environment |= settings(name, emulator.url)
        if name in TRANSCRIBING:
            environment[f"{name.upper().replace('-', '_')}_CATCH_UP_RATE"] = "8"
    return environment


@contextlib.asynccontextmanager
async def fleet(
    directory: Path, workers: int, providers: Sequence[str], **settings: str
) -> AsyncIterator[Fleet]:
    """Run an installation. `settings` are added to the workers' environment.

    Workers have few slots, so that each of them holds sessions.
    """
    cluster = Cluster(directory / "nats")
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(cluster.stop)
        cluster.start()
        emulators = {
            name: await stack.enter_async_context(emulator_process(name)) for name in providers
        }
        environment = {
            **worker_environment(emulators), "WORKER_PROVIDER": providers[0],
            "NATTERJACK_STREAM_REPLICAS": "3", "WORKER_MAX_SESSIONS": "2", **settings,
        }  # fmt: skip
        seats: list[Seat] = []
        for _ in range(workers):
            line = await stack.enter_async_context(Line(cluster.nodes))
            seats.append(Seat(line, environment))
            stack.push_async_callback(_stop, seats[-1])
        await asyncio.gather(*(seat.worker.start() for seat in seats))
        yield Fleet(cluster, seats, emulators)


async def _stop(seat: Seat) -> None:
    await seat.worker.stop()


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
