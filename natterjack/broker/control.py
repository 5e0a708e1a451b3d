"""Sending a control request to the worker that holds a session."""

from __future__ import annotations

from typing import TypeVar

from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from pydantic import BaseModel, ValidationError

from natterjack.control import ControlReply, ControlRequest
from natterjack.errors import BrokerError, NotHeld
from natterjack.subjects import SessionKey, control_subject, parse_key, voice_control_subject
from natterjack.voice.control import VoiceReply, VoiceRequest

from .connection import Broker

ReplyT = TypeVar("ReplyT", bound=BaseModel)


async def control_session(
    broker: Broker, key: SessionKey, request: ControlRequest, *, timeout: float = 10
) -> ControlReply:
    """Send a control request to the session's worker and return its reply.

    Raises: NotHeld if no worker has the session; BrokerError if no reply arrives in time.
    """
    return await _ask(broker, control_subject(key), request, ControlReply, "session", timeout)


async def control_voice(
    broker: Broker, key: SessionKey, request: VoiceRequest, *, timeout: float = 10
) -> VoiceReply:
    """Send a request to the voice session's worker and return its reply.

    Raises: NotHeld if no worker has the session; BrokerError if no reply arrives in time.
    """
    subject = voice_control_subject(key)
    return await _ask(broker, subject, request, VoiceReply, "voice session", timeout)


async def _ask(
    broker: Broker,
    subject: str,
    request: BaseModel,
    reply: type[ReplyT],
    what: str,
    timeout: float,
) -> ReplyT:
    key = parse_key(subject)
    try:
        answer = await broker.client.request(
            subject, request.model_dump_json().encode(), timeout=timeout
        )
        return reply.model_validate_json(answer.data)
    except NoRespondersError:
        raise NotHeld(f"no worker holds a {what} {key}") from None
    except (NatsError, TimeoutError, ValidationError) as error:
        raise BrokerError(f"{what} {key}: no valid reply: {error!r}") from None
