"""Errors of the edge agent.

EdgeError
├── SourceError   the source gives no audio: a wrong file, no microphone; exit status 2
│   └── SourceUnusable   waiting for the source changes nothing: several devices have the name
├── SpoolError    the spool is unusable: not a directory, or not writable; exit status 2
├── OutputError   the output plays nothing: no loudspeaker, a file that exists; exit status 2
├── EnrollmentRefused the registrar does not enroll this machine; exit status 2, of `enroll` 1
├── KeyTaken      another agent uses the key; exit status 3
├── SteeringError a request to this edge cannot be carried out; the run goes on
├── SourceLost    the source failed mid-session: the microphone disappeared; exit status 1
└── OutputLost    the output failed while it played: the disk is full; exit status 1
"""

from __future__ import annotations

from natterjack.errors import NatterjackError, UsageError


class EdgeError(NatterjackError):
    """Base class of the edge agent's errors."""


class SourceError(EdgeError, UsageError):
    """The source gives no audio. The message gives the reason and the remedy in one line."""


class SourceUnusable(SourceError):
    """The source gives no audio until a setting or the machine is changed."""


class SpoolError(EdgeError, UsageError):
    """The spool is unusable. The message gives the reason in one line."""


class OutputError(EdgeError, UsageError):
    """The output plays nothing. The message gives the reason and the remedy in one line."""


class EnrollmentRefused(EdgeError):
    """The registrar does not enroll this machine; the message says why."""


class KeyTaken(EdgeError):
    """Another agent uses the key, and this one has not begun. The message names the other one."""


class SteeringError(EdgeError):
    """A request to this edge cannot be carried out. The message, for whoever asked, says why, and
    what can be done instead."""


class SourceLost(EdgeError):
    """The source failed mid-session. The audio before that is still published."""


class OutputLost(EdgeError):
    """The output failed while it played."""
