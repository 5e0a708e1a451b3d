"""Random faults of a fleet: of its workers, its broker nodes and its providers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohttp

from natterjack.broker.connection import connected
from natterjack.local.embedded import EmbeddedServer

from ..emulators.process import RemoteEmulator
from ..freezing import freeze
from .fleet import Fleet, Seat

OFF: dict[str, Any] = {
    "drop_after_seconds": None, "close_after_seconds": None, "mute_after_seconds": None,
    "stop_reading_after_seconds": None, "garbage": [], "mutated": False,
}  # fmt: skip
"""The switches for running connections, off."""
_FAULT_SECONDS = 8.0
"""A fault that affected no connection within this time is not counted."""
TWO = "two at once"

Fault = Callable[[], Awaitable[bool]]
"""Injects a fault, and returns whether it took effect."""


class Damage:
    """Injects faults at random. The first seat's worker is never ended."""

    leaders: Sequence[str] = ()
    """Streams whose leader is killed."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self._fleet = fleet
        self._random = random.Random(seed)
        self._nodes_busy = asyncio.Lock()
        self.faults: dict[str, tuple[float, Fault]] = {}
        """Each fault with its weight."""
        self.injected: Counter[str] = Counter()
        """The faults that took effect."""

    async def inject(self, count: int, max_pause_seconds: float) -> None:
        """Inject one fault after another until `count` of them have taken effect."""
        names = list(self.faults)
        weights = [self.faults[name][0] for name in names]
        while self.injected.total() < count:
            await asyncio.sleep(self._random.uniform(0, max_pause_seconds))
            (name,) = self._random.choices(names, weights)
            if await self.faults[name][1]():
                self.injected[name] += 1

    async def _two(self) -> bool:
        """Inject two other faults at once; they count under their own names."""
        names = self._random.sample([name for name in self.faults if name != TWO], 2)
        done = await asyncio.gather(*(self.faults[name][1]() for name in names))
        self.injected.update(name for name, did in zip(names, done, strict=True) if did)
        return False

    # ---- faults: each returns whether it took effect ----------------------------------------

    def _between(self, least: float, most: float) -> float:
        return self._random.uniform(least, most)

    async def _seat(self, *, mortal: bool) -> Seat | None:
        """Choose a seat that no other fault uses and whose worker has sessions."""
        seats = self._fleet.seats[1:] if mortal else self._fleet.seats
        for seat in self._random.sample(seats, len(seats)):
            if seat.busy.locked():
                continue
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, AssertionError):
                if (await seat.worker.get("/sessions"))[1] != "[]" and not seat.busy.locked():
                    return seat
        return None

    async def _worker_killed(self) -> bool:
        if (seat := await self._seat(mortal=True)) is None:
            return False
        async with seat.busy:
            await seat.kill()
        return True

    async def _worker_drained(self) -> bool:
        if (seat := await self._seat(mortal=True)) is None:
            return False
        async with seat.busy:
            await seat.drain()
        return True

    async def _worker_frozen(self, least: float, most: float) -> bool:
        if (seat := await self._seat(mortal=False)) is None:
            return False
        async with seat.busy:
            await seat.freeze(self._between(least, most))
        return True

    async def _rolling_restart(self) -> bool:
        for seat in self._fleet.seats[1:]:
            async with seat.busy:
                await seat.drain()
        return True

    async def _worker_cut(self, least: float, most: float) -> bool:
        if (seat := await self._seat(mortal=False)) is None:
            return False
        async with seat.busy:
            seat.line.cut()
            await asyncio.sleep(self._between(least, most))
            seat.line.heal()
        return True

    async def _worker_stalled(self) -> bool:
        if (seat := await self._seat(mortal=False)) is None:
            return False
        async with seat.busy:
            seat.line.stall()
            await asyncio.sleep(self._between(0.5, 8))
            seat.line.heal()
        return True

    def _emulator(self, *, sockets: bool = False) -> RemoteEmulator:
        """Choose an emulator; with `sockets`, one whose connections stay open."""
        names = list(self._fleet.emulators)
        names = [name for name in names if not sockets or name != "deepgram-rest"]
        return self._fleet.emulators[self._random.choice(names)]

    async def _apply(
        self, emulator: RemoteEmulator, fault: str, switches: dict[str, Any], count: int = 1
    ) -> bool:
        """Set switches. Return whether the fault soon affects `count` more connections."""
        before, _ = await emulator.affected()
        await emulator.set(**switches)
        deadline = time.monotonic() + _FAULT_SECONDS
        while time.monotonic() < deadline:
            now, _ = await emulator.affected()
            if now.get(fault, 0) >= before.get(fault, 0) + count:
                return True
            await asyncio.sleep(0.05)  # polling interval of an HTTP endpoint
        return False

    async def _provider(self, switch: str, value: Any, count: int = 1) -> bool:
        """Set a switch for the next `count` connections."""
        switches = {**OFF, switch: value, "connections": count}
        return await self._apply(self._emulator(sockets=True), switch, switches, count)

    async def _provider_drops(self) -> bool:
        return await self._emulator().drop() > 0

    async def _provider_refuses(self) -> bool:
        emulator = self._emulator()
        await emulator.set(refuse=True)
        hit = await emulator.drop()
        await asyncio.sleep(self._between(0.2, 3))
        await emulator.set(refuse=False)
        return hit > 0

    async def _handshake(self, emulator: RemoteEmulator, **switches: Any) -> bool:
        """Drop open connections, so that workers dial again."""
        await emulator.drop()
        off = {"handshake_status": None, "handshake_drop": False, "handshake_delay_seconds": 0.0}
        done = await self._apply(emulator, "handshake", {**off, **switches})
        if not done:
            await emulator.set(**off, handshakes=0)
        return done

    async def _provider_status(self) -> bool:
        status, count = self._random.choice([429, 503]), self._random.randint(1, 3)
        return await self._handshake(
            self._emulator(), handshake_status=status, handshakes=count
        )  # fmt: skip

    async def _provider_forbids(self) -> bool:
        """Refuse the account, at the first provider of the chain: the next one takes over."""
        emulator = next(iter(self._fleet.emulators.values()))
        status = self._random.choice([401, 402])
        return await self._handshake(emulator, handshake_status=status, handshakes=1)

    async def _provider_handshake(self) -> bool:
        slow, count = self._random.random() < 0.5, self._random.randint(1, 3)
        how = {"handshake_delay_seconds": 2.0} if slow else {"handshake_drop": True}
        return await self._handshake(self._emulator(), **how, handshakes=count)

    async def _provider_closes_again(self) -> bool:
        """Close the next four connections right after the handshake."""
        return await self._provider("close_after_seconds", 0, 4)

    async def _provider_late(self) -> bool:
        emulator = self._emulator()
        _, open_connections = await emulator.affected()
        await emulator.set(latency_seconds=self._between(0.3, 2))
        await asyncio.sleep(self._between(1, 5))
        await emulator.set(latency_seconds=0)
        return open_connections > 0

    async def _restart(self, nodes: list[EmbeddedServer], seconds: float) -> bool:
        if self._nodes_busy.locked():
            return False
        async with self._nodes_busy:
            for node in nodes:
                node.kill()
            await asyncio.sleep(seconds)
            for node in nodes:
                await asyncio.to_thread(node.start)
        return True

    async def _node_killed(self) -> bool:
        node = self._random.choice(self._fleet.cluster.nodes)
        return await self._restart([node], self._between(0, 4))

    async def _leader_killed(self) -> bool:
        name = self._random.choice(self.leaders)
        async with connected(self._fleet.broker_settings, name="leader") as broker:
            leader = await self._fleet.cluster.leader(broker, name)
        return leader is not None and await self._restart([leader], self._between(0, 4))

    async def _broker_killed(self) -> bool:
        return await self._restart(self._fleet.cluster.nodes, self._between(0, 1))

    async def _node_frozen(self) -> bool:
        if self._nodes_busy.locked():
            return False
        async with self._nodes_busy:
            node = self._random.choice(self._fleet.cluster.nodes)
            freeze(node.pid)
            await asyncio.sleep(self._between(0.3, 4))
            os.kill(node.pid, signal.SIGCONT)
        return True


async def holds_nothing(seat: Seat) -> bool:
    """Whether the worker of a seat has no session."""
    return (await seat.worker.get("/sessions"))[1] == "[]"
