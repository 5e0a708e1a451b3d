"""Events of a real broker on their way to a real receiver that fails in every way. Pauses between
attempts are a small part of what they are in use."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from natterjack.broker.connection import Broker
from natterjack.consume.dead_letters import DeadLetter, dead_letters
from natterjack.consume.durable import durable
from natterjack.events import DurableEvent
from natterjack.webhook.dispatch import Dispatcher, stored_kinds
from natterjack.webhook.metrics import WebhookMetrics
from natterjack.webhook.retries import LONGEST_S, MAX_ATTEMPTS, delay
from natterjack.webhook.sender import Sender
from natterjack.webhook.settings import WebhookKind, WebhookSettings
from tests.waiting import bound, soon, until

from .events import by_session, final, interleaved, publish, status
from .receiver import SECRET, Received, Receiver, accept, always

pytestmark = pytest.mark.process

SESSIONS = "abcdef"
DEFAULT: tuple[WebhookKind, ...] = ("final", "closing")


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


class Webhook:
    """The dispatcher that runs in the block of `sending`, with its counts."""

    def __init__(self, dispatcher: Dispatcher, metrics: WebhookMetrics, stopping: asyncio.Event):
        self.dispatcher, self.stopping = dispatcher, stopping
        self._metrics = metrics

    def count(self, what: str, **labels: str) -> float:
        found = self._metrics.registry.get_sample_value(
            f"natterjack_webhook_{what}", {"name": "webhook", **labels}
        )
        assert found is not None
        return found


@contextlib.asynccontextmanager
async def sending(
    broker: Broker,
    receiver: Receiver,
    *,
    kinds: tuple[WebhookKind, ...] = DEFAULT,
    parallel: int = 16,
    scale: float = 0.002,
    timeout: float | None = None,
    ack_wait: float | None = None,
) -> AsyncIterator[Webhook]:
    settings = WebhookSettings(
        url=receiver.url, secret=SECRET, allow_private=True, timeout_seconds=timeout or bound(20)
    )
    metrics = WebhookMetrics("webhook")
    async with Sender(settings) as sender, durable(
        "webhook", kinds=stored_kinds(kinds), start="start", ack_wait=ack_wait or bound(60),
        max_in_flight=parallel, broker=broker,
    ) as deliveries:  # fmt: skip
        dispatcher = Dispatcher(sender, metrics, kinds, parallel, scale=scale)
        stopping = asyncio.Event()
        running = asyncio.create_task(dispatcher.run(deliveries, stopping))
        try:
            yield Webhook(dispatcher, metrics, stopping)
        finally:
            stopping.set()
            await soon(running, 60)


async def all_of(receiver: Receiver, sessions: str, finals: range) -> None:
    """Wait for all finals, and check their order."""
    wanted = {session: list(finals) for session in sessions}
    total = len(sessions) * len(finals)
    await until(lambda: len(receiver.ids) >= total, f"{total} events", 60)
    assert by_session(receiver.ids) == wanted


async def buried(broker: Broker) -> list[DeadLetter]:
    return [letter async for letter in dead_letters("webhook", broker=broker)]


# ---- what is sent --------------------------------------------------------------------------------


async def test_finals_and_the_end_are_sent_once_in_order_as_they_were_stored(
    ready_broker: Broker, receiver: Receiver
) -> None:
    events: list[DurableEvent] = [
        status("a", 0, "assigned"), final("a", 1), status("a", 2, "recovering"), final("a", 3),
        status("a", 4, "closed"),
    ]  # fmt: skip
    await publish(ready_broker, events)
    async with sending(ready_broker, receiver) as webhook:
        await until(lambda: len(receiver.accepted) == 3, "three events")
        await until(lambda: webhook.count("sent_total") == 3, "they are counted")
        await publish(ready_broker, [final("b", 0)])
        await until(lambda: len(receiver.accepted) == 4, "a live event")
        await until(lambda: webhook.dispatcher.oldest() is None, "nothing is left")
    assert [one.id for one in receiver.received] == [
        "session-a:1", "session-a:3", "session-a:4", "session-b:0",
    ]  # fmt: skip
    assert receiver.received[0].event == json.loads(events[1].encode())
    async with sending(ready_broker, receiver):
        await publish(ready_broker, [final("b", 1)])
        await until(lambda: len(receiver.received) == 5, "another event")
    assert receiver.received[-1].id == "session-b:1", "nothing is sent again"


@pytest.mark.parametrize(
    ("kinds", "sent"), [(("status",), [0, 2]), (("final", "status"), [0, 1, 2]), (("turn",), [])]
)
async def test_kinds(
    kinds: tuple[WebhookKind, ...], sent: list[int], ready_broker: Broker, receiver: Receiver
) -> None:
    await publish(
        ready_broker, [status("a", 0, "assigned"), final("a", 1), status("a", 2, "closed")]
    )
    async with sending(ready_broker, receiver, kinds=(*kinds, "closing")):
        await until(lambda: "session-a:2" in receiver.ids, "the last one")
    assert by_session(receiver.ids)["a"] == (sent or [2])


async def test_an_event_of_a_later_release_is_sent_as_it_is(
    ready_broker: Broker, receiver: Receiver
) -> None:
    later = json.loads(status("a", 0, "closed").encode())
    later |= {"state": "evaporated", "account": {}, "more": {"new": [1, 2]}}
    js = ready_broker.client.jetstream()
    await js.publish("stt.transcript.t.c.a.status", json.dumps(later).encode())
    async with sending(ready_broker, receiver):
        await until(lambda: receiver.accepted, "the event")
    assert receiver.accepted[0].event == later


# ---- order and ceiling ---------------------------------------------------------------------------


async def test_no_more_requests_than_allowed_and_one_of_a_session_at_a_time(
    ready_broker: Broker, receiver: Receiver
) -> None:
    busy: Counter[str] = Counter()
    most = 0

    async def slow(one: Received) -> web.StreamResponse:
        nonlocal most
        session = one.id.partition(":")[0]
        busy[session] += 1
        most = max(most, busy[session])
        if len(receiver.received) < 3:
            await until(lambda: receiver.busy == 3, "three requests at once")
        await asyncio.sleep(0.02)  # requests that may overlap would do so meanwhile
        busy[session] -= 1
        return web.Response()

    receiver.answer = slow
    await publish(ready_broker, interleaved(SESSIONS, range(5)))
    async with sending(ready_broker, receiver, parallel=3):
        await all_of(receiver, SESSIONS, range(5))
    assert (receiver.busiest, most) == (3, 1)


# ---- a receiver that fails -----------------------------------------------------------------------


async def test_what_fails_comes_again_with_the_same_id_and_the_order_is_kept(
    ready_broker: Broker, receiver: Receiver
) -> None:
    turns = itertools.cycle([500, 204, 404, 307, 503, 204])
    slow = Counter[str]()

    async def moody(one: Received) -> web.StreamResponse:
        slow[one.id] += 1
        status = next(turns) if slow[one.id] < 4 else 204
        if status == 404:
            raise ConnectionResetError  # the server ends the connection with 500
        return web.Response(status=status)

    receiver.answer = moody
    await publish(ready_broker, interleaved(SESSIONS, range(6)))
    async with sending(ready_broker, receiver) as webhook:
        await all_of(receiver, SESSIONS, range(6))
        await until(
            lambda: webhook.count("attempts_failed_total", cause="redirect") > 0, "it is counted"
        )
    assert len(receiver.received) > len(receiver.ids)
    assert len(receiver.accepted) == len(receiver.ids), "what was accepted is not sent again"
    assert not await buried(ready_broker)


async def test_what_was_answered_too_late_comes_again_with_the_same_id_and_content(
    ready_broker: Broker, receiver: Receiver
) -> None:
    late = asyncio.Event()

    async def answer(one: Received) -> web.StreamResponse:
        if len(receiver.received) == 1:
            await late.wait()
        return web.Response()

    receiver.answer = answer
    await publish(ready_broker, interleaved("a", range(3)))
    async with sending(ready_broker, receiver, timeout=1) as webhook:
        await until(lambda: "session-a:2" in receiver.ids, "the last one")
        await until(
            lambda: webhook.count("attempts_failed_total", cause="timeout") >= 1, "it is counted"
        )
    first, second, *_ = receiver.received
    assert (first.id, first.event) == (second.id, second.event)
    assert by_session(receiver.ids) == {"a": [0, 1, 2]}
    late.set()


async def test_an_event_that_is_delivered_again_while_it_is_being_sent(
    ready_broker: Broker, receiver: Receiver
) -> None:
    """As after a pause of this process that was longer than a request may take."""
    again = asyncio.Event()

    async def answer(one: Received) -> web.StreamResponse:
        if len(receiver.received) == 2:
            again.set()
        await again.wait()
        return web.Response()

    receiver.answer = answer
    await publish(ready_broker, interleaved("a", range(3)))
    async with sending(ready_broker, receiver, ack_wait=0.1):
        await until(lambda: "session-a:2" in receiver.ids, "the last one")
    assert receiver.received[0].id == receiver.received[1].id
    assert by_session(receiver.ids) == {"a": [0, 1, 2]}


async def test_a_receiver_that_is_away_for_an_hour(
    ready_broker: Broker, receiver: Receiver
) -> None:
    """A thousandth of an hour, and the number of attempts that fit into it."""
    scale = 0.001
    await publish(ready_broker, interleaved(SESSIONS, range(4)))
    await receiver.stop()
    hour = next(n for n in itertools.count(1) if sum(delay(i, 1.0) for i in range(1, n)) > 3600)
    async with sending(ready_broker, receiver, scale=scale) as webhook:

        def failed() -> float:
            return webhook.count("attempts_failed_total", cause="connection")

        await until(lambda: failed() >= hour * len(SESSIONS), "an hour of attempts", 60)
        assert failed() < 40 * len(SESSIONS), "a receiver that is away is asked rarely"
        assert not receiver.received
        oldest = webhook.dispatcher.oldest()
        assert oldest is not None
        assert 0 < time.time() - oldest < bound(120)
        await receiver.start()
        # At most ten minutes later, and a fifth more: 0.7 s here.
        assert LONGEST_S * 1.2 * scale < 1
        await all_of(receiver, SESSIONS, range(4))
        await until(lambda: webhook.dispatcher.oldest() is None, "nothing is left")
    assert len(receiver.received) == len(receiver.ids)
    assert not await buried(ready_broker)


async def test_what_fails_for_a_day_is_a_dead_letter_and_the_rest_goes_on(
    ready_broker: Broker, receiver: Receiver
) -> None:
    async def poisoned(one: Received) -> web.StreamResponse:
        return web.Response(status=422 if one.id == "session-b:1" else 204)

    receiver.answer = poisoned
    await publish(ready_broker, interleaved(SESSIONS, range(4)))
    async with sending(ready_broker, receiver, scale=0) as webhook:
        await until(lambda: "session-b:3" in receiver.ids, "what follows the dead letter", 90)
        await until(lambda: len(receiver.ids) == 4 * len(SESSIONS) - 1, "the rest")
        await until(lambda: webhook.count("dead_letters_total") == 1, "it is counted")
        assert webhook.dispatcher.oldest() is None
    assert by_session(receiver.ids) == {
        session: [0, 2, 3] if session == "b" else [0, 1, 2, 3] for session in SESSIONS
    }
    tries = Counter(one.id for one in receiver.received)
    assert tries.pop("session-b:1") == MAX_ATTEMPTS
    assert set(tries.values()) == {1}
    (letter,) = await buried(ready_broker)
    assert letter.event is not None
    assert letter.event.id == "session-b:1"
    assert letter.reason == f"HTTP 422 Unprocessable Entity, {MAX_ATTEMPTS} times"


async def test_an_id_that_would_forge_a_signature_is_a_dead_letter_at_once(
    ready_broker: Broker, receiver: Receiver
) -> None:
    await publish(ready_broker, [final("a.1700000000.{}", 0).model_copy(update={"speaker": "a"})])
    async with sending(ready_broker, receiver):
        await publish(ready_broker, [final("a", 1)])
        await until(lambda: receiver.accepted, "the next event")
    assert receiver.ids == ["session-a:1"]
    (letter,) = await buried(ready_broker)
    assert letter.reason == "its ID cannot be signed"


async def test_410_ends_it_and_nothing_is_lost(ready_broker: Broker, receiver: Receiver) -> None:
    receiver.answer = always(410)
    await publish(ready_broker, interleaved(SESSIONS, range(3)))
    async with sending(ready_broker, receiver, parallel=1) as webhook:
        await soon(webhook.dispatcher.gone.wait(), 30)
        await publish(ready_broker, [final("g", 0)])
    assert len(receiver.received) == 1
    assert webhook.dispatcher.oldest() is not None, "it is seen that events wait"
    receiver.answer = accept
    async with sending(ready_broker, receiver):  # is started again
        await until(lambda: len(receiver.ids) == 3 * len(SESSIONS) + 1, "all of them")
    assert all(n == sorted(n) for n in by_session(receiver.ids).values())


@pytest.mark.parametrize("status", [429, 503])
async def test_a_receiver_that_asks_for_fewer_requests_gets_none_for_as_long(
    ready_broker: Broker, receiver: Receiver, status: int
) -> None:
    times: list[float] = []

    async def busy(_: Received) -> web.StreamResponse:
        times.append(time.monotonic())
        if len(times) == 1:
            return web.Response(status=status, headers={"Retry-After": "100"})
        return web.Response()

    receiver.answer = busy
    await publish(ready_broker, interleaved(SESSIONS, range(2)))
    async with sending(ready_broker, receiver, parallel=1, scale=0.01):
        await all_of(receiver, SESSIONS, range(2))
    assert times[1] - times[0] >= 0.99, "a second here; the other sessions wait, too"
