"""`natterjack limits` on a real broker."""

from __future__ import annotations

import asyncio
import json

import pytest

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.local.embedded import EmbeddedServer
from worker.capacity.governor import Governor
from worker.metrics import Metrics

from .commands import run_async

pytestmark = pytest.mark.process


async def limits(server: EmbeddedServer, *arguments: str, status: int = 0) -> str:
    """Run `natterjack limits` and return its output, including errors."""
    command = await run_async("limits", *arguments, NATS_URL=server.url)
    assert command.status == status, command.out + command.errors
    return command.out + command.errors


async def test_a_limit_is_set_shown_applied_and_removed(
    ready_broker: Broker, nats_server: EmbeddedServer
) -> None:
    assert await limits(nats_server, "list") == "no account has a limit\n"
    set_line = "deepgram: 2 connections, 5 new ones per second\n"
    assert (
        await limits(
            nats_server, "set", "deepgram", "--connections", "2", "--dials-per-second", "5"
        )
        == set_line
    )
    js = ready_broker.client.jetstream()
    governor = Governor(ready_broker, js, Metrics(1), {}, "worker-1")
    running = asyncio.create_task(governor.run())
    try:
        permit = await governor.admit("deepgram", "acme")
        assert permit is not None
        assert await limits(nats_server, "list") == set_line.replace(
            "connections", "connections (1 in use)"
        )
        shown = json.loads(await limits(nats_server, "list", "--json"))
        assert shown == {"deepgram": {"connections": 2, "dials_per_second": 5, "in_use": 1}}
        await permit.release()
    finally:
        running.cancel()
        await asyncio.wait({running})
    assert await limits(nats_server, "remove", "deepgram") == "deepgram: no limit\n"
    assert await limits(nats_server, "list") == "no account has a limit\n"


async def test_mistakes_are_reported(ready_broker: Broker, nats_server: EmbeddedServer) -> None:
    assert "--connections" in await limits(nats_server, "set", "deepgram", status=2)
    assert "connections" in await limits(
        nats_server, "set", "deepgram", "--connections", "0", status=2
    )
    assert "not valid" in await limits(nats_server, "remove", "a.b", status=2)
    assert "no limit to remove" in await limits(nats_server, "remove", "deepgram", status=1)
    subject = streams.bucket_subject(streams.BUDGETS_BUCKET, "account.deepgram")
    await ready_broker.client.jetstream().publish(subject, b'{"connections": "many"}')
    assert "whole number" in await limits(nats_server, "list", status=1)


async def test_missing_buckets_are_reported(broker: Broker, nats_server: EmbeddedServer) -> None:
    assert "a worker creates them" in await limits(nats_server, "list", status=2)
