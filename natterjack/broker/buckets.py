"""Reading and editing the buckets of operators, for commands: one connection, one error for all."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import AsyncIterator

from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from natterjack.errors import BrokerUnreachable, NotAllowed
from natterjack.settings import BrokerSettings, load

from . import streams
from .connection import Broker, connected
from .stored import StoreUnavailable, StreamStore

_TIMEOUT_S = 5.0


@contextlib.asynccontextmanager
async def broker_of(flags: argparse.Namespace, name: str) -> AsyncIterator[Broker]:
    """A connection. Raises BrokerUnreachable for whatever NATS says in the block; NotAllowed as
    soon as it refuses the user something."""
    async with connected(load(BrokerSettings, flags), name=name, once=True) as broker:
        try:
            async with broker.allowed():
                yield broker
        except NotAllowed as refusal:
            raise NotAllowed(
                refusal.subject, publishes=refusal.publishes, own_inbox=refusal.own_inbox,
                remedy="run it as a user of the role operator; one of an earlier release may need "
                "`natterjack users config`, and a reload of the server",
            ) from None  # fmt: skip
        except NoRespondersError:
            raise BrokerUnreachable(
                "JetStream is not available: nats-server needs -js, a cluster needs its quorum"
            ) from None
        except (StoreUnavailable, NatsError, TimeoutError) as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise BrokerUnreachable(
                f"the buckets do not answer ({said}); a worker makes them when it first starts"
            ) from None


@contextlib.asynccontextmanager
async def store_of(broker: Broker, stream: str) -> AsyncIterator[StreamStore]:
    """Direct reads of a stream, for the block."""
    store = StreamStore(broker, stream)
    await store.start()
    try:
        yield store
    finally:
        await store.stop()


async def put(broker: Broker, key: str, value: bytes) -> None:
    """Write an entry of the bucket `stt_budgets`."""
    await _write(broker, key, value, {})


async def remove(broker: Broker, key: str) -> bool:
    """Remove an entry of the bucket `stt_budgets`; False if there is none."""
    subject = streams.bucket_subject(streams.BUDGETS_BUCKET, key)
    async with store_of(broker, f"KV_{streams.BUDGETS_BUCKET}") as store:
        found = await store.last(subject)
    if found is None or found.headers.get("KV-Operation"):
        return False
    await _write(broker, key, b"", {"KV-Operation": "DEL"})
    return True


async def _write(broker: Broker, key: str, value: bytes, headers: dict[str, str]) -> None:
    subject = streams.bucket_subject(streams.BUDGETS_BUCKET, key)
    js = broker.client.jetstream()
    await js.publish(subject, value, timeout=_TIMEOUT_S, headers=headers)
