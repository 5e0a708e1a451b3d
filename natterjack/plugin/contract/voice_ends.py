"""Tests of interrupts, of every way in which a stream ends, and of secrets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from collections.abc import Awaitable, Callable, Sequence

import pytest

from ..errors import ProviderError
from ..voice import Interrupted, PhraseEnd, Speech, Voice
from .voice_case import Talk, VoiceCase, after_interrupt, phrases
from .voice_speech import Check

_STATES = ("idle", "text", "flushed", "speaking", "two phrases", "spoken")


class InterruptTests(VoiceCase):
    """After an interrupt, nothing of earlier text follows, and the stream speaks new text."""

    async def _reach(self, talk: Talk, state: str) -> None:
        """Bring a new stream into a state in which it may be interrupted."""
        if state == "idle":
            return
        if state == "text":
            await talk.stream.speak(self.text)
            return
        await talk.say(self.text)
        if state == "speaking":
            await talk.until(lambda: talk.count(Speech), "the voice speaks")
        elif state == "two phrases":
            await talk.say(self.text)
            await talk.stream.speak(self.text)
            await talk.until(lambda: talk.count(Speech), "the voice speaks")
        elif state == "spoken":
            await talk.until(lambda: talk.count(PhraseEnd), "the phrase has ended")

    @pytest.mark.parametrize("state", _STATES)
    async def test_interrupt(self, voice: Voice, check_speech: Check, state: str) -> None:
        """Interrupted comes in every state, and then only what is spoken afterwards."""
        async with self.talking(voice) as talk:
            await self._reach(talk, state)
            await talk.stream.interrupt()
            await talk.say(self.other_text)
            events = await talk.finished()
            assert talk.count(Interrupted) == 1, "one answer to an interrupt"
        spoken = phrases(after_interrupt(events))
        assert len(spoken) == 1, f"{len(spoken)} ends of the one phrase after the interrupt"
        self.check(self.other_text, spoken[0], self.request_for(voice), check_speech)

    async def test_interrupt_after_finish(self, voice: Voice) -> None:
        """The stream ends soon, and without error."""
        async with self.talking(voice) as talk:
            await talk.say(self.text)
            await talk.until(lambda: talk.count(Speech), "the voice speaks")
            await talk.stream.finish()
            await talk.stream.interrupt()
            await talk.end()

    async def test_interrupts_in_a_row(self, voice: Voice, check_speech: Check) -> None:
        async with self.talking(voice) as talk:
            for _ in range(3):
                await talk.say(self.text)
                await talk.stream.interrupt()
            await talk.say(self.other_text)
            events = await talk.finished()
            assert talk.count(Interrupted) == 3, "one answer to each interrupt"
        (audio,) = phrases(after_interrupt(events))
        self.check(self.other_text, audio, self.request_for(voice), check_speech)

    @pytest.mark.parametrize("played", [0.0, 0.2, 3600.0])
    async def test_interrupt_with_the_time_that_was_played(
        self, voice: Voice, played: float
    ) -> None:
        """Any time may be given, also one that cannot be true."""
        async with self.talking(voice) as talk:
            await talk.say(self.text)
            await talk.until(lambda: talk.count(Speech), "the voice speaks")
            await talk.stream.interrupt(played)
            await talk.until(lambda: talk.count(Interrupted), "the interrupt is answered")
        (answer,) = (event for event in talk.events if isinstance(event, Interrupted))
        if answer.text_spoken is not None:
            assert voice.capabilities.reports_spoken, "the capabilities do not say that it reports"
            assert self.text.startswith(answer.text_spoken.rstrip()), answer.text_spoken


class VoiceEndTests(VoiceCase):
    """A stream ends cleanly, however it ends."""

    async def test_close_at_once(self, voice: Voice) -> None:
        await self.closes(await voice.open(self.request_for(voice)))

    @pytest.mark.parametrize("state", ["text", "flushed", "speaking", "finished", "interrupted"])
    async def test_close(self, voice: Voice, state: str) -> None:
        """Closing ends the iteration, in every state, and other streams can be opened."""
        stream = await voice.open(self.request_for(voice))
        talk = Talk(stream, self.answer_seconds)
        try:
            await stream.speak(self.text)
            if state != "text":
                await stream.flush()
            if state == "speaking":
                await talk.until(lambda: talk.count(Speech), "the voice speaks")
            if state == "finished":
                await stream.finish()
            if state == "interrupted":
                await stream.interrupt()
            await self.closes(stream)
            async with asyncio.timeout(self.close_seconds):
                # Everything may have been spoken; else the iteration raises ProviderError.
                with contextlib.suppress(ProviderError):
                    await talk.end()
        finally:
            await talk.stop()
            await self.closes(stream)
        await self._still_works(voice)

    async def test_close_raises_in_the_iteration(self, voice: Voice) -> None:
        async with self.talking(voice) as talk:
            await asyncio.sleep(0)
            await self.closes(talk.stream)
            with pytest.raises(ProviderError):
                await talk.end()

    async def test_voice_closes_twice(self, voice: Voice) -> None:
        await self.closes(await voice.open(self.request_for(voice)))
        await voice.close()
        await voice.close()

    @pytest.mark.parametrize("state", ["idle", "speaking", "finished"])
    async def test_broken_connection_raises(
        self, voice: Voice, break_connection: Callable[[], Awaitable[object]] | None, state: str
    ) -> None:
        if break_connection is None:
            pytest.skip("override the fixture `break_connection` for this test")
        async with self.talking(voice) as talk:
            if state != "idle":
                await talk.say(self.text)
                await talk.until(lambda: talk.count(Speech), "the voice speaks")
            if state == "finished":
                await talk.say(self.text)
                await talk.stream.finish()
            await break_connection()
            with pytest.raises(ProviderError) as caught:
                await talk.end()
            assert caught.value.retryable, "a broken connection is worth a retry"
        await self._still_works(voice)

    async def test_a_mute_provider(
        self, voice: Voice, go_mute: Callable[[], Awaitable[object]] | None
    ) -> None:
        """A phrase that is not answered has no end, and its stream can be closed. The worker
        notices by itself that nothing comes."""
        if go_mute is None:
            pytest.skip("override the fixture `go_mute` for this test")
        async with self.talking(voice) as talk:
            await go_mute()
            await talk.say(self.text)
            await asyncio.sleep(0.2)  # nothing happens for as long
            assert not phrases(talk.events), "a phrase ended that was not spoken"
            await self.closes(talk.stream)
            async with asyncio.timeout(self.close_seconds):
                with pytest.raises(ProviderError):
                    await talk.end()

    async def test_secrets_appear_nowhere(
        self,
        voice: Voice,
        secrets: Sequence[str] | None,
        break_connection: Callable[[], Awaitable[object]] | None,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """No log, event, error, traceback or representation contains a secret."""
        if not secrets:
            pytest.skip("override the fixture `secrets` for this test")
        caplog.set_level(logging.DEBUG)
        shown = [repr(voice), repr(vars(voice))]
        try:
            await voice.open(self.request_for(voice, options={"no_such_option": 1}))
        except ProviderError as error:
            shown += traceback.format_exception(error)
        async with self.talking(voice) as talk:
            shown.append(repr(vars(talk.stream)))
            await talk.say(self.text)
            try:
                if break_connection is not None:
                    await break_connection()
                await talk.finished()
            except ProviderError as error:
                shown += traceback.format_exception(error)
            shown.append(repr(talk.events))
        everything = "\n".join([*shown, caplog.text])
        assert not [secret for secret in secrets if secret in everything]

    # ---- cancellation -----------------------------------------------------------------------

    async def test_cancel_open(self, voice: Voice) -> None:
        """`open` is cancelled sooner and later, and the voice opens other streams."""
        for steps in (0, 1, 2, 3, 5, 8):
            opening = asyncio.create_task(voice.open(self.request_for(voice)))
            stream = await self._cancelled(opening, steps)
            if stream is not None:
                await self.closes(stream)
        await self._still_works(voice)

    @pytest.mark.parametrize("what", ["speak", "flush", "interrupt", "finish", "iterate"])
    async def test_cancel(self, voice: Voice, what: str) -> None:
        """After a call that is cancelled sooner or later, the stream can be closed and the voice
        opens others."""
        for steps in (0, 1, 3, 8):
            stream = await voice.open(self.request_for(voice))
            if what == "speak":
                call = stream.speak(self.text)
            else:
                await stream.speak(self.text)
                call = self._drained(stream) if what == "iterate" else getattr(stream, what)()
            await self._cancelled(asyncio.create_task(call), steps)
            await self.closes(stream)
        await self._still_works(voice)
