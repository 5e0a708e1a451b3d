"""Long finals under a small max_payload: they are divided, and disturb no other session."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from natterjack.broker.connection import connected
from natterjack.emulators.deepgram import channel as deepgram_channel
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.settings import BrokerSettings

from ..limited import LimitedServer
from ..waiting import until
from ..worker.programs import (
    UNDISTURBED,
    Speaker,
    Transcript,
    WorkerProcess,
    closed,
    live_events,
    spoken,
)
from .proxy import NatsProxy

pytestmark = pytest.mark.process

LIMIT = 2048
"""Chunks of 80 ms at 8 kHz fit, and finals of about 20 words."""
LONG = 48
"""Words of a phrase whose final does not fit: it becomes four."""


@pytest.fixture(autouse=True)
def long_finals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the emulator send a final only where a phrase ends."""
    monkeypatch.setattr(deepgram_channel, "_LONGEST_SECONDS", 60.0)


@contextlib.asynccontextmanager
async def running(
    server: LimitedServer, emulator: DeepgramEmulator, url: str | None = None, **settings: str
) -> AsyncIterator[WorkerProcess]:
    worker = WorkerProcess(url or server.url, emulator.url, **settings)
    try:
        await worker.start()
        yield worker
    finally:
        await worker.stop()
        assert not worker.stray_lines


def speakers(settings: BrokerSettings) -> tuple[Speaker, Speaker]:
    """One whose finals are long, and one whose are short."""
    how: dict[str, Any] = {"sample_rate": 8000, "speed": 6}
    return (
        Speaker(settings, 2 * LONG, phrase_words=LONG, conversation="long", **how),
        Speaker(settings, 2 * LONG, phrase_words=4, conversation="short", **how),
    )


async def audited(settings: BrokerSettings, *ones: Speaker) -> list[Transcript]:
    """The transcripts of sessions that closed with every word once, in order and on time."""
    async with connected(settings, name="audit") as broker:
        transcripts = [await closed(broker, one.spec, 60) for one in ones]
    for transcript, one in zip(transcripts, ones, strict=True):
        transcript.audit(one)
        assert not any(final.shortened for final in transcript.finals)
    return transcripts


async def oversized(worker: WorkerProcess, kind: str) -> float:
    _, metrics = await worker.get("/metrics")
    start = f'natterjack_oversized_events_total{{kind="{kind}"}} '
    return next(float(x.removeprefix(start)) for x in metrics.splitlines() if x.startswith(start))


async def test_a_long_final_is_divided_and_disturbs_no_other_session(
    limited_server: LimitedServer, emulator: DeepgramEmulator
) -> None:
    limited_server.stop()
    limited_server.write_limit(LIMIT)
    limited_server.start()
    settings = BrokerSettings(url=limited_server.url)
    async with (
        running(limited_server, emulator, **UNDISTURBED) as worker,
        connected(settings, name="listener") as broker,
    ):
        long, short = speakers(settings)
        async with live_events(broker, long.spec) as live:
            await asyncio.gather(long.speak(), short.speak())
            divided, other = await audited(settings, long, short)
        assert worker.running
        assert await oversized(worker, "final") == 2
        assert len(divided.finals) == 2 * 4
        assert {t.closing[0].epoch for t in (divided, other)} == {1}
        interims = [event for event in live if event.type == "interim"]
        assert await oversized(worker, "interim") > 0
        assert any(event.shortened and not event.words for event in interims)
        assert not worker.find("NATS connection lost")


async def test_a_limit_that_shrinks_costs_one_connection_and_no_word(
    limited_server: LimitedServer, emulator: DeepgramEmulator
) -> None:
    settings = BrokerSettings(url=limited_server.url)
    async with running(limited_server, emulator, **UNDISTURBED) as worker:
        long, short = speakers(settings)
        speaking = asyncio.gather(long.speak(), short.speak())
        await spoken(long, 2)
        await limited_server.reload(LIMIT)
        await speaking
        divided, other = await audited(settings, long, short)
        assert worker.running
        assert worker.find("Maximum Payload Violation")
        assert len(divided.finals) > 2
        assert {t.closing[0].epoch for t in (divided, other)} == {1}
        lost = [entry for entry in worker.log if "NATS connection lost" in entry["message"]]
        assert len(lost) == 1


@pytest.mark.parametrize("part", [1, 2])
async def test_a_worker_that_is_killed_between_two_parts_of_a_final(
    limited_server: LimitedServer, emulator: DeepgramEmulator, part: int
) -> None:
    """The next worker resumes where the last stored part ends."""
    await limited_server.reload(LIMIT)
    settings = BrokerSettings(url=limited_server.url)
    async with (
        NatsProxy(limited_server.port) as proxy,
        running(limited_server, emulator, proxy.url, WORKER_NAME="first") as first,
    ):
        killed = proxy.after(
            "stt.transcript.t.long.s.final", lambda: first.signal(signal.SIGKILL), n=part
        )
        long, _ = speakers(settings)
        speaking = asyncio.create_task(long.speak())
        await until(killed.fired.is_set, "a part is stored, and the worker killed")
        async with running(limited_server, emulator, WORKER_NAME="second"):
            await speaking
            (transcript,) = await audited(settings, long)
    assert [final.epoch for final in transcript.finals[: part + 1]] == [*[1] * part, 2]
    assert transcript.finals[part].start == transcript.finals[part - 1].end
