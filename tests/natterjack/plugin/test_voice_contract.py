"""The contract suite for voices: a plain voice passes, and each way to break it is noticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, ClassVar

import pytest
import pytest_asyncio
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from natterjack.emulators.spoken import check_tones, places, synthesize
from natterjack.plugin import (
    Dropped,
    Interrupted,
    Mark,
    PhraseEnd,
    RequestRefused,
    Speech,
    Voice,
    VoiceCapabilities,
    VoiceStream,
    VoiceStreamEvent,
    VoiceStreamRequest,
)
from natterjack.plugin.contract import VoiceContract

Check = Callable[[str, bytes, VoiceStreamRequest], None]
FRAME_BYTES = 4800


class PlainStream(VoiceStream):
    """Speaks tone words in its own process, a frame each time it is asked."""

    def __init__(self, request: VoiceStreamRequest) -> None:
        self.request = request
        self.text = ""
        self.queue: asyncio.Queue[VoiceStreamEvent | None] = asyncio.Queue()
        self.unended = 0
        self.finishing = False
        self.closed = False

    def put(self, *events: VoiceStreamEvent | None) -> None:
        for event in events:
            self.queue.put_nowait(event)

    async def speak(self, text: str) -> None:
        await asyncio.sleep(0)
        self.text += text

    async def flush(self) -> None:
        text, self.text = self.text, ""
        audio = synthesize(text, self.request.sample_rate, self.request.encoding)
        for word in places(text):
            self.put(Mark(word.character, word.start))
        frames = (audio[at : at + FRAME_BYTES] for at in range(0, len(audio), FRAME_BYTES))
        self.put(*map(Speech, frames), PhraseEnd(len(text)))

    async def interrupt(self, played_seconds: float | None = None) -> None:
        answers = 1
        while not self.queue.empty():
            answers += isinstance(self.queue.get_nowait(), Interrupted)
        self.text = ""
        self.put(*[Interrupted()] * answers)
        if self.finishing:
            self.put(None)

    async def finish(self) -> None:
        if self.text:
            await self.flush()
        self.finishing = True
        self.put(None)

    async def __aiter__(self) -> AsyncIterator[VoiceStreamEvent]:
        while (event := await self.queue.get()) is not None:
            yield event
            await asyncio.sleep(0)
        if self.closed:
            raise Dropped("plain", "closed")

    async def close(self) -> None:
        self.closed = True
        self.put(None)


class PlainSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="PLAIN_")

    size: int = Field(1, description="nothing")


class PlainVoice(Voice):
    name: ClassVar[str] = "plain"
    Settings: ClassVar[type[BaseSettings]] = PlainSettings
    capabilities = VoiceCapabilities(encodings=("linear16", "mulaw"), marks=True)
    stream_class: type[PlainStream] = PlainStream

    def __init__(self, settings: Any = None) -> None:
        pass

    async def open(self, request: VoiceStreamRequest) -> VoiceStream:
        for name in request.options:
            raise RequestRefused(self.name, "request", f"unknown option {name!r}")
        await asyncio.sleep(0)
        return self.stream_class(request)


class TestPlain(VoiceContract):
    @pytest_asyncio.fixture
    async def voice(self) -> AsyncIterator[Voice]:
        voice = PlainVoice()
        yield voice
        await voice.close()

    @pytest.fixture
    def check_speech(self) -> Check:
        return check_tones


# ---- what is broken is noticed --------------------------------------------------------------


class Suite(VoiceContract):
    """The suite, to call single tests of."""

    answer_seconds: ClassVar[float] = 0.5
    close_seconds: ClassVar[float] = 0.2


def broken(
    stream: type[PlainStream] = PlainStream, capabilities: VoiceCapabilities | None = None
) -> PlainVoice:
    voice = PlainVoice()
    voice.stream_class = stream
    if capabilities is not None:
        voice.capabilities = capabilities
    return voice


class LosesLastWord(PlainStream):
    async def flush(self) -> None:
        self.text = self.text.strip().rpartition(" ")[0]
        await super().flush()


class NeverEndsPhrases(PlainStream):
    def put(self, *events: VoiceStreamEvent | None) -> None:
        super().put(*(event for event in events if not isinstance(event, PhraseEnd)))


class EndsPhrasesEarly(PlainStream):
    def put(self, *events: VoiceStreamEvent | None) -> None:
        super().put(*sorted(events, key=lambda event: isinstance(event, Speech)))


class SkipsEmptyPhrases(PlainStream):
    async def flush(self) -> None:
        if self.text.strip():
            await super().flush()


class StripsTexts(PlainStream):
    async def speak(self, text: str) -> None:
        await super().speak(text.strip())


class ForgetsUnflushedText(PlainStream):
    async def finish(self) -> None:
        self.text = ""
        await super().finish()


class NeverEnds(PlainStream):
    async def finish(self) -> None:
        pass


class SplitsSamples(PlainStream):
    def put(self, *events: VoiceStreamEvent | None) -> None:
        for event in events:
            if isinstance(event, Speech):
                super().put(Speech(event.audio[:-1]), Speech(event.audio[-1:]))
            else:
                super().put(event)


class IgnoresInterrupts(PlainStream):
    async def interrupt(self, played_seconds: float | None = None) -> None:
        pass


class SpeaksAfterInterrupts(PlainStream):
    async def interrupt(self, played_seconds: float | None = None) -> None:
        before = [self.queue.get_nowait() for _ in range(self.queue.qsize())]
        self.put(Interrupted(), *before)


class KeepsTextOverInterrupts(PlainStream):
    async def interrupt(self, played_seconds: float | None = None) -> None:
        text = self.text
        await super().interrupt()
        self.text = text


class NeverCloses(PlainStream):
    async def close(self) -> None:
        await asyncio.sleep(3600)  # for ever


class IsNotEndedByClose(PlainStream):
    async def close(self) -> None:
        pass


class EndsQuietlyByClose(PlainStream):
    async def close(self) -> None:
        self.put(None)


class Mixes(PlainStream):
    shared: ClassVar[list[PlainStream]] = []

    def __init__(self, request: VoiceStreamRequest) -> None:
        super().__init__(request)
        self.shared.append(self)

    async def speak(self, text: str) -> None:
        for stream in self.shared:
            stream.text += text
        await asyncio.sleep(0)


MARKLESS = VoiceCapabilities()
NO_ENCODING = VoiceCapabilities(encodings=())
CONFIGURABLE = VoiceCapabilities(marks=True)
_S = Suite()


@pytest.mark.parametrize(
    ("voice", "test"),
    [
        (broken(LosesLastWord), lambda v: _S.test_speaks(v, check_tones)),
        (broken(NeverEndsPhrases), lambda v: _S.test_speaks(v, None)),
        (broken(EndsPhrasesEarly), lambda v: _S.test_speaks(v, None)),
        (broken(EndsPhrasesEarly), lambda v: _S.test_phrases_end_in_order(v, None)),
        (
            broken(SkipsEmptyPhrases),
            lambda v: _S.test_phrases_without_anything_to_speak(v, None, " "),
        ),
        (broken(SkipsEmptyPhrases), lambda v: _S.test_a_lone_flush_ends_a_phrase(v)),
        (broken(StripsTexts), lambda v: _S.test_single_characters(v, check_tones)),
        (broken(ForgetsUnflushedText), lambda v: _S.test_finish_flushes(v, None)),
        (broken(NeverEnds), lambda v: _S.test_finish_without_text(v)),
        (broken(SplitsSamples), lambda v: _S.test_speaks(v, None)),
        (broken(IgnoresInterrupts), lambda v: _S.test_interrupt(v, None, "idle")),
        (broken(SpeaksAfterInterrupts), lambda v: _S.test_interrupt(v, None, "flushed")),
        (broken(KeepsTextOverInterrupts), lambda v: _S.test_interrupt(v, check_tones, "text")),
        (broken(NeverCloses), lambda v: _S.test_close_at_once(v)),
        (broken(IsNotEndedByClose), lambda v: _S.test_close_raises_in_the_iteration(v)),
        (broken(EndsQuietlyByClose), lambda v: _S.test_close_raises_in_the_iteration(v)),
        (broken(Mixes), lambda v: _S.test_two_streams_do_not_mix(v, check_tones)),
        (broken(capabilities=MARKLESS), lambda v: _S.test_marks_are_those_of_the_text(v)),
        (broken(capabilities=NO_ENCODING), lambda v: _S.test_capabilities_are_sane(v)),
    ],
)
async def test_what_is_broken_is_noticed(
    voice: PlainVoice, test: Callable[[Voice], Coroutine[Any, Any, None]]
) -> None:
    with pytest.raises((AssertionError, TimeoutError, ValueError, pytest.fail.Exception)):
        await test(voice)


@pytest.mark.parametrize("method", ["speak", "flush", "interrupt", "finish", "close"])
async def test_an_error_in_any_method_is_noticed(method: str) -> None:
    async def fails(*_: object) -> None:
        raise KeyError(method)

    stream = type("Fails", (PlainStream,), {method: fails})
    with pytest.raises(KeyError):
        await _S.test_interrupt(broken(stream), None, "text")


async def test_an_option_that_is_ignored_is_noticed() -> None:
    class Careless(PlainVoice):
        async def open(self, request: VoiceStreamRequest) -> VoiceStream:
            return PlainStream(request)

    with pytest.raises(pytest.fail.Exception):
        await _S.test_unknown_option_is_refused(Careless())


async def test_an_offer_that_is_not_declared_is_noticed() -> None:
    class Eager(PlainStream):
        async def configure(self, changes: Mapping[str, Any]) -> None:
            pass

    with pytest.raises(pytest.fail.Exception):
        await _S.test_undeclared_methods_are_not_implemented(broken(Eager))
