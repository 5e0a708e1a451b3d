"""Reading edges for as long as a server runs, through a broker that comes and goes."""

from __future__ import annotations

import pytest

from natterjack.broker.connection import Broker
from natterjack.broker.stored import Stored
from natterjack.broker.streams import EDGES_BUCKET
from natterjack.errors import BrokerUnreachable
from natterjack.fleet import edge_reader as module
from natterjack.fleet.edge_reader import EdgesReader, newest
from tests.nats_server import NatsServer
from tests.waiting import until


def test_an_edge_that_writes_during_a_read_is_one_edge() -> None:
    entries = [
        Stored(sequence, f"NATS/1.0\r\nNats-Subject: $KV.stt_edges.acme.{agent}".encode(), b"")
        for sequence, agent in ((1, "a"), (2, "b"), (3, "a"))
    ]
    assert sorted(entry.sequence for entry in newest(entries)) == [2, 3]


async def test_after_an_absence_the_brokers_clock_counts_again(
    nats_server: NatsServer, ready_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ASK_AGAIN_S", 0.0)
    reader = EdgesReader(ready_broker)
    await reader.start()
    asked: list[bytes] = []
    await ready_broker.client.listen(
        f"$JS.API.STREAM.INFO.KV_{EDGES_BUCKET}",
        lambda subject, _reply, _headers, _data: asked.append(subject),
    )
    await reader.read()
    nats_server.kill()
    with pytest.raises(BrokerUnreachable):
        await reader.read()
    nats_server.start()
    asked.clear()

    async def read() -> bool:
        try:
            await reader.read()
        except BrokerUnreachable:
            return False
        return True

    await until(read, "it is read again")
    await ready_broker.client.flush()
    assert asked
