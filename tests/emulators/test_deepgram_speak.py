"""The emulator of Deepgram's speak v1: its limits, its close codes and its faults."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from natterjack.emulators import tones
from natterjack.emulators.deepgram.speak import DeepgramSpeakEmulator
from natterjack.emulators.spoken import tone_words
from tests.waiting import until, within

AUTH = {"Authorization": "Token key"}
BASE = {"model": "aura-2-thalia-en", "encoding": "linear16", "sample_rate": "24000"}
TEXT = "The quick brown fox. It jumps over the lazy dog."


@pytest.fixture
async def emulator() -> AsyncIterator[DeepgramSpeakEmulator]:
    async with DeepgramSpeakEmulator(pace=30) as emulator:
        yield emulator


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers=AUTH) as client:
        yield client


class Client:
    """A client that keeps what it receives."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self.audio = b""
        self.frames: list[bytes] = []
        self.messages: list[dict[str, Any]] = []
        self.close: tuple[int, str] | None = None

    async def send(self, kind: str, **fields: Any) -> None:
        await self._socket.send_json({"type": kind, **fields})

    async def say(self, text: str) -> None:
        await self.send("Speak", text=text)
        await self.send("Flush")

    async def raw(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            await self._socket.send_bytes(message)
        else:
            await self._socket.send_str(message)

    async def read(self, kind: str | None = None) -> dict[str, Any] | None:
        """Read up to a message of a type, or to the end of the connection."""
        async with within(20):
            while True:
                frame = await self._socket.receive()
                if frame.type is aiohttp.WSMsgType.BINARY:
                    self.frames.append(frame.data)
                    self.audio += frame.data
                elif frame.type is aiohttp.WSMsgType.TEXT:
                    self.messages.append(json.loads(frame.data))
                    if self.messages[-1]["type"] == kind:
                        return self.messages[-1]
                else:
                    self.close = (self._socket.close_code or 0, str(frame.extra or ""))
                    return None

    def heard(self, rate: int = 24_000) -> list[str]:
        decoder = tones.Decoder(rate)
        return [word.word for word in [*decoder.feed(self.audio), *decoder.flush()]]

    def kinds(self) -> list[str]:
        return [message["type"] for message in self.messages]


@contextlib.asynccontextmanager
async def connected(
    client: aiohttp.ClientSession, emulator: DeepgramSpeakEmulator, **query: str
) -> AsyncIterator[Client]:
    url = f"{emulator.url}/v1/speak"
    async with client.ws_connect(url, params={**BASE, **query}) as socket:
        yield Client(socket)


async def test_a_text_is_spoken_word_by_word(
    client: aiohttp.ClientSession, emulator: DeepgramSpeakEmulator
) -> None:
    async with connected(client, emulator) as speak:
        for character in TEXT:
            await speak.send("Speak", text=character)
        await speak.send("Flush")
        await speak.say("Natterjack")
        await speak.send("Close")
        await speak.read()
    assert speak.heard() == tone_words(f"{TEXT} Natterjack")
    assert speak.kinds() == ["Metadata", "Flushed", "Flushed"]
    assert [message.get("sequence_id") for message in speak.messages] == [None, 0, 1]
    assert any(len(frame) % 2 for frame in speak.frames)
    assert max(map(len, speak.frames)) <= 4801
    assert speak.close == (1000, "")
    assert emulator.words == speak.heard()
    assert emulator.sessions[0].text_received == f"{TEXT}Natterjack"


async def test_a_sentence_is_spoken_before_a_flush(
    client: aiohttp.ClientSession, emulator: DeepgramSpeakEmulator
) -> None:
    async with connected(client, emulator) as speak:
        await speak.send("Speak", text=TEXT)
        await until(lambda: len(emulator.words) == 4, "the first sentence was spoken")
        await speak.send("Flush")
        await speak.read("Flushed")
    assert speak.heard() == tone_words(TEXT)


@pytest.mark.parametrize("answer", ["none", "before", "after"])
async def test_a_clear_drops_text_and_audio(
    client: aiohttp.ClientSession, emulator: DeepgramSpeakEmulator, answer: str
) -> None:
    await emulator.set(pace=2, flushed_after_clear=answer, stray_seconds=0.1)
    async with connected(client, emulator) as speak:
        await speak.say(TEXT)
        await until(lambda: emulator.words, "it speaks")
        await speak.send("Clear")
        await speak.read("Cleared")
        await emulator.set(pace=30)
        speak.audio = b""
        await speak.say("able")
        await speak.send("Close")
        await speak.read()
    assert speak.heard() == ["able"]
    flushes = {"none": ["Cleared"], "before": ["Flushed", "Cleared"],
               "after": ["Cleared", "Flushed"]}[answer]  # fmt: skip
    assert speak.kinds() == ["Metadata", *flushes, "Flushed"]


@pytest.mark.parametrize("variant", ["drain", "drop", "summary"])
async def test_the_variants_of_close(
    client: aiohttp.ClientSession, emulator: DeepgramSpeakEmulator, variant: str
) -> None:
    await emulator.set(on_close=variant)
    async with connected(client, emulator) as speak:
        await speak.send("Speak", text="able about")
        await speak.send("Close")
        await speak.read()
    assert speak.heard() == ([] if variant == "drop" else ["able", "about"])
    assert speak.kinds() == ["Metadata"] * (2 if variant == "summary" else 1)
    assert speak.close == (1000, "")


@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [
        (b"audio", 1003, "MESSAGE-0000"),
        ("this is not JSON", 1008, "DATA-0000"),
        ('{"type": "Interrupt"}', 1008, "DATA-0000"),
        ('{"type": "Speak"}', 1008, "DATA-0000"),
        (json.dumps({"type": "Speak", "text": "a" * 2001}), 1009, "BIG-0001"),
        (json.dumps({"type": "Speak", "text": "a" * 2_000_001}), 1009, "BIG-0000"),
    ],
    ids=["binary", "not-json", "unknown", "no-text", "long", "large"],
)
async def test_what_is_not_allowed_ends_the_connection(
    client: aiohttp.ClientSession,
    emulator: DeepgramSpeakEmulator,
    message: str | bytes,
    code: int,
    reason: str,
) -> None:
    async with connected(client, emulator) as speak:
        await speak.raw(message)
        await speak.read()
    assert speak.close is not None
    assert speak.close[0] == code
    assert speak.close[1].startswith(reason)


async def test_characters_in_a_window_are_limited(
    client: aiohttp.ClientSession, emulator: DeepgramSpeakEmulator
) -> None:
    async with connected(client, emulator) as speak:
        await speak.send("Speak", text="a" * 2000)
        await speak.send("Speak", text="a" * 400)
        await speak.send("Speak", text="a")
        await speak.read()
    assert speak.close is not None
    assert speak.close[1].startswith("DATA-0001")


@pytest.mark.parametrize(
    ("keys", "names"),
    [("both", {"code", "description", "warn_code", "warn_msg"}),
     ("current", {"code", "description"}), ("old", {"warn_code", "warn_msg"})],
)  # fmt: skip
async def test_flushes_in_a_window_are_limited(
    client: aiohttp.ClientSession, emulator: DeepgramSpeakEmulator, keys: str, names: set[str]
) -> None:
    await emulator.set(warning_keys=keys)
    async with connected(client, emulator) as speak:
        for _ in range(22):
            await speak.send("Flush")
        await speak.send("Close")
        await speak.read()
    assert sorted(speak.kinds()) == ["Flushed"] * 20 + ["Metadata"] + ["Warning"] * 2
    warning = next(message for message in speak.messages if message["type"] == "Warning")
    assert set(warning) == {"type", *names}


async def test_a_connection_has_an_end(
    client: aiohttp.ClientSession, emulator: DeepgramSpeakEmulator
) -> None:
    await emulator.set(lifetime_seconds=0.1)
    async with connected(client, emulator) as speak:
        await speak.read()
    assert speak.close is not None
    assert speak.close[0] == 1011
    assert speak.close[1].startswith("NET-0003")


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"model": "aura-2-nobody-en"}, 400),
        ({"model": "aura-2-perseo-it"}, 400),
        ({"model": "flux-haley-en"}, 400),
        ({"encoding": "mp3"}, 400),
        ({"sample_rate": "44100"}, 400),
        ({"encoding": "mulaw"}, 400),
        ({"container": "wav"}, 400),
        ({"speed": "1.6"}, 400),
        ({"speed": "fast"}, 400),
        ({"speed": "1.2", "model": "aura-asteria-en"}, 400),
        ({"bit_rate": "48000"}, 400),
        ({"speed": "1.2", "container": "none", "mip_opt_out": "true"}, None),
        ({"encoding": "alaw", "sample_rate": "8000"}, None),
    ],
    ids=str,
)
async def test_queries(
    client: aiohttp.ClientSession,
    emulator: DeepgramSpeakEmulator,
    query: dict[str, str],
    status: int | None,
) -> None:
    if status is None:
        async with connected(client, emulator, **query):
            return
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with connected(client, emulator, **query):
            pass
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("switches", "words"),
    [({"drop_mid_word": 3}, 3), ({"drop_after_seconds": 1.0}, None)],
    ids=["word", "seconds"],
)
async def test_a_cut_within_the_audio(
    client: aiohttp.ClientSession,
    emulator: DeepgramSpeakEmulator,
    switches: dict[str, Any],
    words: int | None,
) -> None:
    await emulator.set(pace=4, **switches)
    async with connected(client, emulator) as speak:
        await speak.say(TEXT)
        await speak.read()
    assert emulator.log[0].closed == "dropped"
    if words is not None:
        assert speak.heard()[:words] == tone_words(TEXT)[:words]
    assert len(emulator.words) < len(tone_words(TEXT))


@pytest.mark.parametrize("switch", ["mute_on_flush", "mute_on_clear"])
async def test_a_command_that_is_not_answered(
    client: aiohttp.ClientSession, emulator: DeepgramSpeakEmulator, switch: str
) -> None:
    await emulator.set(**{switch: True})
    async with connected(client, emulator) as speak:
        await speak.say("able")
        if switch == "mute_on_clear":
            await speak.read("Flushed")
        await speak.send("Clear")
        await until(lambda: emulator.log[0].texts.get("Clear"), "the command has arrived")
        emulator.drop()
        await speak.read()
    assert "Cleared" not in speak.kinds()
