"""The slots of one worker, and the loans of slots by sessions that wait for a provider. Pure."""

from __future__ import annotations

from collections.abc import Callable

LOANS_PER_SLOT = 4
"""How many sessions a worker may hold for each of its slots. Each costs a heartbeat a second and a
few kilobytes."""


class Slots:
    """The slots of one worker. A session that no provider serves now is held: it lends its slot to
    a session that can be served, and takes one back before it opens a stream."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.taken = 0
        """Sessions of this worker, held ones included, and requests about to become sessions."""
        self.lent = 0
        """Sessions that are held."""
        self.on_free: Callable[[], None] = lambda: None
        """Called when a slot may be free."""

    @property
    def free(self) -> int:
        return max(0, self.total - (self.taken - self.lent))

    def take(self) -> None:
        """Take a slot for a session that was claimed."""
        self.taken += 1

    def give_back(self) -> None:
        """Give back the slot of a session whose lease has ended."""
        self.taken -= 1
        self.on_free()

    def lend(self) -> bool:
        """Lend the slot of a session. False if the worker holds as many sessions as it may."""
        if self.lent >= self.total * LOANS_PER_SLOT:
            return False
        self.lent += 1
        self.on_free()
        return True

    def end_loan(self) -> bool:
        """End the loan of a session. False if the worker has no free slot for it: the session must
        then go to another worker."""
        had = self.free > 0
        self.lent -= 1
        return had
