"""Metrics of edges, without a broker and with one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from natterjack.broker.connection import Broker
from natterjack.fleet.edge_reader import EdgeRow, Edges, EdgesReader
from natterjack.fleet.edges import EdgePresence
from tests.edge_capture.fleet.rooms import Room, reporting
from tests.nats_server import NatsServer
from tests.waiting import until
from worker.edge_watch import EdgeWatch
from worker.metrics import Metrics

AT = datetime(2026, 11, 3, 9, 30, tzinfo=UTC)


def row(agent: str, state: str = "running", **values: Any) -> EdgeRow:
    fields = {"tenant": "acme", "agent": agent, "started_at": AT, "seen_at": AT, **values}
    presence = EdgePresence.model_validate(fields)
    return EdgeRow(state=state, seen_seconds_ago=3, presence=presence)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"natterjack_{name}", labels)


SOURCE = {"name": "mic", "state": "capturing", "findings": ["input_dead", "input_dead"]}
ODD = {"name": "hall", "state": "capturing", "findings": ["x", "y"]}
ROOM = {"tenant": "acme", "agent": "a"}


def test_the_state_of_each_edge_is_exported() -> None:
    metrics = Metrics(1)
    watch = EdgeWatch(metrics, 15, most_edges=10)
    spool = {"bytes": 25, "limit_bytes": 100}
    watch.show(
        Edges(
            [
                row("a", sources=[SOURCE, ODD], spool=spool, clock_offset_seconds=-2),
                row("b", "absent", sources=[SOURCE]),
                row("c", "dreaming"),
            ]
        )
    )
    assert [value(metrics, "edges", state=s) for s in ("running", "absent", "other")] == [1, 1, 1]
    assert value(metrics, "edge_seen_seconds", **ROOM) == 3
    assert value(metrics, "edge_absent", **ROOM) == 0
    assert value(metrics, "edge_absent", tenant="acme", agent="b") == 1
    assert value(metrics, "edge_input_findings", **ROOM, code="input_dead") == 1
    assert value(metrics, "edge_input_findings", **ROOM, code="other") == 1
    assert value(metrics, "edge_spool_ratio", **ROOM) == 0.25
    assert value(metrics, "edge_clock_offset_seconds", **ROOM) == -2
    absent = {"tenant": "acme", "agent": "b", "code": "input_dead"}
    assert value(metrics, "edge_input_findings", **absent) is None
    watch.show(Edges([row("c")]))
    assert value(metrics, "edge_seen_seconds", **ROOM) is None
    assert value(metrics, "edges", state="absent") == 0


def test_the_number_of_series_is_bounded() -> None:
    metrics = Metrics(1)
    EdgeWatch(metrics, 15, most_edges=2).show(Edges([row(name) for name in "abcde"]))
    assert value(metrics, "edges", state="running") == 5
    shown = [sample for family in metrics.edge_seen.collect() for sample in family.samples]
    assert [sample.labels["agent"] for sample in shown] == ["a", "b"]


async def test_edges_are_read_from_the_broker(
    nats_server: NatsServer, ready_broker: Broker
) -> None:
    metrics = Metrics(1)
    watch = EdgeWatch(metrics, 15, most_edges=10)
    reader = EdgesReader(ready_broker)
    await reader.start()
    room = Room()
    room.findings = ["input_low"]
    labels = {"tenant": "acme", "agent": "room-12"}
    async with reporting(nats_server, room):

        async def exported() -> bool:
            await watch.look(reader)
            return value(metrics, "edge_input_findings", **labels, code="input_low") == 1

        await until(exported, "the edge is exported")
    assert value(metrics, "edge_spool_ratio", **labels) == 0.6
