"""The vendors' Python SDKs as clients of the doors, with one interface for tests of faults."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from abc import ABC, abstractmethod
from typing import Any

from speechmatics.agent_stt import AgentSttAsyncClient
from speechmatics.agent_stt import AudioFormat as AgentFormat
from speechmatics.agent_stt import TranscriptionConfig as AgentConfig
from speechmatics.rt import (
    AsyncClient,
    AudioEncoding,
    AudioFormat,
    ConversationConfig,
    ServerMessageType,
    TranscriptionConfig,
    TranscriptResult,
)
from websockets.exceptions import ConnectionClosed

from natterjack.emulators import tones
from tests.waiting import until, within

from .house import House

with warnings.catch_warnings():
    # The SDK imports names of websockets that are deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    import deepgram.listen.v1.client
    import deepgram.listen.v2.client  # noqa: F401
    from deepgram import AsyncDeepgramClient
    from deepgram.environment import DeepgramClientEnvironment


class Talker(ABC):
    """A client that sends audio and gathers the words of its finals."""

    def __init__(self, house: House, key: str = "none") -> None:
        self.house = house
        self.key = key

    @abstractmethod
    async def start(self) -> None:
        """Connect and begin."""

    @abstractmethod
    async def send(self, audio: bytes) -> None:
        """Send audio."""

    @abstractmethod
    async def finish(self, words: int) -> None:
        """Say that no more audio follows, and wait for the end; `words` are due."""

    @property
    @abstractmethod
    def words(self) -> list[str]:
        """The words that are final."""

    @property
    @abstractmethod
    def heard(self) -> int:
        """The number of words heard so far, final or not."""

    @property
    @abstractmethod
    def broken(self) -> object:
        """The client's error about a broken connection; a false value if it is whole."""


class FluxTalker(Talker):
    """deepgram-sdk, listen v2."""

    async def start(self) -> None:
        http, ws = self.house.gateway.http, self.house.gateway.ws
        place = DeepgramClientEnvironment(base=http, production=ws, agent=ws, agent_rest=http)
        client = AsyncDeepgramClient(api_key=self.key, environment=place)
        self._context = client.listen.v2.connect(
            model="flux-general-en", encoding="linear16", sample_rate=16000
        )
        self.connection = await self._context.__aenter__()
        self.messages: list[Any] = []
        self._broken: object = None
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.connection:
            self.messages.append(message)
            if message.type == "Error":
                self._broken = message

    async def send(self, audio: bytes) -> None:
        await self.connection.send_media(audio)

    async def finish(self, words: int) -> None:
        with contextlib.suppress(ConnectionClosed):
            await self.connection.send_close_stream()
        async with within(90):
            # The server closes without a status, which the library calls an error.
            await asyncio.wait([self._reading])
        self._reading.exception()
        await self._context.__aexit__(None, None, None)

    def _turns(self, *events: str) -> dict[int, str]:
        infos = [one for one in self.messages if one.type == "TurnInfo"]
        return {
            one.turn_index: one.transcript for one in infos if one.event in events or not events
        }

    @property
    def words(self) -> list[str]:
        return [word for text in self._turns().values() for word in tones.words_of(text)]

    @property
    def heard(self) -> int:
        return len(self.words)

    @property
    def broken(self) -> object:
        return self._broken


class ListenTalker(Talker):
    """deepgram-sdk, listen v1."""

    async def start(self) -> None:
        http, ws = self.house.gateway.http, self.house.gateway.ws
        place = DeepgramClientEnvironment(base=http, production=ws, agent=ws, agent_rest=http)
        client = AsyncDeepgramClient(api_key=self.key, environment=place)
        self._context = client.listen.v1.connect(
            model="nova-3", encoding="linear16", sample_rate=16000, interim_results="true"
        )
        self.connection = await self._context.__aenter__()
        self.messages: list[Any] = []
        self._reading = asyncio.create_task(self._read())
        self._keeping = asyncio.create_task(self._keep_alive())

    async def _keep_alive(self) -> None:
        """Send keepalives, as an application does while it has no audio."""
        while True:
            await asyncio.sleep(3)  # the interval of keepalives
            await self.connection.send_keep_alive()

    async def _read(self) -> None:
        async for message in self.connection:
            self.messages.append(message)

    async def send(self, audio: bytes) -> None:
        await self.connection.send_media(audio)

    async def finish(self, words: int) -> None:
        self._keeping.cancel()
        if self.broken:  # the library has closed the connection, and raises that it is closed
            async with within(90):
                await asyncio.wait([self._reading])
            self._reading.exception()
        else:
            await self.connection.send_close_stream()
            async with within(90):
                await self._reading
            assert self.messages[-1].type == "Metadata"
        await self._context.__aexit__(None, None, None)

    @property
    def words(self) -> list[str]:
        finals = [one for one in self.messages if one.type == "Results" and one.is_final]
        return [
            tones.plain(word.word) for one in finals for word in one.channel.alternatives[0].words
        ]

    @property
    def heard(self) -> int:
        return len(self.words)

    @property
    def broken(self) -> object:
        return [one for one in self.messages if one.type == "Error"]


class RealtimeTalker(Talker):
    """speechmatics-rt."""

    async def start(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.sdk = AsyncClient(url=f"{self.house.gateway.ws}/v2", api_key=self.key)
        for kind in ServerMessageType:
            self.sdk.on(kind, self.messages.append)
        await self.sdk.start_session(
            transcription_config=TranscriptionConfig(
                language="en",
                enable_partials=True,
                conversation_config=ConversationConfig(end_of_utterance_silence_trigger=0.5),
            ),
            audio_format=AudioFormat(encoding=AudioEncoding.PCM_S16LE, sample_rate=16000),
        )

    async def send(self, audio: bytes) -> None:
        await self.sdk.send_audio(audio)

    async def finish(self, words: int) -> None:
        async with within(90):
            await self.sdk.stop_session()

    def _text(self, *kinds: str) -> list[str]:
        found = [one for one in self.messages if one["message"] in kinds]
        return tones.words_of(
            "".join(TranscriptResult.from_message(one).metadata.transcript for one in found)
        )

    @property
    def words(self) -> list[str]:
        return self._text("AddTranscript")

    @property
    def heard(self) -> int:
        return len(self.words)

    @property
    def broken(self) -> object:
        return [one for one in self.messages if one["message"] == "Error"]


class AgentTalker(Talker):
    """speechmatics-agent-stt."""

    async def start(self) -> None:
        self.sdk = AgentSttAsyncClient(
            api_key=self.key,
            url=f"{self.house.gateway.ws}/v2",
            transcription_config=AgentConfig(language="en", enable_partials=True),
            audio_format=AgentFormat(
                encoding=AudioEncoding.PCM_S16LE, sample_rate=16000, chunk_size=2560
            ),
        )
        await self.sdk.connect()

    async def send(self, audio: bytes) -> None:
        await self.sdk.send_audio(audio)

    async def finish(self, words: int) -> None:
        # It waits for no more than five seconds.
        await until(lambda: len(self.words) >= words, f"{words} words", 90)
        await self.sdk.disconnect()

    @property
    def words(self) -> list[str]:
        return tones.words_of(self.sdk.transcript)

    @property
    def heard(self) -> int:
        return len(self.words)

    @property
    def broken(self) -> object:
        return self.sdk.session_error


TALKERS: dict[str, type[Talker]] = {
    "deepgram-sdk v1": ListenTalker,
    "deepgram-sdk v2": FluxTalker,
    "speechmatics-rt": RealtimeTalker,
    "speechmatics-agent-stt": AgentTalker,
}
