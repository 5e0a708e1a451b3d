"""Leaving what the broker sends in the kernel between two chunks of calm audio.

The acknowledgement of a chunk arrives a moment after it, when this process sleeps again, and nobody
needs it then. It does not wake this process until the next chunk has done so anyway, which halves
the number of wake-ups. So it is with every other message, for as long as a chunk at most. The end
of the connection wakes it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Iterator
from weakref import WeakKeyDictionary, ref

from natterjack.broker.client.fastpath import Client

_LONGEST_S = 0.25
"""Without another chunk, what has arrived is read after that."""
_LOOKS = 2
"""Iterations of the event loop in which what has arrived is read before the next lull."""
_LEAST_BYTES = 4096
"""So much is read at once: more than the acknowledgements of the chunks in flight."""
_POSSIBLE = sys.platform == "linux"
"""Whether poll(2) heeds SO_RCVLOWAT."""

_lulls: WeakKeyDictionary[Client, Lull] = WeakKeyDictionary()


class Lull:
    """Delays reading on one connection while nobody needs what arrives at once."""

    def __init__(self, client: Client) -> None:
        """`client` is used by this event loop."""
        self._client = ref(client)
        self._loop = asyncio.get_running_loop()
        self._awake: set[object] = set()
        """Users of the connection that need to receive messages without delay."""
        self._waiting: asyncio.BaseTransport | None = None
        """The transport on which little wakes nobody, if there is one."""
        self._timer: asyncio.TimerHandle | None = None
        self._soon: asyncio.Handle | None = None

    def settle(self, who: object, *, calm: bool, sent: bool) -> None:
        """Read at once while one who uses the connection is not `calm`.

        While all are, and one has `sent` a chunk just now, read what has arrived, and then nothing
        until the next chunk.
        """
        if not calm:
            self._awake.add(who)
            self._resume()
            return
        self._awake.discard(who)
        if sent:
            self._resume()
            if not self._awake and _POSSIBLE:
                self._soon = self._loop.call_soon(self._look, _LOOKS)

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Read at once in the block."""
        who = object()
        self.settle(who, calm=False, sent=False)
        try:
            yield
        finally:
            self.settle(who, calm=True, sent=False)

    def _look(self, looks: int) -> None:
        if looks:
            self._soon = self._loop.call_soon(self._look, looks - 1)
            return
        self._soon = None
        client = self._client()
        transport = client.socket if client is not None else None
        if transport is not None and _set_least(transport, _LEAST_BYTES):
            self._waiting = transport
            self._timer = self._loop.call_later(_LONGEST_S, self._resume)

    def _resume(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting is not None:
            _set_least(self._waiting, 1)
            self._waiting = None


def _set_least(transport: asyncio.BaseTransport, size: int) -> bool:
    """Let so many bytes wake this process. Returns whether that was possible."""
    found = transport.get_extra_info("socket")
    if found is None or transport.is_closing():
        return False
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
    except OSError:
        return False
    return True


def lull_of(client: Client) -> Lull:
    """Return the lull of a connection: the same for all that use it. To be called in its loop."""
    found = _lulls.get(client)
    if found is None:
        found = _lulls[client] = Lull(client)
    return found
