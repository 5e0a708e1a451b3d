"""All sessions of a gateway: they share one connection, the reads of the stream and one timer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from nats.errors import Error as NatsError

from edge_capture.delivery.publisher import Publisher
from edge_capture.delivery.token_bucket import TokenBucket
from natterjack.audio import AUDIO_SEQ
from natterjack.broker import streams
from natterjack.broker.client.fastpath import DirectSubscription
from natterjack.broker.connection import Broker
from natterjack.broker.stored import StoreUnavailable, StreamStore
from natterjack.process.run import end_tasks
from natterjack.subjects import AUDIO_PREFIX, SessionKey, audio_subject
from natterjack.telemetry.log import fields

from ..access import Credits, Grant
from ..errors import Draining
from ..metrics import GatewayMetrics
from ..settings import GatewaySettings
from .backlog import ClientBacklog
from .opening import Opening, session_key, session_spec, speaker_of, with_grant
from .reader import EventReader
from .rejoin import Left, answer_holds, find_left, is_used
from .session import ClientSession

log = logging.getLogger(__name__)

_BUFFER_SECONDS = 60.0
"""Audio of a session that may wait in memory while the broker is away; then its client waits."""
_STORE_S = 5.0
"""How long storing the last audio may take when the gateway ends."""
_STORED_POLL_S = 0.05
_SWEEP_S = 0.1
_REST_S = 0.1
"""How long the rest of a client's audio may wait for a whole chunk."""


class _Served:
    """The task, the hold and the backlog of a session that is published."""

    def __init__(
        self, task: asyncio.Task[None], hold: DirectSubscription, backlog: ClientBacklog
    ) -> None:
        self.task, self.hold, self.backlog = task, hold, backlog


class Sessions:
    """Opens sessions for clients, and publishes them until they are over."""

    def __init__(
        self,
        broker: Broker,
        settings: GatewaySettings,
        metrics: GatewayMetrics,
        credits: Credits | None = None,
    ) -> None:
        """Without `credits`, budgets are left to the workers."""
        self.broker = broker
        self._credits = credits
        self._settings = settings
        self._metrics = metrics
        self._events = StreamStore(broker, streams.TRANSCRIPTS)
        self._audio = StreamStore(broker, streams.AUDIO)
        self._group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._served: dict[ClientSession, _Served] = {}
        self._open: set[ClientSession] = set()
        """Sessions whose clients may still send."""
        self.draining = False
        metrics.unacknowledged.set_function(
            lambda: sum(session.publisher.unacknowledged for session in self._served)
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Sessions]:
        """Serve sessions during the block."""
        await self._events.start()
        await self._audio.start()
        async with asyncio.TaskGroup() as self._group:
            self._start(self._sweep(), "sweep")
            try:
                yield self
            finally:
                self._group = None
                await end_tasks(self._tasks)

    async def open(self, grant: Grant, opening: Opening) -> ClientSession:
        """Open a session, or go on with the one whose client comes back. It does not wait for the
        broker: audio may be sent at once.

        `close` or `leave` it when the client is gone. Raises: UsageError for a value that no
        session can have (InvalidKey for its key); Refused for a conversation that the grant does
        not allow, or if a budget of the tenant is used up; Draining.
        """
        if self.draining:
            raise Draining
        if self._credits is not None:
            await self._credits.check(grant.tenant)
        opening = with_grant(grant, opening, self._settings.providers)
        left = await self._left(grant, opening)
        if left is not None:
            self._metrics.rejoined.inc()
            return await self._serve(left, opening)
        key = session_key(grant, opening)
        named = opening.conversation is not None or grant.conversation is not None
        if opening.rejoin is not None and named and await is_used(self.broker, key):
            # The client has several sessions at once in one conversation.
            key = key._replace(speaker=f"{key.speaker[:55]}-{secrets.token_hex(4)}")
        return await self._serve(Left(session_spec(key, opening), 0, 0, -1), opening, new=True)

    async def close(self, session: ClientSession) -> None:
        """End a session whose client is gone. What it has sent is published and transcribed in the
        background, also if a successor is needed for it. Idempotent."""
        if session not in self._open:
            return
        self._open.discard(session)
        await session.end()
        self._start(self._follow(session), f"follow {session.key}")

    async def leave(self, session: ClientSession) -> None:
        """Let a session whose client is gone wait for it to come back, to this gateway or another
        one, and end it if it does not within `rejoin_seconds`. Idempotent."""
        if session not in self._open:
            return
        if session.ending or session.over or not session.repeats:
            await self.close(session)
            return
        self._open.discard(session)
        session.mark_left()
        self._start(self._wait_for_client(session), f"left {session.key}")

    async def stored(self, seconds: float = _STORE_S) -> None:
        """Return when everything that clients have sent is stored, or after some seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for session in list(self._served):
                    await _stored(session)
                return
        left = sum(session.publisher.unacknowledged for session in self._served)
        log.error("the broker has not stored all audio", extra=fields(chunks=left))

    # ---- a session ---------------------------------------------------------------------------

    async def _serve(self, left: Left, opening: Opening, *, new: bool = False) -> ClientSession:
        settings, spec = self._settings, left.spec
        backlog = ClientBacklog(
            spec, max_seconds=_BUFFER_SECONDS, next_seq=left.next_seq, position=left.position
        )
        publisher = Publisher(
            backlog,
            window_chunks=settings.window_chunks,
            rate_limit=TokenBucket(settings.burst_seconds, settings.catch_up_rate),
        )
        reader = EventReader(
            self.broker,
            self._events,
            spec.key,
            self._metrics,
            session_id=spec.session_id,
            from_start=not new or opening.conversation is None,
        )
        session = ClientSession(
            self.broker,
            publisher,
            reader,
            self._metrics,
            chunk_ms=settings.chunk_ms,
            interims=opening.interim_results,
            origin=left.position,
            delivered=left.delivered,
            repeats=opening.rejoin is not None,
        )
        await reader.start()
        try:
            hold = await answer_holds(self.broker, session, lambda: self.draining)
        except BaseException:  # including cancellation
            await reader.stop()
            raise
        task = self._start(self._publish(session, reader), f"publish {spec.key}")
        self._served[session] = _Served(task, hold, backlog)
        self._open.add(session)
        self._metrics.sessions.inc()
        log.info(
            "session opened" if new else "session rejoined",
            extra=fields(session=str(spec.key), session_id=spec.session_id),
        )
        return session

    async def _left(self, grant: Grant, opening: Opening) -> Left | None:
        """The session that a client comes back to, or None."""
        if opening.rejoin is None or not self.broker.connected:
            return None
        conversation = opening.conversation or grant.conversation
        if conversation is not None:
            grant.check_conversation(conversation)
        key = SessionKey(grant.tenant, conversation or "*", speaker_of(grant, opening))
        return await find_left(
            self.broker,
            self._audio,
            f"{AUDIO_PREFIX}.{key}",
            opening.audio_format,
            self._settings.rejoin_seconds,
        )

    async def _publish(self, session: ClientSession, reader: EventReader) -> None:
        try:
            await session.publisher.run(self.broker, until_finished=False)
        except Exception:  # a task boundary: other sessions go on
            log.exception("session failed", extra=fields(session=str(session.key)))
        finally:
            session.publisher.close()
            await reader.stop()

    async def _follow(self, session: ClientSession) -> None:
        """Do what is due until a session is over, although its client is gone."""
        try:
            async for _ in session:
                pass
        except Exception:  # a task boundary: other sessions go on
            log.exception("session failed", extra=fields(session=str(session.key)))

    async def _wait_for_client(self, session: ClientSession) -> None:
        try:
            await _stored(session)
            last = self._served[session].backlog.last_number
            with contextlib.suppress(NatsError):
                await self._served[session].hold.end()
            log.info(
                "the client is gone; its session waits for it",
                extra=fields(session=str(session.key)),
            )
            await asyncio.sleep(self._settings.rejoin_seconds)
            if await self._taken(session, last):
                await self._forget(session)
                return
            await session.end()
            await self._follow(session)
        except Exception:  # a task boundary: other sessions go on
            log.exception("session failed", extra=fields(session=str(session.key)))

    async def _taken(self, session: ClientSession, last: int) -> bool:
        """Whether another connection has published after chunk number `last`."""
        while True:
            try:
                newest = await self._audio.last(audio_subject(session.key))
                return newest is not None and int(newest.headers[AUDIO_SEQ]) > last
            except StoreUnavailable:
                await self.broker.wait_connected()

    async def _sweep(self) -> None:
        """Publish what waits for a whole chunk, and forget sessions that are over."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            for session in self._open:
                session.flush(_REST_S)
            for session in [session for session in self._served if session.over]:
                await self._forget(session)

    async def _forget(self, session: ClientSession) -> None:
        served = self._served.pop(session, None)
        self._open.discard(session)
        if served is not None:
            self._metrics.sessions.dec()
            served.task.cancel()
            with contextlib.suppress(NatsError):
                await served.hold.end()

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start a task of a session. Raises Draining if the gateway has ended."""
        if self._group is None:
            work.close()
            raise Draining
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _stored(session: ClientSession) -> None:
    """Return when everything that the client has sent is stored."""
    while not session.publisher.up_to_date:  # noqa: ASYNC110 - the publisher has no event for it
        await asyncio.sleep(_STORED_POLL_S)
