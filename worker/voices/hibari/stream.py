"""One stream of the embedded voice; never blocks the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import Executor
from typing import Any, Final

from natterjack.plugin.errors import Dropped, RequestRefused, Unavailable
from natterjack.plugin.options import parse_options
from natterjack.plugin.voice import (
    Interrupted,
    Mark,
    PhraseEnd,
    Speech,
    VoiceStream,
    VoiceStreamEvent,
)

from .engine import SAMPLE_RATE, Engine, Spoken
from .settings import HibariOptions
from .text import Word, pieces

MAX_PHRASE_CHARACTERS: Final = 100_000
"""Limit of text without a `flush`; more is refused. The worker divides text long before."""
MAX_PENDING_CHARACTERS: Final = 20_000
"""Limit of text in complete phrases that are not spoken yet; beyond it, `speak` waits."""
_BYTES_PER_SECOND: Final = 2 * SAMPLE_RATE


class HibariStream(VoiceStream):
    """Synthesizes on the voice's threads, a piece at a time, while the caller iterates.

    The iteration drives it: the next piece is synthesized when the events of the last one have been
    taken. Cancelling the iteration loses nothing; the piece under way comes with the next one.
    """

    def __init__(self, provider: str, engine: Engine, executor: Executor, speed: float) -> None:
        self._provider = provider
        self._engine = engine
        self._executor = executor
        self._speed = speed
        self._open: list[str] = []
        """Text of the phrase that is not complete."""
        self._phrases: deque[str] = deque()
        self._pieces: Iterator[list[Word]] | None = None
        """The rest of the phrase that is being spoken; used by one thread at a time."""
        self._seconds = 0.0
        """Length of the audio of the phrase that is being spoken."""
        self._job: asyncio.Future[Spoken | None] | None = None
        self._events: deque[VoiceStreamEvent] = deque()
        self._finished = False
        self._closed = False
        self._failed: Exception | None = None
        self._changed = asyncio.Event()
        """Set when there may be an event or more to do."""
        self._room = asyncio.Event()

    async def speak(self, text: str) -> None:
        while not self._closed and self._pending() >= MAX_PENDING_CHARACTERS:
            self._room.clear()
            await self._room.wait()
        self._check_usable()
        if self._finished:
            raise RuntimeError("speak after finish")
        if sum(map(len, self._open)) + len(text) > MAX_PHRASE_CHARACTERS:
            raise RequestRefused(
                self._provider,
                "request",
                f"more than {MAX_PHRASE_CHARACTERS} characters without the end of a phrase",
            )
        self._open.append(text)

    async def flush(self) -> None:
        self._check_usable()
        self._phrases.append("".join(self._open))
        self._open.clear()
        self._changed.set()

    async def interrupt(self, played_seconds: float | None = None) -> None:
        self._check_usable()
        unread = sum(isinstance(event, Interrupted) for event in self._events)
        self._drop()
        self._events.extend([Interrupted()] * (unread + 1))
        self._changed.set()

    async def finish(self) -> None:
        if self._open:
            await self.flush()
        self._check_usable()
        self._finished = True
        self._changed.set()

    async def configure(self, changes: Mapping[str, Any]) -> None:
        """Change the speed of all pieces that have not begun."""
        self._check_usable()
        options = parse_options(self._provider, HibariOptions, changes, "setting")
        if options.speed is not None:
            self._speed = options.speed

    async def close(self) -> None:
        self._closed = True
        self._drop()
        self._changed.set()

    def __aiter__(self) -> AsyncIterator[VoiceStreamEvent]:
        return self

    async def __anext__(self) -> VoiceStreamEvent:
        while not self._events:
            self._check_usable()
            if self._job is not None and self._job.done():
                self._take(self._job)
            elif self._job is None and (self._pieces or self._phrases):
                self._start_job()
            elif self._finished and self._job is None:
                raise StopAsyncIteration
            else:
                self._changed.clear()
                await self._changed.wait()
        return self._events.popleft()

    def _pending(self) -> int:
        return sum(map(len, self._phrases))

    def _drop(self) -> None:
        """Forget all text, and audio that was not taken."""
        if self._job is not None:
            self._job.cancel()  # a piece that has begun is finished in its thread, for nobody
            self._job = None
        self._open.clear()
        self._phrases.clear()
        self._pieces = None
        self._events.clear()
        self._room.set()

    def _start_job(self) -> None:
        if self._pieces is None:
            self._pieces = pieces(self._phrases.popleft())
            self._seconds = 0.0
            self._room.set()
        loop = asyncio.get_running_loop()
        try:
            self._job = loop.run_in_executor(
                self._executor, _speak_next, self._engine, self._pieces, self._speed
            )
        except RuntimeError as error:  # the executor is shut down
            raise Dropped(self._provider, "the voice is closed") from error
        self._job.add_done_callback(lambda _: self._changed.set())

    def _take(self, job: asyncio.Future[Spoken | None]) -> None:
        """Turn a finished job into events."""
        self._job = None
        if job.cancelled():  # the voice was closed
            self._failed = Dropped(self._provider, "the voice is closed")
            return
        error = job.exception()
        if error is not None:
            self._failed = Unavailable(
                self._provider, "server_error", f"the engine failed: {error!r}"
            )
            self._failed.__cause__ = error
            return
        spoken = job.result()
        if spoken is None:
            self._pieces = None
            self._events.append(PhraseEnd())
            return
        self._events.extend(
            Mark(word.character, self._seconds + word.seconds) for word in spoken.words
        )
        if spoken.audio:
            self._events.append(Speech(spoken.audio))
            self._seconds += len(spoken.audio) / _BYTES_PER_SECOND

    def _check_usable(self) -> None:
        if self._failed is not None:
            raise self._failed
        if self._closed:
            raise Dropped(self._provider, "the stream is closed")


def _speak_next(engine: Engine, left: Iterator[list[Word]], speed: float) -> Spoken | None:
    """Synthesize the next piece, or return None at the end of the phrase; runs in a thread."""
    piece = next(left, None)
    return None if piece is None else engine.speak(piece, speed)
