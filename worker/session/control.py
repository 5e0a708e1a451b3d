"""Answering requests on the control subject of a session."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Protocol

from nats.errors import Error as NatsError
from pydantic import BaseModel, ValidationError

from natterjack.broker.connection import Broker
from natterjack.control import ControlReply, ControlRequest, Supports
from natterjack.errors import first_problem
from natterjack.plugin.errors import PluginError, ProviderError
from natterjack.plugin.provider import Capabilities, ProviderStream
from natterjack.spec import SessionSpec
from natterjack.subjects import SessionKey, control_subject
from natterjack.telemetry.log import fields
from worker.dialing import Opened, TranscriptDialer
from worker.errors import LeaseLost

from .admission import Admission
from .intake import Queries
from .lease import Lease

log = logging.getLogger(__name__)

_MAX_WAITING = 100
_LAST_ANSWER_S = 1.0
"""How long the end of a session waits for the answers to its last requests."""
_SAME_S = 1e-5
"""A difference of two positions that comes from rounding."""
_LOOK_S, _TOLERANCE_S = 0.02, 0.005
"""How often it is looked whether audio is final, and by how much a provider may round its end."""
_REPLY_PREFIXES = (b"_INBOX", b"_R_.")
"""Prefixes of reply subjects (`_R_`: from another account). A request must not make the worker
publish anywhere else."""


class Controllable(Protocol):
    """The part of a session that control requests use; `Controls` implements it."""

    id: str
    key: SessionKey

    @property
    def provider_name(self) -> str: ...
    @property
    def capabilities(self) -> Capabilities: ...
    @property
    def sent_seconds(self) -> float: ...
    @property
    def final_seconds(self) -> float: ...
    async def finalize(self) -> None: ...
    async def configure(self, settings: dict[str, Any]) -> None: ...
    async def stop(self, reason: str) -> float: ...
    def mark_unconfirmed(self) -> None: ...


class Controls:
    """Carries out the control requests of a session."""

    __slots__ = ("_admission", "_dialer", "_lease", "_queries", "_rate", "id", "key")

    def __init__(
        self,
        spec: SessionSpec,
        admission: Admission[Opened],
        dialer: TranscriptDialer,
        queries: Queries,
        lease: Lease,
    ) -> None:
        self.id = spec.session_id
        self.key = spec.key
        self._rate = spec.sample_rate
        self._admission = admission
        self._dialer = dialer
        self._queries = queries
        self._lease = lease

    @property
    def provider_name(self) -> str:
        """The current provider of the chain."""
        return self._admission.chain.name

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of that provider. Raises PluginError."""
        return self._dialer.plugins.get(self.provider_name).capabilities

    @property
    def sent_seconds(self) -> float:
        """The position of the next frame that goes to the provider."""
        return round(self._lease.progress.sent / self._rate, 6)

    @property
    def final_seconds(self) -> float:
        """Up to where the audio is final."""
        return self._lease.progress.final_seconds

    @property
    def _stream(self) -> ProviderStream:
        """Raises NoStream if no stream is open, or all audio is sent."""
        relay = self._lease.progress.relay
        if relay is None or relay.finishing:
            raise NoStream
        return relay.stream

    async def finalize(self) -> None:
        """Ask the provider to finalize pending audio. Raises ProviderError, NoStream."""
        await self._stream.finalize()

    async def configure(self, settings: dict[str, Any]) -> None:
        """Change settings of this stream and of all later ones. Raises ProviderError, NoStream,
        LeaseLost."""
        await self._stream.configure(settings)
        self._lease.checkpoint.configured |= settings
        await self._lease.write()

    async def stop(self, reason: str) -> float:
        """End the session where its audio is now. Return that position in seconds. Raises
        LeaseLost."""
        lease, stored = self._lease, await self._queries.stored_head()
        end = lease.cutoff.stop(reason, max(lease.progress.captured, stored))
        lease.progress.limit(end)
        await lease.write()
        return round(end / self._rate, 6)

    def mark_unconfirmed(self) -> None:
        self._lease.mark_unconfirmed()


@contextlib.asynccontextmanager
async def controlled(broker: Broker, session: Controllable) -> AsyncIterator[None]:
    """Answer the session's control requests during the block, one after another."""
    answer = partial(carry_out, session)
    subject, lost = control_subject(session.key), session.mark_unconfirmed
    async with answering(broker, subject, answer, lost):
        yield


@contextlib.asynccontextmanager
async def answering(
    broker: Broker,
    subject: str,
    answer: Callable[[bytes], Awaitable[BaseModel]],
    on_lost: Callable[[], None],
) -> AsyncIterator[None]:
    """Answer the requests on a subject during the block, one after another. `answer` returns the
    reply; if it raises LeaseLost, `on_lost` is called. Requests that have arrived when the block
    ends, such as the one that ends the session, are answered if that takes no longer than a second.
    """
    waiting: list[tuple[bytes, bytes]] = []
    task: asyncio.Task[None] | None = None
    ended = False

    def requested(_subject: bytes, reply: bytes, _headers: bytes | None, data: bytes) -> None:
        nonlocal task
        if ended or len(waiting) >= _MAX_WAITING:
            return  # the client times out and asks again
        waiting.append((reply, data))
        if task is None or task.done():
            task = asyncio.create_task(answer_all(), name=subject)

    async def answer_all() -> None:
        while waiting:
            reply, data = waiting.pop(0)
            try:
                answered = await answer(data)
                if reply.startswith(_REPLY_PREFIXES):
                    payload = answered.model_dump_json(exclude_none=True)
                    broker.client.post(reply.decode(), payload.encode())
            except LeaseLost:
                on_lost()  # the new holder answers the next request
            except NatsError as error:
                log.debug("control reply not sent: %r", error)
            except Exception:  # a task boundary
                log.exception("control request failed", extra=fields(subject=subject))

    arrivals = await broker.client.listen(subject, requested)
    try:
        yield
    finally:
        ended = True
        try:
            if task is not None and not task.done():
                await asyncio.wait({task}, timeout=_LAST_ANSWER_S)
        finally:
            if task is not None:
                task.cancel()
            await arrivals.end()


async def carry_out(session: Controllable, payload: bytes) -> ControlReply:
    """Carry out a request, and return the reply. Raises LeaseLost."""
    try:
        request = ControlRequest.model_validate_json(payload)
        deadline = time.monotonic() + request.wait_seconds
        if request.command == "finalize" and request.position is not None:
            await _until_sent(session, request.position, deadline)
        position = await _do(session, request)
        final = None
        if request.command == "finalize" and request.wait_seconds:
            final = await _until_final(session, position, deadline)
        return _reply(session, position=position, final_position=final)
    except ValidationError as error:
        return _reply(session, error=f"bad request: {first_problem(error)}")
    except (_Unsupported, _NotSent, NoStream, ProviderError, PluginError) as error:
        return _reply(session, error=str(error))


class _Unsupported(Exception):
    """The provider cannot do what the request asks for."""


class _NotSent(Exception):
    """The provider has not received the audio that is to be finalized."""


class NoStream(Exception):
    """No provider stream is open: no audio has come for a while, or the provider failed."""

    def __str__(self) -> str:
        return "no provider stream is open now; ask again when the session is streaming"


async def _do(session: Controllable, request: ControlRequest) -> float:
    """Carry out a request and return the position for the reply. Raises _Unsupported, and what the
    session raises."""
    position = session.sent_seconds
    if request.command == "stop":
        return await session.stop(request.reason or "by request")
    if request.command == "finalize":
        if not session.capabilities.finalize:
            raise _Unsupported(f"{session.provider_name} cannot finalize mid-stream")
        await session.finalize()
        return position
    if not request.settings:
        raise _Unsupported("no settings were given")
    if unknown := sorted(set(request.settings) - session.capabilities.configurable):
        names = ", ".join(unknown)
        raise _Unsupported(f"{session.provider_name}: no setting {names} to change mid-stream")
    await session.configure(request.settings)
    return position


async def _until_sent(session: Controllable, position: float, deadline: float) -> None:
    """Wait until the provider has received the audio up to `position`. Raises _NotSent if it has
    not at the `deadline`."""
    while session.sent_seconds < position - _SAME_S:
        if time.monotonic() >= deadline:
            sent = session.sent_seconds
            raise _NotSent(f"{sent:.3f} s of {position:.3f} s are sent; ask again")
        await asyncio.sleep(_LOOK_S)


async def _until_final(session: Controllable, position: float, deadline: float) -> float:
    """Wait until the audio up to `position` is final, but not beyond the `deadline`. Return up to
    where it is."""
    while (  # noqa: ASYNC110 - the session has no event for it
        session.final_seconds < position - _TOLERANCE_S and time.monotonic() < deadline
    ):
        await asyncio.sleep(_LOOK_S)
    return round(session.final_seconds, 6)


def _reply(
    session: Controllable,
    *,
    position: float | None = None,
    final_position: float | None = None,
    error: str | None = None,
) -> ControlReply:
    supports = Supports()
    with contextlib.suppress(PluginError):
        offered = session.capabilities
        supports = Supports(finalize=offered.finalize, configure=sorted(offered.configurable))
    return ControlReply(
        ok=error is None,
        session_id=session.id,
        provider=session.provider_name,
        supports=supports,
        position=position,
        final_position=final_position,
        error=error,
    )
