"""`/v2/listen` with Deepgram's own Python SDK, and different providers behind it."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import websockets
from deepgram import AsyncDeepgramClient, DeepgramClient
from deepgram.core.api_error import ApiError
from deepgram.environment import DeepgramClientEnvironment
from websockets.exceptions import ConnectionClosed

from natterjack.emulators import tones
from tests.waiting import until, within

from ..house import House, Speech

pytestmark = pytest.mark.process

with warnings.catch_warnings():
    # The SDK imports names of websockets that are deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    import deepgram.listen.v2.client  # noqa: F401

QUERY = {"model": "flux-general-en", "encoding": "linear16", "sample_rate": 16000}


def environment(house: House) -> DeepgramClientEnvironment:
    http, ws = house.gateway.http, house.gateway.ws
    return DeepgramClientEnvironment(base=http, production=ws, agent=ws, agent_rest=http)


class Listener:
    """The SDK's connection, and what came on it."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.messages: list[Any] = []
        self.closed: ConnectionClosed | None = None

    async def receive(self) -> None:
        try:
            async for message in self.connection:
                self.messages.append(message)
        except ConnectionClosed as closed:
            self.closed = closed

    def of(self, kind: str) -> list[Any]:
        return [one for one in self.messages if getattr(one, "type", "") == kind]

    def turns(self, event: str) -> list[Any]:
        return [one for one in self.of("TurnInfo") if one.event == event]

    @property
    def words(self) -> list[str]:
        """Words of all turns, as a client has them that keeps the last message of each turn."""
        last = {one.turn_index: one.transcript for one in self.of("TurnInfo")}
        return [word for text in last.values() for word in tones.words_of(text)]


@asynccontextmanager
async def listening(house: House, key: str = "none", **query: Any) -> AsyncIterator[Listener]:
    client = AsyncDeepgramClient(api_key=key, environment=environment(house))
    async with client.listen.v2.connect(**{**QUERY, **query}) as connection:
        listener = Listener(connection)
        receiving = asyncio.create_task(listener.receive())
        yield listener
        async with within(60):
            await receiving


async def say(listener: Listener, speech: Speech) -> None:
    await speech.play(listener.connection.send_media)


@pytest.mark.parametrize(
    "provider", ["deepgram-flux", "deepgram", "speechmatics", "speechmatics-agent"]
)
async def test_the_sdk_gets_turns_from_any_provider(house: House, provider: str) -> None:
    speech = Speech(24)
    await house.start(provider)
    async with listening(house) as listener:
        await say(listener, speech)
        await listener.connection.send_close_stream()
    speech.check(listener.words)
    numbers = [one.sequence_id for one in listener.messages]
    assert numbers == list(range(len(numbers)))
    assert listener.messages[0].type == "Connected"
    starts, ends = listener.turns("StartOfTurn"), listener.turns("EndOfTurn")
    assert [one.turn_index for one in starts] == [0, 1, 2]
    assert [one.turn_index for one in ends][:2] == [0, 1]
    assert all(one.transcript and one.words for one in (*starts, *ends))
    assert {one.trigger for one in ends} == {"model"}
    found = [word.start for one in ends for word in one.words]
    places = [place.start for place in speech.places[: len(found)]]
    exact = provider != "speechmatics-agent"
    assert found == pytest.approx(places, abs=0.05 if exact else 1.0)
    # "Close Stream": the server closes without a status.
    assert (
        listener.closed is None or listener.closed.rcvd is None or listener.closed.rcvd.code == 1005
    )


async def test_the_sdk_forces_and_configures(house: House) -> None:
    await house.start("deepgram-flux")
    speech = Speech(4, tail_seconds=0.2)
    async with listening(house) as listener:
        await listener.connection.send_force_end_turn()
        await until(lambda: listener.of("Warning"), "a warning", 20)
        await listener.connection.send_configure(
            {"type": "Configure", "thresholds": {"eot_timeout_ms": 900}}
        )
        await listener.connection.send_configure(
            {"type": "Configure", "thresholds": {"eot_timeout_ms": 1}}
        )
        await until(lambda: listener.of("ConfigureFailure"), "a failure", 20)
        (done,) = listener.of("ConfigureSuccess")
        assert done.thresholds.eot_timeout_ms == 900
        await say(listener, speech)
        await until(lambda: listener.turns("StartOfTurn"), "a turn", 20)
        await listener.connection.send_force_end_turn()
        await until(lambda: listener.turns("EndOfTurn"), "the end of the turn", 20)
        await listener.connection.send_close_stream()
    speech.check(listener.words)
    assert {one.trigger for one in listener.turns("EndOfTurn")} == {"manual"}


async def test_eager_ends_of_turns(house: House) -> None:
    house.key()
    key = house.key(provider=("deepgram-flux",))
    await house.start("deepgram-flux")
    speech = Speech(8)
    async with listening(house, key, eager_eot_threshold=0.3, eot_threshold=0.9) as listener:
        await say(listener, speech)
        await listener.connection.send_close_stream()
    speech.check(listener.words)
    events = [one.event for one in listener.of("TurnInfo") if one.event != "Update"]
    assert events == ["StartOfTurn", "EagerEndOfTurn", "EndOfTurn"]
    eager, end = listener.turns("EagerEndOfTurn")[0], listener.turns("EndOfTurn")[0]
    assert eager.transcript == end.transcript


async def test_the_sdk_is_told_of_refusals(house: House) -> None:
    full, other = house.key(max_connections=1), house.key(doors=("managed",))
    await house.start("deepgram-flux")

    async def status(key: str, **query: Any) -> int | None:
        with pytest.raises(ApiError) as refused:
            async with listening(house, key, **query):
                pass
        return refused.value.status_code

    assert await status("wrong") == 401
    assert await status(full, model="nova-3") == 400
    assert await status(full, language_hint=["de"]) == 400
    assert await status(other) == 403
    async with listening(house, full) as listener:
        assert await status(full) == 503
        await listener.connection.send_close_stream()


async def test_the_blocking_sdk(house: House) -> None:
    await house.start("deepgram-flux")
    speech = Speech(8)

    def talk() -> list[Any]:
        client = DeepgramClient(api_key="none", environment=environment(house))
        with client.listen.v2.connect(**QUERY) as connection:
            for frame in speech.frames():
                connection.send_media(frame)
            connection.send_close_stream()
            found = []
            try:
                for message in connection:
                    found.append(message)
            except ConnectionClosed:
                pass
            return found

    async with within(60):
        messages = await asyncio.to_thread(talk)
    listener = Listener(None)
    listener.messages = messages
    speech.check(listener.words)


async def test_messages_of_other_protocols(house: House) -> None:
    """KeepAlive is ignored, and any other text ends the stream with an Error."""
    await house.start("deepgram-flux")
    url = f"{house.gateway.ws}/v2/listen?model=flux-general-en&encoding=linear16&sample_rate=16000"
    async with within(30), websockets.connect(url) as socket:
        await socket.send('{"type":"KeepAlive"}')
        await socket.send('{"type":"Finalize"}')
        texts: list[Any] = []
        with contextlib.suppress(ConnectionClosed):
            while True:
                texts.append(await socket.recv())
    assert '"UNPARSABLE_CLIENT_MESSAGE"' in str(texts[-1])
    assert socket.close_code == 1011
