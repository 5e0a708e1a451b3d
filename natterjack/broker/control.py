"""Sending a control request to the worker that holds a session."""

from __future__ import annotations

from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from pydantic import ValidationError

from natterjack.control import ControlReply, ControlRequest
from natterjack.errors import BrokerError
from natterjack.subjects import SessionKey, control_subject

from .connection import Broker


async def control_session(
    broker: Broker, key: SessionKey, request: ControlRequest, *, timeout: float = 10
) -> ControlReply:
    """Send a control request to the session's worker and return its reply.

    Raises: BrokerError if no worker has the session or the reply does not arrive in time.
    """
    try:
        answer = await broker.client.request(
            control_subject(key), request.model_dump_json().encode(), timeout=timeout
        )
        return ControlReply.model_validate_json(answer.data)
    except NoRespondersError:
        raise BrokerError(f"no worker holds a session {key}") from None
    except (NatsError, TimeoutError, ValidationError) as error:
        raise BrokerError(f"session {key}: no valid reply: {error!r}") from None
