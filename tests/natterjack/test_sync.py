"""natterjack.sync: the blocking functions, on a real broker, in threads and under Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

import natterjack
from natterjack import sync
from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.consume.interims import Interims
from natterjack.errors import InvalidKey, UsageError
from natterjack.events import FinalEvent
from natterjack.settings import BrokerSettings
from tests.natterjack.consume.test_conversation import CALL, publish, text
from tests.natterjack.transcripts.events import Session
from tests.waiting import bound, until


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert "natterjack" not in [thread.name for thread in threading.enumerate()]


async def test_what_is_stored_is_read_in_a_thread(
    ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    agent = Session("session-a")
    finals = [agent.final(f"t{n}", n * 5, n * 5 + 1) for n in range(700)]
    await publish(ready_broker, *finals, agent.closed(4000))

    def read() -> None:
        choices: tuple[Interims | None, ...] = ("latest", None)
        for interims in choices:
            events = sync.listen(
                *CALL, since="start", until="stored", interims=interims, settings=broker_settings
            )
            texts = [event.text for event in events if isinstance(event, FinalEvent)]
            assert texts == [final.text for final in finals]
        assert len(sync.transcript(*CALL, settings=broker_settings).lines) == 700
        versions = list(sync.follow(*CALL, until="closed", settings=broker_settings))
        assert [len(version.lines) for version in versions] == [700]

    await asyncio.to_thread(read)


async def test_a_durable_consumer_goes_on_where_it_was(
    ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    agent = Session("session-a")
    await publish(ready_broker, *(agent.final(f"t{n}", n, n + 1) for n in range(6)))

    def read() -> None:
        with sync.durable("index", *CALL, start="start", settings=broker_settings) as deliveries:
            first = next(deliveries)
            assert (first.event.id, first.attempt) == ("session-a:0", 1)
            first.retry()
            again = next(deliveries)
            assert (again.event.id, again.attempt) == ("session-a:0", 2)
            again.ack()
            next(deliveries).reject("unwanted")
            batch = next(deliveries.batches(3, 10))
            assert [each.event.id for each in batch] == [f"session-a:{n}" for n in (2, 3, 4)]
            for each in batch:
                each.ack()
        with sync.durable("index", *CALL, settings=broker_settings) as deliveries:
            last = next(deliveries)
            assert last.event.id == "session-a:5"
            assert last.position == last.event.position
            last.ack()

    await asyncio.to_thread(read)
    letters = natterjack.dead_letters("index", broker=ready_broker)
    assert [letter.event and letter.event.id async for letter in letters] == ["session-a:1"]


async def test_it_can_be_used_where_an_event_loop_runs(
    ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    """As in a notebook."""
    await publish(ready_broker, Session("session-a").final("Good morning.", 0, 1))
    assert text(sync.transcript(*CALL, settings=broker_settings)) == "Good morning.\n"


async def test_a_loop_that_is_left_ends_its_thread_and_leaves_nothing_on_the_broker(
    ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    await publish(ready_broker, Session("session-a").final("Good morning.", 0, 1))

    def first() -> object:
        with contextlib.closing(
            sync.listen(*CALL, since="start", settings=broker_settings)
        ) as events:
            for event in events:
                return event
        return None

    assert isinstance(await asyncio.to_thread(first), FinalEvent)
    js = ready_broker.client.jetstream()

    async def gone() -> bool:
        return not await js.consumers_info(streams.TRANSCRIPTS)

    await until(gone, "the consumer is gone")


def test_mistakes_are_told_at_once() -> None:
    with pytest.raises(InvalidKey):
        sync.listen("acme", "call.7")
    with pytest.raises(InvalidKey):
        sync.transcript("acme", "call.7")
    with pytest.raises(UsageError, match="settings"):
        sync.follow(*CALL, broker=object())  # type: ignore[arg-type]


_PROGRAM = """
import natterjack
try:
    {loop}
        print(event.text, flush=True)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""
_LOOPS = [
    'for event in natterjack.sync.listen("acme", since="start"):',
    'for event in natterjack.sync.listen("acme", since="start", interims=None):',
    'with natterjack.sync.durable("x", "acme", start="start") as ds:\n'
    "      for event in ((d.event, d.ack())[0] for d in ds):",
]


@pytest.mark.parametrize("loop", _LOOPS, ids=["listen", "ahead", "durable"])
async def test_ctrl_c_ends_a_program_that_waits(
    ready_broker: Broker, broker_settings: BrokerSettings, loop: str
) -> None:
    await publish(ready_broker, Session("session-a").final("Good morning.", 0, 1))
    program = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM.format(loop=loop)],
        env={"NATS_URL": broker_settings.url}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert program.stdout is not None
        assert await asyncio.to_thread(program.stdout.readline) == "Good morning.\n"
        program.send_signal(signal.SIGINT)
        rest, _ = await asyncio.to_thread(program.communicate, None, bound(10))
        assert rest == "stopped\n"
        assert program.returncode == 0
    finally:
        program.kill()


async def test_a_loop_that_is_forgotten_does_not_keep_a_program_alive(
    ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    await publish(ready_broker, Session("session-a").final("Good morning.", 0, 1))
    forgetful = (
        "import natterjack\n"
        "events = natterjack.sync.listen('acme', since='start')\n"
        "print(next(events).text, flush=True)\n"
    )
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", forgetful, env={"NATS_URL": broker_settings.url},
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(bound(10)):
            output, _ = await program.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            program.kill()
    assert output == b"Good morning.\n"
    assert program.returncode == 0
