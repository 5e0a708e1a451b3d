"""Events, a broker with users, and running listeners, for tests of what reads events."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import natterjack
from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.broker.roles import User
from natterjack.cli.users_config import accounts
from natterjack.events import Event, FinalEvent, InterimEvent, StatusEvent, StatusState
from natterjack.settings import BrokerSettings
from natterjack.subjects import SessionKey, transcript_subject
from tests.nats_server import NatsServer
from tests.waiting import until, within

KEY = SessionKey("t", "c", "s")


def _common(epoch: int, session_id: str, key: SessionKey) -> dict[str, Any]:
    return {
        "session_id": session_id, **key._asdict(), "epoch": epoch,
        "published_at": datetime.now(UTC),
    }  # fmt: skip


def final(
    n: int, epoch: int = 1, session_id: str = "session-1", key: SessionKey = KEY
) -> FinalEvent:
    common = _common(epoch, session_id, key)
    return FinalEvent(**common, sequence=n, segment=n, text=f"final {n}", start=n, end=n + 1)


def interim(
    segment: int, text: str, epoch: int = 1, session_id: str = "session-1", key: SessionKey = KEY
) -> InterimEvent:
    common = _common(epoch, session_id, key)
    return InterimEvent(**common, segment=segment, text=text, start=segment, end=segment + 1)


def status(
    n: int, state: StatusState, session_id: str = "session-1", key: SessionKey = KEY, **fields: Any
) -> StatusEvent:
    common = _common(1, session_id, key)
    return StatusEvent(**common, sequence=n, state=state, worker="w", **fields)


async def publish(broker: Broker, *events: Event) -> None:
    """Publish events as workers do, one after another."""
    for event in events:
        subject = transcript_subject(event.key, event.type)
        if isinstance(event, InterimEvent):
            await broker.client.publish(subject, event.encode())
        else:
            await broker.client.jetstream().publish(subject, event.encode())


def texts(events: Iterable[Any]) -> list[str]:
    return [e.text if isinstance(e, FinalEvent | InterimEvent) else e.type for e in events]


async def everything(**options: Any) -> list[Any]:
    """All events of a listener that ends."""
    async with within(30):
        return [event async for event in natterjack.listen(**options)]


@contextlib.asynccontextmanager
async def listening(**options: Any) -> AsyncIterator[Callable[[int], asyncio.Future[list[Any]]]]:
    """A running listener; yields a function that awaits the given number of events."""
    source = natterjack.listen(**options)
    queue: asyncio.Queue[Any] = asyncio.Queue()

    async def pump() -> None:
        async for event in source:
            queue.put_nowait(event)

    async def take(count: int) -> list[Any]:
        async with within(15):
            return [await queue.get() for _ in range(count)]

    pumping = asyncio.create_task(pump())
    try:
        yield lambda count: asyncio.ensure_future(take(count))
    finally:
        pumping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pumping


async def consumers(broker: Broker) -> int:
    """How many consumers the stream of transcripts has."""
    info = await broker.client.jetstream().stream_info(streams.TRANSCRIPTS)
    return int(info.state.consumer_count or 0)


async def until_consumers(broker: Broker, count: int) -> None:
    """Wait until the stream has so many consumers: the server drops those that are released within
    a second."""

    async def reached() -> bool:
        return await consumers(broker) == count

    await until(reached, f"there are {count} consumers")


class ServerWithUsers(NatsServer):
    """A server with accounts as `natterjack users` makes them, and passwords instead of keys."""

    def __init__(self, store: Path, users: Iterable[User]) -> None:
        made = accounts([User(**(vars(u) | {"public_key": u.id})) for u in users])
        for account in made.values():
            for user in account.get("users", ()):
                user["user"] = user["password"] = user.pop("nkey")
        configuration = store.with_suffix(".conf")
        configuration.write_text(f"accounts: {json.dumps(made)}\nsystem_account: SYS\n")
        super().__init__(store, extra_arguments=("-c", str(configuration)))

    def settings(self, user: User) -> BrokerSettings:
        return BrokerSettings(
            url=self.url, user=user.id, password=user.id, inbox_prefix=user.inbox_prefix
        )
