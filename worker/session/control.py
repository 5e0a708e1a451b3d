"""Requests to a session on its control subject, while a worker holds it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any, Protocol

from nats.errors import Error as NatsError
from pydantic import ValidationError

from natterjack.broker.connection import Broker
from natterjack.control import ControlReply, ControlRequest, Supports
from natterjack.errors import first_problem
from natterjack.plugin.errors import PluginError, ProviderError
from natterjack.plugin.provider import Capabilities
from natterjack.subjects import SessionKey, control_subject
from natterjack.telemetry.log import fields
from worker.errors import LeaseLost

log = logging.getLogger(__name__)

_MAX_WAITING = 100
_ANSWERED = (b"_INBOX", b"_R_.")
"""What addresses of answers begin with (`_R_`: from another account). Nobody is to have us publish
anywhere else."""


class Controllable(Protocol):
    """What of a session is needed here; see worker.session.session.Session."""

    id: str
    key: SessionKey

    @property
    def provider_name(self) -> str: ...
    @property
    def able(self) -> Capabilities: ...
    @property
    def sent_seconds(self) -> float: ...
    async def finalize(self) -> None: ...
    async def configure(self, settings: dict[str, Any]) -> None: ...
    async def stop(self, reason: str) -> float: ...
    def doubt(self) -> None: ...


@contextlib.asynccontextmanager
async def controlled(broker: Broker, session: Controllable) -> AsyncIterator[None]:
    """Answer the session's control requests during the block, one after another."""
    waiting: list[tuple[bytes, bytes]] = []
    answering: asyncio.Task[None] | None = None
    over = False

    def requested(_subject: bytes, reply: bytes, _headers: bytes | None, data: bytes) -> None:
        nonlocal answering
        if over or len(waiting) >= _MAX_WAITING:
            return  # who asks hears nothing, and asks again
        waiting.append((reply, data))
        if answering is None or answering.done():
            answering = asyncio.create_task(answer(), name=f"control {session.key}")

    async def answer() -> None:
        while waiting:
            reply, data = waiting.pop(0)
            try:
                said = await _answer(session, data)
                if reply.startswith(_ANSWERED):
                    broker.client.post(
                        reply.decode(), said.model_dump_json(exclude_none=True).encode()
                    )
            except LeaseLost:
                session.doubt()  # the new holder answers, if it is asked again
            except NatsError as error:
                log.debug("not answered: %r", error)
            except Exception:  # a task boundary
                log.exception("a request was not answered", extra=fields(session=str(session.key)))

    arrivals = await broker.client.listen(control_subject(session.key), requested)
    try:
        yield
    finally:
        over = True
        if answering is not None:
            answering.cancel()
        await arrivals.end()


async def _answer(session: Controllable, payload: bytes) -> ControlReply:
    try:
        request = ControlRequest.model_validate_json(payload)
        return _reply(session, position=await _do(session, request))
    except ValidationError as error:
        return _reply(session, error=f"bad request: {first_problem(error)}")
    except (_Cannot, NoStream, ProviderError, PluginError) as error:
        return _reply(session, error=str(error))


class _Cannot(Exception):
    """The provider has no such ability."""


class NoStream(Exception):
    """No provider stream is open: before the first audio, in a long pause, while recovering."""

    def __str__(self) -> str:
        return "no provider stream is open now; ask again when the session is streaming"


async def _do(session: Controllable, request: ControlRequest) -> float:
    """Do what is asked; the position for the reply. Raises _Cannot and what the session raises."""
    position = session.sent_seconds
    if request.command == "stop":
        return await session.stop(request.reason or "by request")
    if request.command == "finalize":
        if not session.able.finalize:
            raise _Cannot(f"{session.provider_name} cannot finalize in mid-stream")
        await session.finalize()
        return position
    if not request.settings:
        raise _Cannot("no settings were given")
    if unknown := sorted(set(request.settings) - session.able.configurable):
        names = ", ".join(unknown)
        raise _Cannot(f"{session.provider_name}: no setting {names} to change in mid-stream")
    await session.configure(request.settings)
    return position


def _reply(
    session: Controllable, *, position: float | None = None, error: str | None = None
) -> ControlReply:
    supports = Supports()
    with contextlib.suppress(PluginError):
        able = session.able
        supports = Supports(finalize=able.finalize, configure=sorted(able.configurable))
    return ControlReply(
        ok=error is None,
        session_id=session.id,
        provider=session.provider_name,
        supports=supports,
        position=position,
        error=error,
    )
