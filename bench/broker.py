"""Cost of the broker: `python -m bench.broker`.

Measures nats-server with audio in memory, in files, and in files of three nodes, while a real
worker relays the sessions of bench.load to bench.emulator. All of them are processes of their own.
In the last cases the broker acknowledges chunks, as edges request: without users, and with the
users of `natterjack users`, where an edge's account imports the streams.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from nats.js import JetStreamContext

from natterjack.broker.connection import connected
from natterjack.broker.roles import User
from natterjack.broker.streams import AUDIO, ensure
from natterjack.cli.users_config import accounts
from natterjack.errors import NatterjackError, UsageError
from natterjack.local.embedded import EmbeddedServer
from natterjack.process.table import table
from natterjack.settings import BrokerSettings, StreamSettings

from .nodes import running_nodes, written_bytes
from .processes import Emulator, cpu_seconds, emulator, program, resident_bytes, worker

CHUNK_MS = 80
_BYTES_A_SECOND = 32_000
_BEGIN_S = 60.0
_SETTLE_S = 2.0
_BLOCK_BYTES = 512


class Case(NamedTuple):
    """One configuration of the broker."""

    sessions: int
    storage: str = "file"
    """Storage of audio: `file` or `memory`. Everything else is in files."""
    replicas: int = 1
    """Number of replicas and nodes."""
    acks: bool = False
    """Whether chunks are acknowledged."""
    users: bool = False
    """Whether all clients are users with minimal permissions."""


CASES = (
    Case(100, "memory"),
    Case(100),
    Case(100, replicas=3),
    Case(300),
    Case(300, acks=True),
    Case(300, acks=True, users=True),
)
_EDGE = User("edge", name="load", tenant="bench")
_WORKER, _OPERATOR = User("worker"), User("operator")


@dataclass
class Point:
    """Result of one case. Figures are sums over all nodes unless stated otherwise."""

    sessions: int
    storage: str
    replicas: int
    acks: bool
    users: bool
    cpu_s_per_hour: float
    """CPU seconds per hour of audio."""
    cpu_share: float
    """Share of one core."""
    cpu_share_most: float
    """Share of one core that the busiest node uses."""
    kb_stored: float
    """Audio and headers stored per second of audio, in one replica."""
    kb_on_disk: float
    """Disk space of the stores at the end of the window, per second of stored audio."""
    kb_written: float
    """Data written to files per second of audio, including data deleted before it reached the disk;
    0 if the temporary directory is in memory."""
    mb_idle: float
    """Resident memory with a worker but no session."""
    mb: float
    """Resident memory at the end of the window."""
    delivered: float
    """Share of the due audio that arrived at the provider: 1 without lag."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


async def measure(seconds: float = 5.0, cases: Sequence[Case] = CASES) -> list[Point]:
    """Measure each case for `seconds`.

    Raises: UsageError, BrokerError.
    """
    return [await _measured(case, seconds) for case in cases]


@dataclass
class _Reading:
    """Usage of all nodes at one moment."""

    at: float
    cpu: list[float]
    resident: int
    on_disk: int
    written: int
    stored: int


async def _measured(case: Case, seconds: float) -> Point:
    async with contextlib.AsyncExitStack() as stack:
        nodes = await stack.enter_async_context(
            running_nodes(case.replicas, _configuration() if case.users else "")
        )
        url = ",".join(node.url for node in nodes)
        settings = StreamSettings(audio_storage=case.storage, stream_replicas=case.replicas)
        as_operator = _login(_OPERATOR, case.users)
        client = await stack.enter_async_context(
            connected(BrokerSettings(url=url, **as_operator), name="bench")
        )
        await ensure(client, settings)
        provider = await stack.enter_async_context(emulator())
        try:
            await stack.enter_async_context(
                worker(
                    url,
                    provider.address,
                    case.sessions,
                    NATTERJACK_CREATE_STREAMS="false",
                    NATTERJACK_AUDIO_STORAGE=case.storage,
                    NATTERJACK_STREAM_REPLICAS=str(case.replicas),
                    **{f"NATS_{k.upper()}": v for k, v in _login(_WORKER, case.users).items()},
                )
            )
        except (RuntimeError, TimeoutError) as error:
            words = str(error).strip().split("\n")[-1] or "it did not start in time"
            raise UsageError(f"the worker did not start: {words}") from error
        stream = client.client.jetstream()
        idle = await _read(nodes, stream)
        as_edge = f"{_EDGE.id}:{_EDGE.id}@" if case.users else ""
        load = await stack.enter_async_context(
            program(
                *("-m", "bench.load", "--nats", nodes[0].url.replace("//", f"//{as_edge}")),
                *("--sessions", str(case.sessions), "--chunk-ms", str(CHUNK_MS)),
                *(("--inbox", f"{_EDGE.inbox_prefix}.acks") if case.acks else ()),
            )
        )
        await _all_begun(provider, case.sessions)
        await asyncio.sleep(_SETTLE_S)
        await provider.stats(reset=True)
        before = await _read(nodes, stream)
        await asyncio.sleep(seconds)
        after, received = await _read(nodes, stream), await provider.stats()
        await load.ask("end")
    took = after.at - before.at
    audio_s = case.sessions * took
    stored = (after.stored - before.stored) / audio_s
    shares = [(end - start) / took for start, end in zip(before.cpu, after.cpu, strict=True)]
    return Point(
        **case._asdict(),
        cpu_s_per_hour=sum(shares) / case.sessions * 3600,
        cpu_share=sum(shares),
        cpu_share_most=max(shares),
        kb_stored=stored / 1000,
        kb_on_disk=stored * (after.on_disk - idle.on_disk) / (after.stored - idle.stored) / 1000,
        kb_written=(after.written - before.written) / audio_s / 1000,
        mb_idle=idle.resident / 2**20,
        mb=after.resident / 2**20,
        delivered=received["bytes"] / (received["seconds"] * case.sessions * _BYTES_A_SECOND),
    )


def _login(user: User, users: bool) -> dict[str, Any]:
    """Return the connection settings of a user.

    A password replaces the key; the server checks either only once per connection.
    """
    if not users:
        return {}
    return {"user": user.id, "password": user.id, "inbox_prefix": user.inbox_prefix}


def _configuration() -> str:
    """Return a server configuration with accounts as `natterjack users` creates them."""
    users = [User(u.role, u.name, u.tenant, public_key=u.id) for u in (_EDGE, _WORKER, _OPERATOR)]
    made = accounts(users)
    for account in made.values():
        for user in account.get("users", ()):
            user["user"] = user["password"] = user.pop("nkey")
    return f"accounts: {json.dumps(made)}\nsystem_account: SYS\n"


async def _read(nodes: Sequence[EmbeddedServer], stream: JetStreamContext) -> _Reading:
    stored = (await stream.stream_info(AUDIO)).state.bytes
    return _Reading(
        at=time.monotonic(),
        cpu=[cpu_seconds(node.pid) for node in nodes],
        resident=sum(resident_bytes(node.pid) for node in nodes),
        on_disk=sum(_on_disk(node.store) for node in nodes),
        written=sum(written_bytes(node.pid) for node in nodes),
        stored=stored,
    )


def _on_disk(directory: Path) -> int:
    """Return the disk space of all files below `directory`, in bytes."""
    total = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # the server has replaced it
            total += path.stat().st_blocks * _BLOCK_BYTES
    return total


async def _all_begun(provider: Emulator, sessions: int) -> None:
    deadline = time.monotonic() + _BEGIN_S
    while (await provider.stats())["begun"] < sessions:
        if time.monotonic() > deadline:
            raise UsageError(f"not all sessions had started after {_BEGIN_S:.0f} s")
        await asyncio.sleep(0.1)


def print_points(points: Sequence[Point]) -> None:
    head = (
        *("sessions", "storage", "nodes", "acks", "users", "CPU s/h", "core", "busiest"),
        *("KB/s stored", "on disk", "written", "MB idle", "MB", "delivered"),
    )
    rows = [
        (
            str(point.sessions),
            point.storage,
            str(point.replicas),
            "yes" if point.acks else "",
            "yes" if point.users else "",
            f"{point.cpu_s_per_hour:.2f}",
            f"{point.cpu_share:.1%}",
            f"{point.cpu_share_most:.1%}",
            f"{point.kb_stored:.1f}",
            f"{point.kb_on_disk:.1f}",
            f"{point.kb_written:.1f}",
            f"{point.mb_idle:.0f}",
            f"{point.mb:.0f}",
            f"{point.delivered:.3f}",
        )
        for point in points
    ]
    print(*table([head, *rows], right=range(len(head))), sep="\n")


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of each case")
    parser.add_argument(
        "--sessions",
        type=int,
        nargs="+",
        help="numbers of sessions, each with all kinds of storage",
    )
    arguments = parser.parse_args()
    ways = CASES[:3]
    cases = [way._replace(sessions=n) for n in arguments.sessions or () for way in ways]
    try:
        points = await measure(arguments.seconds, cases or CASES)
    except NatterjackError as error:
        sys.exit(f"bench.broker: {error}")
    print_points(points)


if __name__ == "__main__":
    asyncio.run(main())
