"""`natterjack say` on a real broker, with events that are published by hand."""

from __future__ import annotations

import asyncio
import signal

import pytest

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import KINDS, StreamSettings
from tests.natterjack.speaking.by_hand import (
    Hand,
    claimed,
    request_of,
    stored_pieces,
    text_stored,
)
from tests.waiting import soon, until

from .commands import Command, ReadingCommand, run, run_async


@pytest.fixture
async def voice_broker(broker: Broker) -> Broker:
    """A connection to a broker on which voice is switched on."""
    await streams.ensure(broker, StreamSettings(kinds=KINDS))
    return broker


async def next_claim(broker: Broker) -> Hand:
    """Wait for a request, and take it."""

    async def requested() -> bool:
        return bool((await broker.client.jetstream().stream_info("TTS_SESSIONS")).state.messages)

    await until(requested, "a session is requested", 60)
    return await claimed(broker, await request_of(broker))


async def end_stored(broker: Broker) -> None:
    """Wait until the application has ended its session."""

    async def ended() -> bool:
        pieces = await stored_pieces(broker)
        return bool(pieces) and pieces[-1].end

    await until(ended, "the end of the input ends the session")


async def test_it_ends_when_the_text_was_played(
    nats_server: EmbeddedServer, voice_broker: Broker
) -> None:
    saying = asyncio.create_task(
        run_async(
            "say", "Hello", "there.", "--to", "acme.call.bot", "--voice", "a,b", "--model", "m",
            "--sample-rate", "16000", "--interrupt-on", "acme.call.caller", "--language", "en-US",
            NATS_URL=nats_server.url,
        )
    )  # fmt: skip
    hand = await next_claim(voice_broker)
    spec = await request_of(voice_broker)
    assert str(spec.key) == "acme.call.bot"
    assert (spec.providers, spec.model, spec.sample_rate) == (["a", "b"], "m", 16_000)
    assert (spec.language, spec.interrupt_on) == ("en-US", "acme.call.caller")
    await text_stored(voice_broker, "Hello there.")
    await hand.utterance(0, "started")
    await hand.utterance(0, "finished", text_spoken="Hello there.")
    assert not saying.done()
    await hand.status("closed", reason="finished")
    result = await soon(saying, 60)
    assert (result.status, result.errors) == (0, "")
    assert (await stored_pieces(voice_broker))[-1].end


async def test_lines_are_spoken_as_they_come(
    nats_server: EmbeddedServer, voice_broker: Broker
) -> None:
    async with ReadingCommand("say", NATS_URL=nats_server.url) as command:
        hand = await next_claim(voice_broker)
        assert str((await request_of(voice_broker)).key) == "default.say.assistant"
        command.write("Grüße.\n\n".encode())
        await text_stored(voice_broker, "Grüße.")
        command.write(b"\xff two.\n")
        await text_stored(voice_broker, "Grüße.\ufffd two.")
        pieces = await stored_pieces(voice_broker)
        assert [(piece.utterance, piece.end) for piece in pieces if piece.flush] == [
            (0, False), (1, False),
        ]  # fmt: skip
        command.write(None)
        await end_stored(voice_broker)
        await hand.status("closed", reason="finished")
        assert await command.status() == 0


async def test_input_without_text_is_a_failure(
    nats_server: EmbeddedServer, voice_broker: Broker
) -> None:
    async with ReadingCommand("say", NATS_URL=nats_server.url) as command:
        command.write(b"\n \n")
        command.write(None)
        hand = await next_claim(voice_broker)
        await end_stored(voice_broker)
        await hand.utterance(0, "finished", text_spoken="")
        await hand.status("closed", reason="end of text")
        assert await command.status() == 1
    assert command.errors == "natterjack say: there was no text on standard input\n"


async def test_a_session_that_ends_before_the_input_is_a_failure(
    nats_server: EmbeddedServer, voice_broker: Broker
) -> None:
    async with ReadingCommand("say", NATS_URL=nats_server.url) as command:
        hand = await next_claim(voice_broker)
        command.write(b"One.\n")
        await text_stored(voice_broker, "One.")
        await hand.status("closed", reason="superseded")
        assert await command.status() == 1
    assert command.errors == (
        "natterjack say: before the end of the text, the session has closed: superseded\n"
    )


async def test_what_was_not_played_is_said_with_its_reason(
    nats_server: EmbeddedServer, voice_broker: Broker
) -> None:
    saying = asyncio.create_task(
        run_async("say", "Hello.", "--to", "lobby", NATS_URL=nats_server.url)
    )
    hand = await next_claim(voice_broker)
    await hand.utterance(
        0, "interrupted", reason="no_player", text_spoken="", text_remaining="Hello."
    )
    await hand.status("closed", reason="finished")
    result = await soon(saying, 60)
    assert result.status == 1
    assert "nothing plays the speech of default.lobby.assistant" in result.errors
    assert "not spoken: 'Hello.'" in result.errors


async def test_bytes_that_are_no_text_and_a_part_that_was_lost_are_said(
    nats_server: EmbeddedServer, voice_broker: Broker
) -> None:
    saying = asyncio.create_task(run_async("say", "caf\udce9", NATS_URL=nats_server.url))
    hand = await next_claim(voice_broker)
    await text_stored(voice_broker, "caf\ufffd")
    await hand.utterance(0, "finished", text_spoken="", detail="a part of its text is missing")
    await hand.status("closed", reason="end of text")
    result = await soon(saying, 60)
    assert (result.status, "a part of its text is missing" in result.errors) == (1, True)
    result = await run_async("say", "Hello.", "--model", "\udce9", NATS_URL=nats_server.url)
    assert (result.status, "model" in result.errors) == (2, True)


async def test_a_failed_session_ends_it_while_it_reads_lines(
    nats_server: EmbeddedServer, voice_broker: Broker
) -> None:
    async with ReadingCommand("say", NATS_URL=nats_server.url) as command:
        hand = await next_claim(voice_broker)
        await hand.utterance(0, "interrupted", reason="failed", text_remaining="Hello.")
        await hand.status("failed", reason="refused", detail="no such voice")
        assert await command.status() == 1
    assert "the session has failed: refused: no such voice" in command.errors
    assert "interrupted" not in command.errors
    assert "Traceback" not in command.errors


async def test_ctrl_c_stops_the_speech(nats_server: EmbeddedServer, voice_broker: Broker) -> None:
    async with Command("say", "A long story.", NATS_URL=nats_server.url) as command:
        hand = await next_claim(voice_broker)
        await text_stored(voice_broker, "A long story.")
        await hand.utterance(0, "started")
        command.signal(signal.SIGINT)
        assert await command.status() == 128 + signal.SIGINT
    assert hand.requests[0].command == "interrupt"
    assert "Traceback" not in command.errors


async def test_without_a_worker_or_voice_the_remedy_is_named(
    nats_server: EmbeddedServer, broker: Broker
) -> None:
    result = await run_async("say", "Hello.", NATS_URL=nats_server.url)
    assert result.status == 2
    assert (
        "TTS_EVENTS is missing: voice is not switched on: start a worker whose WORKER_KINDS"
        in result.errors
    )
    await streams.ensure(broker, StreamSettings(kinds=KINDS))
    result = await run_async("say", "Hello.", "--wait", "0.2", NATS_URL=nats_server.url)
    assert result.status == 1
    assert "no worker has taken the voice session default.say.assistant" in result.errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Hello.", "--to", "a.b"), "is not <tenant>.<conversation>.<speaker>"),
        (("Hello.", "--to", "a call"), "not valid"),
        (("Hello.", "--wait", "0"), "--wait"),
        ((" ",), "no text"),
        (("Hello.",), "no NATS at"),
    ],
)
def test_mistakes_are_reported(arguments: tuple[str, ...], message: str) -> None:
    result = run("say", *arguments, NATS_URL="nats://127.0.0.1:9")
    assert result.status == 2
    assert message in result.errors
