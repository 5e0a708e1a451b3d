"""One stream of the embedded engine; never blocks the event loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import Executor

from natterjack.plugin.errors import Dropped, Unavailable
from natterjack.plugin.provider import ProviderEvent, ProviderStream

from .segmenter import SAMPLE_RATE
from .transcriber import SAMPLE_BYTES, Transcriber

_BYTES_PER_SECOND = SAMPLE_RATE * SAMPLE_BYTES
MAX_PENDING_BYTES = 4 * _BYTES_PER_SECOND
"""Limit of audio that is not transcribed yet; beyond it, `send` waits."""
_JOB_BYTES = _BYTES_PER_SECOND
"""Audio per job, so that events arrive while a long backlog is processed."""
_BEHIND_SECONDS = 0.1
"""Wait of a job for a thread from which on decoding counts as behind."""


class SherpaStream(ProviderStream):
    """Transcribes in jobs on the provider's threads, one at a time, while the caller iterates.

    The iteration drives it: audio is processed no faster than its events are taken. Cancelling the
    iteration loses nothing; the events of the job under way come with the next iteration.
    """

    def __init__(
        self,
        provider: str,
        transcriber: Transcriber,
        executor: Executor,
        events: Iterable[ProviderEvent] = (),
    ) -> None:
        self._provider = provider
        self._transcriber = transcriber
        self._executor = executor
        self._events = deque(events)
        self._job: asyncio.Future[list[ProviderEvent]] | None = None
        self._job_bytes = 0
        self._last_job = False
        self._audio = bytearray()
        self._finalize_after: deque[int] = deque()
        """For each finalize, the number of bytes of `_audio` before it."""
        self._finished = False
        self._closed = False
        self._failed: Exception | None = None
        self._ended = False
        self._work = asyncio.Event()
        self._room = asyncio.Event()

    async def send(self, audio: bytes) -> None:
        while not self._closed and len(self._audio) + self._job_bytes >= MAX_PENDING_BYTES:
            self._room.clear()
            await self._room.wait()
        self._check_usable()
        if self._finished:
            raise RuntimeError("send after finish")
        self._audio += audio
        self._work.set()

    async def finalize(self) -> None:
        """Make the audio sent so far final: the text of an open turn, which continues, or silence,
        except for the half second in which a turn may be about to start."""
        self._check_usable()
        self._finalize_after.append(len(self._audio))
        self._work.set()

    async def finish(self) -> None:
        self._check_usable()
        self._finished = True
        self._work.set()

    async def close(self) -> None:
        self._closed = True
        if self._job is not None:
            self._job.cancel()  # a running job finishes in its thread; its events are dropped
        self._audio.clear()
        self._events.clear()
        self._work.set()
        self._room.set()

    def __aiter__(self) -> AsyncIterator[ProviderEvent]:
        return self

    async def __anext__(self) -> ProviderEvent:
        while not self._events:
            if self._ended:
                raise StopAsyncIteration
            self._check_usable()
            if self._job is None:
                await self._work.wait()
                self._check_usable()
                self._start_job()
            else:
                # Not awaited directly: cancelling the iteration must not cancel the job.
                await asyncio.wait({self._job})
                self._end_job(self._job)
        return self._events.popleft()

    def _start_job(self) -> None:
        size = min(len(self._audio), _JOB_BYTES)
        finalize = False
        if self._finalize_after:
            size = min(size, self._finalize_after[0])
            finalize = size == self._finalize_after[0]
            if finalize:
                self._finalize_after.popleft()
        self._finalize_after = deque(after - size for after in self._finalize_after)
        audio = bytes(self._audio[:size])
        del self._audio[:size]
        self._last_job = self._finished and not self._audio and not self._finalize_after
        if not self._audio and not self._finalize_after:
            self._work.clear()
        self._job_bytes = size
        loop = asyncio.get_running_loop()
        behind, submitted = len(self._audio) > _JOB_BYTES, time.monotonic()
        try:
            self._job = loop.run_in_executor(
                self._executor, self._transcribe, audio, finalize, self._last_job, behind, submitted
            )
        except RuntimeError as error:  # the executor is shut down
            raise Dropped(self._provider, "the provider is closed") from error

    def _transcribe(
        self, audio: bytes, finalize: bool, finish: bool, behind: bool, submitted: float
    ) -> list[ProviderEvent]:
        """Transcribe audio; runs in a thread."""
        behind = behind or time.monotonic() - submitted > _BEHIND_SECONDS
        return self._transcriber.transcribe(audio, finalize=finalize, finish=finish, behind=behind)

    def _end_job(self, job: asyncio.Future[list[ProviderEvent]]) -> None:
        self._job = None
        self._job_bytes = 0
        self._room.set()
        if job.cancelled():  # by `close`
            return
        error = job.exception()
        if error is not None:
            self._failed = Unavailable(
                self._provider, "server_error", f"the engine failed: {error!r}"
            )
            self._failed.__cause__ = error
            return
        self._events.extend(job.result())
        self._ended = self._last_job

    def _check_usable(self) -> None:
        if self._failed is not None:
            raise self._failed
        if self._closed and not self._ended:
            raise Dropped(self._provider, "the stream is closed")
