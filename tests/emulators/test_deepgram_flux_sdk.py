"""The Flux emulator, tested with the provider's own client and specification.

The official SDK must understand every message of the emulator, as one of its models. Each message
must also match the schemas in specs/.
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
from natterjack.emulators.deepgram.flux import DeepgramFluxEmulator
from natterjack.emulators.specification import load_specification
from tests.waiting import until, within

from .test_deepgram_sdk import KEY, SPECIFICATION, required

with warnings.catch_warnings():
    # The SDK still looks for names that its own WebSocket library calls deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    import deepgram.listen.v2.client  # noqa: F401 - the SDK would import it later
    from deepgram import AsyncDeepgramClient
    from deepgram.core.api_error import ApiError
    from deepgram.environment import DeepgramClientEnvironment
    from deepgram.listen.v2.socket_client import AsyncV2SocketClient
    from deepgram.listen.v2.types import (
        ListenV2Configure,
        ListenV2ConfigureFailure,
        ListenV2ConfigureSuccess,
        ListenV2Connected,
        ListenV2FatalError,
        ListenV2TurnInfo,
        ListenV2Warning,
    )

MODELS: dict[str, Any] = {
    "Connected": ListenV2Connected,
    "TurnInfo": ListenV2TurnInfo,
    "ConfigureSuccess": ListenV2ConfigureSuccess,
    "ConfigureFailure": ListenV2ConfigureFailure,
    "Warning": ListenV2Warning,
    "Error": ListenV2FatalError,
}


@pytest.fixture
async def emulator() -> AsyncIterator[DeepgramFluxEmulator]:
    async with DeepgramFluxEmulator(api_key=KEY) as emulator:
        yield emulator


def sdk(emulator: DeepgramFluxEmulator, api_key: str = KEY) -> AsyncDeepgramClient:
    environment = DeepgramClientEnvironment(
        base=emulator.url, production=emulator.url, agent=emulator.url, agent_rest=emulator.url
    )
    return AsyncDeepgramClient(api_key=api_key, environment=environment)


@contextlib.asynccontextmanager
async def connected(
    emulator: DeepgramFluxEmulator, **query: Any
) -> AsyncIterator[AsyncV2SocketClient]:
    defaults = {"model": "flux-general-en", "encoding": "linear16", "sample_rate": 16000}
    async with sdk(emulator).listen.v2.connect(**{**defaults, **query}) as connection:
        yield connection


async def send(connection: AsyncV2SocketClient, audio: bytes) -> None:
    for at in range(0, len(audio), 2560):
        await connection.send_media(audio[at : at + 2560])


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
        assert type(message) is MODELS[message.type], message
        assert not message.model_extra, message
    return messages, code


def events(messages: list[Any]) -> list[str]:
    """Return the TurnInfo events, without Updates."""
    found = [m.event for m in messages if isinstance(m, ListenV2TurnInfo)]
    return [event for event in found if event != "Update"]


def final_words(messages: list[Any]) -> list[str]:
    ends = [m for m in messages if isinstance(m, ListenV2TurnInfo) and m.event == "EndOfTurn"]
    return [word for end in ends for word in tones.words_of(end.transcript)]


async def test_the_sdk_gets_every_word(emulator: DeepgramFluxEmulator) -> None:
    words = tones.sequence(20)
    audio = tones.encode(words, phrase_words=10, lead_seconds=0.4, tail_seconds=1.5)
    async with connected(emulator) as connection:
        await send(connection, audio)
        await connection.send_close_stream()
        messages, code = await rest(connection)
    assert final_words(messages) == words
    assert events(messages) == ["StartOfTurn", "EndOfTurn"] * 2
    assert isinstance(messages[0], ListenV2Connected)
    assert [m.sequence_id for m in messages] == list(range(len(messages)))
    assert messages[-1].event == "Update"
    assert messages[-1].audio_window_end == pytest.approx(len(audio) / 32000, abs=0.01)
    assert code == 1005, "the close has no status"
    assert emulator.log[0].closed == "server 1005"
    assert emulator.log[0].request_id == messages[0].request_id


async def test_the_sdk_closes_during_a_turn(emulator: DeepgramFluxEmulator) -> None:
    words = tones.sequence(5)
    async with connected(emulator) as connection:
        await send(connection, tones.encode(words, tail_seconds=0))
        await connection.send_close_stream()
        messages, _ = await rest(connection)
    assert "EndOfTurn" not in events(messages)
    assert tones.words_of(messages[-1].transcript) == words


async def test_the_sdk_gets_eager_ends(emulator: DeepgramFluxEmulator) -> None:
    words = tones.sequence(6)
    audio = tones.encode(words, phrase_words=3, pause_seconds=0.45, tail_seconds=1.5)
    options = {"eager_eot_threshold": 0.4, "eot_threshold": 0.8}
    async with connected(emulator, **options) as connection:
        await send(connection, audio)
        await connection.send_close_stream()
        messages, _ = await rest(connection)
    expected = ["StartOfTurn", "EagerEndOfTurn", "TurnResumed", "EagerEndOfTurn", "EndOfTurn"]
    assert events(messages) == expected
    turns = [m for m in messages if isinstance(m, ListenV2TurnInfo) and m.event != "Update"]
    assert turns[-1].transcript == turns[-2].transcript
    assert turns[-1].trigger == "model"


async def test_the_sdk_forces_the_end_of_turns(emulator: DeepgramFluxEmulator) -> None:
    words = tones.sequence(4)
    async with connected(emulator) as connection:
        await connection.send_force_end_turn()
        await send(connection, tones.encode(words, tail_seconds=0.2))
        await connection.send_force_end_turn()
        await connection.send_close_stream()
        messages, _ = await rest(connection)
    assert [m.code for m in messages if isinstance(m, ListenV2Warning)] == [
        "FORCE_END_TURN_NO_ACTIVE_TURN"
    ]
    assert final_words(messages) == words
    (end,) = [m for m in messages if getattr(m, "event", "") == "EndOfTurn"]
    assert end.trigger == "manual"


async def test_the_sdk_configures(emulator: DeepgramFluxEmulator) -> None:
    async with connected(emulator, model="flux-general-multi") as connection:
        await connection.send_configure(
            ListenV2Configure(keyterms=["router"], language_hints=["de"], numerals=True)
        )
        await connection.send_configure(
            {
                "type": "Configure",
                "thresholds": {"eager_eot_threshold": 0.6, "eot_timeout_ms": "800"},
            }
        )
        await connection.send_configure(
            {"type": "Configure", "thresholds": {"eot_threshold": 0.5}, "keyterms": []}
        )
        await connection.send_close_stream()
        (_, first, second, third), _ = await rest(connection)
    assert isinstance(first, ListenV2ConfigureSuccess)
    assert (first.keyterms, first.language_hints, first.numerals) == (["router"], ["de"], True)
    assert isinstance(second, ListenV2ConfigureSuccess)
    thresholds = second.thresholds
    assert (thresholds.eager_eot_threshold, thresholds.eot_timeout_ms) == (0.6, 800)
    assert second.keyterms == ["router"]
    assert isinstance(third, ListenV2ConfigureFailure)
    assert third.code == "INVALID_THRESHOLD"


async def test_the_sdk_receives_errors(emulator: DeepgramFluxEmulator) -> None:
    async with connected(emulator) as connection:
        # The SDK has no public method for a message that the API does not have.
        await connection._send('{"type": "KeepAlive"}')
        (_, error), code = await rest(connection)
    assert isinstance(error, ListenV2FatalError)
    assert error.code == "UNPARSABLE_CLIENT_MESSAGE"
    assert code == 1011
    with pytest.raises(ApiError) as refused:
        async with sdk(emulator, "wrong").listen.v2.connect(model="flux-general-en"):
            pass
    assert refused.value.status_code == 401
    with pytest.raises(ApiError) as refused:
        async with connected(emulator, language_hint=["de"]):
            pass
    assert refused.value.status_code == 400


async def test_an_inactive_client_receives_an_error(emulator: DeepgramFluxEmulator) -> None:
    await emulator.set(inactive_seconds=0.3)
    async with connected(emulator) as connection:
        await send(connection, tones.silence(0.1))
        messages, _ = await rest(connection)
    assert messages[-1].code == "INACTIVE_CLIENT"
    await until(lambda: emulator.log[0].closed, "closed")


# ---- the specification ----------------------------------------------------------------------


def specification() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the channel of listen v2, and the document."""
    document = load_specification(SPECIFICATION)
    return document["channels"]["/v2/listen"], document


def schemas(direction: str) -> dict[str, Any]:
    """Return validators for messages of listen v2 by type. The server's direction is `publish`."""
    channel, document = specification()
    found = {}
    for ref in channel[direction]["message"]["oneOf"]:
        name = ref["$ref"].removeprefix("#/components/messages/")
        payload = document["components"]["messages"][name]["payload"]
        schema = {**payload, "components": document["components"]}
        kind = payload["$ref"].rpartition("_ListenV2")[2]
        found["Error" if kind == "FatalError" else kind] = jsonschema.Draft202012Validator(schema)
    return found


@pytest.mark.parametrize("model", ["flux-general-en", "flux-general-multi"])
async def test_every_message_fits_the_specification(
    emulator: DeepgramFluxEmulator, model: str
) -> None:
    validators = schemas("publish")
    assert set(validators) == set(MODELS) - {"Warning"}, (
        "Warning is newer than the copy of the specification"
    )
    words = tones.sequence(12)
    audio = tones.encode(words, phrase_words=3, pause_seconds=0.5, lead_seconds=0.3)
    hint = "&language_hint=en&language_hint=de" if model.endswith("multi") else ""
    query = (
        f"model={model}&encoding=linear16&sample_rate=16000&eager_eot_threshold=0.4"
        f"&eot_threshold=0.8&eot_timeout_ms=600&keyterm=a&keyterm=b+c&tag=x&numerals=true{hint}"
    )
    seen: list[dict[str, Any]] = []
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Token {KEY}"}) as session,
        session.ws_connect(f"{emulator.url}/v2/listen?{query}") as socket,
    ):
        await socket.send_json({"type": "ForceEndTurn"})
        for at in range(0, len(audio), 2560):
            await socket.send_bytes(audio[at : at + 2560])
        for order in (
            {"type": "Configure", "keyterms": ["a"]},
            {"type": "Configure", "thresholds": {"eot_threshold": 2}},
            {"type": "ForceEndTurn"},
            {"type": "Finalize"},
        ):
            await socket.send_json(order)
        async for frame in socket:
            seen.append(json.loads(frame.data))
    assert {message["type"] for message in seen} == set(MODELS)
    assert {m["event"] for m in seen if m["type"] == "TurnInfo"} == {
        *("Update", "StartOfTurn", "EagerEndOfTurn", "TurnResumed", "EndOfTurn")
    }
    assert [m["sequence_id"] for m in seen] == list(range(len(seen)))
    for message in seen:
        if message["type"] in validators:
            validators[message["type"]].validate(message)
        # The model has fields that the copy of the specification lacks: `trigger`, `code`, ...
        sdk_model = MODELS[message["type"]]
        assert required(sdk_model) <= set(message) <= set(sdk_model.model_fields), message
    multilingual = [m for m in seen if "languages_hinted" in m]
    assert bool(multilingual) == model.endswith("multi")
