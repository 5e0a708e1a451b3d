"""The audio of a client that waits to be published, in memory."""

from __future__ import annotations

from edge_capture.delivery.backlog import Backlog
from natterjack.spec import SessionSpec


class ClientBacklog(Backlog):
    """A backlog of a source that can wait, limited by its size and not by its number of chunks."""

    def __init__(self, spec: SessionSpec, *, max_seconds: float) -> None:
        """The client has to wait while more than `max_seconds` of its audio wait here."""
        super().__init__(spec, max_seconds=max_seconds, ahead_chunks=1)

    @property
    def full(self) -> bool:
        return self._waiting_bytes > self._max_bytes
