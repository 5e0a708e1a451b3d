"""Ports for servers of tests: those that are started again, or whose port must be known beforehand.

A port that the system chooses comes from the range of outgoing connections, so while its server is
down any connection of any program may take it. The ports given here are below that range, and each
test process has some of them for itself.
"""

from __future__ import annotations

import os
import random
import socket
from functools import cache

_FIRST, _RANGES, _SIZE = 16_000, 32, 500
"""Linux gives outgoing connections ports from 32768, other systems higher ones."""


class PortRange:
    """A range of ports that no other test process on this machine uses.

    Its first port is bound, but not listened on, to claim it. The system ends the claim with the
    process, however that ends.
    """

    def __init__(self) -> None:
        """Raises: AssertionError if every range is claimed."""
        for number in range(os.getpid(), os.getpid() + _RANGES):
            first = _FIRST + number % _RANGES * _SIZE
            claim = _bound(first)
            if claim is not None:
                break
        else:
            raise AssertionError(f"{_RANGES} test processes use all ranges of ports")
        self._claim: int | None = claim.detach()
        self.ports = range(first + 1, first + _SIZE)
        # Not from the start: what is left of a process that was killed may still connect there.
        self._next = random.randrange(_SIZE)

    def take(self) -> int:
        """Return a free port, which is not returned again before all others were.

        Raises: AssertionError if none is free.
        """
        for _ in self.ports:
            port = self.ports[self._next % len(self.ports)]
            self._next += 1
            if (probe := _bound(port)) is not None:
                probe.close()
                return port
        raise AssertionError(f"no port from {self.ports[0]} to {self.ports[-1]} is free")

    def close(self) -> None:
        """Give the range up. Idempotent."""
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None


def _bound(port: int) -> socket.socket | None:
    """Bind a port on all addresses, or return None if it is in use on any."""
    # Without SO_REUSEADDR, which would let two sockets bind a port that neither listens on.
    probe = socket.socket()
    try:
        probe.bind(("", port))
    except OSError:
        probe.close()
        return None
    return probe


@cache
def _range_of(_pid: int) -> PortRange:
    return PortRange()


def free_port() -> int:
    """Return a free port for a server of this process, or one that it starts."""
    return _range_of(os.getpid()).take()
