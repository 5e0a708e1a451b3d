"""Dead letters: events that a durable consumer has rejected, with the reason, stored apart."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nats.errors import Error as NatsError
from nats.js.errors import NoStreamResponseError
from pydantic_core import from_json, to_json

from natterjack.broker import streams
from natterjack.broker.client.fastpath import MessageTooLarge
from natterjack.broker.connection import Broker, connected_by
from natterjack.decoding import AnyEvent, decode_event
from natterjack.errors import BadEvent, StreamMissing
from natterjack.position import Position
from natterjack.settings import BrokerSettings
from natterjack.subjects import DEAD_PREFIX, check_token, dead_filter

from .readahead import StoredMessage
from .reader import DurableReader, Since
from .sharing.shares import key_of

_TIMEOUT_S = 3.0
_SILENCE_S = 10.0
_MAX_REASON = 1000
_CURE = "a worker of this release creates it when it starts, or `natterjack streams apply`"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that was rejected."""

    event: AnyEvent | None
    """None if the broker accepted nothing as large as the event with its reason. It is then in the
    stream of transcripts only, at `position`."""
    reason: str
    attempt: int
    """How often it was delivered."""
    rejected_at: datetime
    position: str
    """Where the event was in the stream of transcripts."""
    sequence: int
    """The dead letter's sequence number in its own stream, `STT_DEAD_LETTERS`."""


def _encode(message: StoredMessage, reason: str, attempt: int, *, with_event: bool = True) -> bytes:
    about = {
        "reason": str(reason)[:_MAX_REASON].encode(errors="backslashreplace").decode(),
        "attempt": attempt,
        "rejected_at": datetime.now(UTC).isoformat(),
        "position": str(message.position),
    }
    if not with_event:
        return to_json(about)
    return to_json(about)[:-1] + b',"event":' + message.data + b"}"


async def bury(
    broker: Broker, name: str, message: StoredMessage, reason: str, attempt: int
) -> None:
    """Store a rejected event; retry while the broker is away.

    Raises: StreamMissing.
    """
    subject = f"{DEAD_PREFIX}.{key_of(message.subject).decode()}.{name}"
    # Rejected again after a crash, it is stored once.
    headers = {"Nats-Msg-Id": f"{name}:{message.position}"}
    payload = _encode(message, reason, attempt)
    while True:
        stored = await broker.acks.publish(subject, payload, headers, _TIMEOUT_S)
        try:
            await stored
            return
        except NoStreamResponseError:
            raise StreamMissing(f"stream {streams.DEAD_LETTERS} is missing: {_CURE}") from None
        except MessageTooLarge:
            payload = _encode(message, reason, attempt, with_event=False)
        except (NatsError, TimeoutError):
            await broker.wait_connected()


async def dead_letters(
    name: str,
    tenant: str | None = None,
    conversation: str | None = None,
    speaker: str | None = None,
    *,
    broker: Broker | None = None,
    settings: BrokerSettings | None = None,
) -> AsyncIterator[DeadLetter]:
    """Iterate over the events that the durable consumer `name` has rejected, oldest first.

    Ends with the last one that is stored. They are kept as long as transcripts, but at most 10,000
    of all durable consumers together. The user needs `--durable <name>`, or the role operator.

    Raises: InvalidKey; NotAllowed; StreamMissing if no worker has created the streams yet.
    """
    subject = dead_filter(check_token("name", name), tenant, conversation, speaker)
    async with connected_by(broker, settings, "natterjack-dead") as connection:
        reader = _reader(connection, subject, "start")
        try:
            await reader.begin()
            while reader.pending:
                message = await reader.next(_SILENCE_S)
                if message is not None:
                    if (letter := _decode(message)) is not None:
                        yield letter
                elif connection.connected:  # what is pending may have been removed: look again
                    await reader.stop()
                    reader = _reader(connection, subject, reader.position or "start")
                    await reader.begin()
        finally:
            with contextlib.suppress(NatsError, TimeoutError):
                await reader.stop()


def _reader(broker: Broker, subject: str, since: Since) -> DurableReader:
    return DurableReader(broker, streams.DEAD_LETTERS, subject, since=since, cure=_CURE)


def _decode(message: StoredMessage) -> DeadLetter | None:
    """The dead letter in a message; None if it is not one."""
    try:
        found: dict[str, Any] = from_json(message.data)
        position = Position.parse(found["position"])
        event: AnyEvent | None = None
        if "event" in found:
            with contextlib.suppress(BadEvent):
                event = decode_event(to_json(found["event"]), position)
        return DeadLetter(
            event, str(found["reason"]), int(found["attempt"]),
            datetime.fromisoformat(found["rejected_at"]), str(position), message.position.sequence,
        )  # fmt: skip
    except (ValueError, KeyError, TypeError):
        return None
