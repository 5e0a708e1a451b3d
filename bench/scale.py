"""How much audio one stream takes: `python -m bench scale`, or `python -m bench.scale --help`.

Many light sessions are published by one process, a connection to each node, and nothing else is
done: no worker listens. Every chunk asks for its acknowledgement, which comes once it is stored (of
three replicas: in two of them). What is told is how many acknowledgements come of those that are
due, how long they take, and what each node uses. More and more sessions show where it ends; on a
small machine that is the machine's end and not the stream's, so the publisher's own part is told
too.

With `streams` more than 1 the sessions are spread over so many streams with leaders of their own,
as they are over cells that share a cluster (docs/scaling.md).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import re
import sys
import tempfile
import time
from array import array
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import uvloop
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import APIError

from natterjack.audio import MSG_ID
from natterjack.broker.connection import Broker, connected
from natterjack.broker.streams import AUDIO, CONSUMER, SESSIONS, ensure, stream_configs
from natterjack.cli.table import table
from natterjack.errors import NatterjackError
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings, Storage, StreamSettings
from natterjack.subjects import AUDIO_PREFIX
from tests.faults.cluster import Cluster

from .emulator import percentiles
from .processes import Program, cpu_seconds, program, resident_bytes, say

RATE = 16_000
_SETTLE_S = 3.0
_BEGIN_S = 30.0
_SLOT_S = 0.002
_ENOUGH = 0.98
_LATE_MS = 1000.0
_INBOX = "_INBOX.scale"
_ANSWER = re.compile(rb"MSG _INBOX\.scale\.\d+\.(\d+) [^\r\n]*\r\n(\{[^\r\n]*\})\r\n")


class Case(NamedTuple):
    """What is published, and to what."""

    sessions: int
    chunk_ms: int = 80
    nodes: int = 3
    """And as many replicas; 1 or 3."""
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
    """One case. Lists have a figure for each node, the stream's leader first."""

    sessions: int
    chunk_ms: int
    nodes: int
    streams: int
    storage: Storage
    due_per_s: float
    """Chunks that are due a second."""
    acknowledged: float
    """Acknowledgements that came of those that were due: 1 when nothing lags."""
    refused: int
    ack_ms: dict[str, float]
    """From publishing to acknowledgement, by percentile."""
    cpu_share: list[float]
    """Of one core."""
    written_mb_per_s: list[float]
    """Pages of files that were changed; 0 where the temporary directory is in memory."""
    resident_mb: list[float]
    publisher_share: float
    """Of one core: of the process that publishes."""
    publisher_late_ms: float
    """The most that it was behind the clock: it is the one that lags when this is large."""

    @property
    def carried(self) -> bool:
        """Whether all of it was stored in time."""
        return self.acknowledged >= _ENOUGH and self.ack_ms.get("p99", _LATE_MS) < _LATE_MS

    @property
    def cpu_s_per_hour(self) -> float:
        """Processor seconds of all nodes an hour of audio."""
        return sum(self.cpu_share) / self.sessions * 3600

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "carried": self.carried, "cpu_s_per_hour": self.cpu_s_per_hour}


async def measure(seconds: float = 8.0, cases: Sequence[Case] = CASES) -> list[Point]:
    """Each case for `seconds`; of cases that differ in sessions alone none beyond the first that
    was not carried. Raises: BrokerError."""
    points: list[Point] = []
    ended: set[Case] = set()
    for case in cases:
        alike = case._replace(sessions=0)
        if alike in ended:
            continue
        say(f"{case}")
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
        nodes = await stack.enter_async_context(_nodes(case.nodes))
        url = ",".join(node.url for node in nodes)
        client = await stack.enter_async_context(connected(BrokerSettings(url=url), name="bench"))
        stream = client.client.jetstream()
        nodes = await _make_streams(stream, case, nodes)
        load = await stack.enter_async_context(
            program(
                *("-m", "bench.scale", "--publish", *(node.url for node in nodes)),
                *("--sessions", str(case.sessions), "--chunk-ms", str(case.chunk_ms)),
                *("--streams", str(case.streams)),
            )
        )
        await load.told()
        await asyncio.sleep(_SETTLE_S)
        await load.ask("reset")
        before = _read(nodes, load)
        await asyncio.sleep(seconds)
        after, told = _read(nodes, load), await load.ask("stats")
        resident = [resident_bytes(node.pid) / 2**20 for node in nodes]
        await load.ask("end")
    took = after.at - before.at
    due = case.sessions * 1000 / case.chunk_ms
    shares = [(b - a) / took for a, b in zip(before.cpu, after.cpu, strict=True)]
    written = [(b - a) / took / 1e6 for a, b in zip(before.written, after.written, strict=True)]
    return Point(
        **case._asdict(),
        due_per_s=due,
        acknowledged=told["acknowledged"] / told["seconds"] / due,
        refused=told["refused"],
        ack_ms=told["ack_ms"],
        cpu_share=shares,
        written_mb_per_s=written,
        resident_mb=resident,
        publisher_share=(after.publisher - before.publisher) / took,
        publisher_late_ms=told["late_ms"],
    )


@contextlib.asynccontextmanager
async def _nodes(count: int) -> AsyncIterator[list[EmbeddedServer]]:
    with tempfile.TemporaryDirectory() as directory:
        cluster = Cluster(Path(directory)) if count > 1 else None
        nodes = cluster.nodes[:count] if cluster else [EmbeddedServer(Path(directory) / "n0")]
        try:
            for node in nodes:
                await asyncio.to_thread(node.start)
            yield nodes
        finally:
            for node in nodes:
                await asyncio.to_thread(node.stop)


async def _make_streams(
    js: JetStreamContext, case: Case, nodes: list[EmbeddedServer]
) -> list[EmbeddedServer]:
    """Make the stream of audio as the project makes it, or several of its kind; the nodes, the
    leader of the first one at the front."""
    settings = StreamSettings(stream_replicas=case.nodes, audio_storage=case.storage)
    (wanted,) = (config for config in stream_configs(settings) if config.name == AUDIO)
    leader = ""
    for number in range(case.streams):
        config = replace(
            wanted, name=f"{AUDIO}_{number}", subjects=[f"{AUDIO_PREFIX}.part{number}.>"]
        )
        async with asyncio.timeout(_BEGIN_S):
            while True:  # a cluster that has just begun has no leader yet
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
        [_written(node.pid) for node in nodes],
        cpu_seconds(load.pid),
    )


def _written(pid: int) -> int:
    """Bytes of the pages of files that a process has changed (proc(5): io, write_bytes)."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["write_bytes"])


def print_points(points: Sequence[Point]) -> None:
    head = (
        *(
            "sessions",
            "chunk ms",
            "nodes",
            "streams",
            "kept in",
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
        print("!: not stored in time")


# ---- leases -------------------------------------------------------------------------------------


class Leases(NamedTuple):
    """What it costs to keep so many leases with three nodes, each renewed once a second."""

    leases: int
    cpu_share: list[float]
    """Of one core, of each node, the consumer's leader first."""
    sent: float
    """Heartbeats that were sent of those that were due."""
    run_out: int
    """Leases that the broker gave to another all the same."""


async def measure_leases(seconds: float, counts: Sequence[int]) -> list[Leases]:
    """Raises: BrokerError."""
    return [await _leases(count, seconds) for count in counts]


async def _leases(count: int, seconds: float) -> Leases:
    async with _nodes(3) as nodes:
        url = ",".join(node.url for node in nodes)
        async with connected(BrokerSettings(url=url), name="bench") as broker:
            settings = StreamSettings(stream_replicas=3)
            async with asyncio.timeout(_BEGIN_S):
                while True:  # a cluster that has just begun has no leader yet
                    try:
                        js = await ensure(broker, settings)
                        break
                    except NatterjackError:
                        await asyncio.sleep(0.25)
            queue = await js.pull_subscribe_bind(durable=CONSUMER, stream=SESSIONS)
            held = await _hold(broker, queue, count)
            info = await js.consumer_info(SESSIONS, CONSUMER)
            leader = info.cluster.leader if info.cluster is not None else ""
            nodes = sorted(nodes, key=lambda node: node.store.name != leader)
            beats = [0]
            lost: list[Msg] = []
            tasks = (
                asyncio.create_task(_beat(broker, held, beats)),
                asyncio.create_task(_take(queue, lost)),
            )
            await asyncio.sleep(_SETTLE_S)
            before, began = [cpu_seconds(node.pid) for node in nodes], time.monotonic()
            sent_before = beats[0]
            await asyncio.sleep(seconds)
            took = time.monotonic() - began
            sent = beats[0] - sent_before
            after = [cpu_seconds(node.pid) for node in nodes]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    shares = [(b - a) / took for a, b in zip(before, after, strict=True)]
    return Leases(count, shares, sent / took / count, len(lost))


async def _hold(broker: Broker, queue: JetStreamContext.PullSubscription, count: int) -> list[str]:
    """Ask for so many sessions and take them all; where each lease is renewed."""
    requested = [
        await broker.acks.publish(f"stt.session.t.c{number}.s", b"{}", {}, _BEGIN_S)
        for number in range(count)
    ]
    await asyncio.gather(*requested)
    held: list[str] = []
    while len(held) < count:
        held += [message.reply for message in await queue.fetch(min(500, count - len(held)))]
        for reply in held[:-500]:  # those that are held already, so that they do not run out
            broker.client.post(reply, Msg.Ack.Progress)
    return held


async def _take(queue: JetStreamContext.PullSubscription, lost: list[Msg]) -> None:
    """Take what runs out, as another worker would, until cancelled."""
    while True:
        with contextlib.suppress(TimeoutError):
            lost += await queue.fetch(100, timeout=1)


async def _beat(broker: Broker, held: Sequence[str], beats: list[int]) -> None:
    """Renew each lease once a second, spread evenly, until cancelled; counts in `beats`."""
    began = time.monotonic()
    while True:
        due = int((time.monotonic() - began) * len(held))
        while beats[0] < due:
            broker.client.post(held[beats[0] % len(held)], Msg.Ack.Progress)
            beats[0] += 1
        await asyncio.sleep(_SLOT_S)


def print_leases(points: Sequence[Leases]) -> None:
    head = ("leases", "cores, leader first", "sent", "run out")
    rows = [
        (
            str(point.leases),
            " ".join(f"{share:.2f}" for share in point.cpu_share),
            f"{point.sent:.3f}",
            str(point.run_out),
        )
        for point in points
    ]
    print(*table([head, *rows], right=range(len(head))), sep="\n")


# ---- memory -------------------------------------------------------------------------------------


async def measure_memory(messages: int = 500_000) -> dict[str, float]:
    """Bytes of a server's resident memory for a message's id that it knows, and for a subject of
    its own, beside a message that has neither. Raises: BrokerError."""
    plain = await _resident_after(messages, ids=False, subjects=False)
    return {
        "id_bytes": (await _resident_after(messages, ids=True, subjects=False) - plain) / messages,
        "subject_bytes": (
            (await _resident_after(messages, ids=False, subjects=True) - plain) / messages
        ),
    }


async def _resident_after(messages: int, *, ids: bool, subjects: bool) -> int:
    async with (
        _nodes(1) as (node,),
        connected(BrokerSettings(url=node.url), name="bench") as broker,
    ):
        js = broker.client.jetstream()
        await js.add_stream(name="SCALE", subjects=["scale.>"], duplicate_window=600)
        stored: list[asyncio.Future[int]] = []
        for number in range(messages):
            # As long as those of sessions.
            subject = f"scale.tenant.conversation-{number if subjects else 0:09}.speaker.final"
            headers = {MSG_ID: f"00000000-0000-0000-0000-000000000000:{number}"} if ids else {}
            stored.append(await broker.acks.publish(subject, b"", headers, _BEGIN_S))
            if len(stored) == 1000:
                await asyncio.gather(*stored)
                stored.clear()
        await asyncio.gather(*stored)
        return resident_bytes(node.pid)


# ---- the publisher, a process of its own --------------------------------------------------------


class _Node(asyncio.Protocol):
    """As much of the broker's protocol as is needed to publish and to see what was stored."""

    def __init__(self, number: int, delays_us: array[int]) -> None:
        self.refused = 0
        self.inbox = f"{_INBOX}.{number}"
        """Of its own: else each node's answers would come to all."""
        self._delays_us = delays_us
        self._behind = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are asyncio's by their methods, not by their class.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=256 * 1024 * 1024)
        options = {"verbose": False, "pedantic": False, "headers": True, "echo": False,
                   "lang": "bench", "version": "1"}  # fmt: skip
        self.write(b"CONNECT " + json.dumps(options).encode() + b"\r\n")
        self.write(f"SUB {self.inbox}.* 1\r\n".encode())

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        if b"PING\r\n" in data:
            self.write(b"PONG\r\n")
        data, end = self._behind + data, 0
        for found in _ANSWER.finditer(data):
            end = found.end()
            if b'"error"' in found[2]:
                self.refused += 1
            else:
                self._delays_us.append((now - int(found[1])) // 1000)
        self._behind = data[end:]


class _Session:
    """One session's chunks, as an edge publishes them; each asks for its acknowledgement, and the
    inbox says when it was sent."""

    __slots__ = ("_frames", "_head", "_id", "_pos", "_seq", "_sound", "node")

    def __init__(self, number: int, chunk_ms: int, streams: int, node: _Node) -> None:
        self.node = node
        self._id = f"scale-session-{number:06}".encode()
        subject = f"{AUDIO_PREFIX}.part{number % streams}.c{number // 100}.s{number}"
        self._head = f"HPUB {subject} {node.inbox}.".encode()
        self._frames = RATE * chunk_ms // 1000
        self._sound = bytes(range(256)) * (self._frames * 2 // 256 + 1)
        self._sound = self._sound[: self._frames * 2]
        self._seq = self._pos = 0

    def chunk(self, stamp_ns: int, wall_ns: int) -> bytes:
        headers = (
            b"NATS/1.0\r\nSession-Id: %b\r\nAudio-Seq: %d\r\nAudio-Pos: %d\r\n"
            b"Audio-Time: %d\r\nNats-Msg-Id: %b:%d\r\n\r\n"
        ) % (self._id, self._seq, self._pos, wall_ns, self._id, self._seq)
        self._seq += 1
        self._pos += self._frames
        size = len(headers)
        return b"%b%d %d %d\r\n%b%b\r\n" % (
            self._head, stamp_ns, size, size + len(self._sound), headers, self._sound,
        )  # fmt: skip


async def _publish(sessions: list[_Session], chunk_ms: int, late_ms: list[float]) -> None:
    """Every session's chunks in real time, spread evenly, until cancelled."""
    period = chunk_ms / 1000
    began = time.monotonic()
    index, round_start = 0, began
    while True:
        now = time.monotonic()
        stamp, wall = time.monotonic_ns(), time.time_ns()
        out: dict[_Node, list[bytes]] = {}
        while (due := round_start + index * period / len(sessions)) <= now:
            late_ms[0] = max(late_ms[0], (now - due) * 1000)
            session = sessions[index]
            out.setdefault(session.node, []).append(session.chunk(stamp, wall))
            index += 1
            if index == len(sessions):
                index, round_start = 0, round_start + period
        for node, chunks in out.items():
            node.write(b"".join(chunks))
        await asyncio.sleep(_SLOT_S)


async def _publisher(arguments: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    delays_us = array("l")
    nodes = [_Node(number, delays_us) for number in range(len(arguments.publish))]
    for number, url in enumerate(arguments.publish):
        address, the_node = urlsplit(url), functools.partial(nodes.__getitem__, number)
        await loop.create_connection(the_node, address.hostname, address.port)
    sessions = [
        # Not all of a stream's sessions to one node.
        _Session(number, arguments.chunk_ms, arguments.streams,
                 nodes[number // arguments.streams % len(nodes)])
        for number in range(arguments.sessions[0])
    ]  # fmt: skip
    late_ms, began = [0.0], time.monotonic()
    publishing = asyncio.create_task(_publish(sessions, arguments.chunk_ms, late_ms))
    _say(streaming=True)
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := (await commands.readline()).strip():
        if publishing.done():
            await publishing
        _say(
            seconds=time.monotonic() - began,
            acknowledged=len(delays_us),
            refused=sum(node.refused for node in nodes),
            ack_ms=percentiles(delays_us),
            late_ms=late_ms[0],
        )
        if line == b"end":
            break
        del delays_us[:]
        late_ms[0], began = 0.0, time.monotonic()
        for node in nodes:
            node.refused = 0
    publishing.cancel()


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="measured, of each case")
    parser.add_argument("--sessions", type=int, nargs="+", help="one case each; default: a series")
    parser.add_argument("--chunk-ms", type=int, default=80)
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=3)
    parser.add_argument("--streams", type=int, default=1, help="to spread the sessions over")
    parser.add_argument("--storage", choices=("file", "memory"), default="file")
    parser.add_argument("--memory", action="store_true", help="of ids and subjects, instead")
    parser.add_argument("--leases", type=int, nargs="+", help="so many leases of sessions, instead")
    parser.add_argument("--publish", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.publish:
        await _publisher(arguments)
        return
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
