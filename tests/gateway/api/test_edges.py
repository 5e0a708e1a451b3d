"""The edges of a tenant, to those who may see all of it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.access import Grant, Refused
from gateway.api import edges as module
from gateway.api.edges import EdgeDirectory, check_whole_tenant, summaries
from natterjack.broker.connection import Broker
from natterjack.broker.streams import EDGES_BUCKET, bucket_subject
from natterjack.errors import BrokerUnreachable
from natterjack.fleet.edge_reader import EdgeRow, Edges
from natterjack.fleet.edges import EdgePresence, Level, SourcePresence, presence_subject

from ...nats_server import NatsServer
from ...waiting import within

NOW = datetime(2026, 11, 3, 9, 30, tzinfo=UTC)
_READS = f"$JS.API.DIRECT.GET.KV_{EDGES_BUCKET}"


def presence(agent: str, tenant: str = "acme", **changes: Any) -> EdgePresence:
    source = SourcePresence(
        name="mic", state="capturing", key=f"{tenant}.lecture.teacher",
        level=Level(peak_dbfs=-12.5, rms_dbfs=-31), findings=["input_low"],
    )  # fmt: skip
    values = {"sources": [source], "started_at": NOW, "seen_at": NOW, **changes}
    return EdgePresence(tenant=tenant, agent=agent, **values)


async def store(broker: Broker, subject: str, data: bytes) -> None:
    await broker.client.jetstream().publish(subject, data)


async def test_only_what_edges_of_the_tenant_write_is_shown(ready_broker: Broker) -> None:
    for found in (presence("b"), presence("a"), presence("theirs", "other")):
        await store(ready_broker, presence_subject(found.tenant, found.agent), found.encode())
    bad = {
        "acme.broken": b"{",
        "acme.impostor": presence("theirs", "other").encode(),
        "acme.renamed": presence("a").encode(),
    }
    for name, data in bad.items():
        await store(ready_broker, bucket_subject(EDGES_BUCKET, name), data)
    shown = await EdgeDirectory(ready_broker).of("acme")
    assert [edge.agent for edge in shown.edges] == ["a", "b"]
    assert shown.notes == ["3 reports of edges cannot be read"]
    edge = shown.edges[0]
    assert edge.state == "running"
    (source,) = edge.sources
    assert (source.conversation, source.speaker) == ("lecture", "teacher")
    assert source.level == Level(peak_dbfs=-12.5, rms_dbfs=-31)
    assert source.findings == ["input_low"]
    assert (await EdgeDirectory(ready_broker).of("nobody")).edges == []


async def test_any_number_of_viewers_cost_one_read(
    ready_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FRESH_S", 600.0)  # however slow this machine is
    found = presence("a")
    await store(ready_broker, presence_subject("acme", "a"), found.encode())
    reads: list[bytes] = []
    counting = await ready_broker.client.listen(
        _READS, lambda _subject, _reply, _headers, data: reads.append(data)
    )
    directory = EdgeDirectory(ready_broker)
    try:
        shown = await asyncio.gather(*(directory.of("acme") for _ in range(200)))
        assert all(each is shown[0] for each in shown)
        assert [edge.agent for edge in shown[0].edges] == ["a"]
        await ready_broker.client.flush()
        assert len(reads) == 1
    finally:
        await counting.end()


async def test_without_a_bucket_there_are_no_edges_and_a_note(ready_broker: Broker) -> None:
    await ready_broker.client.jetstream().delete_stream(f"KV_{EDGES_BUCKET}")
    shown = await EdgeDirectory(ready_broker).of("acme")
    assert shown.edges == []
    assert "natterjack streams apply" in shown.notes[0]


async def test_viewers_do_not_wait_one_after_another_for_a_broker_that_is_away(
    nats_server: NatsServer, ready_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FRESH_S", 600.0)
    directory = EdgeDirectory(ready_broker)
    nats_server.kill()
    async with within(60):
        failed = await asyncio.gather(
            *(directory.of("acme") for _ in range(100)), return_exceptions=True
        )
    assert {type(each) for each in failed} == {BrokerUnreachable}


def test_a_session_of_another_tenant_or_none_is_not_linked() -> None:
    for key in ("other.lecture.teacher", "acme.a b.c", "acme.x", "..", "<b>", None):
        source = SourcePresence(name="mic", state="capturing", key=key)
        row = EdgeRow(state="running", seen_seconds_ago=1, presence=presence("a", sources=[source]))
        (edge,) = summaries(Edges([row]), "acme").edges
        assert (edge.sources[0].conversation, edge.sources[0].speaker) == (None, None)


def test_the_answer_is_bounded() -> None:
    rows = [
        EdgeRow(state="running", seen_seconds_ago=1, presence=presence(f"e{number}"))
        for number in range(module.MAX_EDGES + 5)
    ]
    shown = summaries(Edges(rows), "acme")
    assert len(shown.edges) == module.MAX_EDGES
    assert shown.notes == ["5 more edges are left out"]
    assert summaries(Edges(rows), "other").edges == []


def test_who_may_see_some_conversations_only_sees_no_edges() -> None:
    check_whole_tenant(Grant("k", "acme"))
    for narrow in (
        Grant("k", "acme", conversations=("room-*",)),
        Grant("k", "acme", conversation="lecture", token=True),
    ):
        with pytest.raises(Refused, match="some conversations only") as refused:
            check_whole_tenant(narrow)
        assert refused.value.status == 403
