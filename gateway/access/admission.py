"""Limits of connections, and of clients that are refused again and again."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator

from .grant import Grant
from .refused import Reason, Refused

_WAITING_SHARE = 4
_RETRY_S = 5.0


class Admission:
    """Counts the connections of this gateway, in all and of each key."""

    def __init__(self, most: int = 1000) -> None:
        """`most` is the number of connections at once, in all. A quarter of them may be of clients
        that have not said yet who they are, so that those cannot keep the others out. Nor can they
        keep out each other: the one that waits for the longest has to leave."""
        self._most, self._most_waiting = most, max(1, most // _WAITING_SHARE)
        self._total = 0
        self._waiting: dict[object, Callable[[], object]] = {}
        """How to end each; the longest waiting first."""
        self._by_key: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """The number of connections now."""
        return self._total

    def of_key(self, key_id: str) -> int:
        """The number of connections of a key now."""
        return self._by_key[key_id]

    @contextlib.contextmanager
    def waiting(self, end: Callable[[], object]) -> Iterator[None]:
        """Count a connection whose client says later who it is, until it is `connection`'s turn, or
        whose client was refused, until it is closed. `end` ends it if others need its place.

        Raises: Refused if the gateway is full of clients that said who they are.
        """
        if self._total >= self._most:
            raise Refused(Reason.FULL, "the gateway is full", retry_after=_RETRY_S)
        most = min(self._most_waiting, self._most - self._total)
        while len(self._waiting) >= most:
            self._waiting.pop(next(iter(self._waiting)))()
        place = object()
        self._waiting[place] = end
        try:
            yield
        finally:
            self._waiting.pop(place, None)

    @contextlib.contextmanager
    def connection(self, grant: Grant) -> Iterator[None]:
        """Count a connection for the block.

        Raises: Refused if the gateway, or the key, has as many as it may have.
        """
        if self._total >= self._most:
            raise Refused(Reason.FULL, "the gateway is full", retry_after=_RETRY_S)
        most = grant.max_connections
        if most is not None and self._by_key[grant.key_id] >= most:
            raise Refused(
                Reason.FULL, f"key {grant.key_id} has {most} connections, its limit",
                retry_after=_RETRY_S,
            )  # fmt: skip
        self._total += 1
        self._by_key[grant.key_id] += 1
        try:
            yield
        finally:
            self._total -= 1
            self._by_key[grant.key_id] -= 1
            if not self._by_key[grant.key_id]:
                del self._by_key[grant.key_id]


class Refusals:
    """Notices clients that are refused again and again, by address and by secret.

    Some clients try again without end after any refusal (the JS SDK of Deepgram: 30 times). Beyond
    a limit they are told to come back later, and the log is silent about them. This is no defense
    against guessing, which the length of the secrets makes pointless; so a right secret is let in
    from any address, and clients behind one address cannot lock each other out.
    """

    def __init__(
        self, *, limit: int = 10, window_seconds: float = 60.0, max_entries: int = 10_000
    ) -> None:
        """`limit` refusals in `window_seconds` are answered with their reason."""
        self._limit, self._window, self._max_entries = limit, window_seconds, max_entries
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()
        """When the window of a client began, and its refusals since; the oldest first."""

    def note(self, refused: Refused, now: float, address: str, secret: str | None) -> Refused:
        """Count a refusal at the time `now`, in seconds, and return what to tell the client."""
        names = [f"address {address}"]
        if secret:
            names.append(f"secret {hashlib.sha256(secret.encode('utf-8', 'replace')).hexdigest()}")
        began, count = max((self._count(name, now) for name in names), key=lambda each: each[1])
        if count <= self._limit:
            return refused
        wait = max(1.0, began + self._window - now)
        return Refused(Reason.RATE, f"refused {count} times lately: {refused}", retry_after=wait)

    def _count(self, name: str, now: float) -> tuple[float, int]:
        began, count = self._counts.get(name, (now, 0))
        if now - began >= self._window:
            began, count = now, 0
        self._counts[name] = (began, count + 1)
        if not count:  # a new window: the newest
            self._counts.move_to_end(name)
        while len(self._counts) > self._max_entries:
            self._counts.popitem(last=False)
        return began, count + 1

    def __len__(self) -> int:
        return len(self._counts)
