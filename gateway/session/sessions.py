"""All sessions of a gateway: they share one connection, the reads of the stream and one timer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from edge_capture.delivery.publisher import Publisher
from edge_capture.delivery.token_bucket import TokenBucket
from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.broker.stored import StreamStore
from natterjack.process.run import end_tasks
from natterjack.telemetry.log import fields

from ..access import Grant
from ..errors import Draining
from ..metrics import GatewayMetrics
from ..settings import GatewaySettings
from .backlog import ClientBacklog
from .opening import Opening, session_key, session_spec, with_grant
from .reader import EventReader
from .session import ClientSession

log = logging.getLogger(__name__)

_BUFFER_SECONDS = 60.0
"""Audio of a session that may wait in memory while the broker is away; then its client waits."""
_STORE_S = 5.0
"""How long storing the last audio may take when the gateway ends."""
_SWEEP_S = 0.1
_REST_S = 0.1
"""How long the rest of a client's audio may wait for a whole chunk."""


class Sessions:
    """Opens sessions for clients, and publishes them until they are over."""

    def __init__(self, broker: Broker, settings: GatewaySettings, metrics: GatewayMetrics) -> None:
        self.broker = broker
        self._settings = settings
        self._metrics = metrics
        self._events = StreamStore(broker, streams.TRANSCRIPTS)
        self._tasks: asyncio.TaskGroup | None = None
        self._publishing: dict[ClientSession, asyncio.Task[None]] = {}
        self._open: set[ClientSession] = set()
        """Sessions whose clients may still send."""
        self.draining = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Sessions]:
        """Serve sessions during the block."""
        await self._events.start()
        async with asyncio.TaskGroup() as self._tasks:
            sweeping = self._tasks.create_task(self._sweep(), name="sweep")
            try:
                yield self
            finally:
                await end_tasks([sweeping, *self._publishing.values()])
                self._tasks = None

    async def open(self, grant: Grant, opening: Opening) -> ClientSession:
        """Open a session. It does not wait for the broker: audio may be sent at once.

        `close` it when the client is gone. Raises: UsageError for a value that no session can have
        (InvalidKey for its key); Refused for a conversation that the grant does not allow;
        Draining.
        """
        if self.draining or self._tasks is None:
            raise Draining
        settings = self._settings
        key = session_key(grant, opening)
        spec = session_spec(key, with_grant(grant, opening, settings.providers))
        publisher = Publisher(
            ClientBacklog(spec, max_seconds=_BUFFER_SECONDS),
            window_chunks=settings.window_chunks,
            rate_limit=TokenBucket(settings.burst_seconds, settings.catch_up_rate),
        )
        reader = EventReader(
            self.broker,
            self._events,
            key,
            self._metrics,
            session_id=spec.session_id,
            from_start=opening.conversation is None,
        )
        await reader.start()
        session = ClientSession(
            self.broker,
            publisher,
            reader,
            self._metrics,
            chunk_ms=settings.chunk_ms,
            interims=opening.interim_results,
        )
        self._open.add(session)
        self._publishing[session] = self._tasks.create_task(
            self._publish(session, reader), name=f"publish {key}"
        )
        self._metrics.sessions.inc()
        log.info("session opened", extra=fields(session=str(key), session_id=spec.session_id))
        return session

    async def close(self, session: ClientSession) -> None:
        """End a session whose client is gone. What it has sent is published and transcribed in the
        background, also if a successor is needed for it. Idempotent."""
        if session not in self._open:
            return
        self._open.discard(session)
        await session.end()
        if self._tasks is not None and not session.over:
            self._tasks.create_task(self._follow(session), name=f"follow {session.key}")

    async def stored(self, seconds: float = _STORE_S) -> None:
        """Return when everything that clients have sent is stored, or after some seconds."""
        deadline = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < deadline:
            if all(session.publisher.up_to_date for session in self._publishing):
                return
            await asyncio.sleep(0.05)
        left = sum(session.publisher.unacknowledged for session in self._publishing)
        log.error("the broker has not stored all audio", extra=fields(chunks=left))

    async def _follow(self, session: ClientSession) -> None:
        try:
            async for _ in session:
                pass
        except Exception:  # a task boundary: other sessions go on
            log.exception("session failed", extra=fields(session=str(session.key)))

    async def _publish(self, session: ClientSession, reader: EventReader) -> None:
        try:
            await session.publisher.run(self.broker, until_finished=False)
        except Exception:  # a task boundary: other sessions go on
            log.exception("session failed", extra=fields(session=str(session.key)))
        finally:
            session.publisher.close()
            await reader.stop()

    async def _sweep(self) -> None:
        """Publish what waits for a whole chunk, and forget sessions that are over."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            for session in self._open:
                session.flush(_REST_S)
            over = [session for session in self._publishing if session.over]
            for session in over:
                task = self._publishing.pop(session)
                self._open.discard(session)
                self._metrics.sessions.dec()
                task.cancel()
