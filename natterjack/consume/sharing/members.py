"""The processes of a durable consumer tell each other that they live, and what they hold."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable

from nats.errors import Error as NatsError

from natterjack.broker.client.fastpath import DirectSubscription
from natterjack.broker.connection import Broker
from natterjack.subjects import DURABLE_PREFIX

LIFE_S = 5.0
"""A process that was not heard for so long is taken for dead."""
_MOST_SENT = 60


class Members:
    """The processes that are heard. This one hears itself, which shows that others can."""

    def __init__(
        self, broker: Broker, name: str, own: str, reads: str, changed: Callable[[], None]
    ) -> None:
        """`reads` describes the events that this process reads. `changed` is called when a process
        has come or gone or has given up shares, and when this one should answer."""
        self._broker = broker
        self._subject = f"{DURABLE_PREFIX}.{name}"
        self._own, self._reads = own, reads
        self._changed = changed
        self._heard: dict[str, tuple[float, frozenset[int]]] = {}
        self._strangers: dict[str, str] = {}
        """Processes that read other events than this one, with a description of those events."""
        self._since = 0.0
        """Since when the others could be heard, by the monotonic clock."""
        self._sent: dict[int, float] = {}
        """When the latest signs were sent, by their number."""
        self._number = 0
        self.alive = 0.0
        """When the latest sign was sent that came back: the others have heard it, too. On the
        monotonic clock."""
        self._subscription: DirectSubscription | None = None

    async def start(self) -> None:
        """Subscribe, and ask who is there."""
        self._subscription = await self._broker.client.listen(self._subject, self._received)
        self.restart()
        self.alive = time.monotonic()
        self.beat((), asks=True)

    async def stop(self) -> None:
        """Unsubscribe. Idempotent. Raises NATS's errors."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.end()

    def restart(self) -> None:
        """Nothing was heard while there was no connection: everybody may live."""
        self._since = time.monotonic()
        self._heard = {member: (self._since, held) for member, (_, held) in self._heard.items()}

    @property
    def certain(self) -> bool:
        """Whether a process that is not heard is dead."""
        return time.monotonic() - self._since > LIFE_S

    def held(self) -> dict[str, frozenset[int]]:
        """The shares of each process that lives."""
        now = time.monotonic()
        for member, (heard, _) in list(self._heard.items()):
            if now - heard > LIFE_S:
                del self._heard[member]
                self._strangers.pop(member, None)
        return {member: held for member, (_, held) in self._heard.items()}

    def strangers(self) -> dict[str, str]:
        """Return the living processes that read other events than this one, with what they read."""
        return {member: self._strangers[member] for member in self.held().keys() & self._strangers}

    def beat(self, held: Iterable[int], *, asks: bool = False, leaves: bool = False) -> None:
        """Tell the others that this process lives; not while the broker is away."""
        if not self._broker.connected:
            return
        self._number += 1
        sign = {
            "member": self._own, "number": self._number, "shares": sorted(held),
            "asks": asks, "leaves": leaves, "reads": self._reads,
        }  # fmt: skip
        self._sent[self._number] = time.monotonic()
        self._sent.pop(self._number - _MOST_SENT, None)
        with contextlib.suppress(NatsError):
            self._broker.client.post(self._subject, json.dumps(sign).encode())

    def _received(
        self, _subject: bytes, _reply: bytes, _headers: bytes | None, data: bytes
    ) -> None:
        try:
            sign = json.loads(data)
            member, held = str(sign["member"]), frozenset(map(int, sign["shares"]))
            number, asks, leaves = int(sign["number"]), bool(sign["asks"]), bool(sign["leaves"])
            reads = str(sign.get("reads", self._reads))  # absent in those of former releases
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        if member == self._own:
            self.alive = max(self.alive, self._sent.pop(number, 0.0))
            return
        known = self._heard.pop(member, None)
        self._strangers.pop(member, None)
        if not leaves:
            self._heard[member] = (time.monotonic(), held)
            if reads != self._reads:
                self._strangers[member] = reads
        if asks or leaves or known is None or known[1] - held:
            self._changed()
