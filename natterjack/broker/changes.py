"""Changing the streams and consumers on the broker to match their definition."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, StreamConfig
from nats.js.errors import APIError, NotFoundError

from natterjack.errors import StreamMismatch
from natterjack.settings import StreamSettings

from .connection import Broker
from .differences import (
    COPIES,
    PUSH_ONLY,
    REMAKE_CONSUMER,
    REMAKE_STREAM,
    STORED,
    Difference,
    consumer_differences,
    stream_differences,
)
from .refusals import translated
from .store_limits import explain_refused_stream
from .streams import CONSUMER, consumer_config, queues, stream_configs

Action = Literal["same", "make", "change", "remake"]
_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Change:
    """The action for one stream or for a queue's consumer."""

    stream: str
    """The stream, or the stream of the consumer."""
    action: Action
    differences: tuple[Difference, ...]
    wanted: StreamConfig | ConsumerConfig
    """The new configuration, including what an operator has set beyond our definition."""
    found: StreamConfig | ConsumerConfig | None = None

    @property
    def name(self) -> str:
        """The name that is shown."""
        is_stream = isinstance(self.wanted, StreamConfig)
        return self.stream if is_stream else f"{self.stream} > {CONSUMER}"

    @property
    def loss(self) -> str:
        """The data that the change would delete: STORED, COPIES, or nothing."""
        lost = {difference.loss for difference in self.differences}
        return STORED if STORED in lost else COPIES if COPIES in lost else ""


async def plan(broker: Broker, settings: StreamSettings) -> list[Change]:
    """Return the changes that would make everything match `settings`. Changes nothing.

    Raises: StreamMismatch, BrokerUnreachable.
    """
    js = broker.client.jetstream()
    changes = []
    with translated():
        for wanted in stream_configs(settings):
            assert wanted.name is not None
            try:
                info = await js.stream_info(wanted.name)
            except NotFoundError:
                changes.append(Change(wanted.name, "make", (), wanted))
                continue
            changes.append(_stream_change(info.config, wanted, info.state.bytes))
        actions = {change.stream: change.action for change in changes}
        for queue in queues(settings):
            consumer = await _consumer_change(js, queue, consumer_config(settings))
            if actions[queue] == "remake" and consumer.action != "make":
                # Deleting the stream deletes its consumer.
                consumer = Change(queue, "make", consumer.differences, consumer.wanted)
            changes.append(consumer)
    return changes


def _action(differences: list[Difference], remade: tuple[str, ...]) -> Action:
    if any(difference.field in remade for difference in differences):
        return "remake"
    return "change" if differences else "same"


def _stream_change(found: StreamConfig, wanted: StreamConfig, stored_bytes: int) -> Change:
    assert wanted.name is not None
    differences = stream_differences(found, wanted, stored_bytes)
    action = _action(differences, REMAKE_STREAM)
    new = found.evolve(**{difference.field: difference.wanted for difference in differences})
    if action == "remake":
        new = new.evolve(first_seq=None)
    return Change(wanted.name, action, tuple(differences), new, found)


async def _consumer_change(js: JetStreamContext, queue: str, wanted: ConsumerConfig) -> Change:
    try:
        info = await js.consumer_info(queue, CONSUMER)
    except NotFoundError:
        return Change(queue, "make", (), wanted)
    found = info.config if info.paused else info.config.evolve(pause_until=None)
    differences = consumer_differences(found, wanted)
    new = found.evolve(**{difference.field: difference.wanted for difference in differences})
    new = new.evolve(
        opt_start_seq=None,
        opt_start_time=None,
        **({} if new.deliver_subject else dict.fromkeys(PUSH_ONLY)),
    )
    return Change(queue, _action(differences, REMAKE_CONSUMER), tuple(differences), new, found)


async def apply(broker: Broker, change: Change) -> None:
    """Apply one change. Raises: StreamMismatch with the server's reason; BrokerUnreachable."""
    js = broker.client.jetstream()
    new, found = change.wanted, change.found
    with translated(new if isinstance(new, StreamConfig) else change.name):
        if isinstance(new, ConsumerConfig):
            if change.action == "remake":
                await js.delete_consumer(change.stream, CONSUMER)
                await _recreate(change, lambda config: js.add_consumer(change.stream, config))
            else:
                await js.add_consumer(change.stream, new)  # or updates it
            if any(difference.field == "pause_until" for difference in change.differences):
                await _resume(broker, change.stream)
        elif change.action == "change":
            await js.update_stream(new)
        elif change.action == "remake":
            assert isinstance(found, StreamConfig)
            await _probe(js, new, found)
            await js.delete_stream(change.stream)
            await _recreate(change, js.add_stream)
        else:
            await js.add_stream(new)


async def _resume(broker: Broker, queue: str) -> None:
    """End a pause of the consumer (NATS ADR-26); updating it does not."""
    subject = f"$JS.API.CONSUMER.PAUSE.{queue}.{CONSUMER}"
    answer = json.loads((await broker.client.request(subject, b"{}", _TIMEOUT_S)).data)
    if "error" in answer:
        raise APIError.from_error(answer["error"])


async def _probe(js: JetStreamContext, wanted: StreamConfig, found: StreamConfig) -> None:
    """Check that the server would create such a stream, before the existing one is deleted.

    Raises: StreamMismatch; nats-py's errors.
    """
    name = f"{wanted.name}_PROBE_{secrets.token_hex(4)}"
    size = wanted.max_bytes
    if wanted.storage == found.storage and (size or 0) > 0 and (found.max_bytes or 0) > 0:
        size = max(1, (size or 0) - (found.max_bytes or 0))  # the rest becomes free
    try:
        await js.add_stream(
            wanted.evolve(
                name=name, subjects=[name], max_bytes=size,
                mirror=None, sources=None, republish=None, subject_transform=None,
            )
        )  # fmt: skip
    except APIError as error:
        raise StreamMismatch(
            f"{wanted.name}: JetStream would refuse to recreate it, so it was not changed: "
            f"{explain_refused_stream(wanted, error.err_code, error.description)}"
        ) from None
    finally:
        with contextlib.suppress(NatsError, TimeoutError):
            await js.delete_stream(name)


async def _recreate(change: Change, make: Callable[..., Awaitable[object]]) -> None:
    """Create the changed stream or consumer, or else the previous one. Raises: StreamMismatch."""
    try:
        await make(change.wanted)
    except (NatsError, TimeoutError) as error:
        reason = _reason(error, change.wanted)
    else:
        return
    try:
        await make(change.found)
    except (NatsError, TimeoutError) as error:
        why = _reason(error, change.found)
        then = f"the previous one could not be recreated either, so it is missing: {why}"
    else:
        then = "the previous one was recreated, and is empty"
    raise StreamMismatch(
        f"{change.name}: it was deleted, and JetStream refused to recreate it: {reason}; {then}. "
        "Correct that and run `natterjack streams apply` again"
    )


def _reason(error: BaseException, config: object) -> str:
    if not isinstance(error, APIError):
        return str(error) or repr(error)
    if isinstance(config, StreamConfig):
        return explain_refused_stream(config, error.err_code, error.description)
    return error.description or repr(error)
