"""transcript() and follow(): a conversation as a value, from its stored events and from live ones.

Two tasks read the events of transcription and of voice sessions into a TranscriptBuilder, as fast
as they come. A transcript is built when the program asks for the next one, so a slow program gets
fewer of them, and each is the newest.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Literal
from weakref import WeakSet

from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from natterjack.broker import streams
from natterjack.broker.connection import Broker, connected_by
from natterjack.errors import NotAllowed, StreamMissing, UsageError, ungrouped
from natterjack.settings import BrokerSettings
from natterjack.subjects import (
    SESSION_PREFIX,
    VOICE_SESSION_PREFIX,
    check_token,
)
from natterjack.transcripts.builder import PAUSE_SECONDS, TranscriptBuilder
from natterjack.transcripts.transcript import Transcript

from .conversation_end import OpenSessions
from .listener import listen
from .markers import CaughtUp, HistoryLost, StreamReplaced
from .speech import speech

log = logging.getLogger(__name__)

_QUEUE_S = 2.0
"""How often the queue is looked at while a session waits in it."""
_VOICE_MISSING_S = 10.0
"""How often the stream of voice events is looked for while there is none."""

_BLIND: WeakSet[Broker] = WeakSet()
"""Connections of users who may not see the queue. They are not refused a second time."""


async def transcript(
    tenant: str,
    conversation: str,
    *,
    voice: bool | None = None,
    pause_seconds: float = PAUSE_SECONDS,
    broker: Broker | None = None,
    settings: BrokerSettings | None = None,
) -> Transcript:
    """Return the transcript of a conversation, as far as it is stored.

    `voice`: whether it has what voice sessions said, too; by default, if the user may read that.
    After a pause of more than `pause_seconds`, a speaker begins a new line. It is `open` while a
    session has not ended. Sessions that wait for a worker count if the user may see the queue.

    Uses `broker` or else makes a connection from `settings` or the environment (NATS_URL ...),
    which it retries until it succeeds. Cancel-safe.

    Raises: InvalidKey; NotAllowed.
    """
    _check(tenant, conversation)
    async with connected_by(broker, settings, "natterjack-transcript") as connected:
        reading = _Reading(connected, tenant, conversation, voice, pause_seconds)
        with ungrouped(Exception):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(reading.transcripts(stored=True, interims=False))
                tasks.create_task(reading.speech(stored=True))
        await reading.look_at_queue()
        return reading.builder.build()


def follow(
    tenant: str,
    conversation: str,
    *,
    until: Literal["closed"] | None = None,
    interims: bool = True,
    voice: bool | None = None,
    pause_seconds: float = PAUSE_SECONDS,
    broker: Broker | None = None,
    settings: BrokerSettings | None = None,
) -> AsyncGenerator[Transcript, None]:
    """Iterate over the transcripts of a conversation: the one that is stored, and then a new one
    whenever it changes.

    A program that takes longer than that gets the newest next, and not those in between.
    `until="closed"` ends after the one of the conversation's end: all sessions have closed, none
    waits for a worker, and none is awaited that continues another. Without `interims`, only what
    will not change is a change. The other parameters are those of `transcript`.

    When the iteration ends or is canceled, nothing of it is left on the broker.

    Raises: InvalidKey and UsageError, at once; NotAllowed.
    """
    _check(tenant, conversation)
    if until not in ("closed", None):
        raise UsageError(f'until: {until!r} is not "closed" or None')

    async def transcripts() -> AsyncGenerator[Transcript, None]:
        async with connected_by(broker, settings, "natterjack-follow") as connected:
            reading = _Reading(connected, tenant, conversation, voice, pause_seconds)
            async with contextlib.aclosing(reading.follow(until == "closed", interims)) as source:
                async for each in source:
                    yield each

    return transcripts()


def _check(tenant: str, conversation: str) -> None:
    check_token("tenant", tenant)
    check_token("conversation", conversation)


class _Reading:
    """Reads the events of one conversation into a builder."""

    def __init__(
        self, broker: Broker, tenant: str, conversation: str, voice: bool | None, pause: float
    ) -> None:
        self._broker = broker
        self._names = (tenant, conversation)
        self._voice = voice
        self.builder = TranscriptBuilder(tenant, conversation, pause_seconds=pause)
        self._ends = OpenSessions()
        self._wake = asyncio.Event()
        self._behind = {"transcripts", "speech"}
        """Sources that still have stored events to read."""
        self._queued: set[str] = set()

    # ---- reading ---------------------------------------------------------------------------------

    async def transcripts(self, *, stored: bool, interims: bool) -> None:
        """Read the events of transcription sessions; with `stored`, only those that are stored."""
        source = listen(
            *self._names, since="start", until="stored" if stored else None,
            interims="latest" if interims else None, markers=True, broker=self._broker,
        )  # fmt: skip
        async with contextlib.aclosing(source):
            async for event in source:
                if isinstance(event, CaughtUp):
                    self._caught_up("transcripts")
                elif not isinstance(event, HistoryLost | StreamReplaced):
                    if event.type != "interim":
                        self._ends.read(event, time.monotonic() - self._age(event.published_at))
                    if self.builder.add(event):
                        self._wake.set()

    def _age(self, published_at: datetime) -> float:
        """How many seconds ago an event was published. One that arrives live is new, whatever the
        clocks of this machine and of the worker say."""
        behind = "transcripts" in self._behind
        return max(0.0, time.time() - published_at.timestamp()) if behind else 0.0

    async def speech(self, *, stored: bool) -> None:
        """Read the events of voice sessions, unless they are not wanted."""
        try:
            while self._voice is not False:
                with contextlib.suppress(StreamMissing):
                    await self._read_speech(stored)
                if stored:
                    break
                self._caught_up("speech")  # nothing has spoken yet
                await asyncio.sleep(_VOICE_MISSING_S)
        except NotAllowed:
            if self._voice:
                raise
            log.info("transcripts have no speech: this user may not read it")
        self._caught_up("speech")

    async def _read_speech(self, stored: bool) -> None:
        """Raises: StreamMissing; NotAllowed."""
        source = speech(
            self._broker, *self._names, stored=stored,
            on_caught_up=lambda: self._caught_up("speech"),
        )  # fmt: skip
        async with contextlib.aclosing(source):
            async for event in source:
                if self.builder.add(event):
                    self._wake.set()

    def _caught_up(self, what: str) -> None:
        if what in self._behind:
            self._behind.remove(what)
            self._wake.set()

    # ---- following -------------------------------------------------------------------------------

    async def follow(self, until_closed: bool, interims: bool) -> AsyncGenerator[Transcript, None]:
        """The transcript whenever it has changed."""
        tasks = [
            asyncio.create_task(self.transcripts(stored=False, interims=interims), name="listen"),
            asyncio.create_task(self.speech(stored=False), name="speech"),
        ]
        for task in tasks:
            task.add_done_callback(lambda _: self._wake.set())
        last: Transcript | None = None
        patience: float | None = None
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(patience):
                        await self._wake.wait()
                self._wake.clear()
                for task in tasks:
                    if task.done():
                        task.result()  # raises
                if self._behind:
                    continue
                patience = await self._check_end()
                newest = self.builder.build()
                if newest is not last:
                    last = newest
                    yield newest
                if until_closed and patience is None and newest.sessions and not newest.open:
                    return
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _check_end(self) -> float | None:
        """Look for sessions that are due if all others have ended. Return after how many seconds to
        look again; None if no time makes a difference."""
        if self.builder.running:
            return None
        await self.look_at_queue()
        if self._queued:
            return _QUEUE_S
        return self._ends.wait(time.monotonic())

    async def look_at_queue(self) -> None:
        """Find the sessions that have not begun and will, as far as the user may see the queue."""
        if self._broker not in _BLIND:
            try:
                async with self._broker.within_connection():
                    self._queued = await self._queued_sessions()
            except NotAllowed:
                _BLIND.add(self._broker)
                log.debug("this user may not see the queue")
            except (NatsError, TimeoutError) as error:
                log.debug("the queue cannot be seen now: %r", error)
        due = self._ends.wait(time.monotonic()) is not None
        self._queued -= self.builder.sessions
        self.builder.wait_for(self._queued | (self.builder.successors if due else set()))

    async def _queued_sessions(self) -> set[str]:
        """The IDs in the requests of the conversation that are stored. A request is stored until
        its session has ended. Raises NotAllowed, NATS's errors."""
        js = self._broker.client.jetstream()
        queues = [(streams.SESSIONS, SESSION_PREFIX)]
        if self._voice is not False:
            queues.append((streams.VOICE_SESSIONS, VOICE_SESSION_PREFIX))
        found: set[str] = set()
        for queue, prefix in queues:
            requests = [f"$JS.API.STREAM.{what}.{queue}" for what in ("INFO", "MSG.GET")]
            async with self._broker.raising_refusals(about=requests):
                with contextlib.suppress(NotFoundError):
                    place = f"{prefix}.{'.'.join(self._names)}.*"
                    info = await js.stream_info(queue, subjects_filter=place)
                    for subject in info.state.subjects or {}:
                        message = await js.get_last_msg(queue, subject)
                        with contextlib.suppress(ValueError, KeyError, TypeError):
                            found.add(str(json.loads(message.data or b"")["session_id"]))
        return found
