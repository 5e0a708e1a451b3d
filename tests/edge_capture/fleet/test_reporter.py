"""Presence and requests of an edge, with a real server."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from nats.js.errors import NotFoundError

from edge_capture.delivery.link import Link
from edge_capture.fleet.reporter import Reporter
from edge_capture.settings import FleetSettings
from natterjack.broker.connection import Broker
from natterjack.broker.streams import EDGES_BUCKET
from natterjack.fleet.edges import (
    EdgePresence,
    EdgeReply,
    parse_presence,
    parse_reply,
    presence_subject,
)
from natterjack.settings import BrokerSettings
from natterjack.subjects import edge_subject
from tests.edge_capture.fleet.rooms import Room, reporting
from tests.nats_server import NatsServer
from tests.waiting import soon, until


async def entry(broker: Broker, agent: str = "room-12") -> EdgePresence | None:
    subject, js = presence_subject("acme", agent), broker.client.jetstream()
    try:
        message = await js.get_last_msg(f"KV_{EDGES_BUCKET}", subject, direct=True)
    except NotFoundError:
        return None
    return parse_presence(subject, message.data or b"")


async def ask(broker: Broker, data: bytes) -> EdgeReply:
    message = await soon(broker.client.request(edge_subject("acme", "room-12"), data, 60), 30)
    reply = parse_reply(message.data)
    assert reply is not None
    return reply


def request(**values: Any) -> bytes:
    return json.dumps(values).encode()


async def test_an_edge_is_shown_steered_and_leaves(
    nats_server: NatsServer, ready_broker: Broker
) -> None:
    room = Room()

    async def found() -> EdgePresence | None:
        return await entry(ready_broker)

    async with reporting(nats_server, room):
        first = await until(found, "the edge is shown")
        assert first.state == "running"
        assert first.instance
        assert first.version
        assert first.sources[0].state == "capturing"

        status = await ask(ready_broker, request(op="status"))
        assert status.ok
        assert status.presence is not None
        muted = await ask(ready_broker, request(op="mute", source="mic"))
        assert muted.ok
        assert muted.detail == "muted mic"

        async def shown_as_muted() -> bool:
            now = await entry(ready_broker)
            return now is not None and now.sources[0].state == "muted"

        await until(shown_as_muted, "a change is shown long before the interval is over")
        for data, words in (
            (request(op="mute", source="nobody"), "there is no source nobody"),
            (request(op="reload"), "the request failed: RuntimeError"),
            (request(op="dance"), "not one that this release"),
            (b"\xff" * 100, "not one that this release"),
            (b"{" * 9000, "not one that this release"),
        ):
            refused = await ask(ready_broker, data)
            assert not refused.ok
            assert words in refused.detail

    async def stopped() -> bool:
        now = await entry(ready_broker)
        return now is not None and now.state == "stopped"

    await until(stopped, "the last report says that it has stopped")


def test_an_error_with_any_path_can_be_reported() -> None:
    class Full(Room):
        def presence(self) -> EdgePresence:
            error = "/tmp/\udcff: No space left"
            return super().presence().model_copy(update={"last_error": error})

    assert b"No space left" in Reporter(Full(), FleetSettings()).presence().encode()


async def test_the_clock_is_compared_with_the_servers(
    nats_server: NatsServer, ready_broker: Broker
) -> None:
    async with reporting(nats_server, Room(), seconds=1):

        async def measured() -> bool:
            now = await entry(ready_broker)
            return now is not None and now.clock_offset_seconds is not None

        await until(measured, "the offset is known")
    last = await entry(ready_broker)
    assert last is not None
    assert last.clock_offset_seconds is not None
    assert abs(last.clock_offset_seconds) <= 1.1  # half of the longest round trip


async def test_a_broker_without_the_bucket_costs_one_line(
    nats_server: NatsServer, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with reporting(nats_server, Room(), seconds=1):
            await until(lambda: "natterjack streams apply" in caplog.text, "the cure is named")
            assert (await ask(broker, request(op="status"))).ok
    assert caplog.text.count("natterjack streams apply") == 1


async def test_no_reports_if_they_are_turned_off(
    nats_server: NatsServer, ready_broker: Broker
) -> None:
    link = Link(BrokerSettings(url=nats_server.url))
    await soon(Reporter(Room(), FleetSettings(presence_seconds=0)).run(link), 10)
    assert link.broker is None


async def test_a_request_cannot_make_the_edge_publish_elsewhere(
    nats_server: NatsServer, ready_broker: Broker
) -> None:
    heard = []

    async def hear(message: Any) -> None:
        heard.append(message.subject)

    await ready_broker.client.subscribe("stt.audio.>", cb=hear)
    async with reporting(nats_server, Room()):
        await until(lambda: entry(ready_broker), "the edge is shown")
        subject = edge_subject("acme", "room-12")
        await ready_broker.client.publish(
            subject, request(op="status"), reply="stt.audio.acme.call.agent"
        )
        assert (await ask(ready_broker, request(op="status"))).ok
        await ready_broker.client.flush()
    assert heard == []
