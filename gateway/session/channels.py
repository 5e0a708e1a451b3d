"""Several sessions as one: a client whose channels are transcribed apart sends them interleaved."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .session import ClientSession, SessionEvent

_FOREVER_S = 3600.0


class ChannelEvent(NamedTuple):
    """An event, and the channel that it is of."""

    channel: int
    event: SessionEvent


class Channels:
    """The sessions of a client's channels. One session is as cheap as without this."""

    def __init__(self, sessions: Sequence[ClientSession]) -> None:
        """`sessions` are those of the channels, in order, all of one format."""
        self.sessions = tuple(sessions)
        self.first = self.sessions[0]
        self._rest = b""
        self._sample_bytes = self.first.spec.audio_format.frame_bytes
        self._pending: dict[asyncio.Task[SessionEvent | None], int] = {}

    @property
    def ending(self) -> bool:
        """Whether no more audio follows."""
        return self.first.ending

    @property
    def over(self) -> bool:
        """Whether nothing follows."""
        return all(session.over for session in self.sessions)

    @property
    def failed(self) -> ClientSession | None:
        """A session that has ended before its audio, or None."""
        ended = (session for session in self.sessions if session.over and not session.complete)
        return next(ended, None)

    @property
    def received_seconds(self) -> float:
        """Audio that the client has sent on this connection."""
        return self.first.received_seconds

    async def send(self, audio: bytes) -> None:
        """Take audio; wait while much of it is not stored. Raises SessionEnded."""
        if len(self.sessions) == 1:
            await self.first.send(audio)
            return
        data = self._rest + audio
        count = len(self.sessions)
        whole = len(data) // (self._sample_bytes * count) * self._sample_bytes * count
        self._rest = data[whole:]
        if not whole:
            return
        samples = np.frombuffer(data[:whole], dtype=f"V{self._sample_bytes}").reshape(-1, count)
        for index, session in enumerate(self.sessions):
            await session.send(samples[:, index].tobytes())

    async def finalize(self, only: int | None = None) -> bool:
        """Make everything sent so far final, of one channel or all. As `ClientSession.finalize`."""
        chosen = [s for index, s in enumerate(self.sessions) if only in (None, index)]
        return all(await asyncio.gather(*(session.finalize() for session in chosen)))

    async def end(self) -> None:
        """Say that no more audio follows. Idempotent."""
        for session in self.sessions:
            await session.end()

    async def next(
        self, timeout: float = _FOREVER_S, *, handled: bool = True
    ) -> ChannelEvent | None:
        """As `ClientSession.next`."""
        if len(self.sessions) == 1:
            event = await self.first.next(timeout, handled=handled)
            return None if event is None else ChannelEvent(0, event)
        return await self._next_of_all(timeout, handled)

    async def _next_of_all(self, timeout: float, handled: bool) -> ChannelEvent | None:
        """Wait for the sessions side by side, with a task for each of them."""
        deadline = time.monotonic() + timeout
        while not self.over or self._pending:
            waiting = set(self._pending.values())
            for index, session in enumerate(self.sessions):
                if index not in waiting and not session.over:
                    task = asyncio.create_task(session.next(handled=handled), name="next event")
                    self._pending[task] = index
            done, _ = await asyncio.wait(
                self._pending,
                timeout=max(0.0, deadline - time.monotonic()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not done:
                return None
            task = next(iter(done))
            index = self._pending.pop(task)
            if (event := task.result()) is not None:
                return ChannelEvent(index, event)
        return None

    async def stop(self) -> None:
        """End what `next` has begun. To be called before the sessions are closed."""
        pending, self._pending = self._pending, {}
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending)
