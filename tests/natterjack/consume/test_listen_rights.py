"""listen() as a user with few rights: it works, or says at once which right is missing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import natterjack
from natterjack.broker.connection import Broker, connected
from natterjack.broker.roles import User
from natterjack.broker.streams import ensure
from natterjack.consume.markers import HistoryLost
from natterjack.errors import NotAllowed
from natterjack.settings import StreamSettings
from natterjack.subjects import SessionKey
from tests.waiting import soon

from .events import (
    ServerWithUsers,
    consumers,
    everything,
    final,
    interim,
    listening,
    publish,
    status,
    texts,
    until_consumers,
)

pytestmark = pytest.mark.process

OPERATOR, WORKER = User("operator"), User("worker")
APP = User("subscriber", name="app", tenant="t")
SHOWN = User("subscriber", name="shown", tenant="t", live=True)
FINALS = User("subscriber", name="finals", tenant="t", kinds=("final",))
TURNS = User("subscriber", name="turns", tenant="t", kinds=("final", "turn"), durable="turns")
CAPTIONS = User("subscriber", name="captions", tenant="t", kinds=("final", "interim"))
ALL = User("subscriber", name="all")
USERS = (OPERATOR, WORKER, APP, SHOWN, FINALS, TURNS, CAPTIONS, ALL)


@pytest.fixture
def server(tmp_path: Path, processes: None) -> Iterator[ServerWithUsers]:
    server = ServerWithUsers(tmp_path / "nats", USERS)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def worker(server: ServerWithUsers) -> AsyncIterator[Broker]:
    """The connection of a worker, after an operator has made the streams."""
    async with connected(server.settings(OPERATOR), name="operator", once=True) as operator:
        await ensure(operator, StreamSettings())
    async with connected(server.settings(WORKER), name="worker", once=True) as worker:
        yield worker


@pytest.mark.parametrize("user", [APP, ALL], ids=lambda user: user.id)
async def test_a_subscriber_reads_what_it_may(
    server: ServerWithUsers, worker: Broker, user: User
) -> None:
    other = SessionKey("other", "c", "s")
    await publish(worker, final(0), final(0, key=other), final(1))
    options = {"settings": server.settings(user), "since": "start"}
    found = await everything(tenant=user.tenant, until="stored", **options)
    assert len(found) == (2 if user.tenant else 3)
    async with listening(tenant=user.tenant, **options) as take:
        await take(len(found))
        await publish(worker, interim(2, "to"))
        assert texts(await take(1)) == ["to"]
        await until_consumers(worker, 1)
    await until_consumers(worker, 0)  # although the user may not delete any


REFUSED: list[tuple[User, dict[str, Any], str]] = [
    (APP, {"tenant": "other"}, "stt.transcript.other"),
    (APP, {"tenant": "other", "interims": None}, "stt.transcript.other"),
    (APP, {"tenant": "other", "since": "start"}, "stt.transcript.other"),
    (APP, {}, "stt.transcript"),
    (SHOWN, {"tenant": "t", "since": "start"}, "CONSUMER.CREATE.STT_TRANSCRIPTS"),
    (SHOWN, {"tenant": "t", "since": timedelta(hours=1)}, "CONSUMER.CREATE.STT_TRANSCRIPTS"),
    (SHOWN, {"tenant": "t", "until": "stored"}, "CONSUMER.CREATE.STT_TRANSCRIPTS"),
    (SHOWN, {"tenant": "t", "conversation": "c", "until": "closed"}, "CONSUMER.CREATE"),
    (SHOWN, {"tenant": "other"}, "stt.transcript.other"),
    (SHOWN, {"tenant": "other", "interims": None}, "stt.transcript.other"),
    (FINALS, {"tenant": "t"}, "stt.transcript.t"),
    (FINALS, {"tenant": "t", "kinds": "turn"}, "stt.transcript.t.*turn"),
    (WORKER, {"tenant": "t"}, "stt.transcript.t"),
]


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
async def test_a_missing_right_is_named_at_once(
    server: ServerWithUsers, worker: Broker, shared: bool, caplog: pytest.LogCaptureFixture
) -> None:
    for user, options, subject in REFUSED:
        settings = server.settings(user)
        if not shared:
            with pytest.raises(NotAllowed, match=subject):
                await everything(settings=settings, **options)
            continue
        async with connected(settings, name="own", once=True) as broker:
            for _ in range(2):  # the connection is of use afterwards
                with pytest.raises(NotAllowed, match=subject):
                    await everything(broker=broker, **options)
            assert not broker.on_refusal
            assert not broker.on_reconnect
    assert "may not" not in caplog.text, "it is raised, not logged"


async def test_an_inbox_of_others_is_named(server: ServerWithUsers, worker: Broker) -> None:
    settings = server.settings(APP).model_copy(update={"inbox_prefix": "_INBOX"})
    with pytest.raises(NotAllowed, match="set NATS_INBOX_PREFIX"):
        await everything(settings=settings, tenant="t")


async def test_refusals_of_others_on_the_connection_do_not_matter(
    server: ServerWithUsers, worker: Broker
) -> None:
    async with (
        connected(server.settings(APP), name="own", once=True) as broker,
        listening(broker=broker, tenant="t", since="start") as take,
    ):
        await broker.client.publish("stt.audio.t.c.s", b"")
        await broker.client.subscribe("stt.transcript.other.>")
        await broker.client.flush()
        await publish(worker, final(0))
        assert texts(await take(1)) == ["final 0"]


async def test_a_subscriber_of_finals_reads_finals(server: ServerWithUsers, worker: Broker) -> None:
    await publish(worker, status(0, "assigned"), final(1))
    options = {"settings": server.settings(FINALS), "tenant": "t", "kinds": ["final"]}
    found = await everything(since="start", until="stored", **options)
    assert texts(found) == ["final 1"]


async def test_a_subscriber_of_two_kinds_is_told_to_read_one(
    server: ServerWithUsers, worker: Broker
) -> None:
    await publish(worker, final(0))
    options: dict[str, Any] = {"settings": server.settings(TURNS), "tenant": "t"}
    for since in ("start", None):
        with pytest.raises(NotAllowed, match="one kind of stored event at a time"):
            await everything(since=since, kinds=["final", "turn"], **options)
    with pytest.raises(NotAllowed, match="one kind of stored event at a time"):
        async with natterjack.durable("turns", kinds=["final", "turn"], **options) as deliveries:
            await soon(anext(deliveries), 20)
    found = await everything(since="start", until="stored", kinds=["final"], **options)
    assert texts(found) == ["final 0"]
    await until_consumers(worker, 0)


async def test_a_subscriber_of_finals_and_interims_reads_both(
    server: ServerWithUsers, worker: Broker
) -> None:
    await publish(worker, status(0, "assigned"), final(1))
    options = {"settings": server.settings(CAPTIONS), "tenant": "t", "kinds": ["final", "interim"]}
    async with listening(since="start", **options) as take:
        assert texts(await take(1)) == ["final 1"]
        await publish(worker, interim(2, "to"))
        assert texts(await take(1)) == ["to"]
        await publish(worker, final(2))
        assert texts(await take(1)) == ["final 2"]
        await publish(worker, interim(2, "stale"), interim(3, "next"))
        assert texts(await take(1)) == ["next"]


@pytest.mark.parametrize("kinds", [None, ("interim", "final", "status")], ids=["all", "some"])
async def test_a_live_user_receives_live_events(
    server: ServerWithUsers, worker: Broker, kinds: tuple[str, ...] | None
) -> None:
    await publish(worker, final(0))
    options = {"settings": server.settings(SHOWN), "tenant": "t", "markers": True}
    async with listening(kinds=kinds, **options) as take:
        first = take(1)
        while not first.done():  # until it listens
            await publish(worker, interim(9, "ready", session_id="session-0"))
            await worker.client.flush()
        await publish(worker, final(1), interim(2, "to"))
        found: list[Any] = []
        while texts(found[-1:]) != ["to"]:
            found += await take(1)
        assert [text for text in texts(found) if text != "ready"] == ["final 1", "to"]
        assert [(e.position, e.id) for e in found if e.type == "final"] == [(None, "session-1:1")]
        await publish(
            worker, final(2), final(2), final(3, epoch=2), final(3, epoch=1), final(6, epoch=2)
        )
        assert texts(await take(2)) == ["final 2", "final 3"], "each once"
        lost, event = await take(2)
        assert isinstance(lost, HistoryLost), "two are missing"
        assert texts([event]) == ["final 6"]
        await publish(worker, interim(6, "stale", epoch=2), interim(7, "next", epoch=2))
        assert texts(await take(1)) == ["next"]
        assert await consumers(worker) == 0
