"""What a provider plugin is: the interface between the worker and a speech provider.

A plugin is a subclass of Provider, named in the entry-point group `natterjack.providers`. The
worker makes one object of it a process and opens one stream on it for each connection. All
times here are seconds of the audio given to `send` on *this* stream, from zero; the worker maps
them onto the session's clock.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic_settings import BaseSettings

from natterjack.audio import AudioFormat, Encoding
from natterjack.events import TurnKind


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a provider takes and gives. The worker converts audio to fit."""

    encodings: tuple[Encoding, ...]
    """Accepted, best first. Audio in another encoding becomes the first of these."""
    sample_rates: tuple[int, ...] = ()
    """Accepted, in hertz; empty: any. Audio at another rate is resampled to the nearest above,
    else to the highest."""
    max_channels: int = 1
    """Audio with more channels is mixed down to one."""
    frame_ms: int | None = None
    """Length that each `send` must have (the last of a stream may be shorter); None: any."""
    interims: bool = True
    words: Literal["timed", "estimated", "none"] = "timed"
    """Whether words carry the provider's own times, estimates, or are not given."""
    confidences: bool = True
    turns: bool = False
    """Whether the provider gives events of turns or ends of utterances."""
    finalize: bool = False
    """Whether `finalize` makes pending audio final without ending the stream."""
    configurable: frozenset[str] = frozenset()
    """Names that `configure` takes in mid-stream."""
    answers_silence: bool = True
    """Whether the provider goes on sending messages while it gets silence; only then can its
    going mute be told from there being nothing to say."""
    catch_up_rate: float = 1.25
    """Times real time at which recorded audio may be sent."""
    price_per_hour: float = 0.0
    currency: str = "USD"
    billing: Literal["audio", "connected", "none"] = "audio"
    """What is billed: audio sent (each channel of it), the connection's time, or nothing."""
    billing_increment_seconds: float = 0.0
    """Each stream is billed in steps of so many seconds, rounded up; 0: to the sample."""


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """What one stream is opened with."""

    session_id: str
    format: AudioFormat
    """Of every `send` on this stream; it fits the provider's capabilities."""
    language: str | None = None
    model: str | None = None
    keyterms: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    """As the session's opener gave them; the plugin validates and raises RequestRefused."""


class ProviderWord(NamedTuple):
    text: str
    start: float | None = None
    end: float | None = None
    confidence: float | None = None
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class Interim:
    """What the audio from `start` to `end` may say. Replaces the interim before it."""

    text: str
    start: float
    end: float
    words: tuple[ProviderWord, ...] = ()
    confidence: float | None = None
    language: str | None = None
    times_estimated: bool = False


@dataclass(frozen=True, slots=True)
class Final:
    """What the audio from `start` to `end` says; nothing up to `end` will be revised.

    Finals of a stream follow one another and never overlap. An empty text finalises silence: it
    makes no event, but the session's position moves on.
    """

    text: str
    start: float
    end: float
    words: tuple[ProviderWord, ...] = ()
    confidence: float | None = None
    language: str | None = None
    times_estimated: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """A boundary of a turn, after the finals that belong before it."""

    event: TurnKind
    at: float
    """Where in the audio it holds."""
    text: str | None = None
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """The provider's own account of this stream."""

    audio_seconds: float | None = None
    credits_remaining_seconds: float | None = None
    low: bool = False


@dataclass(frozen=True, slots=True)
class Notice:
    """Anything else the provider said. `code` comes from a small fixed set: it is a metric label;
    `malformed` counts a message that could not be decoded and was skipped."""

    code: str
    message: str = ""


ProviderEvent = Interim | Final | Turn | Usage | Notice


@dataclass(frozen=True, slots=True)
class Balance:
    """Credit left with a provider, over all of its streams; below zero when it is overdrawn."""

    amount: float
    unit: str
    """`seconds` or `hours` of audio, or a currency (ISO 4217, upper case). It is a metric label."""


class ProviderStream(ABC):
    """One stream to a provider. One task sends, another iterates.

    The iterator ends when the provider has said all that is due after `finish`. It raises an error
    of worker.errors.ProviderError when the stream ends in any other way, whatever the reason.
    """

    reference: str | None = None
    """The provider's own name for this stream (a request id), for support."""
    used_seconds: float | None = None
    """What the provider bills for this stream so far, where that is not the audio that `send` was
    given; read about once a second."""

    @abstractmethod
    async def send(self, audio: bytes) -> None:
        """Give the next audio: whole frames in the request's format, never empty.

        Waits while the provider takes no more. Raises ProviderError.
        """

    def send_nowait(self, audio: bytes) -> bool:
        """As `send`, without waiting, if nothing has to be waited for; False: not done, `send` it.

        Audio of many sessions is cheaper this way: no task has to be woken. A stream need not
        have it. Raises ProviderError.
        """
        return False

    @abstractmethod
    async def finish(self) -> None:
        """Say that no audio follows; the iterator ends once the provider has said the rest."""

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[ProviderEvent]:
        """Events as they come. Called once a stream."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of the stream at once, in whatever state it is. Idempotent, bounded, no error."""

    async def finalize(self) -> None:
        """Ask that pending audio be made final. Only if the capabilities say so."""
        raise NotImplementedError

    async def configure(self, changes: Mapping[str, Any]) -> None:
        """Change settings in mid-stream. Only names that the capabilities list."""
        raise NotImplementedError


class Provider(ABC):
    """A speech provider. The worker makes one object a process, from settings of `Settings`."""

    name: ClassVar[str]
    Settings: ClassVar[type[BaseSettings]]
    """Own environment prefix; every field has a default or is a clear error when missing."""
    capabilities: Capabilities
    """On the class: with default settings. On an object: with its own."""
    balance_seconds: float = 0
    """How often to ask for the balance, in seconds; 0: there is none to ask for."""

    @abstractmethod
    def __init__(self, settings: Any) -> None:
        """From an object of `Settings`. Cheap. Raises a natterjack.errors.UsageError that names the
        environment variable when a key is missing."""

    @abstractmethod
    async def open(self, request: StreamRequest) -> ProviderStream:
        """A stream that is ready for audio. Bounded in time. Raises ProviderError."""

    async def balance(self) -> list[Balance]:
        """What is left, one of each unit; empty when the provider names none. Not an exact meter.
        Bounded in time. Raises ProviderError."""
        return []

    async def close(self) -> None:  # noqa: B027 - most have nothing to let go of
        """Let go of what the process shares (models, connection pools). Idempotent."""
