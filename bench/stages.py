"""CPU time of a worker by stage, from a profile of its stack (bench.sampled)."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections import Counter
from pathlib import Path

from tests.waiting import until

from .relay import streaming

STAGES: tuple[tuple[str, tuple[str, ...]], ...] = (
    # The innermost function of a stack that matches a mark determines the stage.
    ("send", ("websocket/connection.py:Socket.send", ".send_nowait", "Stream.send")),
    ("convert", ("worker/audio/convert.py:",)),
    ("decode headers", ("natterjack/audio.py:", "client/wire.py:parse", "Feed._next_prefix")),
    ("relay and clock", ("relay.py:Relay.send_live", "Relay._send_all", "Timeline.advance")),
    (
        "metrics and ledger",
        (
            "prometheus_client/", "worker/metering/ledger.py:", "worker/metering/tally.py:",
            "worker/metering/usage.py:", "worker/metering/report.py:", "results.py:Latencies.",
            "Relay.count", "Session.record", "Claimer.records",
        ),
    ),
    (
        "checkpoint",
        (
            "worker/session/checkpoint.py:", "worker/session/lease.py:",
            "worker/metering/account.py:",
        ),
    ),
    (
        "publish",
        (
            "worker/session/output/publish.py:", "broker/client/acks.py:", "natterjack/events.py:",
            "client/wire.py:encode",
            "worker/session/output/events.py:", "Client.post", "Client._flush",
            "aio/client.py:Client._flusher",
        ),
    ),
    ("results", ("worker/session/results.py:", "worker/providers/", "aiohttp/")),
    ("leases and watchdogs", ("Claimer._renew_leases", "Session.tick", "Relay.watch")),
    (
        "receive",
        (
            "worker/audio/feed.py:", "natterjack/broker/client/fastpath.py:", "protocol/parser.py:",
            "client/wire.py:decode",
            "asyncio/streams.py:", "Client._read_loop",
        ),
    ),
)  # fmt: skip


def stage(stack: str) -> str:
    """Return the stage of a stack `function;function;...`, with the outermost function first."""
    for function in reversed(stack.split(";")):
        for name, marks in STAGES:
            if any(mark in function for mark in marks):
                return name
    return "event loop and others"


async def measure(sessions: int = 300, seconds: float = 12.0) -> dict[str, float]:
    """Return the share of each stage in the CPU time of a worker with so many sessions."""
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "stacks"
        async with streaming(sessions, "-m", "bench.sampled", str(out)) as (subject, _):
            os.kill(subject.pid, signal.SIGUSR1)
            await asyncio.sleep(seconds)
            os.kill(subject.pid, signal.SIGUSR2)
            await until(out.exists, "the worker has written its profile", 30)
        for line in out.read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            counts[stage(stack)] += int(count)
    whole = sum(counts.values())
    return {name: count / whole for name, count in counts.most_common()}
