"""A voice session, as the application that has opened it sees it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError

from natterjack.broker import streams
from natterjack.broker.connection import Broker, connect
from natterjack.broker.control import control_voice
from natterjack.errors import (
    BrokerError,
    NatterjackError,
    NoWorker,
    UsageError,
    VoiceEnded,
    first_error,
    first_problem,
)
from natterjack.process.run import end_tasks
from natterjack.settings import BrokerSettings, load
from natterjack.subjects import text_subject, voice_session_subject
from natterjack.voice.control import VoiceCommand, VoiceReply, VoiceRequest
from natterjack.voice.events import UtteranceEvent, VoiceEvent, VoiceStatusEvent
from natterjack.voice.spec import VoiceSpec

from .events import VoiceEvents
from .outbox import Outbox
from .store import store

log = logging.getLogger(__name__)

_MAX_CHARACTERS = 100_000
"""Text that waits to be stored, over which `say` waits."""
_MAX_EVENTS = 1000
_CLOSE_S = 5.0
"""How long leaving the block because of an error may wait for the broker."""
_RETRY_S = 0.2


class Speaking:
    """A voice session that this application has opened; `speak` makes it.

    Use it in one event loop, from any number of tasks. Text is stored by the broker before it
    counts as said, so it is spoken if this process, the worker, the provider or the broker dies;
    pieces are published again until the broker has acknowledged them, and are stored once.

    Iterating gives the session's events, and ends after its closing event. An application need not
    iterate; then only the newest 1,000 events are kept.
    """

    def __init__(
        self,
        spec: VoiceSpec,
        broker: Broker | None,
        settings: BrokerSettings | None,
        worker_seconds: float,
    ) -> None:
        self.spec = spec
        self._given, self._settings, self._worker_seconds = broker, settings, worker_seconds
        self._broker: Broker
        self._outbox = Outbox(spec.session_id)
        self._changed = asyncio.Event()
        """Set and cleared at once, whenever something may have happened that a task waits for."""
        self._events: deque[VoiceEvent] = deque()
        self._lost_events = False
        self._interrupted = -1
        """The newest utterance that was interrupted, as the worker says."""
        self._interrupts = 0
        """How often `interrupt` was called."""
        self._opened = False
        self._status: VoiceStatusEvent | None = None
        """The session's newest status."""
        self._error: Exception | None = None
        self._running: asyncio.Task[None] | None = None
        self.position: str | None = None
        """The position of the newest event, from which `VoiceEvents` continues."""

    # ---- what applications call --------------------------------------------------------------

    async def say(self, text: str | AsyncIterable[str], *, flush: bool = True) -> int:
        """Speak text, and return the number of its utterance.

        An iterable is spoken as it comes, for example from a language model. With `flush`, the
        utterance ends with it; without, the next `say` goes on. Returns when the broker has the
        text or soon will, which is before it is spoken. Stops taking text from the iterable once
        the utterance was interrupted. One call at a time.

        Raises: VoiceEnded, NoWorker, NotAllowed, StreamMismatch; what the iterable raises, after
        ending the utterance. Cancel-safe: what was taken before is spoken, as one utterance.
        """
        self._check_open()
        if self._interrupted >= self._outbox.utterance:
            self._outbox.flush()
        utterance, interrupts = self._outbox.utterance, self._interrupts
        try:
            if isinstance(text, str):
                await self._add(text, utterance, interrupts)
            else:
                async with _closing(text) as pieces:
                    async for piece in pieces:
                        if not await self._add(piece, utterance, interrupts):
                            break
        except BaseException:  # cancelled too
            flush = True
            raise
        finally:
            if flush and interrupts == self._interrupts:
                self._outbox.flush()
                self._notify()
        return utterance

    async def flush(self) -> None:
        """End the utterance that is open, if there is one."""
        self._outbox.flush()
        self._notify()

    async def interrupt(self, reason: str | None = None, *, timeout: float = 10) -> VoiceReply:
        """Stop speaking at once, and drop all text that was not spoken. What was heard is in the
        event `utterance` that follows.

        Waits up to `timeout` seconds for a worker. `reason` has up to 200 characters. Raises:
        BrokerError, also if no worker has the session then; VoiceEnded; UsageError.
        """
        self._check()
        request = self._made("interrupt", reason=reason)
        self._interrupts += 1
        self._outbox.drop()
        self._notify()
        return await self._request(request, timeout)

    async def configure(self, settings: Mapping[str, Any], *, timeout: float = 10) -> VoiceReply:
        """Change settings of the voice, to values that JSON can have. Raises: BrokerError,
        VoiceEnded, UsageError."""
        self._check()
        return await self._request(self._made("configure", settings=dict(settings)), timeout)

    async def close(self) -> None:
        """End the session once everything was spoken; return when the broker has all text.

        Iteration goes on until the closing event. Idempotent. Raises as `say`.
        """
        if not self._outbox.ended:
            self._check()
            self._outbox.end()
            self._notify()
        await self._until(lambda: self._outbox.empty or self._closed)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> VoiceEvent:
        """Return the session's next event. Cancel-safe. Raises as `say`, except for VoiceEnded."""
        await self._until(lambda: bool(self._events) or self._closed)
        if not self._events:
            raise StopAsyncIteration
        return self._events.popleft()

    # ---- the block ---------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Connect and open the session. Waits while the broker is away; does not wait for a worker.

        Raises: NotAllowed; StreamMissing if voice is not switched on; UsageError.
        """
        self._broker = self._given or await connect(
            self._settings or load(BrokerSettings), name="natterjack-speak"
        )
        self._running = asyncio.create_task(self._run(), name=f"speak {self.spec.key}")
        try:
            await self._until(lambda: self._opened)
        except BaseException:  # cancelled too
            await self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the session as `close` does; after an error, stop speaking and end it."""
        try:
            if error is None:
                if self._error is None and not self._closed:
                    await self.close()
            else:
                await self._abandon()
        finally:
            await self._stop()

    async def _abandon(self) -> None:
        """Stop speaking and end the session, as far as that is possible at once."""
        if self._closed or self._error is not None:
            return
        with contextlib.suppress(NatterjackError, TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                self._outbox.drop()
                self._outbox.end()
                self._notify()
                request = self._made("interrupt")
                with contextlib.suppress(BrokerError):  # no worker has it: nothing is spoken
                    await self._request(request, 1)
                await self._until(lambda: self._outbox.empty or self._closed)

    async def _stop(self) -> None:
        if self._running is not None:
            await end_tasks([self._running])
        if self._given is None:
            await self._broker.close()

    # ---- what runs beside --------------------------------------------------------------------

    async def _run(self) -> None:
        """Open the session, then publish text and read events until the session has ended."""
        try:
            async with self._broker.raising_refusals():
                await self._serve()
        except* Exception as errors:  # noqa: BLE001 - whatever it is, the application is told
            found = first_error(errors)
            assert isinstance(found, Exception)
            self._error = found
        finally:
            self._notify()

    async def _serve(self) -> None:
        spec = self.spec
        async with VoiceEvents(self._broker, *spec.key) as events:
            subject = voice_session_subject(spec.key)
            await store(
                self._broker, streams.VOICE_SESSIONS, subject, spec.encode(), spec.session_id
            )
            self._opened = True
            self._notify()
            async with asyncio.TaskGroup() as tasks:
                beside = [
                    tasks.create_task(self._publish(), name="publish text"),
                    tasks.create_task(self._await_worker(), name="await a worker"),
                ]
                await self._read(events)
                for task in beside:
                    task.cancel()

    async def _publish(self) -> None:
        subject = text_subject(self.spec.key)
        while True:
            piece = self._outbox.take()
            if piece is None:
                await self._wait()
                continue
            await store(self._broker, streams.TEXT, subject, piece.encode(), piece.msg_id)
            self._outbox.stored()
            self._notify()

    async def _read(self, events: VoiceEvents) -> None:
        """Read events until the session has ended."""
        async for event in events:
            if event.session_id != self.spec.session_id:
                continue
            if len(self._events) == _MAX_EVENTS:
                self._events.popleft()
                if not self._lost_events:
                    self._lost_events = True
                    log.warning("nothing reads the events of %s: old ones are lost", self.spec.key)
            self._events.append(event)
            self.position = events.position
            if isinstance(event, UtteranceEvent) and event.event == "interrupted":
                self._interrupted = max(self._interrupted, event.utterance)
            if isinstance(event, VoiceStatusEvent):
                self._status = event
            self._notify()
            if self._closed:
                return

    async def _await_worker(self) -> None:
        """Raise NoWorker if no worker takes the session in time."""
        while self._status is None:
            waiting = asyncio.ensure_future(self._until(lambda: self._status is not None))
            done, _ = await asyncio.wait({waiting}, timeout=self._worker_seconds)
            await end_tasks([waiting])
            if not done and self._broker.connected:
                raise NoWorker(
                    f"no worker has taken the voice session {self.spec.key} within "
                    f"{self._worker_seconds:g} s: one must run with `speak` in WORKER_KINDS "
                    "and have a free slot, and no other session may be using the key. The request "
                    "stays in the queue"
                )

    # ---- helpers -----------------------------------------------------------------------------

    @property
    def _closed(self) -> bool:
        return self._status is not None and self._status.closing

    async def _add(self, text: str, utterance: int, interrupts: int) -> bool:
        """Append text to an utterance; False if it was interrupted."""

        def interrupted() -> bool:
            return self._interrupts != interrupts or self._interrupted >= utterance

        await self._until(
            lambda: self._outbox.characters < _MAX_CHARACTERS or self._closed or interrupted()
        )
        self._check_open()
        if interrupted():
            return False
        self._outbox.add(text)
        self._notify()
        return True

    def _made(self, command: VoiceCommand, **fields: Any) -> VoiceRequest:
        """A request to this session. Raises UsageError."""
        try:
            request = VoiceRequest(command=command, session_id=self.spec.session_id, **fields)
            json.dumps(request.model_dump(), allow_nan=False, ensure_ascii=False).encode()
        except ValidationError as error:
            raise UsageError(f"{command}: {first_problem(error)}") from None
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"{command}: {error}") from None
        return request

    async def _request(self, request: VoiceRequest, timeout: float) -> VoiceReply:
        """Send a request, again until a worker has the session."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            try:
                return await control_voice(
                    self._broker, self.spec.key, request, timeout=max(0.1, deadline - loop.time())
                )
            except BrokerError:
                if loop.time() + _RETRY_S >= deadline:
                    raise
            await asyncio.sleep(_RETRY_S)
            self._check()

    def _check(self) -> None:
        """Raise the error of the session, or VoiceEnded if it has ended."""
        if self._error is not None:
            raise self._error
        status = self._status
        if status is not None and status.closing:
            why = ": ".join(filter(None, (status.reason, status.detail)))
            raise VoiceEnded(
                f"the voice session {self.spec.key} has {status.state}"
                + (f": {why}" if why else ""),
                status.reason,
            )

    def _check_open(self) -> None:
        """Raise an error if the session takes no more text."""
        self._check()
        if self._outbox.ended:
            raise VoiceEnded(f"the voice session {self.spec.key} was closed by this application")

    def _notify(self) -> None:
        self._changed.set()
        self._changed.clear()

    async def _wait(self) -> None:
        await self._changed.wait()

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds. Raises what has ended the session's tasks."""
        while not condition():
            if self._error is not None:
                raise self._error
            await self._wait()


@contextlib.asynccontextmanager
async def _closing(texts: AsyncIterable[str]) -> AsyncGenerator[AsyncIterable[str]]:
    """Close an asynchronous generator at the end of the block."""
    try:
        yield texts
    finally:
        close = getattr(texts, "aclose", None)
        if close is not None:
            await close()
