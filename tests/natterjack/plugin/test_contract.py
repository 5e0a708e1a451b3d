"""The contract suite itself: a plain provider passes, and each way to break it is noticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, ClassVar

import pytest
import pytest_asyncio
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from natterjack.audio import AudioFormat
from natterjack.emulators import tones
from natterjack.plugin.contract import ProviderContract, Speech
from natterjack.plugin.errors import Dropped, RequestRefused
from natterjack.plugin.provider import (
    Capabilities,
    Final,
    Interim,
    Notice,
    Provider,
    ProviderEvent,
    ProviderStream,
    ProviderWord,
    StreamRequest,
    Turn,
)

WORDS = tuple(tones.sequence(8))
FORMAT = AudioFormat("linear16", 16000, 1)
SPEECH = Speech(tones.encode(WORDS), FORMAT, words=WORDS)


class PlainStream(ProviderStream):
    """Hears tone words in its own process; each word is an interim and a final."""

    def __init__(self, request: StreamRequest) -> None:
        self.decoder = tones.Decoder(request.format.sample_rate, request.format.encoding)
        self.events: asyncio.Queue[ProviderEvent | None] = asyncio.Queue()
        self.frontier = 0.0
        self.spoken = False
        self.closed = False

    async def send(self, audio: bytes) -> None:
        await asyncio.sleep(0)
        self.say(self.decoder.feed(audio))

    def say(self, words: list[tones.TimedWord]) -> None:
        for heard in words:
            if not self.spoken:
                self.spoken = True
                self.events.put_nowait(Turn("started", heard.start))
            word = ProviderWord(heard.word, heard.start, heard.end, 1.0)
            self.events.put_nowait(Interim(heard.word, self.frontier, heard.end, (word,)))
            self.events.put_nowait(Final(heard.word, self.frontier, heard.end, (word,)))
            self.frontier = heard.end

    async def finish(self) -> None:
        self.say(self.decoder.flush())
        if self.spoken:
            self.events.put_nowait(Turn("ended", self.frontier))
        self.events.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[ProviderEvent]:
        while (event := await self.events.get()) is not None:
            yield event
        if self.closed:
            raise Dropped("plain", "closed")

    async def close(self) -> None:
        self.closed = True
        self.events.put_nowait(None)


class PlainSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="PLAIN_")

    size: int = Field(1, description="nothing")


class PlainProvider(Provider):
    name: ClassVar[str] = "plain"
    Settings: ClassVar[type[BaseSettings]] = PlainSettings
    capabilities = Capabilities(encodings=("linear16", "mulaw"), turns=True)
    stream_class: ClassVar[type[PlainStream]] = PlainStream

    def __init__(self, settings: Any = None) -> None:
        pass

    async def open(self, request: StreamRequest) -> ProviderStream:
        for name in request.options:
            raise RequestRefused(self.name, "request", f"unknown option {name!r}")
        await asyncio.sleep(0)
        return self.stream_class(request)


class TestPlain(ProviderContract):
    @pytest_asyncio.fixture
    async def provider(self) -> AsyncIterator[Provider]:
        provider = PlainProvider()
        yield provider
        await provider.close()

    @pytest.fixture
    def speech(self) -> Speech:
        return SPEECH


# ---- what is broken is noticed --------------------------------------------------------------


class Suite(ProviderContract):
    """The suite, to call single tests of."""

    answer_seconds: ClassVar[float] = 0.5
    close_seconds: ClassVar[float] = 0.2


def broken(
    stream: type[PlainStream] = PlainStream, capabilities: Capabilities | None = None
) -> PlainProvider:
    provider = PlainProvider()
    provider.stream_class = stream  # type: ignore[misc]
    if capabilities is not None:
        provider.capabilities = capabilities
    return provider


class LosesLastWord(PlainStream):
    async def finish(self) -> None:
        self.events.put_nowait(None)


class Overlaps(PlainStream):
    def say(self, words: list[tones.TimedWord]) -> None:
        super().say(words)
        self.frontier = max(0.0, self.frontier - 0.1)


class NeverEnds(PlainStream):
    async def finish(self) -> None:
        pass


class NeverCloses(PlainStream):
    async def close(self) -> None:
        await asyncio.sleep(3600)  # for ever


class IsNotEndedByClose(PlainStream):
    async def close(self) -> None:
        pass


class StartsTurnsTwice(PlainStream):
    def say(self, words: list[tones.TimedWord]) -> None:
        self.spoken = False
        super().say(words)


class MislaysWords(PlainStream):
    def say(self, words: list[tones.TimedWord]) -> None:
        super().say([word._replace(start=word.start + 9, end=word.end + 9) for word in words])


class Mixes(PlainStream):
    shared: ClassVar[list[PlainStream]] = []

    def __init__(self, request: StreamRequest) -> None:
        super().__init__(request)
        self.shared.append(self)

    def say(self, words: list[tones.TimedWord]) -> None:
        for stream in self.shared:
            PlainStream.say(stream, words)


class GoesBack(PlainStream):
    def say(self, words: list[tones.TimedWord]) -> None:
        for word in words:
            self.frontier = 0.0
            super().say([word._replace(start=0.1, end=0.2)])


class Answers(PlainStream):
    """Answers all audio, and says something in some of it."""

    text: ClassVar[str] = ""

    async def send(self, audio: bytes) -> None:
        await super().send(audio)
        self.events.put_nowait(Interim("", self.frontier, self.frontier))
        if self.text:
            self.events.put_nowait(Final(self.text, self.frontier, self.frontier))


class SpeaksInSilence(Answers):
    text: ClassVar[str] = "you"


class AnswersOnce(PlainStream):
    """Says hello, and nothing while the audio is silent."""

    def __init__(self, request: StreamRequest) -> None:
        super().__init__(request)
        self.events.put_nowait(Notice("hello"))


class RaisesInOpen(PlainStream):
    def __init__(self, request: StreamRequest) -> None:
        raise KeyError("in open")


class RaisesInSend(PlainStream):
    async def send(self, audio: bytes) -> None:
        raise KeyError("in send")


class RaisesInSendNowait(PlainStream):
    def send_nowait(self, audio: bytes) -> bool:
        raise KeyError("in send_nowait")


class RaisesInFinish(PlainStream):
    async def finish(self) -> None:
        raise KeyError("in finish")


class RaisesInIteration(PlainStream):
    async def __aiter__(self) -> AsyncIterator[ProviderEvent]:
        async for event in super().__aiter__():
            yield event
            raise KeyError("in iteration")


class RaisesInClose(PlainStream):
    async def close(self) -> None:
        raise KeyError("in close")


class SwallowsErrors(PlainStream):
    """Waits forever after an error in a method of its own."""

    def decode(self, audio: bytes) -> list[tones.TimedWord]:
        return self.decoder.feed(audio)

    async def send(self, audio: bytes) -> None:
        try:
            self.say(self.decode(audio))
        except KeyError:
            await asyncio.sleep(3600)  # for ever


SILENCE = Capabilities(encodings=("linear16",), turns=True, answers_silence=True)
NO_TURNS = Capabilities(encodings=("linear16",))
NO_INTERIMS = Capabilities(encodings=("linear16",), turns=True, interims=False)
NO_WORDS = Capabilities(encodings=("linear16",), turns=True, words="none")
CLAIMS_FINALIZE = Capabilities(encodings=("linear16",), turns=True, finalize=True)
SLOWER_THAN_LIFE = Capabilities(encodings=("linear16",), catch_up_rate=0.5)
_S = Suite()


@pytest.mark.parametrize(
    ("provider", "test"),
    [
        (broken(LosesLastWord), lambda p: _S.test_transcribes_speech(p, tight())),
        (broken(Overlaps), lambda p: _S.test_finals_partition_the_audio(p, SPEECH)),
        (broken(NeverEnds), lambda p: _S.test_transcribes_speech(p, SPEECH)),
        (broken(NeverCloses), lambda p: _S.test_close_at_once(p, SPEECH)),
        (broken(IsNotEndedByClose), lambda p: _S.test_close_ends_iteration(p, SPEECH)),
        (broken(StartsTurnsTwice), lambda p: _S.test_turns_open_and_close(p, SPEECH)),
        (broken(MislaysWords), lambda p: _S.test_finals_partition_the_audio(p, SPEECH)),
        (broken(Mixes), lambda p: _S.test_two_streams_do_not_mix(p, SPEECH, None)),
        (broken(GoesBack), lambda p: _S.test_finals_partition_the_audio(p, SPEECH)),
        (broken(capabilities=SILENCE), lambda p: _S.test_silence(p, SPEECH)),
        (broken(AnswersOnce, SILENCE), lambda p: _S.test_silence(p, SPEECH)),
        (broken(SpeaksInSilence, SILENCE), lambda p: _S.test_silence(p, SPEECH)),
        (
            broken(SwallowsErrors),
            lambda p: _S.test_an_error_in_a_hook_ends_the_stream(p, SPEECH, "decode"),
        ),
        (broken(capabilities=NO_TURNS), lambda p: _S.test_turns_open_and_close(p, SPEECH)),
        (
            broken(capabilities=NO_INTERIMS),
            lambda p: _S.test_interims_come_before_their_finals(p, SPEECH),
        ),
        (broken(capabilities=NO_WORDS), lambda p: _S.test_words_lie_in_their_finals(p, SPEECH)),
        (broken(capabilities=CLAIMS_FINALIZE), lambda p: _S.test_finalize_loses_nothing(p, SPEECH)),
        (broken(capabilities=SLOWER_THAN_LIFE), lambda p: _S.test_capabilities_are_sane(p)),
    ],
)
async def test_what_is_broken_is_noticed(
    provider: PlainProvider, test: Callable[[Provider], Coroutine[Any, Any, None]]
) -> None:
    with pytest.raises((AssertionError, TimeoutError, NotImplementedError)):
        await test(provider)


@pytest.mark.parametrize(
    ("stream", "test"),
    [
        (RaisesInOpen, lambda p: _S.test_transcribes_speech(p, SPEECH)),
        (RaisesInSend, lambda p: _S.test_transcribes_speech(p, SPEECH)),
        (RaisesInSendNowait, lambda p: _S.test_send_nowait_keeps_audio_complete(p, SPEECH)),
        (RaisesInFinish, lambda p: _S.test_close_after_finish(p, SPEECH)),
        (RaisesInIteration, lambda p: _S.test_transcribes_speech(p, SPEECH)),
        (RaisesInClose, lambda p: _S.test_close_at_once(p, SPEECH)),
    ],
)
async def test_an_error_in_any_method_is_noticed(
    stream: type[PlainStream], test: Callable[[Provider], Coroutine[Any, Any, None]]
) -> None:
    with pytest.raises((KeyError, BaseExceptionGroup)):
        await test(broken(stream))


async def test_a_provider_that_answers_silence_passes() -> None:
    await _S.test_silence(broken(Answers, SILENCE), SPEECH)
    await _S.test_silence(broken(AnswersOnce), SPEECH)


def tight() -> Speech:
    """The audio ends where the last word does."""
    return Speech(tones.encode(WORDS, tail_seconds=0), FORMAT, words=WORDS)


async def test_an_option_that_is_ignored_is_noticed() -> None:
    class Careless(PlainProvider):
        async def open(self, request: StreamRequest) -> ProviderStream:
            return PlainStream(request)

    with pytest.raises(pytest.fail.Exception):
        await _S.test_unknown_option_is_refused(Careless(), SPEECH)


async def test_an_offer_that_is_not_declared_is_noticed() -> None:
    class Eager(PlainStream):
        async def configure(self, changes: Mapping[str, Any]) -> None:
            pass

    with pytest.raises(pytest.fail.Exception):
        await _S.test_undeclared_methods_are_not_implemented(broken(Eager), SPEECH)
