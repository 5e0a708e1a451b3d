"""Tests of a stream's life: secrets, back pressure, every way to end, cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn, TypeVar

import pytest

from ..errors import ProviderError
from ..provider import Provider, ProviderStream
from .case import ContractCase, Speech

_T = TypeVar("_T")

_MAX_HELD_BYTES = 16 * 1024 * 1024
"""Largest amount of audio that a stream may hold in memory and in the kernel's buffers."""


def _raise(*_: object) -> NoReturn:
    raise KeyError("raised by the contract suite")


class ResourceTests(ContractCase):
    """Secrets stay secret, and memory is bounded."""

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
                    async with asyncio.timeout(0.4):
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


class EndTests(ContractCase):
    """A stream ends cleanly, however it ends."""

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

    @pytest.mark.parametrize(
        "hook", ["decode", "encode_audio", "encode_finish", "on_audio", "on_close"]
    )
    async def test_an_error_in_a_hook_ends_the_stream(
        self, provider: Provider, speech: Speech, hook: str
    ) -> None:
        """An error in a method that the plugin implements is raised: nothing waits forever."""
        stream = await provider.open(self.request_for(speech))
        try:
            if not hasattr(stream, hook):
                pytest.skip(f"the stream has no method {hook}")
            setattr(stream, hook, _raise)
            async with asyncio.timeout(self.answer_seconds):
                with contextlib.suppress(Exception):
                    await self._transcribe_on(stream, provider, speech)
        finally:
            await self.closes(stream)

    async def _transcribe_on(
        self, stream: ProviderStream, provider: Provider, speech: Speech
    ) -> None:
        async with asyncio.TaskGroup() as tasks:
            draining = tasks.create_task(self._drained(stream))
            frame = self.frame_bytes(provider, speech.format)
            await self.send_all(stream, speech.audio, speech.format, itertools.repeat(frame))
            await stream.finish()
            await draining

    # ---- cancellation -----------------------------------------------------------------------

    async def test_cancel_open(self, provider: Provider, speech: Speech) -> None:
        """`open` is cancelled sooner and later, and the provider opens other streams."""
        for steps in (0, 1, 2, 3, 5, 8):
            opening = asyncio.create_task(provider.open(self.request_for(speech)))
            stream = await self._cancelled(opening, steps)
            if stream is not None:
                await self.closes(stream)
        self.check_words(await self.transcribe(provider, speech), speech)

    @pytest.mark.parametrize("what", ["send", "finish", "iterate"])
    async def test_cancel(self, provider: Provider, speech: Speech, what: str) -> None:
        """After a call that is cancelled sooner or later, the stream can be closed and the provider
        opens others."""
        frame = self.frame_bytes(provider, speech.format)
        for steps in (0, 1, 3, 8):
            stream = await provider.open(self.request_for(speech))
            if what == "send":
                call = self.send_all(stream, speech.audio, speech.format, itertools.repeat(frame))
            else:
                await stream.send(speech.audio[:frame])
                call = stream.finish() if what == "finish" else self._drained(stream)
            await self._cancelled(asyncio.create_task(call), steps)
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
