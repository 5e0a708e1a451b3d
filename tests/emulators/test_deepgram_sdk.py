"""The Deepgram emulator, tested with the provider's own client and specification.

The official SDK must understand every message of the emulator. Each message must also match the
schemas in specs/.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import pytest

from natterjack.emulators import pcm, tones
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.emulators.specification import load_specification
from tests.waiting import until, within

with warnings.catch_warnings():
    # The SDK still looks for names that its own WebSocket library calls deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    import deepgram.listen.v1.client  # noqa: F401 - the SDK would import it later
    from deepgram import AsyncDeepgramClient
    from deepgram.core.api_error import ApiError
    from deepgram.environment import DeepgramClientEnvironment
    from deepgram.listen.v1.socket_client import AsyncV1SocketClient
    from deepgram.listen.v1.types import (
        ListenV1Configure,
        ListenV1ConfigureFailure,
        ListenV1ConfigureSuccess,
        ListenV1Error,
        ListenV1Finalize,
        ListenV1Metadata,
        ListenV1Results,
        ListenV1SpeechStarted,
        ListenV1UtteranceEnd,
    )

SPECIFICATION = Path(__file__).parent / "specs" / "deepgram-asyncapi.yml"
KEY = "a-key"


@pytest.fixture
async def emulator() -> AsyncIterator[DeepgramEmulator]:
    async with DeepgramEmulator(api_key=KEY) as emulator:
        yield emulator


def sdk(emulator: DeepgramEmulator, api_key: str = KEY) -> AsyncDeepgramClient:
    environment = DeepgramClientEnvironment(
        base=emulator.url, production=emulator.url, agent=emulator.url, agent_rest=emulator.url
    )
    return AsyncDeepgramClient(api_key=api_key, environment=environment)


@contextlib.asynccontextmanager
async def connected(emulator: DeepgramEmulator, **query: Any) -> AsyncIterator[AsyncV1SocketClient]:
    defaults = {"model": "nova-3", "encoding": "linear16", "sample_rate": 16000}
    async with sdk(emulator).listen.v1.connect(**{**defaults, **query}) as connection:
        yield connection


async def send(connection: AsyncV1SocketClient, audio: bytes) -> None:
    for at in range(0, len(audio), 3200):
        await connection.send_media(audio[at : at + 3200])


async def rest(connection: AsyncV1SocketClient) -> list[Any]:
    """Return all messages up to the close."""
    async with within(10):
        return [message async for message in connection]


def final_words(messages: list[Any]) -> list[str]:
    finals = [m for m in messages if isinstance(m, ListenV1Results) and m.is_final]
    return [
        word
        for final in finals
        for word in tones.words_of(final.channel.alternatives[0].transcript)
    ]


async def test_the_sdk_gets_every_word_and_the_summary(emulator: DeepgramEmulator) -> None:
    words = tones.sequence(30)
    audio = tones.encode(words, phrase_words=10, lead_seconds=0.4, tail_seconds=1.5)
    options = {
        "interim_results": "true",
        "punctuate": "true",
        "vad_events": "true",
        "endpointing": 300,
        "utterance_end_ms": 1000,
    }
    async with connected(emulator, **options) as connection:
        await send(connection, audio)
        await connection.send_close_stream()
        messages = await rest(connection)
    assert final_words(messages) == words
    summary = messages[-1]
    assert isinstance(summary, ListenV1Metadata)
    assert summary.duration == pytest.approx(len(audio) / 32000, abs=1e-6)
    assert summary.channels == 1
    results = [m for m in messages if isinstance(m, ListenV1Results)]
    assert [m for m in results if m.speech_final]
    assert [m for m in results if not m.is_final and m.channel.alternatives[0].transcript]
    assert {m.metadata.request_id for m in results} == {summary.request_id}
    assert [m for m in messages if isinstance(m, ListenV1SpeechStarted)]
    ends = [m for m in messages if isinstance(m, ListenV1UtteranceEnd)]
    assert ends[-1].last_word_end == pytest.approx(len(audio) / 32000 - 1.5, abs=0.01)
    assert emulator.log[0].closed == "server 1000"
    assert emulator.log[0].request_id == summary.request_id


async def test_the_sdk_finalizes(emulator: DeepgramEmulator) -> None:
    words = tones.sequence(3)
    async with connected(emulator, endpointing="false") as connection:
        await send(connection, tones.encode(words))
        await connection.send_finalize(ListenV1Finalize(type="Finalize"))
        async with within(10):
            answer = await connection.recv()
        assert isinstance(answer, ListenV1Results)
        assert answer.from_finalize
        assert final_words([answer]) == words
        await connection.send_close_stream()
        assert final_words(await rest(connection)) == []


async def test_the_sdk_keeps_a_stream_alive() -> None:
    async with DeepgramEmulator(api_key=KEY, receive_timeout_seconds=0.3) as emulator:
        async with connected(emulator) as connection:
            await send(connection, tones.silence(0.1))
            loop = asyncio.get_running_loop()
            idle_until = loop.time() + 1
            while loop.time() < idle_until:
                await connection.send_keep_alive()
                await asyncio.sleep(0.1)  # the keepalive interval, below the timeout
            assert emulator.log[0].closed is None
            await until(lambda: emulator.log[0].closed, "the server closes an idle connection")
        assert emulator.log[0].closed == "server 1011"
        assert emulator.log[0].texts["KeepAlive"] >= 5


async def test_the_sdk_configures(emulator: DeepgramEmulator) -> None:
    async with connected(emulator) as connection:
        await connection.send_configure(ListenV1Configure(keyterms=["router"]))
        answer = await connection.recv()
        assert isinstance(answer, ListenV1ConfigureSuccess)
        assert answer.keyterms == ["router"]
        await connection.send_configure(ListenV1Configure(features={"numerals": True}))
        assert isinstance(await connection.recv(), ListenV1ConfigureSuccess)
        await connection.send_configure(ListenV1Configure(keyterms=["word"] * 501))
        answer = await connection.recv()
        assert isinstance(answer, ListenV1ConfigureFailure)
        assert answer.code == "CONFIGURE_KEYTERM_LIMIT_EXCEEDED"
    async with connected(emulator, model="nova-2") as connection:
        await connection.send_configure(ListenV1Configure(keyterms=["router"]))
        answer = await connection.recv()
        assert isinstance(answer, ListenV1ConfigureFailure)
        assert answer.code == "CONFIGURE_KEYTERMS_NOT_SUPPORTED"


async def test_the_sdk_receives_errors(emulator: DeepgramEmulator) -> None:
    async with connected(emulator) as connection:
        # The SDK has no public method that sends an invalid message.
        await connection._send('{"type": "Configure", "keyterm": ["x"]}')
        answer = await connection.recv()
        assert isinstance(answer, ListenV1Error)
        assert answer.variant == "SchemaError"
        assert answer.message == '{"type": "Configure", "keyterm": ["x"]}'
    with pytest.raises(ApiError) as refused:
        async with sdk(emulator, "wrong").listen.v1.connect(model="nova-3"):
            pass
    assert refused.value.status_code == 401


# ---- the specification ----------------------------------------------------------------------


def schemas() -> dict[str, Any]:
    """Return validators for the server's messages of listen v1, by type."""
    document = load_specification(SPECIFICATION)
    refs = document["channels"]["/v1/listen"]["publish"]["message"]["oneOf"]
    found = {}
    for ref in refs:
        name = ref["$ref"].removeprefix("#/components/messages/")
        payload = document["components"]["messages"][name]["payload"]
        schema = {**payload, "components": document["components"]}
        kind = payload["$ref"].rpartition("_ListenV1")[2]
        found[kind] = jsonschema.Draft202012Validator(schema)
    return found


SDK_MODELS: dict[str, Any] = {
    "ConfigureSuccess": ListenV1ConfigureSuccess,
    "ConfigureFailure": ListenV1ConfigureFailure,
    "Error": ListenV1Error,
}
"""Messages that are newer than the copy of the specification."""


def required(model: Any) -> set[str]:
    return {name for name, field in model.model_fields.items() if field.is_required()} | {"type"}


@pytest.mark.parametrize("multichannel", [False, True])
async def test_every_message_fits_the_specification(
    emulator: DeepgramEmulator, multichannel: bool
) -> None:
    validators = schemas()
    assert set(validators) == {"Results", "Metadata", "UtteranceEnd", "SpeechStarted"}
    left = tones.encode(tones.sequence(20), phrase_words=6, lead_seconds=0.3, tail_seconds=1.2)
    right = tones.encode(tones.sequence(40)[20:], phrase_words=4, lead_seconds=1, tail_seconds=2)
    audio = pcm.interleave(left, right)
    query = (
        "model=nova-3&encoding=linear16&sample_rate=16000&channels=2&interim_results=true"
        "&vad_events=true&utterance_end_ms=1000&endpointing=300&punctuate=true&diarize=true"
        f"&multichannel={str(multichannel).lower()}&extra=ticket:7"
    )
    seen: list[dict[str, Any]] = []
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Token {KEY}"}) as session,
        session.ws_connect(f"{emulator.url}/v1/listen?{query}") as socket,
    ):
        for at in range(0, len(audio), 6400):
            await socket.send_bytes(audio[at : at + 6400])
        for order in (
            {"type": "Configure", "keyterms": ["a"]},
            {"type": "Configure", "keyterms": ["a"] * 600},
            {"type": "ForceEndTurn"},
            {"type": "Finalize"},
            {"type": "CloseStream"},
        ):
            await socket.send_json(order)
        async for frame in socket:
            seen.append(json.loads(frame.data))
    kinds = [message["type"] for message in seen]
    assert set(kinds) == {*validators, *SDK_MODELS}
    assert kinds[-1] == "Metadata"
    for message in seen:
        if message["type"] in validators:
            validators[message["type"]].validate(message)
        else:
            model = SDK_MODELS[message["type"]]
            assert required(model) <= set(message) <= set(model.model_fields), message
    results = [m for m in seen if m["type"] == "Results"]
    assert all(m["metadata"]["extra"] == {"ticket": "7"} for m in results)
    for channel, _ in itertools.groupby(sorted(m["channel_index"][0] for m in results)):
        frontier = 0.0
        for final in (m for m in results if m["is_final"] and m["channel_index"][0] == channel):
            assert final["start"] == pytest.approx(frontier, abs=1e-5)
            frontier = final["start"] + final["duration"]
        assert frontier == pytest.approx(len(audio) / 64000, abs=1e-5)
    if multichannel:
        for channel, words in enumerate((tones.sequence(20), tones.sequence(40)[20:])):
            mine = [m for m in results if m["is_final"] and m["channel_index"] == [channel, 2]]
            transcript = " ".join(m["channel"]["alternatives"][0]["transcript"] for m in mine)
            assert tones.words_of(transcript) == words


def test_the_specification_is_named_and_attributed() -> None:
    attribution = (SPECIFICATION.parent / "README.md").read_text()
    assert SPECIFICATION.name in attribution
    assert "CC BY 4.0" in attribution
