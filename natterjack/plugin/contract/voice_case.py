"""The parts that all tests of the contract suite for voices share: fixtures and helpers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, ClassVar

import pytest
import pytest_asyncio

from natterjack.audio import AudioFormat

from ..errors import ProviderError
from ..voice import (
    Interrupted,
    PhraseEnd,
    Speech,
    Voice,
    VoiceStream,
    VoiceStreamEvent,
    VoiceStreamRequest,
)

TEXT = "Good morning. The quick brown fox jumps over the lazy dog."
OTHER_TEXT = "A gentle rain falls on the garden."


class Talk:
    """An open stream whose events are collected while a test sends text."""

    def __init__(self, stream: VoiceStream, seconds: float) -> None:
        self.stream = stream
        self.events: list[VoiceStreamEvent] = []
        self._seconds = seconds
        self._arrived = asyncio.Event()
        self._collecting = asyncio.create_task(self._collect())

    async def _collect(self) -> None:
        try:
            async for event in self.stream:
                self.events.append(event)
                self._arrived.set()
        finally:
            self._arrived.set()

    async def say(self, text: str) -> None:
        """Send a phrase and flush it."""
        if text:
            await self.stream.speak(text)
        await self.stream.flush()

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition on `events`. Raises the error of the iteration, and AssertionError
        if the condition does not come true in time, or the iteration ends without it."""
        try:
            async with asyncio.timeout(self._seconds):
                while not condition():
                    if self._collecting.done():
                        await self._collecting
                        raise AssertionError(f"the iteration ended before: {what}")
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            raise AssertionError(f"not within {self._seconds} s: {what}") from None

    async def end(self) -> list[VoiceStreamEvent]:
        """Wait until the iteration ends, and return all events. Raises its error."""
        async with asyncio.timeout(self._seconds):
            await asyncio.shield(self._collecting)
        return self.events

    async def finished(self) -> list[VoiceStreamEvent]:
        """Finish the stream, and return all events when it has ended."""
        await self.stream.finish()
        return await self.end()

    def count(self, kind: type[VoiceStreamEvent]) -> int:
        """Return how many events of a kind have arrived."""
        return sum(isinstance(event, kind) for event in self.events)

    async def stop(self) -> None:
        """End the iteration in whatever state it is."""
        self._collecting.cancel()
        await asyncio.wait({self._collecting})
        if not self._collecting.cancelled():
            self._collecting.exception()  # a test that cares has awaited the end


def audio_of(events: Iterable[VoiceStreamEvent]) -> bytes:
    """Return all audio among `events`."""
    return b"".join(event.audio for event in events if isinstance(event, Speech))


def phrases(events: Iterable[VoiceStreamEvent]) -> list[bytes]:
    """Return the audio of each phrase that ended."""
    found, audio = [], b""
    for event in events:
        if isinstance(event, Speech):
            audio += event.audio
        elif isinstance(event, PhraseEnd):
            found.append(audio)
            audio = b""
    return found


def after_interrupt(events: Iterable[VoiceStreamEvent]) -> list[VoiceStreamEvent]:
    """Return the events after the last Interrupted."""
    rest: list[VoiceStreamEvent] = []
    for event in events:
        rest.append(event)
        if isinstance(event, Interrupted):
            rest.clear()
    return rest


def _missing(self: VoiceCase) -> Any:
    raise NotImplementedError("override the fixture `voice`")


def _nothing(self: VoiceCase) -> None:
    return None


class VoiceCase:
    """Fixtures and helpers of every test. A subclass overrides `voice`."""

    pytestmark: ClassVar[list[pytest.MarkDecorator]] = [pytest.mark.asyncio]

    text: ClassVar[str] = TEXT
    """A text of two sentences or more that the voice can speak."""
    other_text: ClassVar[str] = OTHER_TEXT
    """Another text, of one sentence."""
    long_characters: ClassVar[int] = 1000
    """Length of the long text, unless the voice's phrases are shorter."""
    answer_seconds: ClassVar[float] = 30.0
    """Longest time for the speech of a test."""
    close_seconds: ClassVar[float] = 2.0
    """Longest time for closing a stream, whatever state it is in."""

    # ---- fixtures for authors to override (typed Any, since they may be async) ------------------

    voice: Any = pytest.fixture(_missing)
    """The Voice to test. The fixture closes it afterwards."""
    check_speech: Any = pytest.fixture(_nothing)
    """Optional: a function of a text, its audio and the VoiceStreamRequest that fails unless the
    audio speaks the text, all of it and nothing else."""
    wrong_key: Any = pytest.fixture(_nothing)
    """Optional: a Voice with a wrong key, which the fixture closes."""
    break_connection: Any = pytest.fixture(_nothing)
    """Optional: an async function that cuts the connections of open streams."""
    go_mute: Any = pytest.fixture(_nothing)
    """Optional: an async function after which the provider's side sends nothing more."""
    send_garbage: Any = pytest.fixture(_nothing)
    """Optional: an async function after which the provider's side sends invalid messages too."""
    secrets: Any = pytest.fixture(_nothing)
    """Optional: the keys and passwords of `voice`, which must not appear anywhere."""

    # ---- helpers ----------------------------------------------------------------------------

    @pytest_asyncio.fixture(autouse=True)
    async def nothing_left_running(self) -> AsyncIterator[None]:
        """Fail if tasks are left after the test, once the voice is closed."""
        before = asyncio.all_tasks()
        yield
        running = {
            task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()
        }
        if running:
            _, running = await asyncio.wait(running, timeout=1)
        assert not running, f"tasks are still running: {running}"

    def request_for(self, voice: Voice, **changes: object) -> VoiceStreamRequest:
        """Return the request for a stream: the voice's first encoding and rate, or 24 kHz."""
        capabilities = voice.capabilities
        rate = capabilities.sample_rates[0] if capabilities.sample_rates else 24_000
        values = {"encoding": capabilities.encodings[0], "sample_rate": rate, **changes}
        return VoiceStreamRequest(session_id="contract", **values)  # type: ignore[arg-type]

    @contextlib.asynccontextmanager
    async def talking(self, voice: Voice, **changes: object) -> AsyncIterator[Talk]:
        """Open a stream, collect its events, and close it at the end."""
        async with asyncio.timeout(self.answer_seconds):
            stream = await voice.open(self.request_for(voice, **changes))
        talk = Talk(stream, self.answer_seconds)
        try:
            for _ in range(10):
                await asyncio.sleep(0)  # the iteration waits before anything is sent
            yield talk
        finally:
            await talk.stop()
            await self.closes(stream)

    async def spoken(self, voice: Voice, *texts: str, **changes: object) -> list[bytes]:
        """Return the audio of each phrase of a new stream."""
        async with self.talking(voice, **changes) as talk:
            for text in texts:
                await talk.say(text)
            return phrases(await talk.finished())

    async def closes(self, stream: VoiceStream) -> None:
        """Close a stream twice, within `close_seconds`."""
        async with asyncio.timeout(self.close_seconds):
            await stream.close()
            await stream.close()

    def check(
        self,
        text: str,
        audio: bytes,
        request: VoiceStreamRequest,
        check_speech: Callable[[str, bytes, VoiceStreamRequest], object] | None,
    ) -> None:
        """Fail unless `audio` has whole frames and speaks `text`."""
        assert audio, f"no audio for {text!r}"
        frame_bytes = AudioFormat(request.encoding, request.sample_rate, 1).frame_bytes
        assert len(audio) % frame_bytes == 0, "the audio ends within a frame"
        if check_speech is not None:
            check_speech(text, audio, request)

    async def _drained(self, stream: VoiceStream) -> None:
        async for _ in stream:
            pass

    async def _still_works(self, voice: Voice) -> None:
        (audio,) = await self.spoken(voice, self.other_text)
        assert audio, "a stream that is opened afterwards does not speak"

    async def _cancelled(self, task: asyncio.Task[Any], steps: int) -> Any:
        """Cancel `task` after it went on `steps` times. Return its result if it had one already."""
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=self.close_seconds)
        assert task.done(), "a cancelled call goes on"
        if task.cancelled():
            return None
        error = task.exception()
        assert error is None or isinstance(error, ProviderError), error
        return None if error else task.result()
