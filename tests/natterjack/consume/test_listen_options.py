"""since, until, kinds and markers of listen(), on a real broker; mistakes in them without one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

import natterjack
from natterjack.broker import streams
from natterjack.broker.connection import Broker, connected
from natterjack.consume.markers import CaughtUp, HistoryLost
from natterjack.consume.options import checked_since
from natterjack.decoding import UnknownEvent
from natterjack.errors import InvalidKey, StreamMissing, UsageError
from natterjack.position import Position
from natterjack.settings import BrokerSettings
from natterjack.subjects import SessionKey
from tests.waiting import soon, until, within

from .events import (
    KEY,
    everything,
    final,
    interim,
    listening,
    publish,
    status,
    texts,
    until_consumers,
)

A, B = SessionKey("t", "c", "a"), SessionKey("t", "c", "b")


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"kinds": ["finals"]}, UsageError, "'finals' is not one of interim, final, turn, status"),
        ({"kinds": "fin"}, UsageError, "'fin' is not one of interim, final, turn, status, usage"),
        ({"kinds": []}, UsageError, "name at least one of interim, final"),
        ({"kinds": ["interim"], "interims": None}, UsageError, 'needs interims="latest"'),
        ({"since": "yesterday"}, UsageError, "'yesterday' is not a position"),
        ({"since": "5@2026-11-20T00:00:00+00:00"}, UsageError, "is not a position"),
        ({"since": str(Position(1, 2))[:-1]}, UsageError, "is not a position"),
        ({"since": datetime(2026, 11, 20)}, UsageError, "needs a time zone"),
        ({"since": timedelta(seconds=-1)}, UsageError, "must not be negative"),
        ({"since": 3600}, UsageError, "since: 3600 is no datetime"),
        ({"until": "end"}, UsageError, "until: 'end' is not \"stored\", \"closed\" or None"),
        ({"until": "closed"}, UsageError, "needs a conversation"),
        ({"interims": True}, UsageError, "interims: True is not \"latest\", \"all\" or None"),
        ({"tenant": "a.b"}, InvalidKey, r"tenant 'a\.b'"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_before_anything_is_done(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        natterjack.listen(**options)
    assert "\n" not in str(caught.value)


def test_a_duration_reaches_back_from_now() -> None:
    now = datetime(2026, 11, 20, 12, tzinfo=UTC)
    assert checked_since(timedelta(hours=1), now) == now - timedelta(hours=1)


@pytest.mark.parametrize(
    "since",
    [timedelta.max, datetime.min.replace(tzinfo=UTC), datetime(1600, 1, 1, tzinfo=UTC),
     datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))],
)  # fmt: skip
def test_a_time_before_everything_is_the_start(since: datetime | timedelta) -> None:
    assert checked_since(since) == "start"


@pytest.mark.parametrize("zone", [UTC, timezone(-timedelta(hours=14))])
def test_a_time_after_everything_is_possible(zone: timezone) -> None:
    since = checked_since(datetime.max.replace(tzinfo=zone))
    assert isinstance(since, datetime)
    assert datetime(2100, 1, 1, tzinfo=UTC) < since < datetime(2262, 1, 1, tzinfo=UTC)


# ---- since and until -----------------------------------------------------------------------------


async def test_what_is_stored_is_read_and_then_it_ends(
    ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    options: dict[str, Any] = {"settings": broker_settings, "until": "stored"}
    assert await everything(since="start", **options) == []
    await publish(ready_broker, *(final(n) for n in range(7)))
    assert await everything(**options) == [], "everything was stored before"
    found = await everything(since="start", **options)
    assert texts(found) == [f"final {n}" for n in range(7)]
    assert len({event.position for event in found}) == 7
    for number, event in enumerate(found):
        rest = await everything(since=event.position, **options)
        assert rest == found[number + 1 :]
        assert [e.position for e in rest] == [e.position for e in found[number + 1 :]]
    await until_consumers(ready_broker, 0)


async def test_nothing_is_stored_without_a_stream(
    broker: Broker, broker_settings: BrokerSettings
) -> None:
    assert await everything(settings=broker_settings, until="stored") == []


@pytest.mark.parametrize("how", ["purged", "deleted"])
async def test_what_was_stored_is_gone_before_it_was_read(
    ready_broker: Broker, broker_settings: BrokerSettings, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("natterjack.consume.reader._OVERDUE_S", 0.2)
    js = ready_broker.client.jetstream()
    await publish(ready_broker, *(final(n) for n in range(1100)))  # more than are read ahead
    found = 0
    async with within(60):
        with contextlib.nullcontext() if how == "purged" else pytest.raises(StreamMissing):
            async for _ in natterjack.listen(
                settings=broker_settings, since="start", until="stored"
            ):
                found += 1
                if found == 1 and how == "purged":
                    await js.purge_stream(streams.TRANSCRIPTS)
                elif found == 1:
                    await js.delete_stream(streams.TRANSCRIPTS)
    assert 0 < found < 1100


async def test_a_time_divides_what_is_stored(
    ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    await publish(ready_broker, *(final(n) for n in range(3)))
    options: dict[str, Any] = {"settings": broker_settings, "until": "stored"}
    found = await everything(since="start", **options)
    stored_at = Position.parse(found[1].position).stored_at
    # A datetime has no nanoseconds, so its microsecond began before the event was stored.
    assert texts(await everything(since=stored_at, **options)) == ["final 1", "final 2"]
    later = stored_at + timedelta(microseconds=1)
    assert texts(await everything(since=later, **options)) == ["final 2"]
    east = later.astimezone(None)
    assert texts(await everything(since=east, **options)) == ["final 2"]
    for early in (datetime(1999, 1, 1, tzinfo=UTC), timedelta(days=300)):
        assert len(await everything(since=early, **options)) == 3
    assert await everything(since=datetime.now(UTC) + timedelta(hours=1), **options) == []


async def test_a_time_to_come_is_waited_for(
    ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    begin = datetime.now(UTC) + timedelta(seconds=2)
    async with listening(settings=broker_settings, since=begin, interims=None) as take:
        await until_consumers(ready_broker, 1)
        number = 0
        first = take(1)
        while not first.done():
            await publish(ready_broker, final(number))
            number += 1
            await asyncio.wait({first}, timeout=0.02)
        (event,) = await first
        assert event.sequence > 0, "some were stored before"
        assert Position.parse(event.position).stored_at >= begin


async def test_a_position_of_another_listener_serves(
    ready_broker: Broker, broker_settings: BrokerSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """One of another conversation, or of another kind of event."""
    other = SessionKey("t", "other", "s")
    await publish(ready_broker, final(0), final(0, key=other), final(1), final(1, key=other))
    options: dict[str, Any] = {"settings": broker_settings, "until": "stored"}
    found = await everything(since="start", **options)
    for number, event in enumerate(found):
        for key in (KEY, other):
            rest = await everything(
                tenant=key.tenant, conversation=key.conversation, since=event.position, **options
            )
            assert rest == [e for e in found[number + 1 :] if e.key == key]
        assert await everything(kinds="turn", since=event.position, **options) == []
    assert not [r for r in caplog.records if r.levelname == "WARNING"], caplog.text


async def test_a_position_whose_event_has_expired(
    ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    await publish(ready_broker, *(final(n) for n in range(6)))
    options: dict[str, Any] = {"settings": broker_settings, "until": "stored"}
    found = await everything(since="start", **options)
    js = ready_broker.client.jetstream()
    await js.purge_stream(streams.TRANSCRIPTS, seq=4)  # keeps it and what follows
    options["markers"] = True
    lost, *rest = await everything(since=found[0].position, **options)
    assert isinstance(lost, HistoryLost)
    assert lost.start == Position.parse(found[0].position).stored_at
    assert lost.end == Position.parse(found[3].position).stored_at
    assert texts(rest) == ["final 3", "final 4", "final 5", "caught_up"]
    nothing_lost = await everything(since=found[2].position, **options)
    assert texts(nothing_lost) == ["final 3", "final 4", "final 5", "caught_up"]
    early = datetime.now(UTC) - timedelta(hours=1)
    lost, *rest = await everything(since=early, **options)
    assert (lost.type, lost.start, len(rest)) == ("history_lost", early, 4)
    await js.purge_stream(streams.TRANSCRIPTS)
    lost, end = await everything(since=found[3].position, **options)
    assert (lost.type, end) == ("history_lost", CaughtUp(found[3].position))


async def test_an_erased_event_is_not_missed(
    ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    await publish(ready_broker, *(final(n) for n in range(5)))
    options: dict[str, Any] = {"settings": broker_settings, "until": "stored", "markers": True}
    found = await everything(since="start", **options)
    await ready_broker.client.jetstream().delete_msg(streams.TRANSCRIPTS, 3)
    assert texts(await everything(since=found[2].position, **options)) == [
        "final 3", "final 4", "caught_up",
    ]  # fmt: skip


async def test_it_ends_although_more_is_stored_all_the_time(
    ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    await publish(ready_broker, *(final(n) for n in range(50)))
    publishing = True

    async def go_on() -> None:
        number = 50
        while publishing:
            await publish(ready_broker, final(number))
            number += 1

    task = asyncio.create_task(go_on())
    try:
        found = []
        async for event in natterjack.listen(
            settings=broker_settings, since="start", until="stored"
        ):
            found.append(event)
            await asyncio.sleep(0.002)  # slower than they are published
        assert 50 <= len(found) < 200
    finally:
        publishing = False
        await task


# ---- kinds ---------------------------------------------------------------------------------------


async def test_kinds(ready_broker: Broker, broker_settings: BrokerSettings) -> None:
    await publish(ready_broker, status(0, "assigned"), final(1), status(2, "streaming"), final(3))
    js = ready_broker.client.jetstream()
    newer = final(4).encode().replace(b'"final"', b'"mood"')
    await js.publish(f"stt.transcript.{KEY}.turn", newer)
    options: dict[str, Any] = {"settings": broker_settings, "since": "start", "until": "stored"}
    for kinds, sequences in (
        ("final", [1, 3]),
        (["final"], [1, 3]),
        (("status", "final"), [0, 1, 2, 3]),
        ({"usage", "status"}, [0, 2]),
        (["interim"], []),
        (None, [0, 1, 2, 3, 4]),
    ):
        found = await everything(kinds=kinds, **options)
        assert [event.sequence for event in found] == sequences, kinds
    assert isinstance(found[-1], UnknownEvent)
    assert found[-1].raw["type"] == "mood"


async def test_interims_alone(ready_broker: Broker, broker_settings: BrokerSettings) -> None:
    """Finals are read all the same, because they make interims stale."""
    async with listening(settings=broker_settings, since="start", kinds=["interim"]) as take:
        await until_consumers(ready_broker, 1)
        await publish(ready_broker, interim(0, "a"))
        assert texts(await take(1)) == ["a"]
        await publish(ready_broker, final(0))
        first = take(1)
        while not first.done():
            await publish(ready_broker, interim(0, "stale?"), interim(1, "b"))
            await asyncio.wait({first}, timeout=0.02)
        found = await first
        while texts(found[-1:]) != ["b"]:
            found += await take(1)
        await publish(ready_broker, *(interim(0, "stale") for _ in range(5)), interim(2, "c"))
        while texts(found[-1:]) != ["c"]:
            found += await take(1)
        assert "stale" not in texts(found)


# ---- a conversation that closes ------------------------------------------------------------------


@pytest.mark.parametrize("since", ["start", None], ids=["start", "now"])
async def test_it_ends_with_the_last_session_of_the_conversation(
    ready_broker: Broker, broker_settings: BrokerSettings, since: str | None
) -> None:
    a, b, second, other = "a1", "b1", "a2", SessionKey("t", "d", "a")
    await publish(ready_broker, status(0, "assigned", a, A), status(0, "assigned", b, B))
    await publish(ready_broker, status(0, "assigned", "other", other))
    options = {"tenant": "t", "conversation": "c", "since": since, "until": "closed"}
    ended = asyncio.create_task(everything(settings=broker_settings, **options))
    await until_consumers(ready_broker, 1)
    for event in (
        final(1, session_id=a, key=A),
        status(2, "closed", a, A, continued_by=second),
        final(1, session_id=b, key=B),
        status(2, "closed", b, B),
    ):
        await publish(ready_broker, event)
    await asyncio.wait({ended}, timeout=0.5)
    assert not ended.done(), "the session that continues the first one is due"
    await publish(ready_broker, status(0, "assigned", second, A))
    await publish(ready_broker, status(1, "recovering", second, A))
    await asyncio.wait({ended}, timeout=0.5)
    assert not ended.done(), "it is open"
    await publish(ready_broker, status(2, "failed", second, A), status(3, "closed", "other", other))
    found = await ended
    assert (found[-1].session_id, found[-1].state) == (second, "failed")
    assert len(found) == (9 if since else 7)
    again = await everything(settings=broker_settings, **options)
    assert len(again) == (9 if since else 0), "it has ended already"


@pytest.mark.parametrize("since", ["position", "time", "all but the position", "now", "missing"])
async def test_a_conversation_that_closes_while_its_sessions_are_looked_up(
    broker: Broker,
    broker_settings: BrokerSettings,
    since: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its last events are stored when reading has begun, and open sessions are not known yet."""
    from natterjack.broker.streams import ensure
    from natterjack.settings import StreamSettings

    options: dict[str, Any] = {"tenant": "t", "conversation": "c"}
    if since != "missing":
        await ensure(broker, StreamSettings())
        await publish(broker, status(0, "assigned"), status(1, "streaming"))
        stored = await everything(
            since="start", until="stored", settings=broker_settings, **options
        )
        options["since"] = {
            "position": stored[1].position,
            "time": datetime.now(UTC),
            "all but the position": stored[0].position,
            "now": None,
        }[since]
    async with connected(broker_settings, name="listener", once=True) as shared:
        request = shared.client.request

        async def asked(subject: str, payload: bytes, **more: Any) -> Any:
            if subject.endswith(".status"):
                await publish(broker, final(1), status(2, "closed"))
            return await request(subject, payload, **more)

        monkeypatch.setattr(shared.client, "request", asked)
        ended = asyncio.create_task(everything(broker=shared, until="closed", **options))
        if since == "missing":
            await until(lambda: "is missing, waiting" in caplog.text, "it has found no stream")
            await ensure(broker, StreamSettings())
        found = await ended
    assert texts(found)[-2:] == ["final 1", "status"]
    assert len(found) == (3 if since == "all but the position" else 2)


@pytest.mark.parametrize("hours", [-10, 10])
async def test_a_successor_is_awaited_although_the_clock_of_this_machine_is_wrong(
    ready_broker: Broker,
    broker_settings: BrokerSettings,
    hours: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + 3600 * hours)
    follower = natterjack.follow("t", "c", until="closed", settings=broker_settings)
    options: dict[str, Any] = {"conversation": "c", "tenant": "t", "until": "closed"}
    async with (
        listening(settings=broker_settings, since="start", **options) as events,
        contextlib.aclosing(follower),
    ):
        closing = status(1, "closed", continued_by="session-2")
        await publish(ready_broker, final(0))
        first = events(2)
        assert len((await soon(anext(follower), 20)).lines) == 1
        await publish(ready_broker, closing)
        await first
        await soon(anext(follower), 20)
        last = events(2)
        await publish(
            ready_broker, final(0, session_id="session-2"), status(1, "closed", "session-2")
        )
        assert texts(await last) == ["final 0", "status"]
        transcripts = [each async for each in follower]
        assert not transcripts[-1].open
        assert len(transcripts[-1].sessions) == 2


async def test_a_kind_beside_the_closing_event(
    ready_broker: Broker, broker_settings: BrokerSettings
) -> None:
    await publish(ready_broker, status(0, "assigned"), final(1), status(2, "closed"))
    found = await everything(
        tenant="t", conversation="c", kinds="final", since="start", until="closed",
        settings=broker_settings,
    )  # fmt: skip
    assert texts(found) == ["final 1"]


async def test_a_conversation_that_has_not_begun_is_waited_for(
    broker: Broker, broker_settings: BrokerSettings
) -> None:
    from natterjack.broker.streams import ensure
    from natterjack.settings import StreamSettings

    options = {"tenant": "t", "conversation": "c", "until": "closed"}
    ended = asyncio.create_task(everything(settings=broker_settings, **options))
    await ensure(broker, StreamSettings())
    await until_consumers(broker, 1)
    await publish(broker, status(0, "assigned"), final(1), status(2, "closed"))
    assert len(await ended) == 3


# ---- markers -------------------------------------------------------------------------------------


async def test_caught_up(ready_broker: Broker, broker_settings: BrokerSettings) -> None:
    async with listening(settings=broker_settings, since="start", markers=True) as take:
        assert await take(1) == [CaughtUp(None)]
        await publish(ready_broker, final(0), final(1))
        assert texts(await take(2)) == ["final 0", "final 1"]
    await publish(ready_broker, *(final(n) for n in range(2, 600)))
    async with listening(settings=broker_settings, since="start", markers=True) as take:
        events = await take(601)
        assert texts(events[-2:]) == ["final 599", "caught_up"]
        assert events[-1].position == events[-2].position
        await publish(ready_broker, final(600))
        assert texts(await take(1)) == ["final 600"]
        ready_broker.client.abort()
        await until(lambda: ready_broker.reconnects, "the connection is back", 30)
