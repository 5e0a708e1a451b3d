"""The contract suite: what every provider plugin must do, as one pytest class.

A plugin's author subclasses it and says how to make a provider and what to let it hear. Needs
pytest and pytest-asyncio, which the worker itself does not.

    class TestMyProvider(ProviderContract):
        @pytest_asyncio.fixture
        async def provider(self):
            provider = MyProvider(MySettings())
            yield provider
            await provider.close()

        @pytest.fixture
        def speech(self):
            return Speech(pcm, AudioFormat("linear16", 16000, 1), words=("good", "morning"))

With `pytest.register_assert_rewrite("natterjack.plugin.contract")` in a conftest.py, before the
import, pytest shows the values in failed assertions.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import string
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

try:
    import pytest
    import pytest_asyncio
except ImportError as error:
    needed = "natterjack.plugin.contract needs pytest: pip install 'natterjack[plugin-test]'"
    raise ImportError(needed) from error
from pydantic import SecretStr
from pydantic_settings import BaseSettings

from natterjack.audio import BYTES_PER_SAMPLE, AudioFormat

from .errors import ProviderError, RequestRefused
from .provider import (
    Final,
    Interim,
    Notice,
    Provider,
    ProviderEvent,
    ProviderStream,
    ProviderWord,
    StreamRequest,
    Turn,
    Usage,
)

_T = TypeVar("_T")

_MOST_HELD_BYTES = 16 * 1024 * 1024
"""Kernel buffers included."""
_SECRET_NAMES = ("key", "token", "password", "secret")


@dataclass(frozen=True)
class Speech:
    """Audio with a few seconds of speech, and what it says if that is known for certain."""

    audio: bytes
    format: AudioFormat
    """Must fit the provider's capabilities."""
    words: tuple[str, ...] | None = None
    """In lower case, without punctuation; None: any text will do."""

    @property
    def seconds(self) -> float:
        return self.format.seconds(self.format.frames(len(self.audio)))


def plain_words(text: str) -> list[str]:
    """Words of a transcript in lower case, without punctuation at their ends."""
    return [word for raw in text.lower().split() if (word := raw.strip(string.punctuation))]


def finals(events: Iterable[ProviderEvent]) -> list[Final]:
    return [event for event in events if isinstance(event, Final)]


def text_of(events: Iterable[ProviderEvent]) -> list[str]:
    """All words of the finals."""
    return [word for final in finals(events) for word in plain_words(final.text)]


def _missing(self: ProviderContract) -> Any:
    raise NotImplementedError("override the fixtures `provider` and `speech`")


def _nothing(self: ProviderContract) -> None:
    return None


class ProviderContract:
    """Subclass it, and override `provider` and `speech` at least."""

    pytestmark: ClassVar[list[pytest.MarkDecorator]] = [pytest.mark.asyncio]

    answer_seconds: ClassVar[float] = 30.0
    """Within so long everything must have been said about `speech`."""
    close_seconds: ClassVar[float] = 2.0
    """Within so long a stream must be closed, whatever state it is in."""
    pace: ClassVar[float | None] = None
    """Times real time at which audio is sent; None: as fast as it is taken."""
    tolerance_seconds: ClassVar[float] = 0.05
    """By how much a time may lie outside where it belongs."""

    # ---- what the author gives: fixtures, overridden (`Any`: they may be async) ---------------

    provider: Any = pytest.fixture(_missing)
    """A Provider that is ready; the fixture closes it afterwards."""
    speech: Any = pytest.fixture(_missing)
    """The Speech that streams are to hear."""
    other_speech: Any = pytest.fixture(_nothing)
    """Something else, of the same format, for the test of two streams at once; optional."""
    break_connection: Any = pytest.fixture(_nothing)
    """An async function that cuts the connections of open streams; optional."""
    block_reading: Any = pytest.fixture(_nothing)
    """An async function after which the provider's side takes no more audio; optional."""
    secrets: Any = pytest.fixture(_nothing)
    """The secrets that `provider` was made with: texts that may be told nowhere; optional."""

    # ---- tools ------------------------------------------------------------------------------

    @pytest_asyncio.fixture(autouse=True)
    async def nothing_left_running(self) -> AsyncIterator[None]:
        """After each test, and after the provider is closed, no task may be left."""
        before = asyncio.all_tasks()
        yield
        running = {
            task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()
        }
        if running:
            _, running = await asyncio.wait(running, timeout=1)
        assert not running, f"tasks were left running: {running}"

    def request_for(self, speech: Speech, **changes: object) -> StreamRequest:
        """What a stream that hears `speech` is opened with."""
        return StreamRequest(session_id="contract", format=speech.format, **changes)  # type: ignore[arg-type]

    def frame_bytes(self, provider: Provider, audio_format: AudioFormat) -> int:
        """Size of a `send`: the provider's frame, or 80 ms."""
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
        """Send `audio` in pieces of `sizes` bytes, at `pace`. `at_once`: without waiting, where the
        stream takes it so."""
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
        """All that a stream says about `speech`."""
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
        """A stream that has begun, whose audio nobody reads any more, and a frame for it."""
        if block_reading is None:
            pytest.skip("no way to stop the provider's reading was given")
        stream = await provider.open(self.request_for(speech))
        frame = speech.audio[: self.frame_bytes(provider, speech.format)]
        try:
            await stream.send(frame)
            await block_reading()
            yield stream, frame
        finally:
            await self.closes(stream)

    async def closes(self, stream: ProviderStream) -> None:
        """Close a stream twice, in time."""
        async with asyncio.timeout(self.close_seconds):
            await stream.close()
            await stream.close()

    def hears(self, events: Sequence[ProviderEvent], speech: Speech) -> None:
        """The finals say what was spoken."""
        heard = text_of(events)
        assert heard, "no final has text"
        if speech.words is not None:
            assert heard == list(speech.words), f"heard {heard}, spoken was {list(speech.words)}"

    # ---- what it declares -------------------------------------------------------------------

    async def test_capabilities_are_sane(self, provider: Provider) -> None:
        caps = provider.capabilities
        assert provider.name, "a provider has a name"
        assert caps.encodings, "a provider takes at least one encoding"
        assert set(caps.encodings) <= set(BYTES_PER_SAMPLE), f"unknown: {caps.encodings}"
        assert all(rate > 0 for rate in caps.sample_rates), "sample rates are positive"
        assert caps.max_channels >= 1, "at least one channel"
        assert caps.frame_ms is None or caps.frame_ms > 0, "frames have a length"
        assert caps.catch_up_rate >= 1, "less than real time would never catch up"
        assert caps.price_per_hour >= 0, "a price is not negative"
        assert len(caps.currency) == 3, "a currency is three letters (ISO 4217)"
        kind = type(provider)
        assert issubclass(kind.Settings, BaseSettings), "Settings is a pydantic-settings model"
        assert isinstance(kind.capabilities, type(caps)), "the class has capabilities as well"

    async def test_settings_are_described(self, provider: Provider) -> None:
        model = type(provider).Settings
        assert model.model_config.get("env_prefix"), "settings have an environment prefix"
        for name, field in model.model_fields.items():
            assert field.description, f"setting {name} has no description"
            if name.rpartition("_")[2] in _SECRET_NAMES:
                assert SecretStr.__name__ in str(field.annotation), f"{name} is not a SecretStr"

    async def test_only_what_is_declared_is_offered(
        self, provider: Provider, speech: Speech
    ) -> None:
        stream = await provider.open(self.request_for(speech))
        try:
            if not provider.capabilities.finalize:
                with pytest.raises(NotImplementedError):
                    await stream.finalize()
            if not provider.capabilities.configurable:
                with pytest.raises(NotImplementedError):
                    await stream.configure({})
        finally:
            await self.closes(stream)

    async def test_declared_formats_are_accepted(self, provider: Provider, speech: Speech) -> None:
        """Half a second of silence, in each encoding and at each rate, says nothing."""
        caps = provider.capabilities
        for encoding in caps.encodings:
            for rate in caps.sample_rates or (8000, speech.format.sample_rate):
                audio_format = AudioFormat(encoding, rate, 1)
                quiet = {"linear16": b"\0\0", "mulaw": b"\xff", "alaw": b"\xd5"}[encoding]
                silence = Speech(quiet * (rate // 2), audio_format)
                assert not text_of(await self.transcribe(provider, silence)), audio_format

    async def test_unknown_option_is_refused(self, provider: Provider, speech: Speech) -> None:
        options = {"no_such_option_exists": True}
        with pytest.raises(RequestRefused, match="no_such_option_exists") as caught:
            await self._opened_and_closed(provider, self.request_for(speech, options=options))
        assert caught.value.cause == "request"
        assert not caught.value.retryable

    async def _opened_and_closed(self, provider: Provider, request: StreamRequest) -> None:
        stream = await provider.open(request)
        await stream.close()

    # ---- what it says -----------------------------------------------------------------------

    async def test_hears_speech(self, provider: Provider, speech: Speech) -> None:
        """All words are in finals by the time the iterator ends, which it does after finish."""
        self.hears(await self.transcribe(provider, speech), speech)

    async def test_finals_partition_the_audio(self, provider: Provider, speech: Speech) -> None:
        frontier = 0.0
        for final in finals(await self.transcribe(provider, speech)):
            assert final.start >= frontier - 1e-6, f"{final} overlaps: {frontier} was final"
            assert final.end >= final.start, f"{final} ends before it starts"
            frontier = final.end
        assert frontier <= speech.seconds + self.tolerance_seconds, "final beyond the audio"

    async def test_words_lie_in_their_finals(self, provider: Provider, speech: Speech) -> None:
        kind = provider.capabilities.words
        events = await self.transcribe(provider, speech)
        for final in finals(events):
            if kind == "none":
                assert not final.words, "the capabilities say that there are no words"
            elif final.text:
                assert final.words, f"{final} has text, but no words"
                self._check_words(final, timed=kind == "timed")
            if not provider.capabilities.confidences:
                assert final.confidence is None, "the capabilities say: no confidences"

    def _check_words(self, final: Final, *, timed: bool) -> None:
        start, slack = final.start, self.tolerance_seconds
        words: tuple[ProviderWord, ...] = final.words
        for word in words:
            assert word.text.strip(), f"{final} has an empty word"
            if timed or word.start is not None:
                assert word.start is not None, f"{word} has no times"
                assert word.end is not None, f"{word} has no times"
                assert word.start >= start - slack, f"{word} starts too early"
                assert word.start <= word.end <= final.end + slack, f"{word} ends out of place"
                start = word.start
            if word.confidence is not None:
                assert 0 <= word.confidence <= 1, f"{word}: not a confidence"

    async def test_interims_come_before_their_finals(
        self, provider: Provider, speech: Speech
    ) -> None:
        frontier, texts = 0.0, 0
        for event in await self.transcribe(provider, speech):
            if isinstance(event, Final):
                frontier = event.end
            elif isinstance(event, Interim):
                texts += bool(event.text)
                assert event.end >= event.start, f"{event} ends before it starts"
                early = frontier - self.tolerance_seconds
                assert event.start >= early, f"{event} is about what is final"
        assert bool(texts) == provider.capabilities.interims, f"{texts} interims with text"

    async def test_turns_open_and_close(self, provider: Provider, speech: Speech) -> None:
        open_, seen = False, 0
        for event in await self.transcribe(provider, speech):
            assert isinstance(event, Interim | Final | Turn | Usage | Notice), event
            if isinstance(event, Turn):
                seen += 1
                assert (event.event == "started") != open_, f"{event}, turn open: {open_}"
                open_ = event.event != "ended"
                assert -1e-6 <= event.at <= speech.seconds + self.tolerance_seconds, event
        assert not open_, "a turn was not ended with the audio"
        assert bool(seen) == provider.capabilities.turns, f"{seen} events of turns"

    async def test_frames_of_any_size(self, provider: Provider, speech: Speech) -> None:
        if provider.capabilities.frame_ms is not None:
            pytest.skip("the provider wants frames of one size")
        unit = speech.format.frame_bytes
        sizes = itertools.cycle(unit * frames for frames in (1, 7, 1601, 333, 4001))
        self.hears(await self.transcribe(provider, speech, sizes), speech)

    async def test_short_last_frame(self, provider: Provider, speech: Speech) -> None:
        """The last frame of a stream may be shorter than the others."""
        frame = self.frame_bytes(provider, speech.format)
        whole = len(speech.audio) - len(speech.audio) % frame
        audio = speech.audio[:whole] + speech.audio[-speech.format.frame_bytes :]
        self.hears(await self.transcribe(provider, Speech(audio, speech.format)), speech)

    async def test_no_audio_then_finish(self, provider: Provider, speech: Speech) -> None:
        events = await self.transcribe(provider, Speech(b"", speech.format))
        assert not text_of(events), "text without audio"

    async def test_two_streams_do_not_mix(
        self, provider: Provider, speech: Speech, other_speech: Speech | None
    ) -> None:
        other = other_speech or Speech(bytes(len(speech.audio)), speech.format)
        first, second = await asyncio.gather(
            self.transcribe(provider, speech), self.transcribe(provider, other)
        )
        self.hears(first, speech)
        if other_speech is not None:
            self.hears(second, other_speech)
        elif speech.format.encoding == "linear16":
            assert not text_of(second), "the silent stream has words"

    async def test_finalize_loses_nothing(self, provider: Provider, speech: Speech) -> None:
        """Asked for after the speech, it makes final what is pending, and the stream goes on."""
        if not provider.capabilities.finalize:
            pytest.skip("the provider has no finalize")
        frame = self.frame_bytes(provider, speech.format)
        events: list[ProviderEvent] = []
        async with asyncio.timeout(self.answer_seconds):
            stream = await provider.open(self.request_for(speech))
            try:
                sizes = itertools.repeat(frame)
                await self.send_all(stream, speech.audio, speech.format, sizes)
                await stream.finalize()
                await stream.finish()
                async for event in stream:
                    events.append(event)
            finally:
                await stream.close()
        self.hears(events, speech)

    async def test_what_follows_a_final_can_be_heard_alone(
        self, provider: Provider, speech: Speech
    ) -> None:
        """Where a final ends a new stream may begin, as after a crash, and no word is amiss."""
        if speech.words is None:
            pytest.skip("what is spoken is not known for certain")
        spoken = [final for final in finals(await self.transcribe(provider, speech)) if final.text]
        if len(spoken) < 2:
            pytest.skip("the speech makes one final only: pauses in it would make more")
        middle = (len(spoken) - 1) // 2
        frames = round(spoken[middle].end * speech.format.sample_rate)
        rest = Speech(speech.audio[frames * speech.format.frame_bytes :], speech.format)
        assert text_of(await self.transcribe(provider, rest)) == text_of(spoken[middle + 1 :])

    # ---- what it keeps to itself, and what it does not keep -----------------------------------

    async def test_secrets_are_told_nowhere(
        self,
        provider: Provider,
        speech: Speech,
        secrets: Sequence[str] | None,
        break_connection: Callable[[], Awaitable[object]] | None,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Not in logs at any level, events, errors with their tracebacks, or representations."""
        if not secrets:
            pytest.skip("no secrets were given")
        caplog.set_level(logging.DEBUG)
        told = [repr(provider), repr(vars(provider)), repr(await self.transcribe(provider, speech))]
        try:
            await provider.open(self.request_for(speech, options={"no_such_option": 1}))
        except ProviderError as error:
            told += traceback.format_exception(error)
        if break_connection is not None:
            stream = await provider.open(self.request_for(speech))
            told.append(repr(vars(stream)))
            await stream.send(speech.audio[: self.frame_bytes(provider, speech.format)])
            await break_connection()
            try:
                await self._drained(stream)
            except ProviderError as error:
                told += traceback.format_exception(error)
            await self.closes(stream)
        everything = "\n".join([*told, caplog.text])
        assert not [secret for secret in secrets if secret in everything]

    async def test_back_pressure(
        self,
        provider: Provider,
        speech: Speech,
        block_reading: Callable[[], Awaitable[object]] | None,
    ) -> None:
        """A provider that takes no more makes `send` wait, before much is held in memory."""
        async with self._unread(provider, speech, block_reading) as (stream, frame):
            sent = 0
            with contextlib.suppress(TimeoutError):
                while sent < _MOST_HELD_BYTES:
                    async with asyncio.timeout(1):
                        await stream.send(frame)
                    sent += len(frame)
            assert sent < _MOST_HELD_BYTES, f"{sent} bytes were taken that nobody reads"

    async def test_what_is_sent_without_waiting_is_heard(
        self, provider: Provider, speech: Speech
    ) -> None:
        """`send_nowait` and `send`, in turn as they come: the audio stays in order and whole."""
        self.hears(await self.transcribe(provider, speech, at_once=True), speech)

    async def test_what_is_sent_without_waiting_has_a_bound(
        self,
        provider: Provider,
        speech: Speech,
        block_reading: Callable[[], Awaitable[object]] | None,
    ) -> None:
        """`send_nowait` gives up before much is held in memory."""
        async with self._unread(provider, speech, block_reading) as (stream, frame):
            sent = 0
            while sent < _MOST_HELD_BYTES and stream.send_nowait(frame):
                sent += len(frame)
                await asyncio.sleep(0)
            assert sent < _MOST_HELD_BYTES, f"{sent} bytes were taken that nobody reads"

    # ---- how it ends ------------------------------------------------------------------------

    async def test_close_at_once(self, provider: Provider, speech: Speech) -> None:
        await self.closes(await provider.open(self.request_for(speech)))

    async def test_close_in_the_middle(self, provider: Provider, speech: Speech) -> None:
        stream = await provider.open(self.request_for(speech))
        frame = self.frame_bytes(provider, speech.format)
        half = speech.audio[: len(speech.audio) // frame // 2 * frame]
        await self.send_all(stream, half, speech.format, itertools.repeat(frame))
        await self.closes(stream)

    async def test_close_after_finish(self, provider: Provider, speech: Speech) -> None:
        stream = await provider.open(self.request_for(speech))
        await stream.finish()
        await self.closes(stream)

    async def test_close_ends_iteration(self, provider: Provider, speech: Speech) -> None:
        stream = await provider.open(self.request_for(speech))
        iterating = asyncio.create_task(self._drained(stream))
        await asyncio.sleep(0)
        await self.closes(stream)
        async with asyncio.timeout(self.close_seconds):
            # It did not end as it should, so an error is in order; anything else is not.
            with contextlib.suppress(ProviderError):
                await iterating

    async def _drained(self, stream: ProviderStream) -> None:
        async for _ in stream:
            pass

    async def test_provider_closes_twice(self, provider: Provider, speech: Speech) -> None:
        await self.closes(await provider.open(self.request_for(speech)))
        await provider.close()
        await provider.close()

    async def test_broken_connection_is_told(
        self,
        provider: Provider,
        speech: Speech,
        break_connection: Callable[[], Awaitable[object]] | None,
    ) -> None:
        if break_connection is None:
            pytest.skip("no way to break the connection was given")
        stream = await provider.open(self.request_for(speech))
        try:
            await stream.send(speech.audio[: self.frame_bytes(provider, speech.format)])
            await break_connection()
            async with asyncio.timeout(self.answer_seconds):
                with pytest.raises(ProviderError) as caught:
                    await self._drained(stream)
            assert caught.value.retryable, "a broken connection is worth another try"
        finally:
            await self.closes(stream)

    # ---- cancelled anywhere -----------------------------------------------------------------

    @pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 8])
    async def test_cancel_open(self, provider: Provider, speech: Speech, steps: int) -> None:
        opening = asyncio.create_task(provider.open(self.request_for(speech)))
        stream = await self._cancelled(opening, steps)
        if stream is not None:
            await self.closes(stream)
        self.hears(await self.transcribe(provider, speech), speech)

    @pytest.mark.parametrize("steps", [0, 1, 3, 8])
    @pytest.mark.parametrize("what", ["send", "finish", "iterate"])
    async def test_cancel(self, provider: Provider, speech: Speech, what: str, steps: int) -> None:
        """After a cancel a stream can be closed, and the provider can open others."""
        stream = await provider.open(self.request_for(speech))
        frame = self.frame_bytes(provider, speech.format)
        task: asyncio.Task[None]
        if what == "send":
            sending = self.send_all(stream, speech.audio, speech.format, itertools.repeat(frame))
            task = asyncio.create_task(sending)
        else:
            await stream.send(speech.audio[:frame])
            task = asyncio.create_task(
                stream.finish() if what == "finish" else self._drained(stream)
            )
        await self._cancelled(task, steps)
        await self.closes(stream)
        self.hears(await self.transcribe(provider, speech), speech)

    async def _cancelled(self, task: asyncio.Task[_T], steps: int) -> _T | None:
        """Cancel `task` after some turns of the loop; its result if it was done by then."""
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        try:
            async with asyncio.timeout(self.close_seconds):
                return await task
        except asyncio.CancelledError:
            assert task.cancelled(), "the test itself was cancelled"
            return None
