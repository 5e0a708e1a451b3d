"""`/v1/listen` with Deepgram's own Python SDK, blocking and not."""

from __future__ import annotations

import asyncio
import warnings
from signal import SIGTERM
from typing import Any

import pytest
import websockets
from deepgram import AsyncDeepgramClient, DeepgramClient
from deepgram.core.api_error import ApiError
from deepgram.environment import DeepgramClientEnvironment
from websockets.exceptions import ConnectionClosedError

from natterjack.emulators import tones
from tests.waiting import until, within
from tests.worker.programs import UNDISTURBED

from ..house import House, Speech

with warnings.catch_warnings():
    # The SDK imports names of websockets that are deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    import deepgram.listen.v1.client  # noqa: F401

pytestmark = pytest.mark.process

QUERY: dict[str, Any] = {"model": "nova-3", "encoding": "linear16", "sample_rate": 16000}


def environment(house: House) -> DeepgramClientEnvironment:
    http, ws = house.gateway.http, house.gateway.ws
    return DeepgramClientEnvironment(base=http, production=ws, agent=ws, agent_rest=http)


def words_of(messages: list[Any]) -> list[str]:
    return [
        tones.plain(word.word)
        for message in messages
        if message.type == "Results" and message.is_final
        for word in message.channel.alternatives[0].words
    ]


@pytest.mark.parametrize("bearer", [False, True])
async def test_the_asynchronous_client(house: House, bearer: bool) -> None:
    key = house.key()
    await house.start("deepgram")
    speech, messages = Speech(12), []
    given = {"access_token": key} if bearer else {"api_key": key}
    client = AsyncDeepgramClient(environment=environment(house), **given)
    async with within(60), client.listen.v1.connect(**QUERY) as connection:

        async def read() -> None:
            async for message in connection:
                messages.append(message)

        reading = asyncio.create_task(read())
        await connection.send_keep_alive()
        await speech.play(connection.send_media)
        await connection.send_finalize()
        await until(lambda: any(getattr(m, "from_finalize", False) for m in messages), "an answer")
        await connection.send_close_stream()
        await reading
    speech.check(words_of(messages))
    assert messages[-1].type == "Metadata"


async def test_the_blocking_client(house: House) -> None:
    await house.start("deepgram")
    speech, messages = Speech(12), []

    def talk() -> None:
        client = DeepgramClient(api_key="none", environment=environment(house))
        with client.listen.v1.connect(**QUERY) as connection:
            for frame in speech.frames():
                connection.send_media(frame)
            connection.send_close_stream()
            messages.extend(connection)

    async with within(60):
        await asyncio.to_thread(talk)
    speech.check(words_of(messages))
    assert messages[-1].type == "Metadata"


async def test_a_wrong_key(house: House) -> None:
    house.key()
    await house.start_gateway()
    client = AsyncDeepgramClient(api_key="nj_wrong", environment=environment(house))
    with pytest.raises(ApiError) as error:
        async with client.listen.v1.connect(**QUERY):
            pass
    assert error.value.status_code == 401
    blocking = DeepgramClient(api_key="nj_wrong", environment=environment(house))

    def connect() -> None:
        with blocking.listen.v1.connect(**QUERY):
            pass

    with pytest.raises((ApiError, websockets.InvalidStatus)):
        await asyncio.to_thread(connect)


async def test_a_full_gateway_is_to_be_tried_again(house: House) -> None:
    await house.start_gateway(GATEWAY_MAX_CONNECTIONS="1")
    client = AsyncDeepgramClient(api_key="none", environment=environment(house))
    async with client.listen.v1.connect(**QUERY):
        with pytest.raises(ApiError) as error:
            async with client.listen.v1.connect(**QUERY):
                pass
    assert error.value.status_code == 503


async def test_a_gateway_that_ends_closes_with_a_code_that_is_an_error(house: House) -> None:
    """The client does not connect again by itself; the audio that it has sent is transcribed."""
    await house.start_worker("deepgram", **UNDISTURBED)
    gateway = await house.start_gateway()
    speech, messages, stopped = Speech(12), [], asyncio.Event()
    client = AsyncDeepgramClient(api_key="none", environment=environment(house))
    async with within(60), client.listen.v1.connect(**QUERY) as connection:

        async def read() -> None:
            async for message in connection:
                messages.append(message)
                if len(words_of(messages)) >= 8 and not stopped.is_set():
                    stopped.set()
                    gateway.signal(SIGTERM)

        playing = asyncio.create_task(speech.play(connection.send_media))
        with pytest.raises(ConnectionClosedError) as closed:
            await read()
        await asyncio.wait([playing])
        playing.exception()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    heard = words_of(messages)
    assert heard == speech.words[: len(heard)]
