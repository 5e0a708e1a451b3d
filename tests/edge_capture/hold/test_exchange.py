"""Asking and answering on a real broker, without the program."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from edge_capture.delivery.backlog import Backlog
from edge_capture.delivery.publisher import Publisher
from edge_capture.hold.exchange import Holds
from natterjack.broker.connection import Broker, connect
from natterjack.hold import Hold, parse_hold
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings
from natterjack.spec import SessionSpec
from natterjack.subjects import SessionKey, hold_subject
from tests.waiting import soon, until

pytestmark = pytest.mark.process

KEY = SessionKey("acme", "room", "speaker")


def make(*speakers: str) -> Holds:
    specs = [SessionSpec(tenant="acme", conversation="room", speaker=each) for each in speakers]
    return Holds([Publisher(Backlog(spec, max_seconds=1), window_chunks=1) for spec in specs])


Run = Callable[..., AbstractAsyncContextManager[Broker]]


@pytest.fixture
def run(broker_settings: BrokerSettings) -> Run:
    """`run(holds)` runs it on a connection of its own, as the program does."""

    @asynccontextmanager
    async def running(holds: Holds, *, outage: bool = False) -> AsyncIterator[Broker]:
        broker = await connect(broker_settings, name="test", once=True, echo=False)
        task = asyncio.create_task(holds.run(broker, outage=outage))
        try:
            yield broker
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await broker.close()

    return running


def forged(**change: Any) -> Hold:
    values: dict[str, Any] = {
        "session_id": "a-stranger-session", "agent": "stranger", "since": datetime.now(UTC),
        "publishing": True, "request_sequence": 2**62,
    }  # fmt: skip
    return Hold(**{**values, **change})


async def test_an_agent_alone_has_its_keys_without_a_wait(run: Run) -> None:
    holds = make("a", "b")
    async with run(holds) as broker:
        await soon(holds.granted.wait(), 1)
        await soon(holds.confirm(), 1)
        before = broker.client.subscription_count
        holds.release()
        await until(lambda: broker.client.subscription_count == before - 3, "keys are released")
        await soon(holds.confirm(), 1)


async def test_the_second_one_learns_who_has_the_key(run: Run) -> None:
    first, second = make("speaker"), make("speaker", "guest")
    async with run(first):
        await soon(first.granted.wait(), 5)
        async with run(second):
            await soon(second.taken.wait(), 5)
            assert second.lost is not None
            assert second.lost.key == KEY
            assert not second.granted.is_set()
            assert not first.taken.is_set()
            await soon(first.confirm(), 5)


async def test_what_anybody_can_ask(run: Run, broker: Broker) -> None:
    holds = make("speaker")
    async with run(holds):
        await soon(holds.granted.wait(), 5)
        for question in (b"", b"?", b"\xff" * 10_000):
            answer = await broker.client.request(hold_subject(KEY), question)
            held = parse_hold(answer.data)
            assert held is not None
            assert held.publishing
            assert held.request_sequence is None


@pytest.mark.parametrize(
    "reply", ["stt.audio.acme.room.speaker", "$JS.API.STREAM.DELETE.STT_AUDIO"]
)
async def test_nobody_uses_the_permissions_of_the_one_that_answers(
    run: Run, broker: Broker, reply: str
) -> None:
    arrived = await broker.client.subscribe(reply)
    holds = make("speaker")
    async with run(holds):
        await soon(holds.granted.wait(), 5)
        await broker.client.publish(hold_subject(KEY), b"", reply=reply)
        await broker.client.request(hold_subject(KEY), b"")  # it has read the one before
        await broker.client.flush()
        assert not arrived.pending_msgs


async def test_strangers_that_send_nonsense_change_nothing(run: Run, broker: Broker) -> None:
    nonsense = (b"", b"{}", b"\xff" * 9000, b"[" * 4000, b'{"publishing": true}')

    async def answer(message: Any) -> None:
        for each in nonsense:
            await message.respond(each)

    await broker.client.subscribe(hold_subject(KEY), cb=answer)
    await broker.client.flush()
    holds = make("speaker")
    async with run(holds):
        await soon(holds.granted.wait(), 10)
        for each in nonsense:
            await broker.client.publish(hold_subject(KEY), each, reply=broker.client.new_inbox())
        await soon(holds.confirm(), 10)
        assert not holds.taken.is_set()


async def test_who_claims_the_key_ends_an_agent_that_publishes(run: Run, broker: Broker) -> None:
    holds = make("speaker")
    async with run(holds):
        await soon(holds.granted.wait(), 5)
        await broker.client.publish(hold_subject(KEY), forged(publishing=False).encode())
        await broker.client.publish(hold_subject(KEY), forged(request_sequence=None).encode())
        await soon(holds.confirm(), 5)
        assert not holds.taken.is_set()
        await broker.client.publish(hold_subject(KEY), forged().encode())
        await soon(holds.taken.wait(), 5)
        assert holds.lost is not None
        assert holds.lost.published


async def test_agents_that_start_together_and_share_keys(run: Run) -> None:
    """They share keys in a circle, so that each of them meets two others."""
    names = "abcdef"
    for _ in range(5):
        rivals = [make(one, other) for one, other in zip(names, names[1:] + "a", strict=True)]

        def over(rivals: list[Holds] = rivals) -> bool:
            return all(holds.granted.is_set() or holds.taken.is_set() for holds in rivals)

        async with AsyncExitStack() as stack:
            await asyncio.gather(*(stack.enter_async_context(run(holds)) for holds in rivals))
            await until(over, "each of them has its keys or is refused")
            await asyncio.gather(*(soon(h.confirm(), 20) for h in rivals if h.granted.is_set()))
        winners = [holds.granted.is_set() for holds in rivals]
        assert any(winners)
        assert not any(
            one and other for one, other in zip(winners, winners[1:] + winners[:1], strict=True)
        )
        assert all(won != holds.taken.is_set() for won, holds in zip(winners, rivals, strict=True))


async def test_after_an_outage_the_one_that_published_has_the_key(
    run: Run, nats_server: EmbeddedServer
) -> None:
    first, second = make("speaker"), make("speaker")
    async with run(first) as broker:
        await soon(first.granted.wait(), 5)
        broker.client.pause = lambda _: 2.0  # it comes back later than the other one finds NATS
        nats_server.kill()
        nats_server.start()
        async with run(second, outage=True):
            await soon(second.taken.wait(), 20)
            assert not second.granted.is_set()
            assert not first.taken.is_set()
