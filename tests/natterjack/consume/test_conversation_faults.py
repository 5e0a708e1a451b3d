"""follow() and transcript() of real sessions, whose workers and broker are killed."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

import natterjack
from natterjack.broker.connection import Broker
from natterjack.emulators import tones
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.settings import BrokerSettings
from natterjack.transcripts.transcript import Transcript
from tests.nats_server import NatsServer
from tests.natterjack.cli.commands import run_async
from tests.waiting import within
from tests.worker.programs import Speaker, StartWorker, closed, queue_empty, spoken

pytestmark = pytest.mark.process


def words_of(transcript: Transcript, speaker: str) -> list[str]:
    """Return the words of a speaker, in the form of the vocabulary."""
    return [
        tones.plain(word)
        for line in transcript.lines
        if line.speaker == speaker
        for word in line.text.split()
    ]


async def test_each_version_has_each_word_once_though_worker_and_broker_are_killed(
    nats_server: NatsServer,
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker_settings: BrokerSettings,
) -> None:
    workers = [await start_worker() for _ in range(2)]
    speakers = [Speaker(broker_settings, 32, speaker=name) for name in ("agent", "caller")]
    versions: list[Transcript] = []

    async def follow() -> None:
        source = natterjack.follow("t", "c", until="closed", settings=broker_settings)
        async with contextlib.aclosing(source):
            async for version in source:
                versions.append(version)

    async with within(120), asyncio.TaskGroup() as tasks:
        following = tasks.create_task(follow())
        speaking = [tasks.create_task(speaker.speak()) for speaker in speakers]
        await spoken(speakers[0], 5)
        await workers[0].stop()
        await spoken(speakers[0], 10)
        nats_server.kill()
        nats_server.start()
        await asyncio.gather(*speaking)
        await following
    assert not versions[-1].open
    for speaker in speakers:
        name = speaker.spec.speaker
        assert words_of(versions[-1], name) == speaker.words
        for version in versions:
            found = words_of(version, name)
            assert found == speaker.words[: len(found)]
    assert versions[-1] == await natterjack.transcript("t", "c", settings=broker_settings)
    starts = [line.start for line in versions[-1].lines]
    assert starts == sorted(starts)
    assert len(starts) > 2  # the speakers alternate


async def test_a_repeated_session_replaces_what_had_failed(
    nats_server: NatsServer,
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
) -> None:
    await start_worker(WORKER_RECOVERY_SECONDS="0.2", WORKER_BREAKER_SECONDS="0.1")
    speaker = Speaker(broker_settings, 24)
    async with within(120), asyncio.TaskGroup() as tasks:
        tasks.create_task(speaker.speak())
        await spoken(speaker, 6)
        await emulator.set(handshake_status=402)
        emulator.drop()
        await closed(broker, speaker.spec)
    failed = await natterjack.transcript("t", "c", broker=broker)
    before = words_of(failed, "s")
    assert before == speaker.words[: len(before)]
    assert len(before) < len(speaker.words)
    assert [gap.cause for gap in failed.gaps] == ["failed"]
    await queue_empty(broker)
    await emulator.set(handshake_status=None)
    result = await run_async("sessions", "retry", str(speaker.spec.key), NATS_URL=nats_server.url)
    assert result.status == 0, result
    async with within(60):
        async for version in natterjack.follow("t", "c", until="closed", broker=broker):
            found = words_of(version, "s")
            assert found == speaker.words[: len(found)]
            assert len(found) >= len(before)
    assert found == speaker.words
    assert not version.gaps
