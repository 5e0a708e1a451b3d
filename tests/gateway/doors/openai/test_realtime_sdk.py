"""`/v1/realtime` with OpenAI's own Python SDK, and with livekit's plug-in."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from signal import SIGKILL, SIGTERM
from typing import Any

import aiohttp
import openai
import pytest
from openai.resources.realtime.realtime import AsyncRealtimeConnection

from natterjack.emulators import tones
from natterjack.emulators.pcm import from_linear16
from tests.nats_server import NatsServer
from tests.waiting import until, within
from tests.worker.programs import holder

from ..house import House, Speech

pytestmark = pytest.mark.process

RATE = 24_000
VAD = {"type": "server_vad", "silence_duration_ms": 400}
PREFIX = "conversation.item.input_audio_transcription"


def client(house: House, key: str = "none") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key=key, base_url=f"{house.gateway.http}/v1", max_retries=0)


class Realtime:
    """A connection of the SDK, and what it has received."""

    def __init__(self, connection: AsyncRealtimeConnection) -> None:
        self.connection = connection
        self.messages: list[Any] = []
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.connection:
            self.messages.append(message)

    def of(self, kind: str) -> list[Any]:
        return [message for message in self.messages if message.type == kind]

    async def configure(self, **audio: Any) -> None:
        transcription = {"model": "gpt-4o-transcribe", "language": "en"}
        session = {
            "type": "transcription", "audio": {"input": {"transcription": transcription, **audio}},
        }  # fmt: skip
        await self.connection.session.update(session=session)  # type: ignore[arg-type]

    async def send(self, audio: bytes) -> None:
        await self.connection.input_audio_buffer.append(audio=base64.b64encode(audio).decode())

    @property
    def transcripts(self) -> list[str]:
        """In the order of the items."""
        done = {message.item_id: message.transcript for message in self.of(f"{PREFIX}.completed")}
        order = [message.item_id for message in self.of("input_audio_buffer.committed")]
        return [done[item] for item in order if item in done]

    @property
    def words(self) -> list[str]:
        return tones.words_of(" ".join(self.transcripts))

    def deltas(self, item: str) -> str:
        found = self.of(f"{PREFIX}.delta")
        return "".join(message.delta for message in found if message.item_id == item)

    def check_order(self) -> None:
        """Assert that items follow each other, and that each is told in the right order."""
        committed = self.of("input_audio_buffer.committed")
        items = [message.item_id for message in committed]
        assert [message.previous_item_id for message in committed] == [None, *items[:-1]]
        for item in items:
            kinds = [one.type for one in self.messages if getattr(one, "item_id", None) == item]
            assert kinds.count(f"{PREFIX}.completed") == 1
            assert kinds[-1] == f"{PREFIX}.completed"
            assert kinds.index("input_audio_buffer.committed") < len(kinds) - 1


@pytest.mark.parametrize("detection", [VAD, {"type": "semantic_vad"}])
async def test_turns_are_detected(house: House, detection: dict[str, Any]) -> None:
    await house.start("deepgram")
    speech = Speech(24, rate=RATE)
    async with client(house).realtime.connect(extra_query={"intent": "transcription"}) as opened:
        realtime = Realtime(opened)
        await realtime.configure(turn_detection=detection)
        await speech.play(realtime.send)
        await until(lambda: len(realtime.words) >= 24, "all words")
    await realtime.reading
    speech.check(realtime.words)
    realtime.check_order()
    assert [message.type for message in realtime.messages[:2]] == [
        "session.created", "session.updated"
    ]  # fmt: skip
    updated = realtime.messages[1].session
    assert updated.type == "transcription"
    assert updated.audio.input.turn_detection.type == detection["type"]
    started = realtime.of("input_audio_buffer.speech_started")
    stopped = realtime.of("input_audio_buffer.speech_stopped")
    assert len(started) == len(stopped) == len(realtime.transcripts) >= 3
    assert started[0].audio_start_ms == pytest.approx(speech.places[0].start * 1000, abs=60)
    for one, other in zip(started, stopped, strict=True):
        assert one.item_id == other.item_id
        assert one.audio_start_ms < other.audio_end_ms
    items = [message.item_id for message in realtime.of("input_audio_buffer.committed")]
    for item, transcript in zip(items, realtime.transcripts, strict=True):
        assert tones.words_of(realtime.deltas(item)) == tones.words_of(transcript)
    assert len(realtime.of(f"{PREFIX}.delta")) > len(items), "interims were told"


@pytest.mark.parametrize("provider", ["deepgram", "speechmatics"])
async def test_the_client_commits(house: House, provider: str) -> None:
    await house.start(provider)
    words = tones.sequence(8)
    async with client(house).realtime.connect(model="gpt-live-transcribe") as opened:
        realtime = Realtime(opened)
        await realtime.configure(turn_detection=None)
        for half in (words[:4], words[4:]):
            audio = tones.encode(half, RATE, lead_seconds=0.2, tail_seconds=0.2)
            for at in range(0, len(audio), 4800):
                await realtime.send(audio[at : at + 4800])
                await asyncio.sleep(0.02)  # the pace of audio
            count = len(realtime.transcripts)
            await opened.input_audio_buffer.commit()
            await until(lambda count=count: len(realtime.transcripts) > count, "the item")
    await realtime.reading
    assert [tones.words_of(text) for text in realtime.transcripts] == [words[:4], words[4:]]
    realtime.check_order()
    assert not realtime.of("input_audio_buffer.speech_started")
    [first, _] = realtime.of(f"{PREFIX}.completed")
    assert first.usage.type == "duration"
    assert first.usage.seconds == pytest.approx(0.4 + 4 * 0.32 - 0.08, abs=0.1)


async def test_what_is_cleared_is_not_transcribed(house: House) -> None:
    await house.start("deepgram")
    words = tones.sequence(9)
    async with client(house).realtime.connect(model="gpt-live-transcribe") as opened:
        realtime = Realtime(opened)
        await realtime.configure(turn_detection=None)
        await realtime.send(tones.encode(words[:3], RATE, tail_seconds=0.3))
        await opened.input_audio_buffer.clear()
        await until(lambda: realtime.of("input_audio_buffer.cleared"), "the answer")
        await realtime.send(tones.encode(words[3:6], RATE, tail_seconds=0.3))
        await opened.input_audio_buffer.commit()
        await until(lambda: realtime.transcripts, "the item")
    await realtime.reading
    assert realtime.words == words[3:6]


async def test_a_client_that_never_commits_gets_its_words(house: House) -> None:
    await house.start("deepgram")
    speech = Speech(240, rate=RATE)
    assert speech.seconds > 90
    async with client(house).realtime.connect(model="gpt-live-transcribe") as opened:
        realtime = Realtime(opened)
        await realtime.configure(turn_detection=None)
        await speech.play(realtime.send, speed=10)
        await until(lambda: len(realtime.words) >= 232, "nearly all words", 60)
    await realtime.reading
    realtime.check_order()
    assert realtime.words == speech.words[: len(realtime.words)]


@pytest.mark.parametrize(("form", "encoding"), [("audio/pcmu", "mulaw"), ("audio/pcma", "alaw")])
async def test_telephone_audio(house: House, form: str, encoding: Any) -> None:
    await house.start("deepgram")
    speech = Speech(8, rate=8000)
    audio = from_linear16(speech.audio, encoding)
    async with client(house).realtime.connect(extra_query={"intent": "transcription"}) as opened:
        realtime = Realtime(opened)
        await realtime.configure(format={"type": form})
        for at in range(0, len(audio), 800):
            await realtime.send(audio[at : at + 800])
            await asyncio.sleep(0.02)  # the pace of audio
        await until(lambda: len(realtime.words) >= 8, "all words")
    await realtime.reading
    speech.check(realtime.words)


async def test_killed_worker_and_broker(house: House, nats_server: NatsServer) -> None:
    """The socket stays, and every word comes once."""
    await house.start_gateway()
    for _ in range(2):
        await house.start_worker("deepgram")
    speech = Speech(40, rate=RATE)
    async with client(house).realtime.connect(extra_query={"intent": "transcription"}) as opened:
        realtime = Realtime(opened)
        await realtime.configure(turn_detection=VAD)
        playing = asyncio.create_task(speech.play(realtime.send, speed=1.5))
        (await holder(house.workers)).signal(SIGKILL)
        await until(lambda: len(realtime.words) >= 16, "two items")
        nats_server.kill()
        nats_server.start()
        await playing
        await until(lambda: len(realtime.words) >= 40, "all words", 60)
    await realtime.reading
    speech.check(realtime.words)
    assert not realtime.of("error")


async def test_a_wrong_key_and_a_full_gateway(house: House) -> None:
    key = house.key(doors=("openai",), max_connections=1)
    other = house.key(doors=("deepgram",))
    await house.start("deepgram")
    query = {"intent": "transcription"}
    async with client(house, key).realtime.connect(extra_query=query) as opened:
        assert (await opened.recv()).type == "session.created"
        for secret, status in (("wrong", 401), (other, 403), (key, 503)):
            with pytest.raises(Exception, match=str(status)) as raised:
                async with client(house, secret).realtime.connect(extra_query=query):
                    pass
            assert "InvalidStatus" in repr(raised.value) or "APIStatus" in repr(raised.value)
    async with client(house, key).realtime.connect(extra_query=query) as opened:
        assert (await opened.recv()).type == "session.created"


async def test_a_browser_gets_its_subprotocol_and_errors_in_band(house: House) -> None:
    key = house.key(doors=("openai",))
    await house.start("deepgram")
    url = f"{house.gateway.ws}/v1/realtime?intent=transcription"
    async with aiohttp.ClientSession() as http:
        for secret, first in ((key, "session.created"), ("wrong", "error")):
            offered = ("realtime", f"openai-insecure-api-key.{secret}")
            async with http.ws_connect(url, protocols=offered) as socket:
                assert socket.protocol == "realtime"
                message = await socket.receive_json()
                assert message["type"] == first
        assert message["error"]["code"] == "invalid_api_key"


async def test_bad_messages_are_answered_and_lose_nothing(house: House) -> None:
    await house.start("deepgram")
    words = tones.sequence(4)
    audio = tones.encode(words, RATE, lead_seconds=0.2, tail_seconds=0.3)
    append = "input_audio_buffer.append"
    bad: list[Any] = [
        "{", "[]", "1", '"x"', "{}", '{"type": 5}', {"type": "nonsense", "event_id": "mine"},
        {"type": "response.create"}, {"type": append}, {"type": append, "audio": 5},
        {"type": append, "audio": "%%%"}, {"type": "session.update"},
        {"type": "session.update", "session": []},
        {"type": "session.update", "session": {"type": "realtime"}},
        {"type": "session.update", "session": {"type": "transcription", "audio": 3}},
        {"type": "session.update", "session": {"audio": {"input": {"format": {"type": "x"}}}}},
        {"type": "session.update", "session": {"audio": {"input": {
            "format": {"type": "audio/pcm", "rate": 10**9}}}}},
        {"type": "session.update", "session": {"audio": {"input": {"turn_detection": 7}}}},
        {"type": "input_audio_buffer.commit"}, "[" * 100_000, b"\0\1\2",
    ]  # fmt: skip
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{house.gateway.ws}/v1/realtime") as socket,
    ):

        async def send_bad() -> None:
            for message in bad:
                if isinstance(message, bytes):
                    await socket.send_bytes(message)
                else:
                    text = message if isinstance(message, str) else json.dumps(message)
                    await socket.send_str(text)
                while (answer := await socket.receive_json())["type"] != "error":
                    pass
                assert answer["error"]["message"], message
                assert answer["error"]["type"] == "invalid_request_error"
                wanted = message.get("event_id") if isinstance(message, dict) else None
                assert answer["error"]["event_id"] == wanted

        async with within(60):
            assert (await socket.receive_json())["type"] == "session.created"
            await send_bad()
            await socket.send_json(
                {"type": "session.update", "session": {"type": "transcription", "audio": {
                    "input": {"turn_detection": None}}}}
            )  # fmt: skip
            for at in range(0, len(audio), 4801):  # an odd number of bytes
                part = base64.b64encode(audio[at : at + 4801]).decode()
                await socket.send_json({"type": append, "audio": part})
            await send_bad_after(socket)
            await socket.send_json({"type": "input_audio_buffer.commit"})
            while (answer := await socket.receive_json())["type"] != f"{PREFIX}.completed":
                pass
    assert tones.words_of(answer["transcript"]) == words


async def send_bad_after(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Bad messages while there is a session."""
    form = {"audio": {"input": {"format": {"type": "audio/pcmu"}}}}
    for message in (
        "{",
        '{"type": "nonsense"}',
        json.dumps({"type": "session.update", "session": form}),
    ):
        await socket.send_str(message)
        while (await socket.receive_json())["type"] != "error":
            pass


async def test_sizes(house: House) -> None:
    """15 MiB are taken at once, more is not, and a frame that is far too large ends the connection
    with the reason."""
    await house.start("deepgram")
    append = "input_audio_buffer.append"
    url = f"{house.gateway.ws}/v1/realtime"
    async with aiohttp.ClientSession() as http, within(90):
        async with http.ws_connect(url, max_msg_size=0) as socket:
            whole = base64.b64encode(bytes(15 << 20)).decode()
            await socket.send_json({"type": append, "audio": whole})
            await socket.send_json({"type": append, "audio": whole + "AAAA"})
            while (answer := await socket.receive_json())["type"] != "error":
                pass
            assert answer["error"]["code"] == "audio_too_large"
        async with http.ws_connect(url, max_msg_size=0) as socket:
            with contextlib.suppress(ConnectionError):  # the rest is not read
                await socket.send_str("x" * (25 << 20))
            while (await socket.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
            assert socket.close_code in (1006, 1009)
        async with http.ws_connect(url) as socket:
            assert (await socket.receive_json())["type"] == "session.created"


async def test_the_beta_form(house: House) -> None:
    await house.start("deepgram")
    speech = Speech(8, rate=RATE)
    headers = {"OpenAI-Beta": "realtime=v1"}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.ws_connect(f"{house.gateway.ws}/v1/realtime?intent=transcription") as socket,
        within(60),
    ):
        assert (await socket.receive_json())["type"] == "transcription_session.created"
        await socket.send_json({
            "type": "transcription_session.update",
            "session": {
                "input_audio_format": "pcm16",
                "input_audio_transcription": {"model": "gpt-4o-transcribe", "language": "en"},
                "turn_detection": {"type": "server_vad", "silence_duration_ms": 400},
                "input_audio_noise_reduction": {"type": "near_field"},
            },
        })  # fmt: skip
        updated = await socket.receive_json()
        assert updated["type"] == "transcription_session.updated"
        assert updated["session"]["input_audio_format"] == "pcm16"
        for frame in speech.frames():
            audio = base64.b64encode(frame).decode()
            await socket.send_json({"type": "input_audio_buffer.append", "audio": audio})
        heard: list[str] = []
        kinds = []
        while len(heard) < 8:
            message = await socket.receive_json()
            kinds.append(message["type"])
            if kinds[-1] == f"{PREFIX}.completed":
                heard += tones.words_of(message["transcript"])
    speech.check(heard)
    assert "conversation.item.created" in kinds


async def test_a_drain_lets_the_turn_end_and_closes_so_that_clients_return(house: House) -> None:
    await house.start("deepgram")
    speech = Speech(8, rate=RATE)
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{house.gateway.ws}/v1/realtime") as socket,
        within(60),
    ):
        await socket.receive_json()
        for frame in speech.frames():
            audio = base64.b64encode(frame).decode()
            await socket.send_json({"type": "input_audio_buffer.append", "audio": audio})
        heard: list[str] = []
        while (message := await socket.receive()).type is aiohttp.WSMsgType.TEXT:
            content = json.loads(message.data)
            if content["type"] == "input_audio_buffer.speech_started":
                house.gateway.signal(SIGTERM)
            assert content["type"] != "error", "livekit does not try again after an error"
            if content["type"] == f"{PREFIX}.completed":
                heard += tones.words_of(content["transcript"])
        assert socket.close_code == 1001
    speech.check(heard)
