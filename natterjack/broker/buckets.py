"""Reading and editing operators' buckets for the commands, with errors for the terminal."""

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
    """Connect for the block.

    Raises: BrokerUnreachable for any error of NATS in the block; NotAllowed as soon as the server
    refuses this user a subject.
    """
    async with connected(load(BrokerSettings, flags), name=name, once=True) as broker:
        try:
            async with broker.raising_refusals():
                yield broker
        except NotAllowed as refusal:
            raise NotAllowed(
                refusal.subject, publishes=refusal.publishes, own_inbox=refusal.own_inbox,
                remedy="run it as a user with the role operator (users of an earlier release need "
                "`natterjack users config` and a reload of the server)",
            ) from None  # fmt: skip
        except NoRespondersError:
            raise BrokerUnreachable(
                "JetStream is not available: nats-server needs -js, a cluster needs its quorum"
            ) from None
        except (StoreUnavailable, NatsError, TimeoutError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise BrokerUnreachable(
                f"the buckets do not answer ({reason}); a worker creates them when it first starts"
            ) from None


@contextlib.asynccontextmanager
async def store_of(broker: Broker, stream: str) -> AsyncIterator[StreamStore]:
    """Open a store for direct reads of a stream, for the block."""
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
