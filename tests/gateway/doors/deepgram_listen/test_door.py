"""The door for listen v1, with plain WebSockets: what clients rely on, and bad input."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType, WSServerHandshakeError

from natterjack.emulators import pcm, tones

from ....waiting import until, within
from ..house import House, Speech

pytestmark = pytest.mark.process

RAW = "encoding=linear16&sample_rate=16000"


class Listener:
    """A client that keeps what it has received."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.messages: list[dict[str, Any]] = []

    async def read(self) -> None:
        """Read until the connection is closed."""
        async for message in self.socket:
            assert message.type == WSMsgType.TEXT
            self.messages.append(json.loads(message.data))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] == kind]

    @property
    def finals(self) -> list[dict[str, Any]]:
        return [message for message in self.of("Results") if message["is_final"]]

    def words(self, channel: int = 0) -> list[str]:
        return [
            tones.plain(word["word"])
            for final in self.finals
            if final["channel_index"][0] == channel
            for word in final["channel"]["alternatives"][0]["words"]
        ]

    async def command(self, kind: str, **more: Any) -> None:
        await self.socket.send_str(json.dumps({"type": kind, **more}))


@asynccontextmanager
async def listening(
    house: House, query: str = RAW, key: str | None = None, **options: Any
) -> AsyncIterator[Listener]:
    headers = {"Authorization": f"Token {key}"} if key else {}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.ws_connect(f"{house.gateway.ws}/v1/listen?{query}", **options) as socket,
    ):
        listener = Listener(socket)
        reading = asyncio.create_task(listener.read())
        try:
            yield listener
        finally:
            await socket.close()
            await reading


def tile(finals: list[dict[str, Any]]) -> float:
    """Assert that finals follow one another without a hole. Returns where they end."""
    at = 0.0
    for final in finals:
        assert final["start"] == pytest.approx(at, abs=1e-3)
        at += final["duration"]
    return at


async def test_a_stream_from_the_first_word_to_the_close(house: House) -> None:
    await house.start("deepgram")
    speech = Speech(16)
    query = f"{RAW}&interim_results=true&punctuate=true&vad_events=true&utterance_end_ms=1000"
    async with within(60), listening(house, query) as client:
        await client.command("KeepAlive")
        await speech.play(client.socket.send_bytes)
        await client.command("CloseStream")
        await until(lambda: client.socket.closed, "the server closes")
        assert client.socket.close_code == 1000
    speech.check(client.words())
    assert tile(client.finals) == pytest.approx(speech.seconds, abs=0.01)
    assert client.of("SpeechStarted")
    assert client.of("UtteranceEnd")
    assert any(final["speech_final"] for final in client.finals)
    assert any(not result["is_final"] for result in client.of("Results"))
    metadata = client.messages[-1]
    assert metadata["type"] == "Metadata"
    assert metadata["duration"] == pytest.approx(speech.seconds, abs=1e-3)
    assert metadata["channels"] == 1
    request_ids = {result["metadata"]["request_id"] for result in client.of("Results")}
    assert request_ids == {metadata["request_id"]}


async def test_without_interim_results_there_are_only_finals(house: House) -> None:
    await house.start("sherpa")
    async with within(60), listening(house) as client:
        await client.socket.send_bytes(bytes(32_000))
        await client.socket.send_bytes(b"")  # older clients end like this
        await until(lambda: client.socket.closed, "the server closes")
    assert [result["is_final"] for result in client.of("Results")] == [True]
    assert client.finals[0]["channel"]["alternatives"][0]["transcript"] == ""
    assert client.messages[-1]["type"] == "Metadata"


async def test_finalize_is_always_answered(house: House) -> None:
    await house.start("deepgram")
    speech = Speech(4, tail_seconds=0.2)
    async with within(60), listening(house) as client:
        await client.command("Finalize")
        await until(lambda: len(client.finals) == 1, "an answer without audio")
        assert client.finals[0]["from_finalize"]
        await speech.play(client.socket.send_bytes)
        await client.command("Finalize")
        await until(
            lambda: [f["from_finalize"] for f in client.finals].count(True) == 2, "an answer"
        )
        speech.check(client.words())
        await client.command("Finalize", channel=0)
        await until(
            lambda: [f["from_finalize"] for f in client.finals].count(True) == 3, "another one"
        )
        await client.command("CloseStream")
        await until(lambda: client.socket.closed, "the server closes")
    speech.check(client.words())
    assert tile(client.finals) == pytest.approx(speech.seconds, abs=0.01)


async def test_channels_are_transcribed_apart(house: House) -> None:
    await house.start("deepgram")
    left, right = Speech(8), Speech(8)
    right.words = tones.sequence(16)[8:]
    second = tones.encode(right.words, 16_000, phrase_words=4, lead_seconds=0.5)
    audio = pcm.interleave(left.audio, second)
    async with within(60), listening(house, f"{RAW}&channels=2&multichannel=true") as client:
        for at in range(0, len(audio), 6401):  # not whole frames
            await client.socket.send_bytes(audio[at : at + 6401])
        await client.command("CloseStream")
        await until(lambda: client.socket.closed, "the server closes")
    assert client.words(0) == left.words
    assert client.words(1) == right.words
    assert {final["channel_index"][1] for final in client.finals} == {2}
    assert client.messages[-1]["channels"] == 2


async def test_mulaw_passes_as_it_is(house: House) -> None:
    await house.start("deepgram")
    words = tones.sequence(6)
    audio = tones.encode(words, 8000, encoding="mulaw", lead_seconds=0.3, tail_seconds=1.0)
    async with within(60), listening(house, "encoding=mulaw&sample_rate=8000") as client:
        for at in range(0, len(audio), 160):
            await client.socket.send_bytes(audio[at : at + 160])
        await client.command("CloseStream")
        await until(lambda: client.socket.closed, "the server closes")
    assert client.words() == words
    assert client.messages[-1]["duration"] == pytest.approx(len(audio) / 8000, abs=1e-3)


@pytest.mark.parametrize("scheme", ["Token", "token", "bearer", "BEARER"])
async def test_keys_come_in_a_header_or_a_subprotocol(house: House, scheme: str) -> None:
    key = house.key()
    await house.start_gateway()
    async with aiohttp.ClientSession() as http:
        url = f"{house.gateway.ws}/v1/listen?{RAW}"
        headers = {"Authorization": f"{scheme} {key}"}
        async with http.ws_connect(url, headers=headers) as socket:
            assert socket._response.headers["dg-request-id"]
        for others in ([], ["x-deepgram-session-id", "12345678"]):
            offered = [scheme.lower(), key, *others]
            async with http.ws_connect(url, protocols=offered) as socket:
                assert socket.protocol == scheme.lower()


async def test_refusals_at_the_handshake(house: House) -> None:
    key = house.key()
    other = house.key(doors=("speechmatics",))
    await house.start_gateway()

    async def refusal(query: str, key: str | None) -> tuple[int, str]:
        with pytest.raises(WSServerHandshakeError) as error:
            async with listening(house, query, key):
                pass
        assert error.value.headers is not None
        assert error.value.headers["dg-request-id"]
        return error.value.status, error.value.headers["dg-error"]

    assert (await refusal(RAW, None))[0] == 401
    assert (await refusal(RAW, "nj_wrong"))[0] == 401
    assert (await refusal(RAW, other))[0] == 403
    status, text = await refusal(f"{RAW}&interim_results=True", key)
    assert (status, "interim_results" in text) == (400, True)
    assert (await refusal("encoding=linear16", key))[0] == 400
    assert (await refusal(f"{RAW}&speaker=a+b", key))[0] == 400
    assert (await refusal(f"{RAW}&conversation=<b>", key))[0] in (400, 403)


async def test_wrong_paths_and_requests_that_are_no_websocket(house: House) -> None:
    await house.start_gateway()
    async with aiohttp.ClientSession() as http:
        for path, status in (
            ("/v1/listen", 400), ("/v3/listen", 404), ("/v1/listen/x", 404), ("/v1", 404),
        ):  # fmt: skip
            async with http.get(f"{house.gateway.http}{path}") as answer:
                assert answer.status == status, path
        async with http.get(
            f"{house.gateway.http}/v1/listen", headers={"X-Long": "x" * 1_000_000}
        ) as answer:
            assert answer.status == 400


async def test_bad_input_ends_no_stream_and_loses_nothing(house: House) -> None:
    await house.start("deepgram")
    speech = Speech(6)
    async with within(60), listening(house, f"{RAW}&whatever=1") as client:
        for text in ("", "{", "[]", '{"type":"Nope"}', '{"type":"Configure","keyterms":3}'):
            await client.socket.send_str(text)
        await until(lambda: len(client.of("Error")) == 5, "five errors")
        assert {error["variant"] for error in client.of("Error")} == {"SchemaError"}
        await client.socket.send_bytes(speech.audio[:3])
        rest = speech.audio[3:]
        for at in range(0, len(rest), 3333):  # halves of samples
            await client.socket.send_bytes(rest[at : at + 3333])
        await client.command("CloseStream")
        await client.command("CloseStream")
        await client.socket.send_bytes(bytes(100))
        await until(lambda: client.socket.closed, "the server closes")
    speech.check(client.words())


async def test_configure_is_answered(house: House) -> None:
    await house.start("deepgram", GATEWAY_PROVIDER="deepgram")
    speech = Speech(6)
    async with within(60), listening(house, f"{RAW}&model=nova-3") as client:
        await speech.play(client.socket.send_bytes)
        await client.command("Configure", keyterms=["a", "b"])
        await until(lambda: client.of("ConfigureSuccess"), "a success")
        assert client.of("ConfigureSuccess")[0]["keyterms"] == ["a", "b"]
        await client.command("Configure", features={"nonsense": True})
        await until(lambda: client.of("ConfigureFailure"), "a failure")


async def test_silence_ends_the_stream(house: House) -> None:
    await house.start_gateway(GATEWAY_SILENCE_SECONDS="1")
    async with within(30), listening(house) as client:
        for _ in range(4):
            await client.command("KeepAlive")
        await until(lambda: client.socket.closed, "the server closes")
    assert client.socket.close_code == 1011
    async with within(30), listening(house) as client:
        await client.socket.send_bytes(bytes(320))
        for _ in range(4):
            await asyncio.sleep(0.5)  # two seconds in all, longer than silence may last
            await client.command("KeepAlive")
        assert not client.socket.closed, "KeepAlive counts after the first audio"


async def test_what_is_no_audio_is_undecodable(house: House) -> None:
    await house.start_gateway()
    async with within(30), listening(house, "model=nova-3") as client:
        await client.socket.send_bytes(b"this is no audio at all" * 100)
        await until(lambda: client.socket.closed, "the server closes")
    assert client.socket.close_code == 1008


async def test_a_message_that_is_too_large_ends_the_stream(house: House) -> None:
    await house.start_gateway()
    async with within(30), listening(house) as client:
        with contextlib.suppress(ConnectionError):  # while it is sent, perhaps
            await client.socket.send_bytes(bytes(20_000_000))
        await until(lambda: client.socket.closed, "the server closes")
        assert client.socket.close_code in (1006, 1009)


async def test_a_full_gateway_says_so(house: House) -> None:
    await house.start_gateway(GATEWAY_MAX_CONNECTIONS="1")
    async with listening(house):
        with pytest.raises(WSServerHandshakeError) as error:
            async with listening(house):
                pass
        assert error.value.status == 503
    await until(lambda: _accepts(house), "the place is free again")


async def _accepts(house: House) -> bool:
    try:
        async with listening(house):
            return True
    except WSServerHandshakeError:
        return False
