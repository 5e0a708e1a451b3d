"""The audio of a client that waits to be published, in memory."""

from __future__ import annotations

from edge_capture.delivery.backlog import Backlog
from natterjack.spec import SessionSpec


class ClientBacklog(Backlog):
    """A backlog of a source that can wait, limited by its size and not by its number of chunks."""

    def __init__(
        self, spec: SessionSpec, *, max_seconds: float, next_seq: int = 0, position: int = 0
    ) -> None:
        """The client has to wait while more than `max_seconds` of its audio wait here. The first
        chunk gets the number `next_seq`, and begins at `position`; unless both are 0, the session
        goes on, and its request is stored."""
        super().__init__(spec, max_seconds=max_seconds, ahead_chunks=1)
        self._next_seq, self._taken_pos = next_seq, position
        self.requested = next_seq > 0

    @property
    def last_number(self) -> int:
        """Number of the last chunk that was sent, or -1."""
        return self._next_seq - 1

    @property
    def full(self) -> bool:
        return self._waiting_bytes > self._max_bytes
