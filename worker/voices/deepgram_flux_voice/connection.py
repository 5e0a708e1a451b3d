"""One stream to speak v2: reads and decodes messages, writes text. No policy."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any

from natterjack.plugin.errors import Dropped, ProviderError
from natterjack.plugin.provider import Notice
from natterjack.plugin.voice import VoiceStream, VoiceStreamEvent
from natterjack.plugin.websocket import Closed, Socket
from worker.providers import wire
from worker.providers.waiting import Waiting

from . import protocol
from .options import NAME, parse_changes, refused
from .turns import Turns


class DeepgramFluxVoiceStream(VoiceStream):
    """An open connection to speak v2 whose provider has sent Connected."""

    def __init__(
        self,
        socket: Socket,
        turns: Turns,
        *,
        interrupt_seconds: float,
        configure_seconds: float,
        close_seconds: float,
    ) -> None:
        self.reference = socket.headers.get("dg-request-id")
        self._socket = socket
        self._turns = turns
        self._interrupt_seconds = interrupt_seconds
        self._configure_seconds = configure_seconds
        self._close_seconds = close_seconds
        self._time = asyncio.get_running_loop().time
        self._finishing = False
        self._failure: ProviderError | None = None
        self._sending = asyncio.Lock()
        self._waiting = Waiting(socket)
        self._interrupted_by: float | None = None
        self._ended_by: float | None = None
        """When an interrupt and the stream must be over. Both are set when the iterator waits:
        while nobody reads, no answer can be seen."""
        self._answers: deque[asyncio.Future[None]] = deque()
        """Callers of `configure`, whose answers come in order."""

    async def speak(self, text: str) -> None:
        if self._finishing:
            raise RuntimeError("speak after finish")
        self._turns.speak(text)
        await self._send()

    async def flush(self) -> None:
        if self._finishing:
            raise RuntimeError("flush after finish")
        self._turns.flush()
        await self._send()

    async def interrupt(self, played_seconds: float | None = None) -> None:
        self._turns.interrupt(played_seconds)
        await self._send()

    async def finish(self) -> None:
        if self._finishing:
            return
        self._finishing = True
        self._turns.finish()
        await self._send()

    async def configure(self, changes: Mapping[str, Any]) -> None:
        """Apply changes; return once the provider confirms them, or when that takes too long: the
        answer comes after audio that may not be read soon.

        Raises: RequestRefused with the provider's reason (the stream continues unchanged).
        """
        checked = parse_changes(changes)
        if self._finishing:
            raise refused("configure: the stream is being finished")
        if self._failure is not None:
            raise self._failure
        if not checked:
            return
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        self._turns.configure(dict(checked))
        await self._send()
        try:
            await asyncio.wait({answer}, timeout=self._configure_seconds)
        finally:
            answer.cancel()  # if there is no answer; its place in the order remains
        if not answer.cancelled():
            answer.result()

    async def __aiter__(self) -> AsyncIterator[VoiceStreamEvent]:
        try:
            while True:
                for event in self._turns.take_events():
                    yield event
                    del event  # keep no audio alive while waiting for the next
                if self._turns.complete:
                    return
                await self._send()
                if not self._turns.has_events:
                    self._received(await self._next())
        except ProviderError as error:
            self._failure = self._failure or error
            raise
        finally:
            self._fail_answers()

    async def close(self) -> None:
        if self._failure is None:
            self._failure = Dropped(NAME, "the stream was closed here")
        self._fail_answers()
        await self._socket.close()

    async def _send(self) -> None:
        """Send what may be sent now, and wake the iterator if there is something to return.

        Several tasks send; the lock keeps the messages in order.
        """
        async with self._sending:
            while (message := self._turns.next_message()) is not None:
                await self._socket.send(message)
        news = (
            self._turns.has_events
            or (self._turns.interrupting and self._interrupted_by is None)
            or (self._turns.ending and self._ended_by is None)
        )
        if news:
            self._waiting.wake()

    async def _next(self) -> str | bytes | Closed | None:
        """Wait for the next message. None if there is something else to do."""
        deadline = self._deadline()
        received = await self._waiting.receive(deadline)
        over = received is None and deadline is not None and self._time() >= deadline
        if over and not self._turns.closed():
            self._turns.give_up()
        return received

    def _deadline(self) -> float | None:
        """When the iterator waits no longer: an interrupt or the end has a time limit."""
        if self._turns.ending:
            self._ended_by = self._ended_by or self._time() + self._close_seconds
            return self._ended_by
        if self._turns.interrupting:
            self._interrupted_by = self._interrupted_by or self._time() + self._interrupt_seconds
        else:
            self._interrupted_by = None
        return self._interrupted_by

    def _received(self, received: str | bytes | Closed | None) -> None:
        if isinstance(received, bytes):
            self._turns.audio(received)
        elif isinstance(received, str):
            try:
                message = protocol.decode(received)
            except wire.Harmless as error:
                message = Notice("malformed", str(error), harmless=True)
            self._turns.receive(self._configured(message))
        elif received is not None:
            if self._failure is not None:
                raise self._failure
            if not self._turns.closed():
                raise protocol.close_error(received)

    def _configured(self, message: protocol.Message) -> protocol.Message:
        """Give the answer to a Configure to its caller; return a notice of it."""
        match message:
            case protocol.Configured():
                error, notice = None, Notice("configured")
            case protocol.ConfigureFailed():
                error = protocol.configure_error(message)
                notice = Notice("configure_failed", str(error))
            case _:
                return message
        answer = self._answers.popleft() if self._answers else None
        if answer is not None and not answer.done():
            if error is None:
                answer.set_result(None)
            else:
                answer.set_exception(error)
        return notice

    def _fail_answers(self) -> None:
        failure = self._failure or Dropped(NAME, "the stream has ended")
        for answer in self._answers:
            if not answer.done():
                answer.set_exception(failure)
        self._answers.clear()
