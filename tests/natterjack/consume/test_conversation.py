"""transcript() and follow() on a real broker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

import natterjack
from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.consume import conversation_end
from natterjack.errors import InvalidKey, UsageError
from natterjack.events import InterimEvent
from natterjack.spec import SessionSpec
from natterjack.subjects import session_subject, transcript_subject, voice_event_subject
from natterjack.transcripts.transcript import Transcript
from natterjack.voice.events import UtteranceEvent, VoiceStatusEvent
from tests.nats_server import NatsServer
from tests.natterjack.transcripts.events import Session
from tests.waiting import soon, until

CALL = ("acme", "call-7")


async def publish(broker: Any, *events: object) -> None:
    """Publish events of sessions, stored ones and interims."""
    for event in events:
        if isinstance(event, InterimEvent):
            subject = transcript_subject(event.key, event.type)
            await broker.client.publish(subject, event.encode())
            continue
        spoken = isinstance(event, UtteranceEvent | VoiceStatusEvent)
        name = voice_event_subject if spoken else transcript_subject
        subject = name(event.key, event.type)  # type: ignore[attr-defined]
        await broker.client.jetstream().publish(subject, event.encode())  # type: ignore[attr-defined]


def text(transcript: Transcript) -> str:
    return transcript.to_txt(times=False, speakers=False)


@contextlib.asynccontextmanager
async def following(
    broker: Broker, **options: object
) -> AsyncIterator[AsyncGenerator[Transcript, None]]:
    source = natterjack.follow(*CALL, broker=broker, **options)  # type: ignore[arg-type]
    async with contextlib.aclosing(source):
        yield source


async def next_of(source: AsyncGenerator[Transcript, None]) -> Transcript:
    return await soon(anext(source), 20)


async def test_a_transcript_is_what_is_stored_of_all_speakers_and_voices(
    ready_broker: Broker,
) -> None:
    agent, caller = Session("session-a"), Session("session-c", "caller", begin=1)
    assistant = Session("session-v", "assistant")
    other = Session("session-o", conversation="call-8")
    await publish(
        ready_broker,
        agent.final("Good morning.", 0, 1), other.final("Elsewhere.", 0, 1), agent.closed(1),
        caller.final("Hello.", 1, 2), caller.closed(2),
        assistant.utterance(0, "started", 4),
        assistant.utterance(0, "finished", 5, text_spoken="How can I help?"),
        assistant.voice_status("closed", 6),
    )  # fmt: skip
    whole = await natterjack.transcript(*CALL, broker=ready_broker)
    assert text(whole) == "Good morning.\nHello.\nHow can I help?\n"
    assert not whole.open
    silent = await natterjack.transcript(*CALL, voice=False, broker=ready_broker)
    assert text(silent) == "Good morning.\nHello.\n"


async def test_a_conversation_of_which_nothing_is_stored_is_empty(ready_broker: Broker) -> None:
    nothing = await natterjack.transcript(*CALL, broker=ready_broker)
    assert nothing == Transcript(tenant="acme", conversation="call-7")


async def test_a_broker_without_streams_has_empty_transcripts(broker: Broker) -> None:
    assert not (await natterjack.transcript(*CALL, broker=broker)).lines


async def test_bad_names_are_refused_at_once() -> None:
    with pytest.raises(InvalidKey, match="conversation"):
        natterjack.follow("acme", "call.7")
    with pytest.raises(InvalidKey, match="tenant"):
        await natterjack.transcript("*", "call-7")
    with pytest.raises(UsageError, match="until"):
        natterjack.follow(*CALL, until="stored")  # type: ignore[arg-type]


async def test_a_session_in_the_queue_keeps_the_conversation_open(ready_broker: Broker) -> None:
    agent = Session("session-a")
    await publish(ready_broker, agent.final("Good morning.", 0, 1), agent.closed(1))
    spec = SessionSpec(tenant="acme", conversation="call-7", speaker="caller")
    await ready_broker.client.jetstream().publish(
        session_subject(spec.key), spec.model_dump_json().encode()
    )
    assert (await natterjack.transcript(*CALL, broker=ready_broker)).open
    caller = Session(spec.session_id, "caller")
    await publish(ready_broker, caller.closed(1))  # and the request is not acknowledged yet
    assert not (await natterjack.transcript(*CALL, broker=ready_broker)).open


async def test_a_successor_is_awaited_until_it_is_overdue(
    ready_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Session("session-a")
    closed = agent.closed(1, continued_by="session-b", published_at=datetime.now(UTC))
    await publish(ready_broker, agent.final("Good", 0, 1), closed)
    assert (await natterjack.transcript(*CALL, broker=ready_broker)).open
    monkeypatch.setattr(conversation_end, "SUCCESSOR_S", 0.0)
    assert not (await natterjack.transcript(*CALL, broker=ready_broker)).open


# ---- following -----------------------------------------------------------------------------------


async def test_follow_begins_with_what_is_stored_and_goes_on_to_the_end(
    ready_broker: Broker,
) -> None:
    agent, caller = Session("session-a"), Session("session-c", "caller", begin=1)
    await publish(ready_broker, *(agent.final(f"t{n}", n * 5, n * 5 + 1) for n in range(300)))
    async with following(ready_broker, until="closed") as source:
        first = await next_of(source)
        assert len(first.lines) == 300
        assert first.open
        await publish(ready_broker, agent.interim("Well", 2000, 2001))
        assert [line.text for line in (await next_of(source)).interims] == ["Well"]
        await publish(ready_broker, agent.final("Well.", 2000, 2001))
        newest = await next_of(source)
        assert newest.lines[-1].text == "Well."
        assert not newest.interims
        await publish(ready_broker, caller.final("Bye.", 2001, 2002), agent.closed(2001))
        while newest.lines[-1].text != "Bye.":
            newest = await next_of(source)
        await publish(ready_broker, caller.closed(2002))
        last = [each async for each in source][-1]
    assert not last.open
    assert len(last.lines) == 302


async def test_a_slow_program_gets_the_newest_transcript_next(ready_broker: Broker) -> None:
    agent = Session("session-a")
    async with following(ready_broker) as source:
        assert not (await next_of(source)).lines
        await publish(ready_broker, agent.status("assigned"))
        assert (await next_of(source)).open
        await publish(ready_broker, *(agent.final(f"t{n}", n * 5, n * 5 + 1) for n in range(500)))
        seen = [len((await next_of(source)).lines)]
        while seen[-1] < 500:  # not more than a few, however many were published
            seen.append(len((await next_of(source)).lines))
    assert seen == sorted(set(seen))


async def test_a_slow_program_skips_the_transcripts_in_between(ready_broker: Broker) -> None:
    """While the program does something else, reading goes on."""
    agent = Session("session-a")
    async with following(ready_broker) as source:
        await next_of(source)
        await publish(ready_broker, *(agent.final(f"t{n}", n * 5, n * 5 + 1) for n in range(50)))

        async def all_read() -> bool:
            consumers = await ready_broker.client.jetstream().consumers_info(streams.TRANSCRIPTS)
            return bool(consumers) and consumers[0].num_pending == 0

        await until(all_read, "the stream is read")
        await asyncio.sleep(0)
        counts = [len((await next_of(source)).lines)]
        while counts[-1] < 50:
            counts.append(len((await next_of(source)).lines))
    assert len(counts) <= 2


async def test_what_a_session_repeats_is_replaced(ready_broker: Broker) -> None:
    first, again = Session("session-a"), Session("session-r", repeats="session-a")
    await publish(
        ready_broker,
        first.final("Won two", 0, 2), first.closed(2, "failed"), again.status("assigned"),
    )  # fmt: skip
    async with following(ready_broker, until="closed") as source:
        assert text(await next_of(source)) == "Won two\n"
        await publish(ready_broker, again.final("One two.", 0, 2), again.closed(2))
        assert text([each async for each in source][-1]) == "One two.\n"


async def test_follow_goes_on_after_a_restart_of_the_broker(
    ready_broker: Broker, nats_server: NatsServer
) -> None:
    agent = Session("session-a")
    await publish(ready_broker, agent.final("One", 0, 1))
    async with following(ready_broker) as source:
        assert text(await next_of(source)) == "One\n"
        nats_server.kill()
        nats_server.start()
        await ready_broker.wait_connected()
        await publish(ready_broker, agent.final("two", 1, 2))
        assert text(await next_of(source)) == "One two\n"


async def test_nothing_is_left_on_the_broker(ready_broker: Broker) -> None:
    agent = Session("session-a")
    await publish(ready_broker, agent.final("One", 0, 1))
    async with following(ready_broker) as source:
        await next_of(source)
    js = ready_broker.client.jetstream()

    async def gone() -> bool:
        return not (
            await js.consumers_info(streams.TRANSCRIPTS)
            or await js.consumers_info(streams.VOICE_EVENTS)
        )

    await until(gone, "the consumers are gone")
