"""Control requests of one session: one after another, bounded, and none after its end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from natterjack.broker.connection import Broker, connected
from natterjack.control import ControlReply
from natterjack.plugin.errors import Dropped
from natterjack.plugin.provider import Capabilities
from natterjack.settings import BrokerSettings
from natterjack.subjects import SessionKey, control_subject
from tests.waiting import bound, soon, until
from worker.errors import LeaseLost
from worker.session.control import NoStream, carry_out, controlled

KEY = SessionKey("t", "c", "s")
REQUEST = b'{"command":"finalize"}'


# ---- one request, without a broker -------------------------------------------------------------


class Session:
    """A session of a provider that can finalize, and change its key terms."""

    id, key, provider_name, sent_seconds = "1", KEY, "able", 2.5
    final_seconds = 1.0

    def __init__(self, *, finalize: bool = True) -> None:
        self.capabilities = Capabilities(
            encodings=("linear16",), finalize=finalize, configurable=frozenset({"keyterms"})
        )
        self.calls: list[Any] = []
        self.error: Exception | None = None

    def _call(self, *call: Any) -> None:
        if self.error is not None:
            raise self.error
        self.calls.append(call)

    async def finalize(self) -> None:
        self._call("finalize")

    async def configure(self, settings: dict[str, Any]) -> None:
        self._call("configure", settings)

    async def stop(self, reason: str) -> float:
        self._call("stop", reason)
        return 4.0

    def mark_unconfirmed(self) -> None:
        raise AssertionError("the lease is confirmed")


async def test_finalize_waits_until_everything_is_final() -> None:
    session = Session()
    asyncio.get_running_loop().call_later(0.05, setattr, session, "final_seconds", 2.5)
    reply = await carry_out(session, b'{"command":"finalize","wait_seconds":10}')
    assert (reply.ok, reply.position, reply.final_position) == (True, 2.5, 2.5)
    assert (await carry_out(session, b'{"command":"finalize"}')).final_position is None


async def test_finalize_waits_for_audio_that_is_not_sent_yet() -> None:
    """Otherwise the provider would cut a word in two."""
    session = Session()
    request = b'{"command":"finalize","position":3.0,"wait_seconds":10}'
    asking = asyncio.create_task(carry_out(session, request))
    await asyncio.sleep(0.05)  # nothing may happen
    assert session.calls == []
    session.sent_seconds = session.final_seconds = 3.0
    reply = await asking
    assert (reply.ok, reply.position, reply.final_position) == (True, 3.0, 3.0)
    assert session.calls == [("finalize",)]


async def test_finalize_does_nothing_if_the_audio_does_not_come() -> None:
    session = Session()
    request = b'{"command":"finalize","position":3.0,"wait_seconds":0.05}'
    reply = await carry_out(session, request)
    assert (reply.ok, session.calls) == (False, [])
    assert reply.error == "2.500 s of 3.000 s are sent; ask again"


async def test_finalize_waits_no_longer_than_asked() -> None:
    reply = await carry_out(Session(), b'{"command":"finalize","wait_seconds":0.05}')
    assert (reply.ok, reply.final_position) == (True, 1.0)


@pytest.mark.parametrize(
    ("request_", "call", "position"),
    [
        ({"command": "finalize"}, ("finalize",), 2.5),
        ({"command": "stop"}, ("stop", "by request"), 4.0),
        ({"command": "stop", "reason": "enough"}, ("stop", "enough"), 4.0),
        (
            {"command": "configure", "settings": {"keyterms": ["toad"]}},
            ("configure", {"keyterms": ["toad"]}),
            2.5,
        ),
    ],
)
async def test_a_request_is_carried_out(
    request_: dict[str, Any], call: tuple[Any, ...], position: float
) -> None:
    session = Session()
    reply = await carry_out(session, json.dumps(request_).encode())
    assert session.calls == [call]
    assert (reply.ok, reply.position, reply.error) == (True, position, None)
    assert reply.supports.configure == ["keyterms"]


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (b"no JSON", "bad request"),
        (b'{"command":"dance"}', "bad request"),
        (b'{"command":"finalize"}', "able cannot finalize mid-stream"),
        (b'{"command":"configure"}', "no settings were given"),
        (b'{"command":"configure","settings":{"voice":1}}', "no setting voice to change"),
    ],
)
async def test_a_request_that_cannot_be_carried_out_is_answered(
    request_: bytes, error: str
) -> None:
    session = Session(finalize=False)
    reply = await carry_out(session, request_)
    assert session.calls == []
    assert not reply.ok
    assert reply.error is not None
    assert error in reply.error


@pytest.mark.parametrize("error", [NoStream(), Dropped("able", "it broke")])
async def test_an_error_of_the_stream_is_answered(error: Exception) -> None:
    session = Session()
    session.error = error
    reply = await carry_out(session, REQUEST)
    assert (reply.ok, reply.error) == (False, str(error))


async def test_a_session_without_its_lease_does_not_answer() -> None:
    session = Session()
    session.error = LeaseLost("lost")
    with pytest.raises(LeaseLost):
        await carry_out(session, REQUEST)


# ---- many requests ------------------------------------------------------------------------------


class Slow:
    """A session whose provider is slow to answer."""

    id, key, provider_name, sent_seconds = "1", KEY, "slow", 1.0
    final_seconds = 0.0
    capabilities = Capabilities(encodings=("linear16",), finalize=True)

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.asked = self.at_once = self.most_at_once = 0

    async def finalize(self) -> None:
        self.asked += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.go.wait()
        finally:
            self.at_once -= 1

    async def configure(self, settings: dict[str, Any]) -> None:
        raise AssertionError("not requested")

    async def stop(self, reason: str) -> float:
        raise AssertionError("not requested")

    def mark_unconfirmed(self) -> None:
        raise AssertionError("the lease is confirmed")


async def test_a_flood_of_requests_is_bounded_and_answered_in_order(
    broker: Broker, broker_settings: BrokerSettings
) -> None:
    session, replies = Slow(), []

    async def answered(message: Any) -> None:
        replies.append(ControlReply.model_validate_json(message.data))

    async with connected(broker_settings, name="asks", once=True) as asks:
        inbox = asks.client.new_inbox()
        await asks.client.subscribe(inbox, cb=answered)
        async with controlled(broker, session):
            await broker.client.flush()  # it is subscribed
            for _ in range(300):
                asks.client.post(control_subject(KEY), REQUEST, reply=inbox)
            await asks.client.flush()
            await until(lambda: session.asked, "the first is asked")
            await broker.client.flush()  # all others are here by now
            session.go.set()
            await until(lambda: session.asked == len(replies) > 1, "those that wait are answered")
            assert session.most_at_once == 1
            assert all(reply.ok for reply in replies)
            assert len(replies) <= 101
            asks.client.post(control_subject(KEY), REQUEST, reply=inbox)
            before = len(replies)
            await until(lambda: len(replies) == before + 1, "it goes on to answer")


async def test_a_request_ends_with_its_session(
    broker: Broker, broker_settings: BrokerSettings
) -> None:
    session = Slow()
    async with connected(broker_settings, name="asks", once=True) as asks:
        async with controlled(broker, session):
            await broker.client.flush()
            asks.client.post(control_subject(KEY), REQUEST)
            await until(lambda: session.at_once, "it is asked")
        await until(lambda: session.at_once == 0, "nobody asks on")
        asks.client.post(control_subject(KEY), REQUEST)
        await asks.client.flush()
        await broker.client.flush()
        assert session.asked == 1


class Ending(Slow):
    """A session that has ended, as far as its audio goes, before its stop is stored."""

    def __init__(self) -> None:
        super().__init__()
        self.over = asyncio.Event()

    async def stop(self, reason: str) -> float:
        self.over.set()
        await self.go.wait()
        return 4.0


async def test_whoever_ends_a_session_gets_the_answer(
    broker: Broker, broker_settings: BrokerSettings
) -> None:
    session = Ending()
    loop = asyncio.get_running_loop()
    async with connected(broker_settings, name="asks", once=True) as asks:
        async with controlled(broker, session):
            await broker.client.flush()
            asked = asyncio.create_task(
                asks.client.request(control_subject(KEY), b'{"command":"stop"}', timeout=bound(5))
            )
            await soon(session.over.wait(), 10)
            loop.call_later(0.05, session.go.set)
        answer = ControlReply.model_validate_json((await asked).data)
        assert (answer.ok, answer.position) == (True, 4.0)
