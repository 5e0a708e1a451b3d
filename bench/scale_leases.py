"""Cost of renewing many leases on the one consumer of the queue (`bench.scale --leases`)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import NamedTuple

from nats.aio.msg import Msg
from nats.js import JetStreamContext

from natterjack.broker.connection import Broker, connected
from natterjack.broker.streams import CONSUMER, SESSIONS, ensure
from natterjack.cli.table import table
from natterjack.errors import NatterjackError
from natterjack.settings import BrokerSettings, StreamSettings

from .nodes import running_nodes
from .processes import cpu_seconds

SETTLE_S = 3.0
BEGIN_S = 30.0
_TICK_S = 0.002


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
    async with running_nodes(3) as nodes:
        url = ",".join(node.url for node in nodes)
        async with connected(BrokerSettings(url=url), name="bench") as broker:
            settings = StreamSettings(stream_replicas=3)
            async with asyncio.timeout(BEGIN_S):
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
            await asyncio.sleep(SETTLE_S)
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
        await broker.acks.publish(f"stt.session.t.c{number}.s", b"{}", {}, BEGIN_S)
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
        await asyncio.sleep(_TICK_S)


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
