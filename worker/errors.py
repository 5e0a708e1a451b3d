"""Errors of a worker, apart from those of its providers (`natterjack.plugin.errors`).

WorkerError
├── LeaseLost       another worker has the session: stop, publish nothing, do not ack
│   └── Overtaken   an older holder wrote its checkpoint after this worker had read it
└── KindNotStored   the stream of an earlier release does not take events of this kind
"""

from __future__ import annotations

from natterjack.errors import NatterjackError


class WorkerError(NatterjackError):
    """Base class of a worker's errors."""


class LeaseLost(WorkerError):
    """Another worker has the session."""


class KindNotStored(WorkerError):
    """The stream does not take events of a kind: an earlier release made it."""


class Overtaken(LeaseLost):
    """An older holder wrote its checkpoint after this worker had read it."""
