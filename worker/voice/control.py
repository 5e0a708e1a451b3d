"""Carrying out the control requests of a voice session."""

from __future__ import annotations

import contextlib
from typing import Any, Protocol

from pydantic import ValidationError

from natterjack.errors import first_problem
from natterjack.plugin.errors import PluginError, ProviderError
from natterjack.voice.control import VoiceReply, VoiceRequest


class Refused(Exception):
    """The request cannot be carried out; the message is the reason."""


class Controllable(Protocol):
    """The part of a voice session that control requests use."""

    id: str

    @property
    def provider_name(self) -> str: ...
    @property
    def configurable(self) -> frozenset[str]: ...
    async def interrupt(
        self, reason: str, detail: str | None = None
    ) -> tuple[int | None, float]: ...
    async def configure(self, settings: dict[str, Any]) -> None: ...
    async def close_when_spoken(self, reason: str) -> None: ...


async def carry_out(session: Controllable, payload: bytes) -> VoiceReply:
    """Carry out a request, and return the reply. Raises LeaseLost."""
    try:
        request = VoiceRequest.model_validate_json(payload)
        if request.session_id not in (None, session.id):
            raise Refused("another session holds the key now")
        return _reply(session, **await _do(session, request))
    except ValidationError as error:
        return _reply(session, error=f"bad request: {first_problem(error)}")
    except (Refused, ProviderError, PluginError) as error:
        return _reply(session, error=str(error))


async def _do(session: Controllable, request: VoiceRequest) -> dict[str, Any]:
    if request.command == "interrupt":
        utterance, seconds = await session.interrupt("request", request.reason)
        return {"utterance": utterance, "position": seconds}
    if request.command == "close":
        await session.close_when_spoken(request.reason or "by request")
        return {}
    if not request.settings:
        raise Refused("no settings were given")
    if unknown := sorted(set(request.settings) - session.configurable):
        names = ", ".join(unknown)
        raise Refused(f"{session.provider_name}: no setting {names} to change mid-stream")
    await session.configure(request.settings)
    return {}


def _reply(session: Controllable, *, error: str | None = None, **fields: Any) -> VoiceReply:
    configurable: list[str] = []
    with contextlib.suppress(PluginError):
        configurable = sorted(session.configurable)
    return VoiceReply(
        ok=error is None,
        session_id=session.id,
        provider=session.provider_name,
        configure=configurable,
        error=error,
        **fields,
    )
