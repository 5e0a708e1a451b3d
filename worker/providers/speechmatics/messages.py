"""Decoded messages of Speechmatics: one class per message, with the fields that are used.

Names are those of the vendor's specification of the realtime API.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from natterjack.plugin.provider import Notice

Attaches = Literal["next", "previous", "none", "both"]
"""Specification, AttachesToEnum."""


@dataclass(frozen=True, slots=True)
class RecognitionStarted:
    """Recognition has started; audio may be sent."""

    id: str | None
    delimiter: str
    """Separator of words in the language ("LanguagePackInfo"); empty in Japanese."""


@dataclass(frozen=True, slots=True)
class AudioAdded:
    """The server has read all frames up to this number, but not necessarily transcribed them."""

    seq_no: int


class Result(NamedTuple):
    """A word, an entity (several words as one, such as a number or date) or a punctuation mark."""

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
    """AddTranscript or AddPartialTranscript: the transcript of the audio from `start` to `end`."""

    final: bool
    start: float
    end: float
    results: tuple[Result, ...]
    estimated: bool = False
    """Whether any time of the results is an estimate, because the message has none."""


@dataclass(frozen=True, slots=True)
class EndOfUtterance:
    """The end of an utterance at `at`, after silence or by request."""

    at: float


@dataclass(frozen=True, slots=True)
class LanguageInfo:
    """The word separator of a language that was detected (known only from the SDK)."""

    language: str
    delimiter: str


@dataclass(frozen=True, slots=True)
class EndOfTranscript:
    """The end of the transcript."""


@dataclass(frozen=True, slots=True)
class DurationLimit:
    """Warning `duration_limit_exceeded`: further audio is acknowledged but ignored, and the
    transcript ends."""

    message: str


@dataclass(frozen=True, slots=True)
class Error:
    """The session has failed; the server closes the connection."""

    type: str
    reason: str


Control = RecognitionStarted | AudioAdded | EndOfTranscript | DurationLimit | Error | Notice
"""Messages that Agent STT sends as well."""
Message = Control | Transcript | EndOfUtterance | LanguageInfo
