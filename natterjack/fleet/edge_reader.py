"""Reading what edges say about themselves: the bucket `stt_edges`, by direct gets alone."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from nats.errors import Error as NatsError
from pydantic import BaseModel

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.broker.stored import Stored, StoreUnavailable, StreamStore
from natterjack.errors import BrokerUnreachable, StreamMismatch

from .edges import EdgePresence, parse_presence

_TIMEOUT_S = 2.0
_ASK_AGAIN_S = 60.0
"""When the broker is asked for its time again after it has not told it."""
_AT_ONCE = 50
"""Entries that are parsed at once, in 3 ms: a worker that reads thousands also relays audio."""
_NO_STREAM = 10059
_STREAM = f"KV_{streams.EDGES_BUCKET}"


class EdgeRow(BaseModel):
    """An edge, as it was last heard of."""

    state: str
    """`running`, `ending`, `stopped`, or `absent` if it has written nothing for a while."""
    seen_seconds_ago: float
    """Seconds since it last wrote, by the clock of the broker."""
    presence: EdgePresence

    @property
    def name(self) -> str:
        """`<tenant>.<agent>`."""
        return f"{self.presence.tenant}.{self.presence.agent}"


@dataclass
class Edges:
    """All edges that are known, by name. `unreadable` entries were left out."""

    rows: list[EdgeRow] = field(default_factory=list)
    unreadable: int = 0


def newest(entries: Iterable[Stored]) -> list[Stored]:
    """The last of the entries of each edge: one that writes while a bucket of more than one batch
    is read is in it twice."""
    return list({stored.subject: stored for stored in entries}.values())


def edges_of(entries: Iterable[Stored], now: datetime) -> Edges:
    """Return the edges of the bucket's `entries`. `now` is the time by the clock of the broker."""
    found = Edges()
    for stored in entries:
        if stored.headers.get("KV-Operation"):
            continue
        presence = parse_presence(stored.subject, stored.data)
        if presence is None:
            found.unreadable += 1
            continue
        ago = (now - datetime.fromisoformat(stored.stored_at)).total_seconds()
        ago = round(max(0.0, ago), 3)
        found.rows.append(
            EdgeRow(state=presence.state_after(ago), seen_seconds_ago=ago, presence=presence)
        )
    found.rows.sort(key=lambda row: row.name)
    return found


class EdgesReader:
    """Reads the edges repeatedly over one connection."""

    def __init__(self, broker: Broker) -> None:
        self._client = broker.client
        self._store = StreamStore(broker, _STREAM)
        self._ask_at = float("-inf")

    async def start(self) -> None:
        """To be called before `read`."""
        await self._store.start()

    async def stop(self) -> None:
        """End what `start` began. Idempotent."""
        await self._store.stop()

    async def read(self, tenant: str | None = None) -> Edges:
        """Read the edges of a tenant, or all.

        Raises: StreamMismatch if there is no bucket yet; BrokerUnreachable.
        """
        now = await self._now()
        subject = streams.bucket_subject(streams.EDGES_BUCKET, f"{tenant or '*'}.*")
        try:
            entries = newest(await self._store.read_all(subject))
        except StoreUnavailable as error:
            if ": 503" in str(error):
                raise _no_bucket() from None
            raise BrokerUnreachable(
                f"no reply from the bucket {streams.EDGES_BUCKET}: its readers need the permission "
                f"to publish to $JS.API.DIRECT.GET.{_STREAM}"
            ) from None
        found = Edges()
        for first in range(0, len(entries), _AT_ONCE):
            part = edges_of(entries[first : first + _AT_ONCE], now)
            found.rows += part.rows
            found.unreadable += part.unreadable
            await asyncio.sleep(0)
        found.rows.sort(key=lambda row: row.name)
        return found

    async def _now(self) -> datetime:
        """Return the time by the clock of the broker, or of this machine if it is not told."""
        if time.monotonic() >= self._ask_at:
            try:
                reply = await self._client.request(
                    f"$JS.API.STREAM.INFO.{_STREAM}", b"", _TIMEOUT_S
                )
                answer = json.loads(reply.data)
                if answer.get("error", {}).get("err_code") == _NO_STREAM:
                    raise _no_bucket()
                return datetime.fromisoformat(answer["ts"])
            except (NatsError, TimeoutError, ValueError, KeyError, AttributeError):
                # A user without permission gets no reply.
                self._ask_at = time.monotonic() + _ASK_AGAIN_S
        return datetime.now(UTC)


def _no_bucket() -> StreamMismatch:
    return StreamMismatch(
        f"there is no bucket {streams.EDGES_BUCKET}: a worker of this release, or `natterjack "
        "streams apply`, makes it"
    )
