"""The parts that all tests of the contract suite share: speech, fixtures to override, helpers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import string
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import pytest_asyncio

from natterjack.audio import AudioFormat

from ..provider import (
    Final,
    Provider,
    ProviderEvent,
    ProviderStream,
    StreamRequest,
)


@dataclass(frozen=True)
class Speech:
    """A few seconds of speech, with its transcript if that is certain."""

    audio: bytes
    format: AudioFormat
    """Format of the audio; it has to fit the provider's capabilities."""
    words: tuple[str, ...] | None = None
    """The expected words in lower case, without punctuation. None accepts any text."""

    @property
    def seconds(self) -> float:
        """Duration of the audio."""
        return self.format.seconds(self.format.frames(len(self.audio)))


def plain_words(text: str) -> list[str]:
    """Return the words of a transcript in lower case, without punctuation around them."""
    return [word for raw in text.lower().split() if (word := raw.strip(string.punctuation))]


def finals(events: Iterable[ProviderEvent]) -> list[Final]:
    """Return the finals among `events`."""
    return [event for event in events if isinstance(event, Final)]


def text_of(events: Iterable[ProviderEvent]) -> list[str]:
    """Return the words of all finals."""
    return [word for final in finals(events) for word in plain_words(final.text)]


def _missing(self: ContractCase) -> Any:
    raise NotImplementedError("override the fixtures `provider` and `speech`")


def _nothing(self: ContractCase) -> None:
    return None


class ContractCase:
    """Fixtures and helpers of every test. A subclass overrides `provider` and `speech`."""

    pytestmark: ClassVar[list[pytest.MarkDecorator]] = [pytest.mark.asyncio]

    answer_seconds: ClassVar[float] = 30.0
    """Longest time for the transcription of `speech`."""
    close_seconds: ClassVar[float] = 2.0
    """Longest time for closing a stream, whatever state it is in."""
    pace: ClassVar[float | None] = None
    """Rate at which audio is sent, as a multiple of real time; None for as fast as possible."""
    tolerance_seconds: ClassVar[float] = 0.05
    """Largest error of a time."""

    # ---- fixtures for authors to override (typed Any, since they may be async) ------------------

    provider: Any = pytest.fixture(_missing)
    """The Provider to test. The fixture closes it afterwards."""
    speech: Any = pytest.fixture(_missing)
    """The Speech that the tests send."""
    other_speech: Any = pytest.fixture(_nothing)
    """Optional: another Speech of the same format, for the test of two streams at once."""
    break_connection: Any = pytest.fixture(_nothing)
    """Optional: an async function that cuts the connections of open streams."""
    block_reading: Any = pytest.fixture(_nothing)
    """Optional: an async function after which the provider's side reads no more audio."""
    secrets: Any = pytest.fixture(_nothing)
    """Optional: the keys and passwords of `provider`, which must not appear anywhere."""

    # ---- helpers ----------------------------------------------------------------------------

    @pytest_asyncio.fixture(autouse=True)
    async def nothing_left_running(self) -> AsyncIterator[None]:
        """Fail if tasks are left after the test, once the provider is closed."""
        before = asyncio.all_tasks()
        yield
        running = {
            task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()
        }
        if running:
            _, running = await asyncio.wait(running, timeout=1)
        assert not running, f"tasks are still running: {running}"

    def request_for(self, speech: Speech, **changes: object) -> StreamRequest:
        """Return the request for a stream that receives `speech`."""
        return StreamRequest(session_id="contract", format=speech.format, **changes)  # type: ignore[arg-type]

    def frame_bytes(self, provider: Provider, audio_format: AudioFormat) -> int:
        """Return the size of one `send` in bytes: the provider's frame, or 80 ms."""
        frame_ms = provider.capabilities.frame_ms or 80
        return audio_format.sample_rate * frame_ms // 1000 * audio_format.frame_bytes

    async def send_all(
        self,
        stream: ProviderStream,
        audio: bytes,
        audio_format: AudioFormat,
        sizes: Iterable[int],
        *,
        at_once: bool = False,
    ) -> None:
        """Send `audio` in pieces of `sizes` bytes, at `pace`; with `at_once`, by `send_nowait`
        where the stream accepts that."""
        loop = asyncio.get_running_loop()
        begin, at = loop.time(), 0
        for size in sizes:
            if at >= len(audio):
                return
            piece = audio[at : at + size]
            if not (at_once and stream.send_nowait(piece)):
                await stream.send(piece)
            at += size
            if self.pace is not None:
                sent = audio_format.seconds(audio_format.frames(at))
                await asyncio.sleep(begin + sent / self.pace - loop.time())

    async def transcribe(
        self,
        provider: Provider,
        speech: Speech,
        sizes: Iterable[int] | None = None,
        *,
        at_once: bool = False,
    ) -> list[ProviderEvent]:
        """Return all events of a stream that receives `speech`."""
        sizes = sizes or itertools.repeat(self.frame_bytes(provider, speech.format))
        events: list[ProviderEvent] = []

        async def send(stream: ProviderStream) -> None:
            await self.send_all(stream, speech.audio, speech.format, sizes, at_once=at_once)
            await stream.finish()

        async with asyncio.timeout(self.answer_seconds):
            stream = await provider.open(self.request_for(speech))
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(send(stream))
                    async for event in stream:
                        events.append(event)
            finally:
                await stream.close()
        return events

    @contextlib.asynccontextmanager
    async def _unread(
        self,
        provider: Provider,
        speech: Speech,
        block_reading: Callable[[], Awaitable[object]] | None,
    ) -> AsyncIterator[tuple[ProviderStream, bytes]]:
        """An open stream whose audio the provider's side no longer reads, and a frame for it."""
        if block_reading is None:
            pytest.skip("override the fixture `block_reading` for this test")
        stream = await provider.open(self.request_for(speech))
        frame = speech.audio[: self.frame_bytes(provider, speech.format)]
        try:
            await stream.send(frame)
            await block_reading()
            yield stream, frame
        finally:
            await self.closes(stream)

    async def closes(self, stream: ProviderStream) -> None:
        """Close a stream twice, within `close_seconds`."""
        async with asyncio.timeout(self.close_seconds):
            await stream.close()
            await stream.close()

    def check_words(self, events: Sequence[ProviderEvent], speech: Speech) -> None:
        """Fail unless the finals have the words of `speech`."""
        words = text_of(events)
        assert words, "no final has text"
        if speech.words is not None:
            assert words == list(speech.words), f"the finals have {words}, not {list(speech.words)}"

    async def _drained(self, stream: ProviderStream) -> None:
        async for _ in stream:
            pass
