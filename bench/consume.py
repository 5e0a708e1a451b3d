"""Cost of reading stored events: `python -m bench.consume`.

`listen()` and `durable()` are compared with a bare pull consumer of nats-py that fetches the same
messages in batches, decodes them or not, and does nothing else; the client for Node, with the
official one, which parses their JSON. Each reads all events in a process of its own, in turn, so
that other load on the machine meets all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nats
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.api import AckPolicy, ConsumerConfig

from natterjack.broker.connection import connected
from natterjack.broker.streams import TRANSCRIPTS, ensure
from natterjack.consume.durable import durable
from natterjack.consume.listener import listen
from natterjack.errors import NatterjackError
from natterjack.events import FinalEvent, parse_event
from natterjack.local.embedded import EmbeddedServer
from natterjack.process.table import table
from natterjack.settings import BrokerSettings, StreamSettings
from natterjack.subjects import SessionKey, transcript_subject
from natterjack.values import Word
from tests.clients.npm import build
from tests.clients.npm import program as node

from .processes import program, progress

EVENTS = 100_000
FLOOR = "nats-py"
NODE = {"Node: @nats-io/jetstream": "bare", "Node: @natterjack/client": "ours"}
WHO = (FLOOR, "nats-py, decoding", "listen()", "durable()", *NODE)
_BATCH = 256
_SESSIONS = 50
_UNACKNOWLEDGED = 2_000
_TEXT = "and the words that somebody says go on for a while before a pause"


@dataclass
class Point:
    """Result of one way to read."""

    who: str
    events: int
    events_a_second: float
    seconds: float
    """The median of the runs."""
    cpu_seconds: float
    """User and system time of the process that reads: the median of the runs."""
    ratio: float
    """`seconds` of each run by those of the bare consumer in the same run: the median."""
    cpu_ratio: float
    ratios: list[float]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


async def measure(events: int = EVENTS, runs: int = 3) -> list[Point]:
    """Store `events` finals and have everybody read them `runs` times.

    Raises: BrokerError.
    """
    with tempfile.TemporaryDirectory(prefix="natterjack-bench-") as folder:
        server = EmbeddedServer(Path(folder), tied=True)
        server.start()
        try:
            progress(f"storing {events:,} events")
            await _store(server.url, events)
            taken: dict[str, list[tuple[float, float]]] = {who: [] for who in WHO}
            for run in range(runs):
                for who in WHO:
                    progress(f"run {run + 1} of {runs}: {who}")
                    arguments = ("--inside", who, "--url", server.url, "--events", str(events))
                    async with program("-m", "bench.consume", *arguments) as process:
                        reply = await process.read_json(600)
                    taken[who].append((reply["seconds"], reply["cpu_seconds"]))
        finally:
            server.stop()
    floor = taken[FLOOR]
    points = []
    for who in WHO:
        wall, cpu = zip(*taken[who], strict=True)
        ratios = [mine[0] / bare[0] for mine, bare in zip(taken[who], floor, strict=True)]
        cpu_ratios = [mine[1] / bare[1] for mine, bare in zip(taken[who], floor, strict=True)]
        seconds = statistics.median(wall)
        point = Point(
            who, events, events / seconds, seconds, statistics.median(cpu),
            statistics.median(ratios), statistics.median(cpu_ratios), ratios,
        )  # fmt: skip
        points.append(point)
    return points


async def _store(url: str, count: int) -> None:
    """Store the finals of some sessions, in turn."""
    words = [
        Word(text=word, start=n / 3, end=n / 3 + 0.25, confidence=0.93)
        for n, word in enumerate(_TEXT.split())
    ]
    async with connected(BrokerSettings(url=url), name="bench", once=True) as broker:
        await ensure(broker, StreamSettings())
        js = broker.client.jetstream()
        due = []
        for number in range(count):
            key = SessionKey("bench", f"call-{number % _SESSIONS}", "caller")
            event = FinalEvent(
                session_id=f"session-{number % _SESSIONS}", **key._asdict(), epoch=1,
                provider="deepgram", published_at=datetime.now(UTC), language="en",
                sequence=number // _SESSIONS, segment=number // _SESSIONS, text=_TEXT, words=words,
                start=0, end=5, confidence=0.95, started_at=datetime.now(UTC), latency=0.3,
            )  # fmt: skip
            headers = {"Nats-Msg-Id": f"{event.id}:1:holder"}
            due.append(
                await js.publish_async(
                    transcript_subject(key, "final"), event.encode(), headers=headers
                )
            )
            if len(due) == _UNACKNOWLEDGED:
                await asyncio.gather(*due)
                due.clear()
        await asyncio.gather(*due)


async def _bare(url: str, count: int, *, decoding: bool) -> int:
    """Read everything with nats-py alone."""
    client = await nats.connect(url)
    try:
        subscription = await client.jetstream().pull_subscribe(
            "stt.transcript.*.*.*.*", stream=TRANSCRIPTS,
            config=ConsumerConfig(ack_policy=AckPolicy.NONE, mem_storage=True),
        )  # fmt: skip
        found = 0
        while found < count:
            try:
                messages = await subscription.fetch(_BATCH, timeout=5)
            except NatsTimeoutError:
                break
            for message in messages:
                if decoding:
                    parse_event(message.data)
                found += 1
        return found
    finally:
        await client.close()


async def _listening(url: str) -> int:
    found = 0
    async for _ in listen(since="start", until="stored", settings=BrokerSettings(url=url)):
        found += 1
    return found


async def _durable(url: str, count: int) -> int:
    """Read and acknowledge everything, in batches."""
    found = 0
    name = f"bench-{secrets.token_hex(4)}"
    async with durable(name, start="start", settings=BrokerSettings(url=url)) as deliveries:
        async for batch in deliveries.batches(_BATCH, seconds=0.5):
            for delivery in batch:
                await delivery.ack()
            found += len(batch)
            if found >= count:
                break
    return found


async def _node(who: str, url: str, count: int) -> dict[str, Any]:
    """Read everything in Node, which must have been installed for the tests."""
    await asyncio.to_thread(build)
    script = Path(__file__).with_name("consume_node.mjs")
    process = await asyncio.create_subprocess_exec(
        node("node"), script, NODE[who], url, str(count), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, f"{who} ended with {process.returncode}"
    times: dict[str, Any] = json.loads(output)
    return times


async def _inside(who: str, url: str, count: int) -> dict[str, Any]:
    """Read everything in this process, or in one of Node."""
    if who in NODE:
        return await _node(who, url, count)
    began, cpu_began = time.monotonic(), time.process_time()
    if who == "listen()":
        found = await _listening(url)
    elif who == "durable()":
        found = await _durable(url, count)
    else:
        found = await _bare(url, count, decoding=who != FLOOR)
    assert found == count, f"{who} read {found} of {count}"
    return {
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - cpu_began,
    }


def print_points(points: Sequence[Point]) -> None:
    """Print a table of the results."""
    head = ["", "events/s", "seconds", "CPU s", "time, ratio", "CPU, ratio"]
    rows = [
        [
            point.who, f"{point.events_a_second:,.0f}", f"{point.seconds:.2f}",
            f"{point.cpu_seconds:.2f}", f"{point.ratio:.2f}", f"{point.cpu_ratio:.2f}",
        ]
        for point in points
    ]  # fmt: skip
    print(*table([head, *rows], right=(1, 2, 3, 4, 5)), sep="\n")


async def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench.consume", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--inside", choices=WHO, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(await _inside(arguments.inside, arguments.url, arguments.events)))
        return 0
    try:
        points = await measure(arguments.events, arguments.runs)
    except NatterjackError as error:
        print(f"bench.consume: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps([point.as_dict() for point in points], indent=1))
    else:
        print_points(points)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
