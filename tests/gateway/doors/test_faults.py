"""Faults behind the gateway, as the vendors' clients see them: not at all. Their sockets stay, and
every word is final once."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest
from speechmatics.rt import TransportError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from natterjack.broker import streams
from natterjack.broker.connection import Broker, connected
from natterjack.broker.stored import StreamStore
from natterjack.emulators import tones
from natterjack.events import parse_event
from natterjack.local.embedded import EmbeddedServer
from natterjack.settings import BrokerSettings
from tests.faults.cluster import Cluster
from tests.waiting import until, within
from tests.worker.programs import holder

from .house import FRAME_SECONDS, House, Speech
from .talkers import TALKERS, RealtimeTalker, Talker

pytestmark = [pytest.mark.process, pytest.mark.slow]

PROVIDER = {
    "deepgram-sdk v1": "deepgram",
    "deepgram-sdk v2": "deepgram-flux",
    "speechmatics-rt": "speechmatics",
    "speechmatics-agent-stt": "speechmatics-agent",
}
OTHER = {
    "deepgram-sdk v1": "speechmatics",
    "deepgram-sdk v2": "speechmatics",
    "speechmatics-rt": "deepgram",
    "speechmatics-agent-stt": "deepgram-flux",
}
"""A provider of another vendor."""
STREAMS = {
    "deepgram-sdk v1": streams.TRANSCRIPTS,
    "deepgram-sdk v2": streams.AUDIO,
    "speechmatics-rt": streams.TRANSCRIPTS,
    "speechmatics-agent-stt": streams.SESSIONS,
}
"""The stream whose leader is killed."""
Fault = Callable[[House, str, Talker], Awaitable[None]]
OUTAGE_SECONDS = 20.0


async def worker_killed(house: House, provider: str, talker: Talker) -> None:
    (await holder(house.workers)).signal(SIGKILL)


async def provider_drops(house: House, provider: str, talker: Talker) -> None:
    (await house.emulator(provider)).drop()


async def provider_mute(house: House, provider: str, talker: Talker) -> None:
    emulator = await house.emulator(provider)
    await emulator.set(mute_after_seconds=0.0, connections=1)


async def provider_out(house: House, provider: str, talker: Talker) -> None:
    """No connection to the provider for 20 s."""
    emulator = await house.emulator(provider)
    await emulator.set(refuse=True)
    emulator.drop()
    await asyncio.sleep(OUTAGE_SECONDS)  # the length of the outage, not a wait for a condition
    await emulator.set(refuse=False)


FAULTS: dict[str, Fault] = {
    fault.__name__: fault for fault in (worker_killed, provider_drops, provider_mute, provider_out)
}


async def talk(house: House, client: str, provider: str, fault: Fault, **worker: str) -> Talker:
    """Speak, have the fault in the middle of it, and return the client with all its words."""
    settings = {"WORKER_MUTE_SECONDS": "3", "SPEECHMATICS_RETRY_SECONDS": "0.5", **worker}
    await asyncio.gather(
        house.start_worker(provider, **settings),
        house.start_worker(provider, **settings),
        house.start_gateway(),
    )
    speech, talker = Speech(40), TALKERS[client](house)
    await talker.start()
    speaking = asyncio.create_task(speech.play(talker.send, speed=2.0))
    await until(lambda: talker.heard > 8, "the second phrase", 30)
    await fault(house, provider, talker)
    await speaking
    await talker.finish(40)
    speech.check(talker.words)
    assert not talker.broken
    return talker


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("client", TALKERS)
async def test_the_socket_stays_and_each_word_is_final_once(
    house: House, client: str, fault: str
) -> None:
    await talk(house, client, PROVIDER[client], FAULTS[fault])


@pytest.mark.parametrize("client", TALKERS)
async def test_the_same_with_the_provider_of_another_vendor(house: House, client: str) -> None:
    await talk(house, client, OTHER[client], worker_killed)


@pytest.mark.parametrize("client", TALKERS)
async def test_a_broker_that_starts_anew(
    house: House, nats_server: EmbeddedServer, client: str
) -> None:
    async def broker_killed(house: House, provider: str, talker: Talker) -> None:
        nats_server.kill()
        nats_server.start()

    await talk(house, client, PROVIDER[client], broker_killed)


@pytest.mark.parametrize("client", TALKERS)
async def test_the_leader_of_a_cluster_is_killed(tmp_path: Path, client: str) -> None:
    cluster = Cluster(tmp_path / "cluster")
    cluster.start()
    house = House(tmp_path, cluster.url)

    async def leader_killed(house: House, provider: str, talker: Talker) -> None:
        async with connected(BrokerSettings(url=cluster.url), name="test") as broker:
            stream = STREAMS[client]
            leader = await until(lambda: cluster.leader(broker, stream), "the stream has a leader")
        leader.kill()

    try:
        await talk(house, client, PROVIDER[client], leader_killed, NATTERJACK_STREAM_REPLICAS="3")
    finally:
        await house.close()
        cluster.stop()


async def test_a_gateway_that_ends_first_sends_what_was_said(house: House) -> None:
    """The words of the audio that was received are final before the Error."""
    await house.start("speechmatics")
    speech, talker = Speech(40), RealtimeTalker(house)
    await talker.start()

    async def send(audio: bytes) -> None:
        with contextlib.suppress(TransportError):  # the gateway has closed the connection
            await talker.send(audio)

    speaking = asyncio.create_task(speech.play(send, speed=2.0))
    await until(lambda: talker.heard > 8, "the second phrase", 30)
    house.gateway.signal(SIGTERM)
    assert await house.gateway.wait(60) == 0
    speaking.cancel()
    heard = talker.words
    assert heard == speech.words[: len(heard)]
    assert len(heard) > 8
    kinds = [message["message"] for message in talker.messages]
    assert kinds[-2:] == ["Error", "EndOfTranscript"]
    assert talker.messages[-2]["type"] == "job_error"
    await talker.sdk.close()


@pytest.mark.parametrize("way", ["connection lost", "gateway ended"])
async def test_a_flux_client_that_comes_back_goes_on(
    house: House, broker: Broker, way: str
) -> None:
    """Deepgram's SDKs repeat an ID when they connect again: the session goes on, on a new clock."""
    await house.start("deepgram-flux")
    speech = Speech(40)
    frames = speech.frames()
    texts: list[str] = []

    async def talk(part: list[bytes], *, last: bool) -> None:
        url = f"{house.gateway.ws}/v2/listen?model=flux-general-en&encoding=linear16"
        headers = {"x-deepgram-session-id": "one-client"}
        turns: dict[int, str] = {}
        ended: set[int] = set()

        async def read(socket: ClientConnection) -> None:
            with contextlib.suppress(ConnectionClosed):
                async for text in socket:
                    message = json.loads(text)
                    if message["type"] == "TurnInfo":
                        turns[message["turn_index"]] = message["transcript"]
                        if message["event"] == "EndOfTurn":
                            ended.add(message["turn_index"])
                        assert message["audio_window_end"] < len(part) * FRAME_SECONDS + 0.5

        async with (
            within(60),
            connect(f"{url}&sample_rate=16000", additional_headers=headers) as socket,
        ):
            reading = asyncio.create_task(read(socket))
            for frame in part:
                await socket.send(frame)
                await asyncio.sleep(FRAME_SECONDS / 4)
            if last:
                await socket.send('{"type": "CloseStream"}')
                await reading
                assert socket.close_code == 1005
                texts.extend(turns.values())
                return
            # In the pause after the second phrase, once both are final.
            await until(lambda: len(ended) == 2, "two turns are over", 30)
            if way == "connection lost":
                socket.transport.abort()
            else:
                house.gateway.signal(SIGTERM)
            await reading
            assert socket.close_code == (1012 if way == "gateway ended" else 1006)
        texts.extend(turns.values())

    pause = round((speech.places[15].end + 1.1) / FRAME_SECONDS)
    await talk(frames[:pause], last=False)
    if way == "gateway ended":
        await house.start_gateway()
    await talk(frames[pause:], last=True)
    speech.check([word for text in texts for word in tones.words_of(text)])
    store = StreamStore(broker, streams.TRANSCRIPTS)
    await store.start()
    stored, _ = await store.read("stt.transcript.>", 1, batch=1000, max_bytes=10_000_000)
    sessions = {parse_event(message.data).session_id for message in stored}
    if way == "gateway ended":
        assert len(sessions) == 1, "it is one session"
    # A lost connection may be noticed after the client is back, which gets a new session then.
