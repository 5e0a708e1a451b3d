"""Interrupts while a stream is opened, or a phrase is spoken again."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from natterjack.broker.connection import Broker
from natterjack.emulators import tones
from tests.waiting import until

from .conftest import Start
from .player import RATE, Application, playing, words
from .test_session import WORDS, interruption, sentences
from .tone_voice import HOLDS, WAITS_AT_GATE

pytestmark = pytest.mark.process

BREAKS = {"TONES_DROPS": "1", "WORKER_BACKOFF_SECONDS": "0.05"}


async def cut_is_stored(application: Application) -> None:
    async def look() -> bool:
        return any(header.cut for header, _ in await application.stored_chunks())

    await until(look, "the cut is published", 30)


async def test_a_stream_that_is_opened_during_an_interrupt_speaks_nothing_that_it_drops(
    broker: Broker, start: Start, tmp_path: Path
) -> None:
    """The interrupt waits for the answer of its player, which is gone."""
    gate = tmp_path / "gate"
    worker = await start(TONES_DROP_AFTER="3", TONES_GATE=str(gate), **BREAKS)
    application = Application(broker)
    await application.open()
    async with playing(broker, application.spec, speed=1) as player:
        await application.say(sentences(WORDS[:40], 40))
        await until(lambda: worker.find(WAITS_AT_GATE), "another stream is to be opened", 60)
        await until(lambda: player.position > RATE, "some of it is played", 60)
    request = asyncio.create_task(application.request("interrupt"))
    await cut_is_stored(application)
    gate.touch()
    assert (await request).ok
    async with playing(broker, application.spec) as other:
        other.missing = 0
        await application.say(sentences(WORDS[50:55]), end=True)
        await application.closed()
    chunks = await application.stored_chunks()
    cut = next(number for number, (header, _) in enumerate(chunks) if header.cut)
    assert words(b"".join(audio for _, audio in chunks[cut:])) == WORDS[50:55]
    assert await application.utterances() == [
        (0, "started"), (0, "interrupted"), (1, "started"), (1, "finished"),
    ]  # fmt: skip


@pytest.mark.parametrize("how", ["TONES_REPORTS", "TONES_MARKS"])
@pytest.mark.parametrize(("seconds", "exact"), [(4.0, True), (0.5, False)])
async def test_a_voice_that_speaks_a_phrase_again_says_what_was_heard_if_it_can_know(
    broker: Broker, start: Start, seconds: float, exact: bool, how: str
) -> None:
    """A stream breaks after 6 s of a phrase, and the next one has spoken `seconds` of it again when
    the player has played 7 words."""
    worker = await start(
        TONES_DROP_AFTER="6", TONES_HOLD_AFTER=str(seconds), **{how: "1"}, **BREAKS
    )
    application = Application(broker)
    await application.open()
    async with playing(broker, application.spec, speed=1) as player:
        step = tones.WORD_SECONDS + tones.GAP_SECONDS
        player.stop_at = round((7 * step - tones.GAP_SECONDS / 2) * RATE)
        await application.say(sentences(WORDS[:40], 40))
        await until(lambda: worker.find(HOLDS), "a part is spoken again", 60)
        await until(lambda: player.position == player.stop_at, "seven words are played", 60)
        assert (await application.request("interrupt")).ok
        event = await interruption(application)
        player.stop_at = None
        await application.say(sentences(WORDS[50:55]), end=True)
        await application.closed()
        assert player.words == WORDS[:7] + WORDS[50:55]
    reported = tones.words_of(event.text_spoken or "")
    assert event.estimated is not exact
    assert reported == WORDS[: len(reported)]
    # How fast the voice speaks is not known yet: 15 characters a second are assumed.
    assert len(reported) == 7 if exact else 3 <= len(reported) <= 14


async def test_an_interrupt_while_a_worker_drains_is_answered_and_announced(
    broker: Broker, start: Start
) -> None:
    """The worker waits for the end of a phrase before it hands the session over."""
    first = await start(TONES_HOLD_AFTER="3")
    application = Application(broker)
    await application.open()
    async with playing(broker, application.spec, speed=1) as player:
        await application.say(sentences(WORDS[:40], 40))
        await until(lambda: player.position > RATE, "some of it is played", 60)
        await until(lambda: first.find(HOLDS), "the phrase does not end", 60)
        first.signal(signal.SIGTERM)
        await until(lambda: first.find("draining"), "the worker drains", 60)
        reply = await application.request("interrupt")
        assert (reply.ok, reply.utterance) == (True, 0)
        await start()
        await application.say(sentences(WORDS[50:55]), end=True)
        await application.closed()
    assert await application.utterances() == [
        (0, "started"), (0, "interrupted"), (1, "started"), (1, "finished"),
    ]  # fmt: skip
