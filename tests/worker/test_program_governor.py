"""Limits of a provider account across worker processes, measured at the provider."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter

import pytest

from natterjack.audio import ChunkHeader, encode_chunk_headers
from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.emulators import tones
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.emulators.faults import ConnectionLog
from natterjack.events import StatusEvent
from natterjack.settings import BrokerSettings
from natterjack.spec import SessionSpec
from natterjack.subjects import audio_subject, session_subject

from ..waiting import lateness, until
from .programs import (
    RATE,
    UNDISTURBED,
    Speaker,
    StartWorker,
    Transcript,
    closed,
    queue_empty,
    stored,
)

pytestmark = pytest.mark.process


async def set_limit(broker: Broker, **limit: int) -> None:
    subject = streams.bucket_subject(streams.BUDGETS_BUCKET, "account.deepgram")
    await broker.client.jetstream().publish(subject, json.dumps(limit).encode())


async def open_all(broker: Broker, specs: list[SessionSpec], audio: bytes) -> None:
    """Open sessions in this order and all at once, each with complete audio."""
    js = broker.client.jetstream()
    headers = [encode_chunk_headers(ChunkHeader(spec.session_id, 0, 0, 1, True)) for spec in specs]
    await asyncio.gather(*(
        js.publish(audio_subject(spec.key), audio, headers=header)
        for spec, header in zip(specs, headers, strict=True)
    ))  # fmt: skip
    await asyncio.gather(*(
        js.publish(session_subject(spec.key), spec.model_dump_json().encode()) for spec in specs
    ))  # fmt: skip


def most_at_once(log: list[ConnectionLog]) -> int:
    moments = [(entry.opened_at, 1) for entry in log]
    moments += [(entry.closed_at, -1) for entry in log if entry.closed_at is not None]
    now = most = 0
    for _, change in sorted(moments):  # at equal times, closing comes first
        now += change
        most = max(most, now)
    return most


def most_in(log: list[ConnectionLog], seconds: float) -> int:
    """Return the largest number of connections opened within `seconds`."""
    times = sorted(entry.opened_at for entry in log)
    return max(sum(start <= at < start + seconds for at in times) for start in times)


@pytest.mark.slow
async def test_sessions_share_a_fourth_as_many_connections(
    start_worker: StartWorker, broker: Broker, emulator: DeepgramEmulator
) -> None:
    limit, dials, most = 30, 8, 100
    await emulator.set(latency_seconds=5)  # the minimum duration of a connection
    await start_worker(WORKER_MAX_SESSIONS="1", **UNDISTURBED)  # creates the bucket
    await set_limit(broker, connections=limit, dials_per_second=dials)
    workers = [
        await start_worker(WORKER_MAX_SESSIONS="60", DEEPGRAM_CATCH_UP_RATE="1.25", **UNDISTURBED)
        for _ in range(2)
    ]
    words = tones.sequence(6)
    audio = tones.encode(words, RATE, phrase_words=8, lead_seconds=0.3, tail_seconds=0.5)
    big = [SessionSpec(tenant="big", conversation=f"c{n}", speaker="s") for n in range(most)]
    small = [
        SessionSpec(tenant=f"small{n % 10}", conversation=f"c{n}", speaker="s") for n in range(20)
    ]
    async with lateness() as ours:
        await open_all(broker, big, audio)
        await until(lambda: len(emulator.log) >= limit, "the big tenant has all connections", 60)
        await open_all(broker, small, audio)
        await queue_empty(broker, 90)
    transcripts = {spec.session_id: await stored(broker, spec) for spec in big + small}
    assert all(transcript.closing for transcript in transcripts.values())
    assert all(transcript.words == words for transcript in transcripts.values())
    assert len(emulator.log) == 120, "each session was dialed once"
    assert limit - 5 <= most_at_once(emulator.log) <= limit
    # The time from permission to dial to arrival varies slightly, and connections that arrive while
    # the emulator stalls are accepted together.
    assert most_in(emulator.log, 2.0) <= (2 + ours.seconds) * dials + 12
    assert 2 * dials + 12 < limit

    # The tenant with the fewest permits is next: small tenants overtake the big one.
    began = {id: streaming(transcript) for id, transcript in transcripts.items()}
    claimed = max(began_waiting(transcripts[spec.session_id]) for spec in small)
    last_small = max(began[spec.session_id] for spec in small)
    overtaken = [began[spec.session_id] for spec in big if began[spec.session_id] > claimed]
    assert len(overtaken) > limit, "enough sessions of the big tenant waited"
    assert sum(at < last_small for at in overtaken) < len(small) + 24
    waited = Counter("waiting for" in (reason or "") for reason in reasons(transcripts))
    assert waited[True] >= 60, "waiting sessions report it"
    for worker in workers:
        assert not worker.stray_lines


def began_waiting(transcript: Transcript) -> float:
    """Return the wall clock of the first event, which the worker publishes when it has claimed."""
    return transcript.events[0].published_at.timestamp()


def streaming(transcript: Transcript) -> float:
    """Return the wall clock of the first streaming event."""
    return next(
        event.published_at.timestamp()
        for event in transcript.events
        if isinstance(event, StatusEvent) and event.state == "streaming"
    )


def reasons(transcripts: dict[str, Transcript]) -> list[str | None]:
    events = (event for transcript in transcripts.values() for event in transcript.events)
    return [e.reason for e in events if isinstance(e, StatusEvent) and e.state == "assigned"]


async def test_a_killed_workers_session_keeps_its_permit_before_waiting_ones(
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
    emulator: DeepgramEmulator,
) -> None:
    first = await start_worker()
    await set_limit(broker, connections=1)
    running = Speaker(broker_settings, 40, speed=1, conversation="running")
    waiting = Speaker(broker_settings, 8, conversation="waiting")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(running.speak())
        await until(
            lambda: emulator.log and emulator.log[-1].audio_seconds > 3, "the session streams"
        )
        running.pause()
        tasks.create_task(waiting.speak())

        async def reported() -> bool:
            events = (await stored(broker, waiting.spec)).events
            return any("waiting for" in (getattr(event, "reason", "") or "") for event in events)

        await until(reported, "the other session waits")
        await start_worker()
        running.go_on()
        first.signal(signal.SIGKILL)
        await first.wait()
        ran = await closed(broker, running.spec, 60)
        waited = await closed(broker, waiting.spec, 60)
    ran.audit(running)
    waited.audit(waiting)
    assert ran.states.count("streaming") == 2
    received = [[word.word for word in entry.words] for entry in emulator.log]
    assert len(received) > 2, "the killed worker, its successor, and only then the other session"
    assert received[-1] == waiting.words
    assert most_at_once(emulator.log) == 1


async def test_all_workers_learn_of_a_refusal_for_lack_of_credit(
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
    emulator: DeepgramEmulator,
) -> None:
    workers = [
        await start_worker(WORKER_MAX_SESSIONS="1", WORKER_BREAKER_SECONDS="60") for _ in range(2)
    ]
    await emulator.set(handshake_status=402, handshakes=1)
    refused = Speaker(broker_settings, 4, conversation="refused")
    await refused.speak()

    async def both_open() -> bool:
        metrics = [(await worker.get("/metrics"))[1] for worker in workers]
        return all('provider_breaker_open{provider="deepgram"} 1.0' in text for text in metrics)

    await until(both_open, "both breakers are open")
    dialed = len(emulator.log)
    later = [Speaker(broker_settings, 4, conversation=f"later{n}") for n in range(2)]
    async with asyncio.TaskGroup() as tasks:
        for speaker in later:
            tasks.create_task(speaker.speak())

    async def all_held() -> bool:
        found = [await stored(broker, speaker.spec) for speaker in later]
        reasons = [" ".join(str(getattr(e, "reason", "")) for e in one.events) for one in found]
        return all("another worker was refused" in why or "402" in why for why in reasons)

    await until(all_held, "the later sessions say why they are held")
    assert len(emulator.log) == dialed, "a worker dialed"
