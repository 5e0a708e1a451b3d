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
from natterjack.errors import NatterjackError
from natterjack.process.table import table
from natterjack.settings import BrokerSettings, StreamSettings

from .nodes import running_nodes
from .processes import cpu_seconds

SETTLE_S = 3.0
BEGIN_S = 30.0
_TICK_S = 0.002


class Leases(NamedTuple):
    """Cost of renewing each lease once a second on three nodes."""

    leases: int
    cpu_share: list[float]
    """Share of one core per node, the consumer's leader first."""
    sent: float
    """Share of the due renewals that were sent."""
    expired: int
    """Leases that expired in spite of renewals."""


async def measure_leases(seconds: float, counts: Sequence[int]) -> list[Leases]:
    """Measure each number of leases for `seconds`.

    Raises: BrokerError.
    """
    return [await _leases(count, seconds) for count in counts]


async def _leases(count: int, seconds: float) -> Leases:
    async with running_nodes(3) as nodes:
        url = ",".join(node.url for node in nodes)
        async with connected(BrokerSettings(url=url), name="bench") as broker:
            settings = StreamSettings(stream_replicas=3)
            async with asyncio.timeout(BEGIN_S):
                while True:  # a cluster that has just started has no leader yet
                    try:
                        js = await ensure(broker, settings)
                        break
                    except NatterjackError:
                        await asyncio.sleep(0.25)
            queue = await js.pull_subscribe_bind(durable=CONSUMER, stream=SESSIONS)
            leases = await _claim(broker, queue, count)
            info = await js.consumer_info(SESSIONS, CONSUMER)
            leader = info.cluster.leader if info.cluster is not None else ""
            nodes = sorted(nodes, key=lambda node: node.store.name != leader)
            renewals = [0]
            lost: list[Msg] = []
            tasks = (
                asyncio.create_task(_renew(broker, leases, renewals)),
                asyncio.create_task(_claim_expired(queue, lost)),
            )
            await asyncio.sleep(SETTLE_S)
            before, began = [cpu_seconds(node.pid) for node in nodes], time.monotonic()
            sent_before = renewals[0]
            await asyncio.sleep(seconds)
            took = time.monotonic() - began
            sent = renewals[0] - sent_before
            after = [cpu_seconds(node.pid) for node in nodes]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    shares = [(b - a) / took for a, b in zip(before, after, strict=True)]
    return Leases(count, shares, sent / took / count, len(lost))


async def _claim(broker: Broker, queue: JetStreamContext.PullSubscription, count: int) -> list[str]:
    """Publish and claim so many requests; return the reply subjects that renew their leases."""
    requested = [
        await broker.acks.publish(f"stt.session.t.c{number}.s", b"{}", {}, BEGIN_S)
        for number in range(count)
    ]
    await asyncio.gather(*requested)
    leases: list[str] = []
    while len(leases) < count:
        leases += [message.reply for message in await queue.fetch(min(500, count - len(leases)))]
        for reply in leases[:-500]:  # renew claimed leases, so that they do not expire
            broker.client.post(reply, Msg.Ack.Progress)
    return leases


async def _claim_expired(queue: JetStreamContext.PullSubscription, lost: list[Msg]) -> None:
    """Claim requests whose lease has expired, as another worker would, until cancelled."""
    while True:
        with contextlib.suppress(TimeoutError):
            lost += await queue.fetch(100, timeout=1)


async def _renew(broker: Broker, leases: Sequence[str], renewals: list[int]) -> None:
    """Renew each lease once a second, evenly spread, until cancelled; count in `renewals`."""
    began = time.monotonic()
    while True:
        due = int((time.monotonic() - began) * len(leases))
        while renewals[0] < due:
            broker.client.post(leases[renewals[0] % len(leases)], Msg.Ack.Progress)
            renewals[0] += 1
        await asyncio.sleep(_TICK_S)


def print_leases(points: Sequence[Leases]) -> None:
    head = ("leases", "cores, leader first", "sent", "expired")
    rows = [
        (
            str(point.leases),
            " ".join(f"{share:.2f}" for share in point.cpu_share),
            f"{point.sent:.3f}",
            str(point.expired),
        )
        for point in points
    ]
    print(*table([head, *rows], right=range(len(head))), sep="\n")
