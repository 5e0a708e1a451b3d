"""The emulator of speak v2, tested with the provider's own client and specification.

The official SDK must understand every message of the emulator, as one of its models. Each message
must also match the schemas in specs/, as far as that copy knows it.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import jsonschema
import pytest
from websockets.exceptions import ConnectionClosed

from natterjack.emulators import tones
from natterjack.emulators.deepgram.flux_speak import DeepgramFluxSpeakEmulator
from natterjack.emulators.specification import load_specification
from natterjack.emulators.spoken import tone_words
from tests.waiting import until, within

from .test_deepgram_sdk import KEY, SPECIFICATION, required

with warnings.catch_warnings():
    # The SDK still looks for names that its own WebSocket library calls deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    import deepgram.speak.v2.client  # noqa: F401 - the SDK would import it later
    from deepgram import AsyncDeepgramClient
    from deepgram.core.api_error import ApiError
    from deepgram.environment import DeepgramClientEnvironment
    from deepgram.speak.v2.socket_client import AsyncV2SocketClient
    from deepgram.speak.v2.types import (
        SpeakV2Configure,
        SpeakV2ConfigureFailure,
        SpeakV2ConfigureSuccess,
        SpeakV2Connected,
        SpeakV2Error,
        SpeakV2Flushed,
        SpeakV2Interrupt,
        SpeakV2InterruptPlaybackOffset,
        SpeakV2SessionMetadata,
        SpeakV2Speak,
        SpeakV2SpeechInterrupted,
        SpeakV2SpeechMetadata,
        SpeakV2SpeechStarted,
        SpeakV2Warning,
    )

MODELS: dict[str, Any] = {
    "Connected": SpeakV2Connected,
    "SpeechStarted": SpeakV2SpeechStarted,
    "SpeechMetadata": SpeakV2SpeechMetadata,
    "SpeechInterrupted": SpeakV2SpeechInterrupted,
    "Flushed": SpeakV2Flushed,
    "SessionMetadata": SpeakV2SessionMetadata,
    "ConfigureSuccess": SpeakV2ConfigureSuccess,
    "ConfigureFailure": SpeakV2ConfigureFailure,
    "Warning": SpeakV2Warning,
    "Error": SpeakV2Error,
}
TEXT = "Able about above. Acorn across actor."


@pytest.fixture
async def emulator() -> AsyncIterator[DeepgramFluxSpeakEmulator]:
    async with DeepgramFluxSpeakEmulator(api_key=KEY, speech_pace=20) as emulator:
        yield emulator


def sdk(emulator: DeepgramFluxSpeakEmulator, api_key: str = KEY) -> AsyncDeepgramClient:
    environment = DeepgramClientEnvironment(
        base=emulator.url, production=emulator.url, agent=emulator.url, agent_rest=emulator.url
    )
    return AsyncDeepgramClient(api_key=api_key, environment=environment)


@contextlib.asynccontextmanager
async def connected(
    emulator: DeepgramFluxSpeakEmulator, **query: Any
) -> AsyncIterator[AsyncV2SocketClient]:
    defaults = {"model": "flux-haley-en", "encoding": "linear16", "sample_rate": 24_000}
    async with sdk(emulator).speak.v2.connect(**{**defaults, **query}) as connection:
        yield connection


async def rest(connection: AsyncV2SocketClient) -> tuple[list[Any], int]:
    """Return all messages up to the close, and its code. Assert that each has the right model."""
    messages: list[Any] = []
    code = 1000
    async with within(10):
        try:
            while True:
                messages.append(await connection.recv())
        except ConnectionClosed as closed:
            code = 1006 if closed.rcvd is None else closed.rcvd.code
    for message in messages:
        if not isinstance(message, bytes):
            assert type(message) is MODELS[message.type], message
            assert not message.model_extra, message
    return messages, code


async def take_until(connection: AsyncV2SocketClient, kind: str) -> list[Any]:
    """Return the messages up to one of type `kind`."""
    messages: list[Any] = []
    async with within(10):
        while True:
            messages.append(await connection.recv())
            if getattr(messages[-1], "type", None) == kind:
                return messages


def heard(messages: list[Any]) -> list[str]:
    audio = b"".join(message for message in messages if isinstance(message, bytes))
    decoder = tones.Decoder(24_000)
    return [word.word for word in [*decoder.feed(audio), *decoder.flush()]]


def texts(messages: list[Any]) -> list[Any]:
    return [message for message in messages if not isinstance(message, bytes)]


async def test_the_sdk_hears_every_word(emulator: DeepgramFluxSpeakEmulator) -> None:
    async with connected(emulator, tag=["a", "b"], expressivity=1, mip_opt_out=True) as connection:
        for word in TEXT.split(" "):
            await connection.send_speak(SpeakV2Speak(text=f"{word} "))
        await connection.send_flush()
        await connection.send_speak(SpeakV2Speak(text="Album"))
        await connection.send_close()
        messages, code = await rest(connection)
    assert heard(messages) == [*tone_words(TEXT), "album"]
    assert [message.type for message in texts(messages)] == [
        "Connected", *["SpeechStarted", "Flushed", "SpeechMetadata"] * 2, "SessionMetadata",
    ]  # fmt: skip
    assert code == 1000
    first, second, session = [m for m in texts(messages) if m.type.endswith("Metadata")]
    assert first.billable_character_count == len(TEXT) + 1
    assert session.total_billable_character_count == len(TEXT) + 1 + len("Album")
    assert session.total_audio_duration_ms == pytest.approx(
        first.audio_duration_ms + second.audio_duration_ms, abs=1
    )
    assert first.controls_applied.pronunciations_applied == 0
    (entry,) = emulator.log
    assert entry.request_id == texts(messages)[0].request_id
    assert entry.finals == [f"{TEXT} ", "Album"]
    assert entry.query["tag"] == ["a", "b"]
    assert [word.word for word in entry.words] == heard(messages)


async def test_the_sdk_interrupts(emulator: DeepgramFluxSpeakEmulator) -> None:
    await emulator.set(speech_pace=2)
    async with connected(emulator) as connection:
        await connection.send_speak(SpeakV2Speak(text=TEXT))
        await take_until(connection, "SpeechStarted")
        async with within(10):
            while not isinstance(await connection.recv(), bytes):
                pass
        offset = SpeakV2InterruptPlaybackOffset(value=20)
        await connection.send_interrupt(SpeakV2Interrupt(playback_offset=offset))
        answer = (await take_until(connection, "SpeechInterrupted"))[-1]
        assert isinstance(answer, SpeakV2SpeechInterrupted)
        assert (answer.audio_played_ms, answer.text_spoken, answer.text_remaining) == (20, "", TEXT)
        assert answer.metadata.billable_character_count == len(TEXT)
        await connection.send_interrupt()
        (warning,) = await take_until(connection, "Warning")
        assert warning.code == "NO_ACTIVE_SPEECH"
        await connection.send_speak(SpeakV2Speak(text=TEXT))
        await take_until(connection, "SpeechStarted")
        await connection.send_interrupt()
        answer = (await take_until(connection, "SpeechInterrupted"))[-1]
        assert answer.text_spoken is None
        await connection.send_close()
        await rest(connection)


async def test_the_sdk_configures(emulator: DeepgramFluxSpeakEmulator) -> None:
    async with connected(emulator, speed=0.9) as connection:
        await connection.send_configure(SpeakV2Configure(speed=1.15))
        await connection.send_configure(SpeakV2Configure(speed=3))
        await until(lambda: emulator.log[0].messages.get("ConfigureFailure"), "the first failure")
        await emulator.set(configure_answer="not_supported")
        await connection.send_configure(SpeakV2Configure(speed=1))
        await connection.send_close()
        (_, success, failure, unsupported, end), _ = await rest(connection)
    assert isinstance(success, SpeakV2ConfigureSuccess)
    assert success.applied.speed == 1.15
    assert isinstance(failure, SpeakV2ConfigureFailure)
    assert (failure.code, failure.field, failure.value) == ("SPEED_OUT_OF_RANGE", "speed", 3)
    assert (unsupported.code, unsupported.field) == ("SPEED_NOT_SUPPORTED", "speed")
    assert unsupported.value is None
    assert isinstance(end, SpeakV2SessionMetadata)


async def test_the_sdk_receives_errors(emulator: DeepgramFluxSpeakEmulator) -> None:
    async with connected(emulator) as connection:
        # The SDK has no public method for a message that the API does not have.
        await connection._send('{"type": "Clear"}')
        (_, error), code = await rest(connection)
    assert isinstance(error, SpeakV2Error)
    assert (error.code, code) == ("MESSAGE-0000", 1008)
    with pytest.raises(ApiError) as refused:
        async with sdk(emulator, "wrong").speak.v2.connect(model="flux-haley-en"):
            pass
    assert refused.value.status_code == 401
    for query in ({"model": "aura-2-thalia-en"}, {"speed": 2}, {"expressivity": 3}):
        with pytest.raises(ApiError) as refused:
            async with connected(emulator, **query):
                pass
        assert refused.value.status_code == 400


@pytest.mark.parametrize("limit", ["inactive_seconds", "session_seconds"])
async def test_limits_of_time(emulator: DeepgramFluxSpeakEmulator, limit: str) -> None:
    await emulator.set(**{limit: 0.3})
    async with connected(emulator) as connection:
        messages, _ = await rest(connection)
    assert messages[-1].code == ("NET-0004" if limit == "inactive_seconds" else "NET-0003")


# ---- the specification ----------------------------------------------------------------------


def schemas() -> dict[str, Any]:
    """Return validators for the server's messages of speak v2 by type, without audio."""
    document = load_specification(SPECIFICATION)
    found = {}
    for ref in document["channels"]["/v2/speak"]["publish"]["message"]["oneOf"]:
        name = ref["$ref"].removeprefix("#/components/messages/")
        payload = document["components"]["messages"][name]["payload"]
        schema = {**payload, "components": document["components"]}
        kind = payload["$ref"].rpartition("_SpeakV2")[2]
        if kind != "Audio":
            found[kind] = jsonschema.Draft202012Validator(schema)
    return found


async def test_every_message_fits_the_specification(emulator: DeepgramFluxSpeakEmulator) -> None:
    validators = schemas()
    newer = {"SpeechInterrupted", "ConfigureSuccess", "ConfigureFailure"}
    assert set(validators) == set(MODELS) - newer, "the copy of the specification is older"
    seen: list[dict[str, Any]] = []
    url = f"{emulator.url}/v2/speak?model=flux-haley-en&encoding=linear16&sample_rate=24000"
    endings: list[dict[str, Any]] = [{"type": "Close"}, {"type": "Clear"}]
    async with aiohttp.ClientSession(headers={"Authorization": f"Token {KEY}"}) as session:
        for ending in endings:
            async with session.ws_connect(url) as socket:
                for order in (
                    {"type": "Flush"},
                    {"type": "Speak", "text": TEXT},
                    {"type": "Flush"},
                    {"type": "Configure", "speed": 1.15},
                    {"type": "Configure", "speed": 5},
                ):
                    await socket.send_json(order)
                async with within(10):
                    while isinstance(data := (await socket.receive()).data, str):
                        seen.append(json.loads(data))
                await socket.send_json({"type": "Interrupt"})
                await socket.send_json({"type": "Speak", "text": "!"})
                await socket.send_json({"type": "Flush"})
                await until(lambda: emulator.log[-1].messages.get("SpeechMetadata"), "the end")
                await socket.send_json(ending)
                async with within(10):
                    async for frame in socket:
                        if frame.type is aiohttp.WSMsgType.TEXT:
                            seen.append(json.loads(frame.data))
    assert {message["type"] for message in seen} == set(MODELS)
    for message in seen:
        if message["type"] in validators:
            if message["type"] == "SpeechMetadata":
                del message["controls_applied"]["breaks_applied"]  # newer, too
            validators[message["type"]].validate(message)
        model = MODELS[message["type"]]
        assert required(model) <= set(message) <= set(model.model_fields), message
