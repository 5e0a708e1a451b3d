"""Words that Deepgram clients lose when something dies: alone, and through the gateway.

The words are tones that the provider's emulator recognizes (natterjack/emulators/tones.py), spoken
in real time, and those in finals are counted. `alone`: the SDK for Python straight on the provider.
`alone, again`: the same with a loop that opens another stream. `gateway`: the same loop, with a
gateway, a worker and a broker, all of them real processes with default settings.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any, Final

import httpx

from natterjack.broker import streams
from natterjack.broker.connection import connected
from natterjack.emulators import tones
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings
from tests.emulators.process import RemoteEmulator, emulator_process
from tests.faults.cluster import Cluster
from tests.faults.fleet import PHRASE
from tests.gateway.process import GatewayProcess
from tests.nats_server import NatsServer
from tests.waiting import until
from tests.worker.programs import WorkerProcess

from ..processes import progress
from .speaker import Speaker

PROVIDER_FAULTS: Final = {
    "none": "nothing",
    "drop": "provider drops every connection",
    "mute": "provider goes mute",
    "away": "provider away for 20 s",
}
FAULTS: Final = {
    **PROVIDER_FAULTS,
    "worker": "worker killed (SIGKILL), another one is there",
    "node": "one of three broker nodes killed (SIGKILL)",
    "broker": "the only broker killed (SIGKILL), back after 3 s",
    "restart": "gateway restarted (SIGTERM)",
    "crash": "gateway killed (SIGKILL) and started again",
}
WHO: Final = ("alone", "alone, again", "gateway")
_SECONDS_A_WORD: Final = 0.41
_TAIL_S: Final = 4.0
"""Silence after the words, long enough for any endpointing."""
_SPREAD_S: Final = 4.0
"""Delay of the last speaker after the first: about a phrase, so that the fault hits each at a
different point of its phrase."""
_AWAY_S: Final = 20.0
_BROKER_AWAY_S: Final = 3.0
_CONCURRENT: Final = 2


@dataclass
class Loss:
    """Words of all speakers."""

    who: str
    fault: str
    spoken: int = 0
    lost: int = 0
    doubled: int = 0
    others: int = 0
    """Words out of order or never spoken."""
    streams: int = 0
    """Streams that the clients opened."""
    speakers: int = 0
    incomplete: int = 0
    """Speakers whose last stream did not end with a close by the server after its last final."""
    errors: dict[str, int] = field(default_factory=dict)
    """Errors that clients saw, by name, with their counts."""
    failed: str = ""
    """Why it was not measured."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class _Installation:
    """The processes and servers that a fault may break."""

    def __init__(self, emulator: RemoteEmulator, speakers: int) -> None:
        self.emulator = emulator
        self.speakers = speakers
        self.url = emulator.url
        self.nats_url = ""
        self.nodes: list[EmbeddedServer] = []
        self.workers: list[WorkerProcess] = []
        self.gateway: GatewayProcess | None = None

    async def start_worker(self, **settings: str) -> None:
        worker = WorkerProcess(
            self.nats_url,
            self.emulator.url,
            WORKER_MAX_SESSIONS=str(self.speakers),
            DEEPGRAM_CATCH_UP_RATE="1.25",  # the default, which the tests change
            **settings,
        )
        self.workers.append(worker)
        await worker.start()

    # ---- faults ------------------------------------------------------------------------------

    async def none(self) -> None:
        pass

    async def drop(self) -> None:
        await self.emulator.drop()

    async def mute(self) -> None:
        await self.emulator.set(mute_after_seconds=0, connections=self.speakers)

    async def away(self) -> None:
        await self.emulator.set(refuse=True)
        await self.emulator.drop()
        await asyncio.sleep(_AWAY_S)
        await self.emulator.clear()

    async def worker(self) -> None:
        await self.start_worker()
        self.workers[0].signal(SIGKILL)

    async def node(self) -> None:
        """Kill the node that takes the audio."""
        async with connected(BrokerSettings(url=self.nats_url), name="bench") as broker:
            info = await broker.client.jetstream().stream_info(streams.AUDIO)
        assert info.cluster is not None
        leader = (info.cluster.leader or "").removeprefix("n")
        await asyncio.to_thread(self.nodes[int(leader)].kill)

    async def broker(self) -> None:
        [node] = self.nodes
        await asyncio.to_thread(node.kill)
        await asyncio.sleep(_BROKER_AWAY_S)
        await asyncio.to_thread(node.start)

    async def restart(self) -> None:
        assert self.gateway is not None
        self.gateway.signal(SIGTERM)
        await self.gateway.wait(60)
        await self.gateway.start()

    async def crash(self) -> None:
        assert self.gateway is not None
        self.gateway.signal(SIGKILL)
        await self.gateway.wait()
        await self.gateway.start()


async def measure_all(
    faults: Sequence[str], seconds: float, speakers: int, who: Sequence[str] = WHO
) -> list[Loss]:
    """Measure each fault, alone only those of the provider; some at the same time."""
    room = asyncio.Semaphore(_CONCURRENT)

    async def measured(name: str, fault: str) -> Loss:
        async with room:
            progress(f"{name}: {FAULTS[fault]}")
            try:
                return await measure(name, fault, seconds, speakers)
            except (RuntimeError, TimeoutError, AssertionError) as error:
                return Loss(name, fault, failed=str(error)[:200] or type(error).__name__)

    wanted = [(n, f) for f in faults for n in who if f in PROVIDER_FAULTS or n == "gateway"]
    return await asyncio.gather(*(measured(*which) for which in wanted))


async def measure(who: str, fault: str, seconds: float, speakers: int) -> Loss:
    """Measure one fault, which is caused in the middle of the speech.

    Raises: RuntimeError, TimeoutError or AssertionError if a part does not start.
    """
    loss = Loss(who, fault, speakers=speakers)
    words = tones.sequence(round(seconds / _SECONDS_A_WORD))
    audio = tones.encode(words, tail_seconds=_TAIL_S, **PHRASE)
    async with contextlib.AsyncExitStack() as stack:
        emulator = await stack.enter_async_context(
            emulator_process("deepgram", "--log-level", "warning")
        )
        parts = _Installation(emulator, speakers)
        if who == "gateway":
            await stack.enter_async_context(_behind_a_gateway(parts, 3 if fault == "node" else 1))
        http = await stack.enter_async_context(httpx.AsyncClient())
        people = [Speaker(parts.url, http, audio, again=who != "alone") for _ in range(speakers)]
        async with asyncio.TaskGroup() as tasks:
            for number, person in enumerate(people):
                tasks.create_task(_later(number * _SPREAD_S / speakers, person.speak))
            middle = (seconds + _SPREAD_S) / 2
            await until(lambda: people[0].spoken_s >= middle, f"{middle} s of speech", 2 * middle)
            await getattr(parts, fault)()
    for person in people:
        found = tones.compare(words, person.words)
        loss.spoken += len(words)
        loss.lost += found.lost
        loss.doubled += found.doubled
        loss.others += found.out_of_order + found.invented
        loss.streams += person.streams
        loss.incomplete += not person.complete
    loss.errors = dict(Counter(error for person in people for error in person.errors))
    return loss


async def _later(seconds: float, what: Callable[[], Awaitable[None]]) -> None:
    await asyncio.sleep(seconds)
    await what()


@contextlib.asynccontextmanager
async def _behind_a_gateway(parts: _Installation, nodes: int) -> AsyncIterator[None]:
    """Start a broker, a worker and a gateway, whose address is then that of the clients."""
    async with contextlib.AsyncExitStack() as stack:
        store = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        more: dict[str, str] = {}
        if nodes > 1:
            cluster = Cluster(store)
            stack.callback(cluster.stop)
            await asyncio.to_thread(cluster.start)
            parts.nodes, parts.nats_url = cluster.nodes, cluster.url
            more["NATTERJACK_STREAM_REPLICAS"] = str(nodes)
        else:
            server = NatsServer(store)
            stack.callback(server.stop)
            await asyncio.to_thread(server.start)
            parts.nodes, parts.nats_url = [server], server.url
        stack.push_async_callback(_stop, parts)
        await parts.start_worker(**more)
        parts.gateway = GatewayProcess(parts.nats_url, GATEWAY_PROVIDER="deepgram")
        await parts.gateway.start()
        parts.url = parts.gateway.http.replace("http://", "ws://")
        yield


async def _stop(parts: _Installation) -> None:
    for process in (parts.gateway, *parts.workers):
        if process is not None:
            await process.stop()


def rows(losses: Sequence[Loss]) -> list[list[str]]:
    """Lines of a table, one a fault; the first has the names of the columns. Words are lost, and
    doubled or otherwise wrong."""
    names = [f"{who}: lost, wrong" for who in WHO]
    lines = [["fault", "spoken", *names, "opened again", "what clients saw"]]
    for fault in dict.fromkeys(loss.fault for loss in losses):
        by_who = {loss.who: loss for loss in losses if loss.fault == fault}
        cells, again, saw = [], [], []
        for who in WHO:
            loss = by_who.get(who)
            if loss is None or loss.failed:
                cells.append("")
                if loss is not None:
                    saw.append(f"{who} was not measured: {loss.failed}")
                continue
            cells.append(f"{loss.lost}, {loss.doubled + loss.others}")
            again.append(str(loss.streams - loss.speakers))
            errors = [f"{count} {error}" for error, count in loss.errors.items()]
            if loss.incomplete:
                errors.append(f"{loss.incomplete} of {loss.speakers} had no end")
            if errors:
                saw.append(f"{who}: {', '.join(errors)}")
        spoken = max(loss.spoken for loss in by_who.values())
        lines.append(
            [FAULTS[fault], str(spoken), *cells, " / ".join(again), "; ".join(saw) or "nothing"]
        )
    return lines
