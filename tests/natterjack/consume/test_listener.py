"""listen() on a real broker: stored events, then live ones, each exactly once."""

from __future__ import annotations

import asyncio
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

import natterjack
from natterjack.broker import streams
from natterjack.broker.connection import Broker, connected
from natterjack.broker.streams import ensure
from natterjack.consume.readahead import ReadAhead
from natterjack.errors import InvalidKey
from natterjack.events import StatusEvent
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings, StreamSettings
from natterjack.subjects import SessionKey
from tests.faults.proxy import NatsProxy
from tests.waiting import soon, until

from .events import final, interim, listening, publish, texts

pytestmark = pytest.mark.process


async def test_stored_first_then_live(
    ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    await publish(ready_broker, *(final(n) for n in range(600)))
    async with listening(settings=broker_settings, since="start") as take:
        events = await take(600)
        await publish(ready_broker, *(final(n) for n in range(600, 620)))
        events += await take(20)
    assert texts(events) == [f"final {n}" for n in range(620)]


async def test_without_from_start_only_new_events_arrive(
    ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    await publish(ready_broker, final(0))
    async with listening(settings=broker_settings) as take:
        # An interim shows that it is listening: interims are not stored.
        first = take(1)
        while not first.done():
            await publish(ready_broker, interim(5, "ready"))
            await asyncio.wait({first}, timeout=0.05)
        await publish(ready_broker, final(1))
        seen = await take(1)
        while texts(seen) == ["ready"]:
            seen = await take(1)
    assert texts(seen) == ["final 1"]


async def test_interims_of_older_segments_or_epochs_are_dropped(
    ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    await publish(ready_broker, final(0, epoch=2))
    async with listening(settings=broker_settings, since="start") as take:
        await take(1)
        await publish(
            ready_broker,
            interim(0, "late", epoch=2),
            interim(1, "zombie", epoch=1),
            interim(1, "current", epoch=2),
        )
        assert texts(await take(1)) == ["current"]


async def test_filters(ready_broker: Broker, broker_settings: BrokerSettings) -> None:
    async with listening(settings=broker_settings, since="start", tenant="other") as take:
        await publish(ready_broker, final(0))
        status = StatusEvent(
            session_id="session-2", tenant="other", conversation="c", speaker="s", epoch=1,
            sequence=0, state="assigned", worker="w", published_at=datetime.now(UTC),
        )  # fmt: skip
        await publish(ready_broker, status)
        assert await take(1) == [status]
    with pytest.raises(InvalidKey, match=r"tenant .a\.b."):
        async for _ in natterjack.listen("a.b", settings=broker_settings):
            pass


async def test_invalid_events_are_skipped(
    ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    foreign = final(0, key=SessionKey("other", "c", "s")).encode()
    for payload in (b"{]", b"\xff", foreign):
        await ready_broker.client.jetstream().publish("stt.transcript.t.c.s.final", payload)
    await publish(ready_broker, final(0))
    async with listening(settings=broker_settings, since="start") as take:
        assert texts(await take(1)) == ["final 0"]


async def test_each_event_arrives_once_when_the_server_is_killed(
    nats_server: EmbeddedServer, ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    await publish(ready_broker, *(final(n) for n in range(5)))
    async with listening(settings=broker_settings, since="start") as take:
        events = await take(5)
        for start in (5, 10):
            nats_server.kill()
            nats_server.start()
            async with connected(broker_settings, name="worker", once=True) as own:
                await publish(own, *(final(n) for n in range(start, start + 5)))
            events += await take(5)
    assert texts(events) == [f"final {n}" for n in range(15)]


async def restart(server: EmbeddedServer, store: Path | None) -> None:
    """Restart the broker with another store, or with an empty one if None."""
    server.kill()
    shutil.rmtree(server.store / "jetstream")
    if store is not None:
        shutil.copytree(store, server.store / "jetstream")
    server.start()


@pytest.mark.parametrize("new", [3, 30], ids=["fewer", "more"])
@pytest.mark.parametrize("backup", ["backup", "nothing"])
async def test_listening_continues_on_a_broker_with_another_store(
    nats_server: EmbeddedServer,
    ready_broker: Broker,
    tmp_path: Path,
    backup: str,
    new: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With fewer or more messages than were read before."""
    async with NatsProxy(nats_server.port) as line:
        near = BrokerSettings(url=line.url)
        async with listening(settings=near, since="start") as take:
            await publish(ready_broker, *(final(n) for n in range(5)))
            await take(5)
            nats_server.stop()
            store = shutil.copytree(nats_server.store / "jetstream", tmp_path / "copy")
            nats_server.start()
            await until(lambda: ready_broker.reconnects == 1, "the connection is back", 30)
            await publish(ready_broker, *(final(n) for n in range(5, 12)))
            await take(7)
            line.cut()
            await restart(nats_server, store if backup == "backup" else None)
            await until(lambda: ready_broker.reconnects == 2, "the connection is back", 30)
            await ensure(ready_broker, StreamSettings())
            later = [final(n, session_id="session-2") for n in range(new)]
            await publish(ready_broker, *later)
            line.heal()
            assert await take(new) == later
            await publish(ready_broker, final(new, session_id="session-2"))
            assert texts(await take(1)) == [f"final {new}"]
    assert caplog.text.count("is no longer there") == 1


async def test_the_first_event_may_come_from_a_recreated_stream(
    nats_server: EmbeddedServer, ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    await publish(ready_broker, *(final(n) for n in range(5)))
    async with listening(settings=broker_settings, interims=None) as take:

        async def listens() -> bool:
            info = await ready_broker.client.jetstream().stream_info(streams.TRANSCRIPTS)
            return bool(info.state.consumer_count)

        await until(listens, "it listens")
        await restart(nats_server, None)
        await until(lambda: ready_broker.reconnects, "the connection is back", 30)
        await ensure(ready_broker, StreamSettings())
        await until(listens, "it listens again")
        await publish(ready_broker, final(0, session_id="session-2"))
        assert texts(await take(1)) == ["final 0"]


async def test_the_last_event_read_may_be_erased(
    nats_server: EmbeddedServer, ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    async with listening(settings=broker_settings, since="start") as take:
        await publish(ready_broker, *(final(n) for n in range(5)))
        await take(5)
        await ready_broker.client.jetstream().purge_stream(streams.TRANSCRIPTS, keep=0)
        nats_server.kill()
        nats_server.start()
        await until(lambda: ready_broker.reconnects, "the connection is back", 30)
        await publish(ready_broker, *(final(n) for n in range(5, 8)))
        assert texts(await take(3)) == ["final 5", "final 6", "final 7"]


async def test_a_second_disconnect_while_resuming_causes_no_delay(
    broker_settings: BrokerSettings, ready_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nats-py waits up to ten seconds for replies on a lost connection."""
    stop, stopped = ReadAhead.stop, 0
    async with connected(broker_settings, name="reader", once=True) as reader:

        async def cut_and_stop(ahead: ReadAhead) -> None:
            nonlocal stopped
            stopped += 1
            if stopped == 1:
                reader.client.abort()
            await stop(ahead)

        monkeypatch.setattr("natterjack.consume.reader.ReadAhead.stop", cut_and_stop)
        source = natterjack.listen(broker=reader, since="start")
        await publish(ready_broker, final(0), final(1))
        assert texts([await anext(source), await anext(source)]) == ["final 0", "final 1"]
        reader.client.abort()
        await publish(ready_broker, final(2))
        assert texts([await soon(anext(source), 5)]) == ["final 2"]
        assert reader.reconnects == 2
        await source.aclose()


async def test_it_waits_for_the_stream(
    broker: Broker, broker_settings: BrokerSettings, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(settings=broker_settings) as take:
        await until(lambda: "STT_TRANSCRIPTS is missing, waiting" in caplog.text, "it waits")
        await ensure(broker, StreamSettings())
        await publish(broker, final(0), final(1))
        assert texts(await take(2)) == ["final 0", "final 1"]
    assert caplog.text.count("is missing") == 1
