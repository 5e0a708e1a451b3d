"""Tests of what a provider declares and of what it transcribes."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from pydantic import SecretStr
from pydantic_settings import BaseSettings

from natterjack.audio import BYTES_PER_SAMPLE, AudioFormat

from ..errors import RequestRefused
from ..provider import (
    Final,
    Interim,
    Notice,
    Provider,
    ProviderEvent,
    ProviderWord,
    StreamRequest,
    Turn,
    Usage,
)
from .case import ContractCase, Speech, finals, text_of

_SECRET_NAMES = ("key", "token", "password", "secret")


class DeclarationTests(ContractCase):
    """A provider is what its capabilities and settings say."""

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


class TranscriptTests(ContractCase):
    """Every word is transcribed once, in order, with times that fit."""

    async def test_transcribes_speech(self, provider: Provider, speech: Speech) -> None:
        """Iteration ends after `finish`, and all words are in finals by then."""
        self.check_words(await self.transcribe(provider, speech), speech)

    async def test_silence(self, provider: Provider, speech: Speech) -> None:
        """Ten seconds of silence have no text. With the capability `answers_silence`, events arrive
        during all of them: the worker takes a provider that sends none for mute."""
        half = Speech(speech.format.silence(5 * speech.format.sample_rate), speech.format)
        sizes = itertools.repeat(self.frame_bytes(provider, speech.format))
        events: list[ProviderEvent] = []
        arrived = asyncio.Event()
        stream = await provider.open(self.request_for(speech))

        async def receive() -> None:
            async for event in stream:
                events.append(event)
                arrived.set()

        receiving = asyncio.create_task(receive())
        try:
            async with asyncio.timeout(self.answer_seconds):
                for _ in range(2):
                    arrived.clear()
                    await self.send_all(stream, half.audio, half.format, sizes)
                    if provider.capabilities.answers_silence:
                        await arrived.wait()
                await stream.finish()
                await receiving
        except TimeoutError:
            assert not provider.capabilities.answers_silence, (
                "the provider does not answer silence: declare answers_silence=False"
            )
            raise
        finally:
            receiving.cancel()
            await self.closes(stream)
            await asyncio.wait({receiving})
        assert not text_of(events), "text in silence"

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
