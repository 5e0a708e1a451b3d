"""What can go wrong at the edge.

EdgeError
├── SourceError   the sound cannot be had at all: a wrong file, no microphone; exit 2
├── SpoolError    the spool cannot be used: no directory, or one that may not be written; exit 2
└── SourceLost    the sound broke off in mid-session: the microphone vanished; exit 1
"""

from __future__ import annotations

from natterjack.errors import NatterjackError, UsageError


class EdgeError(NatterjackError):
    """Base of what goes wrong at the edge."""


class SourceError(EdgeError, UsageError):
    """The sound cannot be had at all; the message says in one line why, and the cure."""


class SpoolError(EdgeError, UsageError):
    """The spool cannot be used; the message says in one line why."""


class SourceLost(EdgeError):
    """The sound broke off in mid-session; what came before it is published all the same."""
