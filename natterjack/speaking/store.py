"""Publishing to a stream until it is stored."""

from __future__ import annotations

import asyncio
import logging

from nats.errors import Error as NatsError
from nats.js.errors import APIError, NoStreamResponseError

from natterjack.audio import MSG_ID
from natterjack.broker import store_limits
from natterjack.broker.client.fastpath import MessageTooLarge
from natterjack.broker.connection import Broker
from natterjack.errors import StreamMismatch, StreamMissing, UsageError

from .events import CURE

log = logging.getLogger(__name__)

_ACK_S = 5.0
_MISSING_S = 10.0
"""A broker that starts may answer before its streams do."""
_RETRY_S = 0.25


async def store(broker: Broker, stream: str, subject: str, payload: bytes, msg_id: str) -> None:
    """Publish a message until the stream has it, with `msg_id` as its `Nats-Msg-Id`.

    Waits while the broker is away, and while the stream is full. Raises: StreamMissing,
    StreamMismatch, UsageError. Cancel-safe: the message may or may not be stored.
    """
    loop = asyncio.get_running_loop()
    missing_since: float | None = None
    full = False
    while True:
        try:
            await (await broker.acks.publish(subject, payload, {MSG_ID: msg_id}, _ACK_S))
            return
        except MessageTooLarge as error:
            raise UsageError(f"{subject}: {error}") from None
        except NoStreamResponseError:
            missing_since = missing_since or loop.time()
            if loop.time() - missing_since > _MISSING_S:
                raise StreamMissing(f"stream {stream} is missing: {CURE}") from None
        except APIError as error:
            reason = store_limits.explain_refused_message(stream, error.err_code, error.description)
            if not store_limits.full(error.err_code, error.description):
                raise StreamMismatch(f"{stream} refuses {subject}: {reason}") from None
            if not full:
                full = True
                log.warning("%s refuses text for now, retrying: %s", stream, reason)
        except (NatsError, TimeoutError):
            missing_since = None
            await broker.wait_connected()
            continue
        await asyncio.sleep(_RETRY_S)
