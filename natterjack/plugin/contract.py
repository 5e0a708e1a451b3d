"""The contract suite: one pytest class with the tests that every provider passes.

The author of a provider subclasses `ProviderContract` and overrides two fixtures. The suite needs
pytest and pytest-asyncio, which `natterjack[plugin-test]` installs.

    class TestMyProvider(ProviderContract):
        @pytest_asyncio.fixture
        async def provider(self):
            provider = MyProvider(MySettings())
            yield provider
            await provider.close()

        @pytest.fixture
        def speech(self):
            return Speech(pcm, AudioFormat("linear16", 16000, 1), words=("good", "morning"))

For values in the messages of failed assertions, call
`pytest.register_assert_rewrite("natterjack.plugin.contract")` in a conftest.py.
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

_MAX_HELD_BYTES = 16 * 1024 * 1024
"""Largest amount of audio that a stream may hold in memory and in the kernel's buffers."""
_SECRET_NAMES = ("key", "token", "password", "secret")


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


def _missing(self: ProviderContract) -> Any:
    raise NotImplementedError("override the fixtures `provider` and `speech`")


def _nothing(self: ProviderContract) -> None:
    return None


class ProviderContract:
    """The tests that every provider passes. A subclass overrides `provider` and `speech`."""

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

    # ---- declarations -----------------------------------------------------------------------

    async def test_capabilities_are_sane(self, provider: Provider) -> None:
        caps = provider.capabilities
        assert provider.name, "a provider has a name"
        assert caps.encodings, "a provider takes at least one encoding"
        assert set(caps.encodings) <= set(BYTES_PER_SAMPLE), f"unknown: {caps.encodings}"
        assert all(rate > 0 for rate in caps.sample_rates), "sample rates are positive"
        assert caps.max_channels >= 1, "at least one channel"
        assert caps.frame_ms is None or caps.frame_ms > 0, "frames have a length"
        assert caps.catch_up_rate >= 1, "a rate below real time never catches up"
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

    async def test_undeclared_methods_are_not_implemented(
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
        """Half a second of silence has no text, in each encoding and at each rate."""
        caps = provider.capabilities
        for encoding in caps.encodings:
            for rate in caps.sample_rates or (8000, speech.format.sample_rate):
                audio_format = AudioFormat(encoding, rate, 1)
                silence = Speech(audio_format.silence(rate // 2), audio_format)
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

    # ---- transcripts ------------------------------------------------------------------------

    async def test_transcribes_speech(self, provider: Provider, speech: Speech) -> None:
        """Iteration ends after `finish`, and all words are in finals by then."""
        self.check_words(await self.transcribe(provider, speech), speech)

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
                self._check_word_times(final, timed=kind == "timed")
            if not provider.capabilities.confidences:
                assert final.confidence is None, (
                    "the capabilities say that there are no confidences"
                )

    def _check_word_times(self, final: Final, *, timed: bool) -> None:
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
                assert event.start >= early, f"{event} starts before the end of the last final"
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
        assert not open_, "a turn has no end when the audio ends"
        assert bool(seen) == provider.capabilities.turns, f"{seen} events of turns"

    async def test_frames_of_any_size(self, provider: Provider, speech: Speech) -> None:
        if provider.capabilities.frame_ms is not None:
            pytest.skip("the provider requires frames of one size")
        unit = speech.format.frame_bytes
        sizes = itertools.cycle(unit * frames for frames in (1, 7, 1601, 333, 4001))
        self.check_words(await self.transcribe(provider, speech, sizes), speech)

    async def test_short_last_frame(self, provider: Provider, speech: Speech) -> None:
        """The last frame of a stream may be shorter than the others."""
        frame = self.frame_bytes(provider, speech.format)
        whole = len(speech.audio) - len(speech.audio) % frame
        audio = speech.audio[:whole] + speech.audio[-speech.format.frame_bytes :]
        self.check_words(await self.transcribe(provider, Speech(audio, speech.format)), speech)

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
        self.check_words(first, speech)
        if other_speech is not None:
            self.check_words(second, other_speech)
        elif speech.format.encoding == "linear16":
            assert not text_of(second), "the silent stream has words"

    async def test_finalize_loses_nothing(self, provider: Provider, speech: Speech) -> None:
        """After the speech, `finalize` makes pending words final, and the stream continues."""
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
        self.check_words(events, speech)

    async def test_a_stream_may_begin_where_a_final_ends(
        self, provider: Provider, speech: Speech
    ) -> None:
        """A new stream may begin at the end of a final, as after a fault, without loss of words."""
        if speech.words is None:
            pytest.skip("the words of the speech are not certain")
        spoken = [final for final in finals(await self.transcribe(provider, speech)) if final.text]
        if len(spoken) < 2:
            pytest.skip("the speech has a single final: add pauses to it")
        middle = (len(spoken) - 1) // 2
        frames = round(spoken[middle].end * speech.format.sample_rate)
        rest = Speech(speech.audio[frames * speech.format.frame_bytes :], speech.format)
        assert text_of(await self.transcribe(provider, rest)) == text_of(spoken[middle + 1 :])

    # ---- secrets and memory ---------------------------------------------------------------------

    async def test_secrets_appear_nowhere(
        self,
        provider: Provider,
        speech: Speech,
        secrets: Sequence[str] | None,
        break_connection: Callable[[], Awaitable[object]] | None,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """No log, event, error, traceback or representation contains a secret."""
        if not secrets:
            pytest.skip("override the fixture `secrets` for this test")
        caplog.set_level(logging.DEBUG)
        shown = [
            repr(provider),
            repr(vars(provider)),
            repr(await self.transcribe(provider, speech)),
        ]
        try:
            await provider.open(self.request_for(speech, options={"no_such_option": 1}))
        except ProviderError as error:
            shown += traceback.format_exception(error)
        if break_connection is not None:
            stream = await provider.open(self.request_for(speech))
            shown.append(repr(vars(stream)))
            await stream.send(speech.audio[: self.frame_bytes(provider, speech.format)])
            await break_connection()
            try:
                await self._drained(stream)
            except ProviderError as error:
                shown += traceback.format_exception(error)
            await self.closes(stream)
        everything = "\n".join([*shown, caplog.text])
        assert not [secret for secret in secrets if secret in everything]

    async def test_back_pressure(
        self,
        provider: Provider,
        speech: Speech,
        block_reading: Callable[[], Awaitable[object]] | None,
    ) -> None:
        """`send` waits for a provider that reads no more, before much audio is held in memory."""
        async with self._unread(provider, speech, block_reading) as (stream, frame):
            sent = 0
            with contextlib.suppress(TimeoutError):
                while sent < _MAX_HELD_BYTES:
                    async with asyncio.timeout(1):
                        await stream.send(frame)
                    sent += len(frame)
            assert sent < _MAX_HELD_BYTES, f"the stream accepted {sent} bytes that nobody reads"

    async def test_send_nowait_keeps_audio_complete(
        self, provider: Provider, speech: Speech
    ) -> None:
        """Audio stays complete and in order when `send_nowait` and `send` alternate."""
        self.check_words(await self.transcribe(provider, speech, at_once=True), speech)

    async def test_send_nowait_is_bounded(
        self,
        provider: Provider,
        speech: Speech,
        block_reading: Callable[[], Awaitable[object]] | None,
    ) -> None:
        """`send_nowait` returns False before much audio is held in memory."""
        async with self._unread(provider, speech, block_reading) as (stream, frame):
            sent = 0
            while sent < _MAX_HELD_BYTES and stream.send_nowait(frame):
                sent += len(frame)
                await asyncio.sleep(0)
            assert sent < _MAX_HELD_BYTES, f"the stream accepted {sent} bytes that nobody reads"

    # ---- ends -------------------------------------------------------------------------------

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
            # The stream ended early, so iteration may raise ProviderError, and nothing else.
            with contextlib.suppress(ProviderError):
                await iterating

    async def _drained(self, stream: ProviderStream) -> None:
        async for _ in stream:
            pass

    async def test_provider_closes_twice(self, provider: Provider, speech: Speech) -> None:
        await self.closes(await provider.open(self.request_for(speech)))
        await provider.close()
        await provider.close()

    async def test_broken_connection_raises(
        self,
        provider: Provider,
        speech: Speech,
        break_connection: Callable[[], Awaitable[object]] | None,
    ) -> None:
        if break_connection is None:
            pytest.skip("override the fixture `break_connection` for this test")
        stream = await provider.open(self.request_for(speech))
        try:
            await stream.send(speech.audio[: self.frame_bytes(provider, speech.format)])
            await break_connection()
            async with asyncio.timeout(self.answer_seconds):
                with pytest.raises(ProviderError) as caught:
                    await self._drained(stream)
            assert caught.value.retryable, "a broken connection is worth a retry"
        finally:
            await self.closes(stream)

    # ---- cancellation -----------------------------------------------------------------------

    @pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 8])
    async def test_cancel_open(self, provider: Provider, speech: Speech, steps: int) -> None:
        opening = asyncio.create_task(provider.open(self.request_for(speech)))
        stream = await self._cancelled(opening, steps)
        if stream is not None:
            await self.closes(stream)
        self.check_words(await self.transcribe(provider, speech), speech)

    @pytest.mark.parametrize("steps", [0, 1, 3, 8])
    @pytest.mark.parametrize("what", ["send", "finish", "iterate"])
    async def test_cancel(self, provider: Provider, speech: Speech, what: str, steps: int) -> None:
        """After a cancelled call, the stream can be closed and the provider opens others."""
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
        self.check_words(await self.transcribe(provider, speech), speech)

    async def _cancelled(self, task: asyncio.Task[_T], steps: int) -> _T | None:
        """Cancel `task` after `steps` turns of the loop; return its result if it was done."""
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        try:
            async with asyncio.timeout(self.close_seconds):
                return await task
        except asyncio.CancelledError:
            assert task.cancelled(), "the test itself was cancelled"
            return None
