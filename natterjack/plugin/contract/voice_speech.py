"""Tests of what a voice declares and of what it speaks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from pydantic import SecretStr
from pydantic_settings import BaseSettings

from natterjack.audio import BYTES_PER_SAMPLE, AudioFormat

from ..errors import ProviderError, RequestRefused
from ..provider import Notice
from ..voice import (
    Interrupted,
    Mark,
    PhraseEnd,
    Speech,
    Voice,
    VoiceStreamEvent,
    VoiceStreamRequest,
)
from .voice_case import VoiceCase, audio_of, phrases

_SECRET_NAMES = ("key", "token", "password", "secret")

Check = Callable[[str, bytes, VoiceStreamRequest], object] | None


class VoiceDeclarationTests(VoiceCase):
    """A voice is what its capabilities and settings say."""

    async def test_capabilities_are_sane(self, voice: Voice) -> None:
        caps = voice.capabilities
        assert voice.name, "a voice has a name"
        assert caps.encodings, "a voice makes at least one encoding"
        assert set(caps.encodings) <= set(BYTES_PER_SAMPLE), f"unknown: {caps.encodings}"
        assert all(rate > 0 for rate in caps.sample_rates), "sample rates are positive"
        assert caps.max_phrase_characters >= 1, "a phrase has characters"
        for limit in (caps.characters_per_minute, caps.flushes_per_minute, caps.max_seconds):
            assert limit is None or limit > 0, "a limit is positive, or None"
        assert caps.price_per_1000_characters >= 0, "a price is not negative"
        assert len(caps.currency) == 3, "a currency is three letters (ISO 4217)"
        kind = type(voice)
        assert issubclass(kind.Settings, BaseSettings), "Settings is a pydantic-settings model"
        assert isinstance(kind.capabilities, type(caps)), "the class has capabilities as well"

    async def test_settings_are_described(self, voice: Voice) -> None:
        model = type(voice).Settings
        assert model.model_config.get("env_prefix"), "settings have an environment prefix"
        for name, field in model.model_fields.items():
            assert field.description, f"setting {name} has no description"
            if name.rpartition("_")[2] in _SECRET_NAMES:
                assert SecretStr.__name__ in str(field.annotation), f"{name} is not a SecretStr"

    async def test_undeclared_methods_are_not_implemented(self, voice: Voice) -> None:
        if voice.capabilities.configurable:
            pytest.skip("the voice has settings that can be changed")
        async with self.talking(voice) as talk:
            with pytest.raises(NotImplementedError):
                await talk.stream.configure({})

    async def test_declared_formats_are_spoken(self, voice: Voice, check_speech: Check) -> None:
        """It speaks in each encoding and at each rate."""
        caps = voice.capabilities
        for encoding in caps.encodings:
            for rate in caps.sample_rates or (8000, 24_000):
                changes = {"encoding": encoding, "sample_rate": rate}
                (audio,) = await self.spoken(voice, self.other_text, **changes)
                request = self.request_for(voice, **changes)
                self.check(self.other_text, audio, request, check_speech)

    async def test_unknown_option_is_refused(self, voice: Voice) -> None:
        options = {"no_such_option_exists": True}
        with pytest.raises(RequestRefused, match="no_such_option_exists") as caught:
            await self._opened_and_closed(voice, self.request_for(voice, options=options))
        assert caught.value.cause == "request"
        assert not caught.value.retryable

    async def test_wrong_key_is_refused(self, wrong_key: Voice | None) -> None:
        if wrong_key is None:
            pytest.skip("override the fixture `wrong_key` for this test")
        with pytest.raises(RequestRefused) as caught:
            await self.spoken(wrong_key, self.text)
        assert caught.value.cause == "auth"

    async def _opened_and_closed(self, voice: Voice, request: VoiceStreamRequest) -> None:
        stream = await voice.open(request)
        await stream.close()


class SpeechTests(VoiceCase):
    """Every text is spoken once, in order, and every phrase has an end."""

    async def test_speaks(self, voice: Voice, check_speech: Check) -> None:
        """Iteration ends after `finish`, and everything was spoken by then."""
        request = self.request_for(voice)
        frame_bytes = AudioFormat(request.encoding, request.sample_rate, 1).frame_bytes
        async with self.talking(voice) as talk:
            await talk.say(self.text)
            events = await talk.finished()
        self.check(self.text, audio_of(events), request, check_speech)
        for event in events:
            assert isinstance(event, Speech | Mark | PhraseEnd | Interrupted | Notice), event
            if isinstance(event, Speech):
                assert event.audio, "an event without audio"
                assert len(event.audio) % frame_bytes == 0, "an event ends within a frame"
        spoken = [event for event in events if isinstance(event, Speech | PhraseEnd)]
        assert isinstance(spoken[-1], PhraseEnd), "audio after the end of the last phrase"
        assert len(phrases(events)) == 1, f"{len(phrases(events))} ends of one phrase"

    async def test_phrases_end_in_order(self, voice: Voice, check_speech: Check) -> None:
        """Each phrase has an end of its own after its own audio, also if all are sent at once."""
        texts = (self.text, self.other_text, self.text)
        spoken = await self.spoken(voice, *texts)
        assert len(spoken) == len(texts), f"{len(spoken)} ends of {len(texts)} phrases"
        for text, audio in zip(texts, spoken, strict=True):
            self.check(text, audio, self.request_for(voice), check_speech)

    async def test_a_phrase_after_another_has_ended(
        self, voice: Voice, check_speech: Check
    ) -> None:
        async with self.talking(voice) as talk:
            await talk.say(self.other_text)
            await talk.until(lambda: talk.count(PhraseEnd), "the phrase has ended")
            await talk.say(self.other_text)
            spoken = phrases(await talk.finished())
        for audio in spoken:
            self.check(self.other_text, audio, self.request_for(voice), check_speech)

    @pytest.mark.parametrize("nothing", ["", " ", "\n\n", " ... "])
    async def test_phrases_without_anything_to_speak(
        self, voice: Voice, check_speech: Check, nothing: str
    ) -> None:
        """They end without audio, and in their place."""
        texts = (nothing, self.other_text, nothing, nothing)
        spoken = await self.spoken(voice, *texts)
        assert [bool(audio) for audio in spoken] == [False, True, False, False]
        self.check(self.other_text, spoken[1], self.request_for(voice), check_speech)

    async def test_a_lone_flush_ends_a_phrase(self, voice: Voice) -> None:
        """The end comes while the stream is open and nothing else is sent."""
        async with self.talking(voice) as talk:
            await talk.stream.flush()
            await talk.until(lambda: talk.count(PhraseEnd), "the phrase has ended")
            assert phrases(await talk.finished()) == [b""]

    async def test_single_characters(self, voice: Voice, check_speech: Check) -> None:
        """Texts are joined as they are."""
        async with self.talking(voice) as talk:
            for character in self.text:
                await talk.stream.speak(character)
            await talk.stream.flush()
            (audio,) = phrases(await talk.finished())
        self.check(self.text, audio, self.request_for(voice), check_speech)

    async def test_long_text(self, voice: Voice, check_speech: Check) -> None:
        """A text without the end of a sentence, as long as a phrase may be."""
        length = min(self.long_characters, voice.capabilities.max_phrase_characters)
        words = self.other_text.rstrip(".!?").split()
        text = ""
        while len(text) + len(words[0]) < length:
            text += words[0] + " "
            words = [*words[1:], words[0]]
        (audio,) = await self.spoken(voice, text)
        self.check(text, audio, self.request_for(voice), check_speech)

    async def test_finish_flushes(self, voice: Voice, check_speech: Check) -> None:
        """A phrase that was not flushed is spoken, and has an end."""
        async with self.talking(voice) as talk:
            await talk.stream.speak(self.other_text)
            (audio,) = phrases(await talk.finished())
        self.check(self.other_text, audio, self.request_for(voice), check_speech)

    async def test_finish_without_text(self, voice: Voice) -> None:
        async with self.talking(voice) as talk:
            events = await talk.finished()
            await talk.stream.finish()
        assert not audio_of(events), "audio without text"
        assert not phrases(events), "the end of a phrase that was not begun"

    async def test_marks_are_those_of_the_text(self, voice: Voice) -> None:
        request = self.request_for(voice)
        per_second = AudioFormat(request.encoding, request.sample_rate, 1)
        async with self.talking(voice) as talk:
            await talk.say(self.text)
            events = await talk.finished()
        marks = [event for event in events if isinstance(event, Mark)]
        assert bool(marks) == voice.capabilities.marks, f"{len(marks)} marks"
        seconds = per_second.seconds(per_second.frames(len(audio_of(events))))
        before = Mark(0, 0.0)
        for mark in marks:
            assert 0 <= mark.character < len(self.text), f"{mark} is outside of the text"
            assert 0 <= mark.seconds <= seconds, f"{mark} is outside of the audio"
            assert mark >= before, f"{mark} after {before}"
            before = mark

    async def test_slow_reading_loses_nothing(self, voice: Voice, check_speech: Check) -> None:
        request = self.request_for(voice)
        async with asyncio.timeout(self.answer_seconds):
            stream = await voice.open(request)
        events: list[VoiceStreamEvent] = []

        async def send() -> None:
            await stream.speak(self.text)
            await stream.flush()
            await stream.finish()

        try:
            async with asyncio.timeout(self.answer_seconds), asyncio.TaskGroup() as tasks:
                tasks.create_task(send())
                async for event in stream:
                    events.append(event)
                    await asyncio.sleep(0.05 if len(events) < 20 else 0)  # the pace of the reader
        finally:
            await self.closes(stream)
        self.check(self.text, audio_of(events), request, check_speech)

    async def test_two_streams_do_not_mix(self, voice: Voice, check_speech: Check) -> None:
        first, second = await asyncio.gather(
            self.spoken(voice, self.text), self.spoken(voice, self.other_text)
        )
        self.check(self.text, first[0], self.request_for(voice), check_speech)
        self.check(self.other_text, second[0], self.request_for(voice), check_speech)

    async def test_garbage(
        self,
        voice: Voice,
        check_speech: Check,
        send_garbage: Callable[[], Awaitable[object]] | None,
    ) -> None:
        """Messages that cannot be read are skipped, or end the stream with a ProviderError."""
        if send_garbage is None:
            pytest.skip("override the fixture `send_garbage` for this test")
        async with self.talking(voice) as talk:
            await send_garbage()
            try:
                for text in (self.text, self.other_text):
                    await talk.say(text)
                spoken = phrases(await talk.finished())
            except ProviderError:
                return
        for text, audio in zip((self.text, self.other_text), spoken, strict=True):
            self.check(text, audio, self.request_for(voice), check_speech)
