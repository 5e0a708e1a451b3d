"""A gateway, workers, a broker and emulated providers, all as real processes but the emulators."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from natterjack.emulators import tones
from natterjack.emulators.catalog import load
from natterjack.emulators.server import Emulator
from natterjack.fleet.keys import add_key, make_key
from tests.worker.programs import UNDISTURBED, WorkerProcess
from tests.worker.provider_table import environment

RATE = 16_000
PHRASE: dict[str, Any] = {"phrase_words": 8, "pause_seconds": 1.2, "lead_seconds": 0.3}
TAIL_SECONDS = 1.5
FRAME_SECONDS = 0.08


class GatewayProcess(WorkerProcess):
    """A `python -m gateway` process."""

    arguments = ("-m", "gateway")

    def __init__(self, nats_url: str, **settings: str | None) -> None:
        super().__init__(nats_url, "", **{"GATEWAY_HTTP_PORT": "0", **settings})

    async def _ready(self) -> bool:
        return not self.running or self.find("gateway ready") is not None

    @property
    def port(self) -> int:
        return int(self.http.rpartition(":")[2])

    @property
    def ws(self) -> str:
        """Base address for WebSockets."""
        return self.http.replace("http://", "ws://")


class House:
    """The parts of an installation that a test starts and breaks."""

    def __init__(self, folder: Path, nats_url: str) -> None:
        self.nats_url = nats_url
        self.emulators: dict[str, Emulator] = {}
        self.workers: list[WorkerProcess] = []
        self.gateways: list[GatewayProcess] = []
        self._keys_file = folder / "keys"
        self._starting = asyncio.Lock()

    @property
    def gateway(self) -> GatewayProcess:
        return self.gateways[-1]

    def key(self, **fields: Any) -> str:
        """Make a key for the doors, and return its secret."""
        known = {"tenant": "acme", "doors": ("deepgram", "speechmatics")}
        record, secret = make_key(**{**known, **fields})
        add_key(self._keys_file, record)
        return secret

    async def emulator(self, name: str) -> Any:
        """The emulator of a provider, started with the first call."""
        async with self._starting:
            if name not in self.emulators:
                self.emulators[name] = load(name)()
                await self.emulators[name].start()
        return self.emulators[name]

    async def start_worker(self, provider: str, **settings: str | None) -> WorkerProcess:
        """Start a worker whose default is `provider`, which is emulated unless it is `sherpa`."""
        own: dict[str, str | None] = {"WORKER_PROVIDER": provider}
        if provider != "sherpa":
            own |= environment(provider, await self.emulator(provider))
        worker = WorkerProcess(self.nats_url, "", **{**own, **settings})
        self.workers.append(worker)
        await worker.start()
        return worker

    async def start_gateway(self, **settings: str | None) -> GatewayProcess:
        keys = {"GATEWAY_KEYS_FILE": str(self._keys_file)} if self._keys_file.exists() else {}
        gateway = GatewayProcess(self.nats_url, **{**keys, **settings})
        self.gateways.append(gateway)
        await gateway.start()
        return gateway

    async def start(self, provider: str, **gateway: str | None) -> None:
        """Start a worker that nothing disturbs, and a gateway."""
        await asyncio.gather(
            self.start_worker(provider, **UNDISTURBED), self.start_gateway(**gateway)
        )

    async def close(self) -> None:
        for program in (*self.gateways, *self.workers):
            await program.stop()
        for emulator in self.emulators.values():
            await emulator.stop()
        for program in (*self.gateways, *self.workers):
            assert not program.stray_lines, program.stray_lines


class Speech:
    """Tone words as audio, and what a client has received of them."""

    def __init__(self, words: int, *, tail_seconds: float = TAIL_SECONDS, rate: int = RATE) -> None:
        self.words = tones.sequence(words)
        self.audio = tones.encode(self.words, rate, tail_seconds=tail_seconds, **PHRASE)
        self.places = tones.places(self.words, **PHRASE)
        self.seconds = len(self.audio) / 2 / rate
        self._rate = rate

    def frames(self) -> list[bytes]:
        size = round(FRAME_SECONDS * self._rate) * 2
        return [self.audio[at : at + size] for at in range(0, len(self.audio), size)]

    async def play(
        self, send: Callable[[bytes], Awaitable[Any]], speed: float = 4.0, seconds: float = 0.0
    ) -> None:
        """Send the audio at `speed` times real time, from `seconds` on."""
        started = time.monotonic()
        for number, frame in enumerate(self.frames()[round(seconds / FRAME_SECONDS) :]):
            await asyncio.sleep(started + number * FRAME_SECONDS / speed - time.monotonic())
            await send(frame)

    def check(self, received: list[str]) -> None:
        """Assert that every word was received once, and in order."""
        assert tones.compare(self.words, received) == tones.Counts(), received
