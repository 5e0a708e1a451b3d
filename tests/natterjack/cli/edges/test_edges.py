"""`natterjack edges` on a real broker, with edges that report to it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from natterjack.broker.connection import Broker
from natterjack.fleet.edges import presence_subject
from natterjack.local.embedded import EmbeddedServer
from tests.edge_capture.fleet.rooms import Room, reporting
from tests.natterjack.cli.commands import Command, run_async
from tests.waiting import until

pytestmark = pytest.mark.process


async def edges(server: EmbeddedServer, *arguments: str, status: int = 0) -> str:
    """Run `natterjack edges` and return its output, including errors."""
    command = await run_async("edges", *arguments, NATS_URL=server.url)
    assert command.status == status, command.out + command.errors
    return command.out + command.errors


async def listed(server: EmbeddedServer, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(await edges(server, "--json", *arguments))
    return found


async def test_edges_are_listed_steered_and_forgotten(
    ready_broker: Broker, nats_server: EmbeddedServer
) -> None:
    assert await edges(nats_server) == "edges 0, sources 0\n"
    async with reporting(nats_server, Room()):
        await until(lambda: listed(nats_server), "the edge is listed")
        table = await edges(nats_server)
        for words in ("acme.room-12", "running", "capturing", "-31 dB", "75s 60%", "USB"):
            assert words in table
        (shown,) = await listed(nats_server, "--tenant", "acme")
        assert shown["state"] == "running"
        assert shown["sources"][0]["level"]["peak_dbfs"] == -12.5
        assert await listed(nats_server, "--tenant", "other") == []

        muted = await edges(nats_server, "mute", "room-12", "mic")
        assert muted.startswith("acme.room-12: muted mic\n")
        assert "muted" in await edges(nats_server, "status", "acme.room-12", "mic")
        status = json.loads(await edges(nats_server, "status", "room-12", "--json"))
        assert status["sources"][0]["state"] == "muted"
        for arguments, code, words in (
            (("mute", "room-12", "hall"), 1, "there is no source hall"),
            (("status", "room-12", "hall"), 1, "has no source hall; its sources: mic"),
            (("forget", "room-12"), 1, "still reports"),
            (("mute", "room-21"), 2, "did you mean acme.room-12"),
            (("mute", "other.room-12"), 2, "no edge other.room-12 is known"),
            (("mute", "room-12", "--tenant", "a.b"), 2, "tenant"),
            (("--watch", "0"), 2, "--watch"),
        ):
            assert words in await edges(nats_server, *arguments, status=code)

        watching = Command("edges", "--watch", "0.2", "--json", NATS_URL=nats_server.url)
        async with watching:
            await until(lambda: watching.out.count("room-12") > 1, "it is shown again and again")

    async def stopped() -> bool:
        (last,) = await listed(nats_server)
        return bool(last["state"] == "stopped")

    await until(stopped, "it has said that it ends")
    answer = await edges(nats_server, "mute", "room-12", status=1)
    assert "does not answer: it is stopped, last seen" in answer
    assert "forgotten" in await edges(nats_server, "forget", "room-12")
    assert await listed(nats_server) == []


async def test_invalid_entries_are_left_out(
    ready_broker: Broker, nats_server: EmbeddedServer
) -> None:
    js = ready_broker.client.jetstream()
    for agent, data in (("a", b"{"), ("b", b"\x00" * 9000), ("c", b"{}")):
        await js.publish(presence_subject("acme", agent), data)
    async with reporting(nats_server, Room()):
        await until(lambda: listed_among_others(nats_server), "the edge is listed")
        out = await edges(nats_server)
    assert "edges 1 (running 1)" in out
    assert "skipped 3 invalid entries" in out


async def listed_among_others(server: EmbeddedServer) -> bool:
    return "room-12" in await edges(server)


async def test_a_broker_without_the_bucket(nats_server: EmbeddedServer, broker: Broker) -> None:
    assert "`natterjack streams apply`, makes it" in await edges(nats_server, status=2)
