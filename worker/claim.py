"""Claiming sessions: leases on the work queue, taken with free slots only, kept by heartbeats."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from pydantic import ValidationError

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.broker.pull import ConsumerGone, Puller
from natterjack.errors import BrokerError, InvalidKey, first_problem
from natterjack.spec import SessionSpec
from natterjack.subjects import SessionKey, parse_key
from natterjack.telemetry.log import fields
from worker.providers.breaker import BreakerState
from worker.session.session import Busy, Services, Session, State

log = logging.getLogger(__name__)

_BATCH = 64
_IN_PROGRESS = Msg.Ack.Progress
_BUSY_RETRY_S = 0.5
_CRASH_RETRY_S = 1.0
_CONSUMER_RETRY_S = 1.0
_TICK_S = 0.25


class BadRequest(Exception):
    """A request to open a session that no session can be made of."""


@dataclass(frozen=True)
class Request:
    """What a message of the queue asks for. `problem`: why it can only fail, or None."""

    spec: SessionSpec
    problem: str | None


def parse_request(subject: str, payload: bytes) -> Request:
    """The request in a message of the queue.

    Raises: BadRequest when it names no session at all, so that nobody can be told.
    """
    try:
        key = parse_key(subject)
    except InvalidKey as error:
        raise BadRequest(str(error)) from None
    try:
        spec = SessionSpec.model_validate_json(payload)
    except ValidationError as error:
        problem = f"bad request: {first_problem(error)}"
        return Request(_stand_in(key, payload, problem), problem)
    if spec.key != key:
        problem = f"bad request: its key is {spec.key}, its subject says {key}"
        return Request(_stand_in(key, payload, problem), problem)
    return Request(spec, None)


def _stand_in(key: SessionKey, payload: bytes, problem: str) -> SessionSpec:
    """A spec under which to say that the real one is bad. Raises BadRequest without session id."""
    try:
        session_id = json.loads(payload)["session_id"]
        return SessionSpec(
            session_id=session_id,
            tenant=key.tenant,
            conversation=key.conversation,
            speaker=key.speaker,
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        raise BadRequest(problem) from None


class Claimer:
    """Takes sessions from the queue and runs each as a task, until told to drain."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._slots = services.settings.max_sessions
        self.sessions: dict[Session, Msg] = {}
        self._freed = asyncio.Event()
        self._draining = asyncio.Event()
        self._puller: Puller | None = None
        self._taken = 0
        """Slots in use: sessions, and requests on their way to being one."""

    def drain(self) -> None:
        """Take no more; every session is given back at its next final. Idempotent."""
        if self._draining.is_set():
            return
        self._draining.set()
        self._freed.set()
        if self._puller is not None:
            self._puller.poke()
        for session in list(self.sessions):
            session.drain()

    def records(self) -> Iterator[str]:
        """Each session's part of the worker's record. Sessions may come and go meanwhile."""
        now, lag = time.monotonic(), 0.0
        for session in list(self.sessions):
            try:
                lag = max(lag, session.lag_seconds)
                yield session.record(now)
            except Exception:  # a task boundary
                # Nor here may a fault in one session end its neighbours.
                log.exception("session is not told of", extra=fields(session=str(session.key)))
        self._services.metrics.lag.set(lag)

    async def run(self) -> None:
        """Until `drain`, and then until the last session is over."""
        async with asyncio.TaskGroup() as tasks:
            keeper = tasks.create_task(self._keep(), name="leases")
            running: set[asyncio.Task[None]] = set()
            await self._claim(tasks, running)
            for session in list(self.sessions):
                session.drain()  # one that was claimed while drain was called
            if running:
                await asyncio.wait(running)
            keeper.cancel()

    async def _claim(self, tasks: asyncio.TaskGroup, running: set[asyncio.Task[None]]) -> None:
        puller = self._puller = Puller(
            self._services.broker, streams.SESSIONS, streams.CONSUMER, surplus=Msg.nak
        )
        await puller.start()
        try:
            while not self._draining.is_set():
                free = self._slots - self._taken
                if free <= 0:
                    self._freed.clear()
                    await self._freed.wait()
                    continue
                try:
                    message = await puller.next(min(free, _BATCH), timeout=5)
                except ConsumerGone:
                    log.warning("the consumer %s is gone, waiting for it", streams.CONSUMER)
                    self._services.restore.set()
                    await asyncio.sleep(_CONSUMER_RETRY_S)
                    continue
                if message is None:
                    continue
                self._taken += 1
                task = tasks.create_task(self._hold(message), name=message.subject)
                running.add(task)
                task.add_done_callback(running.discard)
        finally:
            # What is not given back here comes back to the queue when its lease runs out.
            with contextlib.suppress(NatsError, TimeoutError):
                for message in await puller.stop():
                    await message.nak()

    async def _hold(self, message: Msg) -> None:
        """One lease, from the message to its ack or nak."""
        try:
            await self._serve(message)
        except (NatsError, BrokerError) as error:
            # The lease runs out and another worker, or this one, takes the session again.
            log.warning("lease not settled: %r", error, extra=fields(subject=message.subject))
        except Exception:  # a task boundary
            # A fault of ours in one session must not end its neighbours.
            log.exception("session ended by an error", extra=fields(subject=message.subject))
            self._services.metrics.sessions_ended.labels("crashed").inc()
            with contextlib.suppress(NatsError):
                await message.nak(delay=_CRASH_RETRY_S)
        finally:
            self._taken -= 1
            self._freed.set()

    async def _serve(self, message: Msg) -> None:
        metadata, metrics = message.metadata, self._services.metrics
        try:
            request = parse_request(message.subject, message.data)
        except (BadRequest, RecursionError) as error:
            log.error("%s", error, extra=fields(subject=message.subject))
            metrics.sessions_ended.labels("rejected").inc()
            await message.term()
            return
        try:
            session = Session(
                self._services,
                request.spec,
                metadata.num_delivered,
                metadata.sequence.stream,
                problem=request.problem,
                headers=message.headers,
            )
        except Exception:  # whatever a request may hold
            # No request may come back for good and block those behind it.
            log.exception("no session can be made of it", extra=fields(subject=message.subject))
            metrics.sessions_ended.labels("rejected").inc()
            await message.term()
            return
        # Not all at once, though all may have come at once.
        session.beat_at = time.monotonic() + random.random() * self._services.lease_seconds / 3  # noqa: S311
        self.sessions[session] = message
        metrics.sessions_claimed.inc()
        if metadata.num_delivered == 1:
            metrics.sessions_started.inc()
            waited = time.time() - metadata.timestamp.timestamp()
            metrics.claim_delay.observe(max(0.0, waited))
        metrics.sessions_active.inc()
        if self._draining.is_set():
            session.drain()
        try:
            outcome = await session.run()
        except Busy:
            session.trace.drop()
            metrics.sessions_ended.labels("busy").inc()
            await message.nak(delay=_BUSY_RETRY_S)
        else:
            metrics.sessions_ended.labels(outcome.name.lower()).inc()
            if outcome in (State.CLOSED, State.FAILED):
                await message.ack()
            elif outcome is State.HANDED_OVER:
                await message.nak()
        finally:
            session.trace.end("aborted")
            del self.sessions[session]
            metrics.sessions_active.dec()

    async def _keep(self) -> None:
        """Heartbeats of all leases and the watchdogs of all sessions: one timer for the process."""
        async with asyncio.TaskGroup() as tasks:
            await self._beat(tasks)

    async def _beat(self, tasks: asyncio.TaskGroup) -> None:
        broker, metrics = self._services.broker, self._services.metrics
        lease = self._services.lease_seconds
        beat = last = time.monotonic()
        answered = asked = beat
        """When the broker was last asked something that it has answered since; and at all."""
        question: asyncio.Task[bool] | None = None
        while True:
            await asyncio.sleep(_TICK_S)
            now = time.monotonic()
            late = max(0.0, now - last - _TICK_S)
            metrics.loop_delay.observe(late)
            stood = late if late > _TICK_S else 0
            last = now
            connected = broker.connected
            metrics.nats_connected.set(connected)
            for name, breaker in self._services.providers.breakers.items():
                metrics.breaker_open.labels(name).set(breaker.state is not BreakerState.CLOSED)
            sessions = list(self.sessions.items())
            for session, message in sessions:
                session.tick(now, listening=connected, stood=stood)
                if now >= session.beat_at and connected:
                    session.beat_at = now + lease / 3
                    try:
                        broker.client.post(message.reply, _IN_PROGRESS)
                    except NatsError as error:
                        log.debug("heartbeat not sent: %r", error)
            if question is not None and question.done():
                if not question.cancelled() and question.result():
                    answered = asked
                question = None
            if now - answered > lease:
                # This process stood still, or what it sends does not arrive.
                answered = now
                for session, _ in sessions:
                    session.doubt()
            if now - beat >= lease / 3 and broker.connected:
                beat = now
                if question is None:
                    asked = now
                    question = tasks.create_task(_answers(broker, max(1, round(lease))))


async def _answers(broker: Broker, seconds: int) -> bool:
    """Whether the broker answers within so many seconds."""
    try:
        await broker.client.flush(seconds)
    except NatsError:
        return False
    return True
