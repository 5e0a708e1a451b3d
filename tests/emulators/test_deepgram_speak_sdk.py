"""The emulator of speak v1, tested with the provider's own client and specification."""

from __future__ import annotations

import contextlib
import typing
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import pytest

from natterjack.emulators import tones
from natterjack.emulators.deepgram.speak import DeepgramSpeakEmulator
from natterjack.emulators.deepgram.speak_query import VOICES
from natterjack.emulators.specification import load_specification
from natterjack.emulators.spoken import tone_words
from tests.waiting import within

with warnings.catch_warnings():
    # The SDK still looks for names that its own WebSocket library calls deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    import deepgram.speak.v1.client  # noqa: F401 - the SDK would import it later
    from deepgram import AsyncDeepgramClient
    from deepgram.core.api_error import ApiError
    from deepgram.environment import DeepgramClientEnvironment
    from deepgram.speak.v1.socket_client import AsyncV1SocketClient
    from deepgram.speak.v1.types import (
        SpeakV1Cleared,
        SpeakV1Flushed,
        SpeakV1Metadata,
        SpeakV1Text,
        SpeakV1Warning,
    )
    from deepgram.types.speak_v1model import SpeakV1Model

SPECIFICATION = Path(__file__).parent / "specs" / "deepgram-asyncapi.yml"
KEY = "a-key"
TEXT = "Hello, how can I help you today? I am here all evening."


@pytest.fixture
async def emulator() -> AsyncIterator[DeepgramSpeakEmulator]:
    async with DeepgramSpeakEmulator(api_key=KEY, pace=30) as emulator:
        yield emulator


@contextlib.asynccontextmanager
async def connected(
    emulator: DeepgramSpeakEmulator, api_key: str = KEY, **query: Any
) -> AsyncIterator[AsyncV1SocketClient]:
    environment = DeepgramClientEnvironment(
        base=emulator.url, production=emulator.url, agent=emulator.url, agent_rest=emulator.url
    )
    client = AsyncDeepgramClient(api_key=api_key, environment=environment)
    defaults = {"model": "aura-2-thalia-en", "encoding": "linear16", "sample_rate": 24000}
    async with client.speak.v1.connect(**{**defaults, **query}) as connection:
        yield connection


async def rest(connection: AsyncV1SocketClient, last: str = "") -> list[Any]:
    """Return all messages up to one of a type, or to the close."""
    messages: list[Any] = []
    async with within(20):
        async for message in connection:
            messages.append(message)
            if getattr(message, "type", None) == last:
                break
    return messages


def heard(messages: list[Any], rate: int = 24_000) -> list[str]:
    decoder = tones.Decoder(rate)
    audio = b"".join(message for message in messages if isinstance(message, bytes))
    return [word.word for word in [*decoder.feed(audio), *decoder.flush()]]


async def test_the_sdk_hears_every_word(emulator: DeepgramSpeakEmulator) -> None:
    async with connected(emulator, speed=1.2) as connection:
        await connection.send_text(SpeakV1Text(text=TEXT))
        await connection.send_flush()
        messages = await rest(connection, "Flushed")
        await connection.send_close()
        messages += await rest(connection)
    assert heard(messages) == tone_words(TEXT)
    texts = [message for message in messages if not isinstance(message, bytes)]
    assert isinstance(texts[0], SpeakV1Metadata)
    assert texts[0].request_id == emulator.log[0].request_id
    assert texts[0].model_name == "aura-2-thalia-en"
    assert texts[1:] == [SpeakV1Flushed(type="Flushed", sequence_id=0)]
    assert emulator.log[0].closed == "server 1000"
    assert emulator.log[0].texts == {"Speak": 1, "Flush": 1, "Close": 1}


async def test_the_sdk_clears(emulator: DeepgramSpeakEmulator) -> None:
    await emulator.set(pace=1)
    async with connected(emulator) as connection:
        await connection.send_text(SpeakV1Text(text=TEXT))
        await connection.send_flush()
        await connection.send_clear()
        messages = await rest(connection, "Cleared")
        await connection.send_close()
        messages += await rest(connection)
    assert len(heard(messages)) < len(tone_words(TEXT))
    # It takes Cleared for the model of Flushed, which allows both types.
    assert isinstance(messages[-1], SpeakV1Cleared | SpeakV1Flushed)
    assert messages[-1].type == "Cleared"


@pytest.mark.parametrize("keys", ["both", "current"])
async def test_the_sdk_receives_a_warning(emulator: DeepgramSpeakEmulator, keys: str) -> None:
    await emulator.set(warning_keys=keys, flush_limit=1)
    async with connected(emulator) as connection:
        for _ in range(2):
            await connection.send_flush()
        messages = await rest(connection, "Warning")
        assert isinstance(messages[-1], SpeakV1Warning)
        assert messages[-1].code == "EXCESSIVE_FLUSH"


async def test_the_sdk_is_refused(emulator: DeepgramSpeakEmulator) -> None:
    with pytest.raises(ApiError) as refused:
        async with connected(emulator, "wrong"):
            pass
    assert refused.value.status_code == 401


def test_the_voices_are_those_of_the_sdk() -> None:
    (names,) = (typing.get_args(one) for one in typing.get_args(SpeakV1Model) if one is not Any)
    assert set(names) == VOICES


# ---- the specification ----------------------------------------------------------------------


def schemas() -> dict[str, Any]:
    """Return validators for the server's JSON messages of speak v1, by type."""
    document = load_specification(SPECIFICATION)
    found = {}
    for kind in ("Metadata", "Flushed", "Cleared", "Warning"):
        reference = {"$ref": f"#/components/schemas/SpeakV1_SpeakV1{kind}"}
        schema = {**reference, "components": document["components"]}
        found[kind] = jsonschema.Draft202012Validator(schema)
    return found


async def test_every_message_fits_the_specification(emulator: DeepgramSpeakEmulator) -> None:
    await emulator.set(flush_limit=1)
    validators = schemas()
    seen: list[dict[str, Any]] = []
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Token {KEY}"}) as session,
        session.ws_connect(f"{emulator.url}/v1/speak?model=aura-2-thalia-en") as socket,
    ):
        for command in (
            {"type": "Speak", "text": "able"}, {"type": "Flush"}, {"type": "Flush"},
            {"type": "Close"},
        ):  # fmt: skip
            await socket.send_json(command)
        seen += [message.json() async for message in socket
                 if message.type is aiohttp.WSMsgType.TEXT]  # fmt: skip
        assert [message["type"] for message in seen] == ["Metadata", "Warning", "Flushed"]
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Token {KEY}"}) as session,
        session.ws_connect(f"{emulator.url}/v1/speak?model=aura-2-thalia-en") as socket,
    ):
        await socket.send_json({"type": "Clear"})
        seen += [await socket.receive_json(), await socket.receive_json()]
    assert {message["type"] for message in seen} == set(validators)
    for message in seen:
        validators[message["type"]].validate(message)
