"""What Speechmatics says, decoded: one class for each message, or the part of it that is of use.

Names are those of the vendor's specification of the realtime interface.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from natterjack.plugin.provider import Notice

Attaches = Literal["next", "previous", "none", "both"]
"""Specification, AttachesToEnum."""


@dataclass(frozen=True, slots=True)
class RecognitionStarted:
    """Audio may be sent."""

    id: str | None
    delimiter: str
    """Between words of the language ("LanguagePackInfo"); empty in Japanese."""


@dataclass(frozen=True, slots=True)
class AudioAdded:
    """The frame with this number, and so all before it, has been read. Not: transcribed."""

    seq_no: int


class Result(NamedTuple):
    """A word, an entity (a number, a date: several words as one) or a punctuation mark."""

    punctuation: bool
    text: str
    start: float
    end: float
    confidence: float | None = None
    language: str | None = None
    speaker: str | None = None
    attaches: Attaches = "none"


@dataclass(frozen=True, slots=True)
class Transcript:
    """AddTranscript, or AddPartialTranscript: what the audio from `start` to `end` says."""

    final: bool
    start: float
    end: float
    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class EndOfUtterance:
    """Silence after speech was found at `at`, or the utterance was ended there by request."""

    at: float


@dataclass(frozen=True, slots=True)
class LanguageInfo:
    """A language was met, whose words are joined so (known from the SDK alone)."""

    language: str
    delimiter: str


@dataclass(frozen=True, slots=True)
class EndOfTranscript:
    """All is said."""


@dataclass(frozen=True, slots=True)
class DurationLimit:
    """Warning `duration_limit_exceeded`: audio is confirmed and ignored from now on, and the
    transcript is brought to its end."""

    message: str


@dataclass(frozen=True, slots=True)
class Error:
    """The session has failed; the server closes after it."""

    type: str
    reason: str


Message = (
    RecognitionStarted
    | AudioAdded
    | Transcript
    | EndOfUtterance
    | LanguageInfo
    | EndOfTranscript
    | DurationLimit
    | Error
    | Notice
)
