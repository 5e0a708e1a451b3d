"""Throughput of one JetStream stream: `python -m bench scale`, `python -m bench.scale --help`.

One process publishes many light sessions, with one connection to each node; there are no workers.
Every chunk requests an acknowledgement, which the broker sends once the chunk is stored (with three
replicas, in two of them). The benchmark reports the share of acknowledgements that arrived, their
delay, and what each node uses, for more and more sessions. On a small machine the publisher may
reach its limit before the stream does, so its own usage is reported too.

With `streams` above 1, the sessions are spread over several streams with leaders of their own, as
over cells that share a cluster (docs/explanation/scaling.md).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import uvloop
from nats.js import JetStreamContext
from nats.js.errors import APIError

from natterjack.audio import MSG_ID
from natterjack.broker.connection import connected
from natterjack.broker.streams import AUDIO, stream_configs
from natterjack.errors import NatterjackError
from natterjack.local.embedded import EmbeddedServer
from natterjack.process.table import table
from natterjack.settings import BrokerSettings, Storage, StreamSettings
from natterjack.subjects import AUDIO_PREFIX

from .nodes import running_nodes, written_bytes
from .processes import Program, cpu_seconds, program, progress, resident_bytes
from .scale_leases import BEGIN_S, SETTLE_S, measure_leases, print_leases

_ENOUGH = 0.98
_LATE_MS = 1000.0


class Case(NamedTuple):
    """One load and configuration of the broker."""

    sessions: int
    chunk_ms: int = 80
    nodes: int = 3
    """Number of nodes and replicas: 1 or 3."""
    streams: int = 1
    storage: Storage = "file"


CASES = (
    *(Case(sessions, nodes=1) for sessions in (100, 400, 1000, 2000)),
    *(Case(sessions) for sessions in (100, 200, 400, 600, 800, 1000, 1500)),
    *(Case(sessions, chunk_ms=200) for sessions in (400, 800)),
    Case(400, streams=3),
    Case(800, storage="memory"),
)


@dataclass
class Point:
    """Result of one case. Lists have one figure per node, the stream's leader first."""

    sessions: int
    chunk_ms: int
    nodes: int
    streams: int
    storage: Storage
    due_per_s: float
    """Due chunks per second."""
    acknowledged: float
    """Share of the due acknowledgements that arrived: 1 without lag."""
    refused: int
    ack_ms: dict[str, float]
    """Delay from publication to acknowledgement, by percentile."""
    cpu_share: list[float]
    """Share of one core."""
    written_mb_per_s: list[float]
    """Dirtied file pages; 0 if the temporary directory is in memory."""
    resident_mb: list[float]
    publisher_share: float
    """Share of one core that the publisher uses."""
    publisher_late_ms: float
    """Maximum delay of the publisher; if it is large, the publisher is the bottleneck."""

    @property
    def carried(self) -> bool:
        """Whether all audio was stored in time."""
        return self.acknowledged >= _ENOUGH and self.ack_ms.get("p99", _LATE_MS) < _LATE_MS

    @property
    def cpu_s_per_hour(self) -> float:
        """CPU seconds of all nodes per hour of audio."""
        return sum(self.cpu_share) / self.sessions * 3600

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "carried": self.carried, "cpu_s_per_hour": self.cpu_s_per_hour}


async def measure(seconds: float = 8.0, cases: Sequence[Case] = CASES) -> list[Point]:
    """Measure each case for `seconds`.

    After a case that was not carried, cases with more sessions of the same kind are skipped.

    Raises: BrokerError.
    """
    points: list[Point] = []
    ended: set[Case] = set()
    for case in cases:
        alike = case._replace(sessions=0)
        if alike in ended:
            continue
        progress(f"{case}")
        points.append(await _measured(case, seconds))
        if not points[-1].carried:
            ended.add(alike)
    return points


class _Reading(NamedTuple):
    at: float
    cpu: list[float]
    written: list[int]
    publisher: float


async def _measured(case: Case, seconds: float) -> Point:
    async with contextlib.AsyncExitStack() as stack:
        nodes = await stack.enter_async_context(running_nodes(case.nodes))
        url = ",".join(node.url for node in nodes)
        client = await stack.enter_async_context(connected(BrokerSettings(url=url), name="bench"))
        stream = client.client.jetstream()
        nodes = await _make_streams(stream, case, nodes)
        load = await stack.enter_async_context(
            program(
                *("-m", "bench.scale_publisher", *(node.url for node in nodes)),
                *("--sessions", str(case.sessions), "--chunk-ms", str(case.chunk_ms)),
                *("--streams", str(case.streams)),
            )
        )
        await load.read_json()
        await asyncio.sleep(SETTLE_S)
        await load.ask("reset")
        before = _read(nodes, load)
        await asyncio.sleep(seconds)
        after, reply = _read(nodes, load), await load.ask("stats")
        resident = [resident_bytes(node.pid) / 2**20 for node in nodes]
        await load.ask("end")
    took = after.at - before.at
    due = case.sessions * 1000 / case.chunk_ms
    shares = [(b - a) / took for a, b in zip(before.cpu, after.cpu, strict=True)]
    written = [(b - a) / took / 1e6 for a, b in zip(before.written, after.written, strict=True)]
    return Point(
        **case._asdict(),
        due_per_s=due,
        acknowledged=reply["acknowledged"] / reply["seconds"] / due,
        refused=reply["refused"],
        ack_ms=reply["ack_ms"],
        cpu_share=shares,
        written_mb_per_s=written,
        resident_mb=resident,
        publisher_share=(after.publisher - before.publisher) / took,
        publisher_late_ms=reply["late_ms"],
    )


async def _make_streams(
    js: JetStreamContext, case: Case, nodes: list[EmbeddedServer]
) -> list[EmbeddedServer]:
    """Create one or several audio streams; return the nodes, the first stream's leader first."""
    settings = StreamSettings(stream_replicas=case.nodes, audio_storage=case.storage)
    (wanted,) = (config for config in stream_configs(settings) if config.name == AUDIO)
    leader = ""
    for number in range(case.streams):
        config = replace(
            wanted, name=f"{AUDIO}_{number}", subjects=[f"{AUDIO_PREFIX}.part{number}.>"]
        )
        async with asyncio.timeout(BEGIN_S):
            while True:  # a cluster that has just started has no leader yet
                try:
                    info = await js.add_stream(config)
                    break
                except (APIError, TimeoutError):
                    await asyncio.sleep(0.25)
        if number == 0 and info.cluster is not None:
            leader = info.cluster.leader or ""
    return sorted(nodes, key=lambda node: node.store.name != leader)


def _read(nodes: Sequence[EmbeddedServer], load: Program) -> _Reading:
    return _Reading(
        time.monotonic(),
        [cpu_seconds(node.pid) for node in nodes],
        [written_bytes(node.pid) for node in nodes],
        cpu_seconds(load.pid),
    )


def print_points(points: Sequence[Point]) -> None:
    head = (
        *(
            "sessions",
            "chunk ms",
            "nodes",
            "streams",
            "storage",
            "chunks/s",
            "stored",
            "ack p50/99 ms",
        ),
        *("cores, leader first", "CPU s/h", "MB/s written", "MB", "publisher", "late ms"),
    )
    rows = [
        (
            f"{point.sessions}{'' if point.carried else ' !'}",
            str(point.chunk_ms),
            str(point.nodes),
            str(point.streams),
            point.storage,
            f"{point.due_per_s:.0f}",
            f"{point.acknowledged:.3f}",
            "/".join(f"{point.ack_ms.get(part, 0):.1f}" for part in ("p50", "p99")),
            " ".join(f"{share:.2f}" for share in point.cpu_share),
            f"{point.cpu_s_per_hour:.2f}",
            " ".join(f"{written:.0f}" for written in point.written_mb_per_s),
            " ".join(f"{resident:.0f}" for resident in point.resident_mb),
            f"{point.publisher_share:.2f}",
            f"{point.publisher_late_ms:.0f}",
        )
        for point in points
    ]
    print(*table([head, *rows], right=range(len(head))), sep="\n")
    if any(not point.carried for point in points):
        print("! = not stored in time")


async def measure_memory(messages: int = 500_000) -> dict[str, float]:
    """Measure the server's resident memory per message ID and per subject, in bytes.

    Raises: BrokerError.
    """
    plain = await _resident_after(messages, ids=False, subjects=False)
    return {
        "id_bytes": (await _resident_after(messages, ids=True, subjects=False) - plain) / messages,
        "subject_bytes": (
            (await _resident_after(messages, ids=False, subjects=True) - plain) / messages
        ),
    }


async def _resident_after(messages: int, *, ids: bool, subjects: bool) -> int:
    async with (
        running_nodes(1) as (node,),
        connected(BrokerSettings(url=node.url), name="bench") as broker,
    ):
        js = broker.client.jetstream()
        await js.add_stream(name="SCALE", subjects=["scale.>"], duplicate_window=600)
        stored: list[asyncio.Future[int]] = []
        for number in range(messages):
            # As long as subjects of sessions.
            subject = f"scale.tenant.conversation-{number if subjects else 0:09}.speaker.final"
            headers = {MSG_ID: f"00000000-0000-0000-0000-000000000000:{number}"} if ids else {}
            stored.append(await broker.acks.publish(subject, b"", headers, BEGIN_S))
            if len(stored) == 1000:
                await asyncio.gather(*stored)
                stored.clear()
        await asyncio.gather(*stored)
        return resident_bytes(node.pid)


async def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="duration of each case")
    parser.add_argument(
        "--sessions",
        type=int,
        nargs="+",
        help="numbers of sessions, one case each; default: a series",
    )
    parser.add_argument("--chunk-ms", type=int, default=80)
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=3)
    parser.add_argument(
        "--streams", type=int, default=1, help="streams to spread the sessions over"
    )
    parser.add_argument("--storage", choices=("file", "memory"), default="file")
    parser.add_argument(
        "--memory", action="store_true", help="measure memory of IDs and subjects instead"
    )
    parser.add_argument(
        "--leases", type=int, nargs="+", help="measure renewals of so many leases instead"
    )
    arguments = parser.parse_args()
    if arguments.memory:
        for what, size in (await measure_memory()).items():
            print(f"{what:16}{size:.0f}")
        return
    if arguments.leases:
        print_leases(await measure_leases(arguments.seconds, arguments.leases))
        return
    shape = (arguments.chunk_ms, arguments.nodes, arguments.streams, arguments.storage)
    cases = [Case(sessions, *shape) for sessions in arguments.sessions or ()]
    try:
        print_points(await measure(arguments.seconds, cases or CASES))
    except NatterjackError as error:
        parser.exit(1, f"not measured: {error}\n")


if __name__ == "__main__":
    uvloop.run(main())
