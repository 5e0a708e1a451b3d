"""Claiming sessions from the queues while slots are free, and renewing their leases."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from pydantic import ValidationError

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.broker.pull import ConsumerGone, Puller
from natterjack.errors import BrokerError, InvalidKey, first_problem
from natterjack.settings import Kind
from natterjack.spec import SessionSpec
from natterjack.subjects import SessionKey, parse_key
from natterjack.telemetry.log import fields
from natterjack.voice.spec import VoiceSpec
from worker.providers.breaker import BreakerState
from worker.services import Services
from worker.session.lease import KeyBusy
from worker.session.session import Session
from worker.session.states import State
from worker.voice.session import VoiceSession

log = logging.getLogger(__name__)

_BATCH = 64
_IN_PROGRESS = Msg.Ack.Progress
_BUSY_RETRY_S = 0.5
_CRASH_RETRY_S = 1.0
_CONSUMER_RETRY_S = 1.0
_TICK_S = 0.25


class BadRequest(Exception):
    """A message in the queue from which no session can be identified."""


Spec = TypeVar("Spec", SessionSpec, VoiceSpec)


@dataclass(frozen=True)
class Request(Generic[Spec]):
    """A request to open a session. `problem` is why it can only fail, or None."""

    spec: Spec
    problem: str | None


def parse_request(subject: str, payload: bytes) -> Request[SessionSpec]:
    """Parse a message of the queue of sessions that transcribe.

    Raises BadRequest if it identifies no session, so no event can report the problem.
    """
    return _parse(SessionSpec, subject, payload)


def parse_voice_request(subject: str, payload: bytes) -> Request[VoiceSpec]:
    """As `parse_request`, of the queue of voice sessions."""
    return _parse(VoiceSpec, subject, payload)


def _parse(model: type[Spec], subject: str, payload: bytes) -> Request[Spec]:
    """As `parse_request`, for either kind."""
    try:
        key = parse_key(subject)
    except InvalidKey as error:
        raise BadRequest(str(error)) from None
    try:
        spec = model.model_validate_json(payload)
    except ValidationError as error:
        problem = f"bad request: {first_problem(error)}"
        return Request(_stand_in(model, key, payload, problem), problem)
    if spec.key != key:
        problem = f"bad request: its key is {spec.key}, its subject says {key}"
        return Request(_stand_in(model, key, payload, problem), problem)
    return Request(spec, None)


def _stand_in(model: type[Spec], key: SessionKey, payload: bytes, problem: str) -> Spec:
    """A minimal spec with the session id of an invalid request, to report the problem under it.
    Raises BadRequest if there is no usable session id."""
    try:
        session_id = json.loads(payload)["session_id"]
        return model(
            session_id=session_id,
            tenant=key.tenant,
            conversation=key.conversation,
            speaker=key.speaker,
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        raise BadRequest(problem) from None


def _transcribe(services: Services, message: Msg) -> Session:
    """The session of a request. Raises BadRequest."""
    request, metadata = parse_request(message.subject, message.data), message.metadata
    return Session(
        services, request.spec, metadata.num_delivered, metadata.sequence.stream,
        problem=request.problem, headers=message.headers,
    )  # fmt: skip


def _speak(services: Services, message: Msg) -> VoiceSession:
    """As `_transcribe`, for a voice session."""
    request, metadata = parse_voice_request(message.subject, message.data), message.metadata
    return VoiceSession(
        services, request.spec, metadata.num_delivered, metadata.sequence.stream,
        problem=request.problem, headers=message.headers,
    )  # fmt: skip


AnySession = Session | VoiceSession
_OPEN: Mapping[Kind, Callable[[Services, Msg], AnySession]] = {
    "transcribe": _transcribe,
    "speak": _speak,
}


class Claimer:
    """Claims sessions from the queues and runs each as a task, until `drain` is called."""

    def __init__(self, services: Services, kinds: Sequence[Kind] = ("transcribe",)) -> None:
        """`kinds` are the kinds of session to claim. They share the worker's slots."""
        self._services = services
        self._slots = services.slots
        self._kinds = kinds
        self.sessions: dict[AnySession, Msg] = {}
        self._freed = asyncio.Event()
        self._draining = asyncio.Event()
        self._pullers: list[Puller] = []
        self._slots.on_free = self._freed.set

    def drain(self) -> None:
        """Claim no more sessions, and hand over each one at its next final. Idempotent."""
        if self._draining.is_set():
            return
        self._draining.set()
        self._freed.set()
        for puller in self._pullers:
            puller.poke()
        for session in list(self.sessions):
            session.drain()

    def records(self) -> Iterator[str]:
        """The roster record of each session. Sessions may start and end during the iteration."""
        now, lag = time.monotonic(), 0.0
        for session in list(self.sessions):
            try:
                lag = max(lag, session.progress.lag_seconds)
                yield session.record(now)
            except Exception:  # a defect in one session must not affect the others
                log.exception("session cannot be reported", extra=fields(session=str(session.key)))
        self._services.metrics.lag.set(lag)

    async def run(self) -> None:
        """Claim sessions until `drain` is called; return when the last session is over."""
        async with asyncio.TaskGroup() as tasks:
            renewing = tasks.create_task(self._renew_leases(), name="leases")
            running: set[asyncio.Task[None]] = set()
            async with asyncio.TaskGroup() as claiming:
                for kind in self._kinds:
                    claiming.create_task(self._claim(tasks, running, kind), name=f"claim {kind}")
            for session in list(self.sessions):
                session.drain()  # it may have been claimed while `drain` was called
            if running:
                await asyncio.wait(running)
            renewing.cancel()

    async def _claim(
        self, tasks: asyncio.TaskGroup, running: set[asyncio.Task[None]], kind: Kind = "transcribe"
    ) -> None:
        queue = streams.QUEUES[kind]
        puller = Puller(self._services.broker, queue, streams.CONSUMER, surplus=Msg.nak)
        self._pullers.append(puller)
        await puller.start()
        try:
            while not self._draining.is_set():
                free = self._slots.free
                # A session that was held may have taken its slot back since the last request. What
                # that request still delivers is given back, and must not wait for a slot here.
                if not free and not puller.busy:
                    self._freed.clear()
                    await self._freed.wait()
                    continue
                try:
                    message = await puller.next(min(free, _BATCH), timeout=5)
                except ConsumerGone:
                    log.warning(
                        "the consumer %s of %s is gone, waiting for it", streams.CONSUMER, queue
                    )
                    self._services.restore.set()
                    await asyncio.sleep(_CONSUMER_RETRY_S)
                    continue
                if message is None:
                    continue
                if not self._slots.free:
                    with contextlib.suppress(NatsError):  # then its lease runs out
                        await message.nak()
                    continue
                self._slots.take()
                task = tasks.create_task(self._hold(message, kind), name=message.subject)
                running.add(task)
                task.add_done_callback(running.discard)
        finally:
            # Requests that cannot be given back return to the queue when their leases run out.
            with contextlib.suppress(NatsError, TimeoutError):
                for message in await puller.stop():
                    await message.nak()

    async def _hold(self, message: Msg, kind: Kind) -> None:
        """Hold one lease, from the delivery of its request to the ack or nak."""
        try:
            await self._serve(message, kind)
        except (NatsError, BrokerError) as error:
            # The lease runs out, and another worker, or this one, claims the session again.
            log.warning("lease not settled: %r", error, extra=fields(subject=message.subject))
        except Exception:  # a defect in one session must not affect the others
            log.exception("session ended by an error", extra=fields(subject=message.subject))
            self._services.metrics.sessions_ended.labels("crashed").inc()
            with contextlib.suppress(NatsError):
                await message.nak(delay=_CRASH_RETRY_S)
        finally:
            self._slots.give_back()

    async def _serve(self, message: Msg, kind: Kind) -> None:
        metadata, metrics = message.metadata, self._services.metrics
        try:
            session = _OPEN[kind](self._services, message)
        except (BadRequest, RecursionError) as error:
            log.error("%s", error, extra=fields(subject=message.subject))
            metrics.sessions_ended.labels("rejected").inc()
            await message.term()
            return
        except Exception:  # the request would return to the queue forever and block later ones
            log.exception("request rejected", extra=fields(subject=message.subject))
            metrics.sessions_ended.labels("rejected").inc()
            await message.term()
            return
        # Spread the heartbeats of sessions that were claimed together.
        first = random.random() * self._services.lease_seconds / 3  # noqa: S311
        session.next_heartbeat = time.monotonic() + first
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
        except KeyBusy:
            session.trace.drop()
            metrics.sessions_ended.labels("busy").inc()
            await message.nak(delay=_BUSY_RETRY_S)
        else:
            metrics.sessions_ended.labels(outcome.name.lower()).inc()
            if outcome in (State.CLOSED, State.FAILED):
                await message.ack()
            elif outcome is State.HANDED_OVER:
                await message.nak(delay=session.claim_after or None)
        finally:
            session.trace.end("aborted")
            del self.sessions[session]
            metrics.sessions_active.dec()

    async def _renew_leases(self) -> None:
        """Renew all leases and run the watchdogs of all sessions, on one timer."""
        async with asyncio.TaskGroup() as tasks:
            await self._renew_and_watch(tasks)

    async def _renew_and_watch(self, tasks: asyncio.TaskGroup) -> None:
        broker, metrics = self._services.broker, self._services.metrics
        lease = self._services.lease_seconds
        probed_at = last = time.monotonic()
        answered_at = asked_at = probed_at
        """When the last answered probe of the broker was sent, and when the last probe was sent."""
        probe: asyncio.Task[bool] | None = None
        while True:
            await asyncio.sleep(_TICK_S)
            now = time.monotonic()
            late = max(0.0, now - last - _TICK_S)
            metrics.loop_delay.observe(late)
            paused = late if late > _TICK_S else 0
            last = now
            connected = broker.connected
            metrics.nats_connected.set(connected)
            metrics.credentials_expire(broker.credentials.last.expiries)
            breakers = self._services.providers.breakers | self._services.voices.breakers
            for name, breaker in breakers.items():
                metrics.breaker_open.labels(name).set(breaker.state is not BreakerState.CLOSED)
            sessions = list(self.sessions.items())
            for session, message in sessions:
                session.tick(now, connected=connected, paused=paused)
                if now >= session.next_heartbeat and connected:
                    session.next_heartbeat = now + lease / 3
                    try:
                        broker.client.post(message.reply, _IN_PROGRESS)
                    except NatsError as error:
                        log.debug("heartbeat not sent: %r", error)
            if probe is not None and probe.done():
                if not probe.cancelled() and probe.result():
                    answered_at = asked_at
                probe = None
            if now - answered_at > lease:
                # This process was suspended or cut off, so leases may have run out.
                answered_at = now
                for session, _ in sessions:
                    session.mark_unconfirmed()
            if now - probed_at >= lease / 3 and broker.connected:
                probed_at = now
                if probe is None:
                    asked_at = now
                    probe = tasks.create_task(_broker_answers(broker, max(1, round(lease))))


async def _broker_answers(broker: Broker, seconds: int) -> bool:
    """Whether the broker answers within `seconds`."""
    try:
        await broker.client.flush(seconds)
    except NatsError:
        return False
    return True
