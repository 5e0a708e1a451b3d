"""Sessions end while a real edge captures, for every reason there is: their successors have every
word once, and the accounts have all of the audio."""

from __future__ import annotations

import asyncio
import itertools
import math
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.emulators import pcm, tones
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings
from natterjack.spec import SessionSpec
from natterjack.values import Account

from ..edge_capture import program
from ..edge_capture.conftest import StartEdge
from ..edge_capture.program import Edge
from ..freezing import freeze
from ..waiting import until
from ..worker.programs import (
    RATE,
    Speaker,
    StartWorker,
    Transcript,
    closed,
    queue_empty,
    stored,
)
from .proxy import NatsProxy

pytestmark = pytest.mark.process

QUICK = {
    "WORKER_RECOVERY_SECONDS": "1",
    "WORKER_BREAKER_SECONDS": "0.2",
    "WORKER_BREAKER_MAX_SECONDS": "0.5",
    "WORKER_BACKOFF_SECONDS": "0.05",
    "WORKER_MAX_BACKOFF_SECONDS": "0.2",
}
IDLE = {"WORKER_IDLE_SECONDS": "1", "WORKER_PARK_SECONDS": "0.5"}
_HOW: dict[str, Any] = {"phrase_words": 8, "pause_seconds": 0.8, "lead_seconds": 0.3}
_SPEED = 4.0
_BLOCK_S = 0.08
_TOLERANCE_S = 0.2


class Voice:
    """Writes tone words into the standard input of an edge, faster than real time."""

    def __init__(self, words: int, channels: int = 1) -> None:
        """With several channels, each has its own words."""
        self.words = [tones.sequence(words * channels)[n::channels] for n in range(channels)]
        tracks = [tones.encode(own, RATE, tail_seconds=0.5, **_HOW) for own in self.words]
        length = min(map(len, tracks))
        self.audio = pcm.interleave(*(track[:length] for track in tracks))
        self.seconds = length / 2 / RATE
        self.spoken_seconds = 0.0
        self._block_bytes = round(_BLOCK_S * RATE) * 2 * channels
        self._going = asyncio.Event()
        self._going.set()
        self._pause_at = math.inf

    async def pause(self) -> None:
        """Pause in the silence between the next two phrases, and return then."""
        places, length = tones.places(self.words[0], **_HOW), _HOW["phrase_words"]
        silences = [
            (before.end + after.start) / 2
            for before, after in itertools.pairwise(places)
            if places.index(after) % length == 0
        ]
        self._pause_at = next(at for at in silences if at > self.spoken_seconds + _BLOCK_S)
        await until(lambda: not self._going.is_set(), "the voice pauses", 60)

    def go_on(self) -> None:
        self._pause_at = math.inf
        self._going.set()

    def end_soon(self) -> None:
        """Leave out the words after the phrase that is spoken 5 s from now."""
        (words,), length = self.words, _HOW["phrase_words"]
        places = tones.places(words, **_HOW)
        end = next(
            number
            for number in range(length, len(words), length)
            if places[number].start > self.spoken_seconds + 5
        )
        self.words = [words[:end]]
        frames = round((places[end - 1].end + 0.5) * RATE)
        self.audio, self.seconds = self.audio[: 2 * frames], frames / RATE

    async def speak(self, edge: Edge) -> None:
        """Write what has not been written yet, and end the standard input."""
        pipe = edge.process.stdin
        assert pipe is not None
        while True:
            await self._going.wait()
            start = round(self.spoken_seconds / _BLOCK_S) * self._block_bytes
            if start >= len(self.audio):
                break
            pipe.write(self.audio[start : start + self._block_bytes])
            pipe.flush()
            self.spoken_seconds += _BLOCK_S
            if self.spoken_seconds >= self._pause_at:
                self._going.clear()
            await asyncio.sleep(_BLOCK_S / _SPEED)
        pipe.close()

    async def reaches(self, seconds: float) -> None:
        await until(lambda: self.spoken_seconds >= seconds, f"{seconds} s are spoken", 60)


@asynccontextmanager
async def speaking(voice: Voice, edge: Edge) -> AsyncIterator[None]:
    """Speak during the block, and then to the end."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(voice.speak(edge))
        yield


def announced(*edges: Edge, speaker: str | None = None) -> list[SessionSpec]:
    """Return the sessions that edges have announced, each once."""
    found: dict[str, SessionSpec] = {}
    for edge in edges:
        for spec in program.announced(edge.stdout):
            if speaker in (None, spec.speaker):
                found[spec.session_id] = spec
    return list(found.values())


async def opened(edge: Edge, count: int, timeout: float = 60) -> None:
    """Wait until an edge has announced so many sessions."""
    try:
        await until(lambda: len(announced(edge)) >= count, f"{count} sessions", timeout)
    except AssertionError as error:
        raise AssertionError(f"{error}: {edge.stderr}") from None


async def check(
    broker: Broker, specs: list[SessionSpec], words: list[str], captured_seconds: float
) -> list[Transcript]:
    """Assert that the sessions form one chain that has each word once, and that their accounts have
    all of the audio. Return their transcripts."""
    found = [await closed(broker, spec, 60) for spec in specs]
    text = "\n\n".join(f"{s.session_id}\n{t.describe()}" for s, t in zip(specs, found, strict=True))
    received = [word for transcript in found for word in transcript.words]
    assert tones.compare(words, received) == tones.Counts(), text
    for before, after in itertools.pairwise(found):
        assert before.closing[0].continued_by == after.events[0].session_id
        assert {event.continues for event in after.events} == {before.events[0].session_id}
    accounted = sum(accounted_seconds(transcript) for transcript in found)
    assert accounted == pytest.approx(captured_seconds, abs=_TOLERANCE_S), text
    await queue_empty(broker)
    return found


def accounted_seconds(transcript: Transcript) -> float:
    """The seconds of a session that are transcribed or part of a gap."""
    account = transcript.closing[0].account
    assert isinstance(account, Account)
    return account.transcribed_seconds + sum(account.gap_seconds.values())


async def test_a_provider_that_is_away_for_longer_than_a_worker_waits(
    emulator: DeepgramEmulator, start_worker: StartWorker, broker: Broker, start_edge: StartEdge
) -> None:
    """Four sessions fail without progress, so that the edge waits before the next one."""
    await start_worker(**QUICK)
    voice = Voice(1600)
    edge = start_edge("stdin", "--live", "--wait", stdin=subprocess.PIPE)
    async with speaking(voice, edge):
        await voice.reaches(4)
        await emulator.set(handshake_status=503)
        emulator.drop()
        await opened(edge, 5)
        await edge.says("sessions in a row have made no progress", 60)
        await emulator.set(handshake_status=None)
        voice.end_soon()
    assert await edge.exit_code(120) == 0, edge.stderr
    found = await check(broker, announced(edge), voice.words[0], voice.seconds)
    assert [t.closing[0].state for t in found] == ["failed"] * (len(found) - 1) + ["closed"]
    (reported,) = re.findall(r'"transcribed_seconds": ([\d.]+)', edge.stderr)
    assert float(reported) == pytest.approx(voice.seconds, abs=0.05)


async def test_max_seconds(
    start_worker: StartWorker, broker: Broker, start_edge: StartEdge
) -> None:
    await start_worker()
    voice = Voice(60)
    edge = start_edge("stdin", "--live", "--wait", "--max-seconds", "4.2", stdin=subprocess.PIPE)
    async with speaking(voice, edge):
        pass
    assert await edge.exit_code(120) == 0, edge.stderr
    found = await check(broker, announced(edge), voice.words[0], voice.seconds)
    assert len(found) > voice.seconds / 4.2
    assert "sessions in a row have made no progress" not in edge.stderr


async def test_two_channels(
    start_worker: StartWorker, broker: Broker, start_edge: StartEdge
) -> None:
    await start_worker()
    voice = Voice(40, channels=2)
    edge = start_edge(
        "stdin", "--live", "--wait", "--channels", "2", "--split-channels", "a,b",
        "--max-seconds", "6", stdin=subprocess.PIPE,
    )  # fmt: skip
    async with speaking(voice, edge):
        pass
    assert await edge.exit_code(120) == 0, edge.stderr
    for speaker, words in zip("ab", voice.words, strict=True):
        found = await check(broker, announced(edge, speaker=speaker), words, voice.seconds)
        assert len(found) > voice.seconds / 6


async def test_an_edge_that_stood_still(
    start_worker: StartWorker, broker: Broker, start_edge: StartEdge
) -> None:
    """As on a laptop that slept: no audio comes, and the session ends idle."""
    await start_worker(**IDLE)
    voice = Voice(40)
    edge = start_edge("stdin", "--live", "--wait", stdin=subprocess.PIPE)
    async with speaking(voice, edge):
        await voice.reaches(2)
        await voice.pause()
        freeze(edge.process.pid)
        (first,) = announced(edge)
        await closed(broker, first)
        edge.process.send_signal(signal.SIGCONT)
        await opened(edge, 2)
        voice.go_on()
    assert await edge.exit_code(120) == 0, edge.stderr
    found = await check(broker, announced(edge), voice.words[0], voice.seconds)
    assert found[0].closing[0].reason == "idle: no audio for 1 s"


async def test_a_tenants_budget_that_is_raised(
    start_worker: StartWorker, ready_broker: Broker, start_edge: StartEdge
) -> None:
    js = ready_broker.client.jetstream()
    budget = streams.bucket_subject(streams.BUDGETS_BUCKET, "tenant.acme")
    await js.publish(budget, b"6")
    await start_worker()
    voice = Voice(1600)
    edge = start_edge("stdin", "--live", "--wait", "--tenant", "acme", stdin=subprocess.PIPE)
    async with speaking(voice, edge):
        await edge.says("sessions in a row have made no progress (budget: tenant acme has used", 60)
        await js.publish(budget, b"10000")
        voice.end_soon()
    assert await edge.exit_code(120) == 0, edge.stderr
    await check(ready_broker, announced(edge), voice.words[0], voice.seconds)


async def test_an_unknown_provider(
    start_worker: StartWorker, broker: Broker, start_edge: StartEdge
) -> None:
    """No word is transcribed: the edge opens few sessions, and says so at the end."""
    await start_worker(**QUICK)
    voice = Voice(1600)
    edge = start_edge("stdin", "--live", "--provider", "no-such", stdin=subprocess.PIPE)
    async with speaking(voice, edge):
        await edge.says("sessions in a row have made no progress (", 60)
        voice.end_soon()
    assert await edge.exit_code(60) == 1, edge.stderr
    specs = announced(edge)
    assert 5 <= len(specs) <= 10
    await closed(broker, specs[-1])
    assert f"{voice.seconds:.1f} seconds from 0:00.0 are not transcribed: " in edge.stderr
    assert "unknown provider 'no-such'" in edge.stderr


async def test_an_edge_whose_key_another_session_has_used_meanwhile(
    nats_server: EmbeddedServer,
    start_worker: StartWorker,
    broker: Broker,
    broker_settings: BrokerSettings,
    start_edge: StartEdge,
) -> None:
    """The edge cannot read how its session has ended. The worker of its successor can."""
    await start_worker()
    voice = Voice(1600)
    async with NatsProxy(nats_server.port) as proxy:
        edge = start_edge(
            "stdin", "--live", "--wait", "--nats-url", proxy.url, stdin=subprocess.PIPE
        )
        async with speaking(voice, edge):
            await voice.reaches(4)
            await edge.says("session streaming")
            (first,) = announced(edge)
            await voice.pause()  # audio that stays away in the middle of a word would halve it
            proxy.cut()
            await edge.says("NATS connection lost")
            voice.go_on()
            other = Speaker(broker_settings, 16, **first.key._asdict())
            await other.speak()
            (await closed(broker, other.spec, 60)).audit(other)
            proxy.heal()
            await opened(edge, 2)
            voice.end_soon()
        assert await edge.exit_code(120) == 1, edge.stderr
    found = await check(broker, announced(edge), voice.words[0], voice.seconds)
    assert found[0].closing[0].reason == "superseded: a newer session uses the key"
    assert [transcript.closing[0].reason for transcript in found[1:]] == ["end of audio"]
    position, request = found[0].closing[0].audio_position, found[1].closing[0].request
    assert request is not None
    assert request["start_position"] == position, "a repetition has the same audio"


async def test_an_edge_that_is_killed_when_it_has_opened_a_successor(
    start_worker: StartWorker, broker: Broker, start_edge: StartEdge, tmp_path: Path
) -> None:
    await start_worker(**IDLE, WORKER_HOLE_SECONDS="0.5")
    voice = Voice(60)
    arguments = ("stdin", "--live", "--wait", "--spool", tmp_path / "spool", "--resume")
    edge = start_edge(*arguments, stdin=subprocess.PIPE)
    speaking_first = asyncio.create_task(voice.speak(edge))
    await voice.reaches(2)
    await voice.pause()
    await opened(edge, 2)
    edge.kill()
    speaking_first.cancel()
    await asyncio.wait([speaking_first])
    resumed = start_edge(*arguments, stdin=subprocess.PIPE)
    async with speaking(voice, resumed):
        voice.go_on()
    assert await resumed.exit_code(120) == 0, resumed.stderr
    specs = announced(edge, resumed)
    transcripts = [await stored(broker, spec) for spec in specs]
    gaps = sum(
        sum(account.gap_seconds.values())
        for transcript in transcripts
        for account in [transcript.closing[0].account]
        if account is not None
    )
    await check(broker, specs, voice.words[0], voice.seconds + gaps)
