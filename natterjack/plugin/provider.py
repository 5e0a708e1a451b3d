"""The interface between the worker and a speech provider.

A plugin is a subclass of `Provider` that a package registers in the entry-point group
`natterjack.providers`. A worker makes one object of it per process, and opens one stream on it per
connection. All times in this module are seconds of the audio that was passed to `send` on the same
stream, from 0; the worker converts them to positions in the session.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from natterjack.audio import AudioFormat, Encoding
from natterjack.events import TurnKind

from .base import Plugin

CHECK_RATE = 16_000
"""Rate of the audio that `Provider.check` announces, in hertz, if the provider accepts it."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The audio that a provider accepts, the events that it returns, and its price. The worker
    converts audio to fit."""

    encodings: tuple[Encoding, ...]
    """Accepted encodings, best first. Audio in another encoding is converted to the first one."""
    sample_rates: tuple[int, ...] = ()
    """Accepted rates in hertz; empty for any. Audio at another rate is resampled to the nearest
    higher rate, or to the highest."""
    max_channels: int = 1
    """Audio with more channels is mixed down to one."""
    frame_ms: int | None = None
    """Required length of the audio of each `send`, in milliseconds; the last one of a stream may be
    shorter. None for any length."""
    interims: bool = True
    """Whether the provider sends interims."""
    words: Literal["timed", "estimated", "none"] = "timed"
    """Whether words have the provider's own times, estimated times, or are not returned."""
    confidences: bool = True
    """Whether finals and words have confidences."""
    turns: bool = False
    """Whether the provider reports the start and the end of turns."""
    finalize: bool = False
    """Whether streams implement `finalize`."""
    configurable: frozenset[str] = frozenset()
    """Names of the settings that `configure` changes on an open stream."""
    answers_silence: bool = False
    """Whether streams return events, of whatever kind, while the provider receives silence. Only
    then can the worker tell a mute provider from one that has nothing to transcribe: it ends a
    stream that returns nothing. The contract suite sends ten seconds of silence to a provider that
    declares it."""
    catch_up_rate: float = 1.25
    """Rate at which recorded audio may be sent, as a multiple of real time."""
    price_per_hour: float = 0.0
    """Price of one hour of what `billing` names, in `currency`."""
    currency: str = "USD"
    """ISO 4217 code."""
    billing: Literal["audio", "connected", "none"] = "audio"
    """The thing that is billed: audio of each channel, time of the connection, or nothing."""
    billing_increment_seconds: float = 0.0
    """Each stream is billed in steps of this length, rounded up; 0 bills every sample."""


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """The parameters of one stream."""

    session_id: str
    """Identifier of the session, the same for all of its streams."""
    format: AudioFormat
    """Format of all audio on the stream; it fits the provider's capabilities."""
    language: str | None = None
    """Language tag, such as `en-US`; None leaves the choice to the provider."""
    model: str | None = None
    """Name of the provider's model; None for its default."""
    keyterms: tuple[str, ...] = ()
    """Words and names that the provider should expect."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the provider, as the client gave them. The plugin validates them, and raises
    RequestRefused (`request`) with the name of an option that is unknown or wrong."""


class ProviderWord(NamedTuple):
    """One word of a transcript."""

    text: str
    start: float | None = None
    end: float | None = None
    confidence: float | None = None
    """From 0 to 1."""
    speaker: str | None = None
    """The provider's label for the speaker."""


@dataclass(frozen=True, slots=True)
class Interim:
    """A transcript of the audio from `start` to `end` that may still change.

    Each interim replaces the interim before it.
    """

    text: str
    start: float
    end: float
    words: tuple[ProviderWord, ...] = ()
    confidence: float | None = None
    language: str | None = None
    times_estimated: bool = False
    """The times are estimates of the plugin, not the provider's."""


@dataclass(frozen=True, slots=True)
class Final:
    """A transcript of the audio from `start` to `end` that will not change.

    No later event covers audio before `end`: after a fault, another stream begins there. Finals of
    a stream follow one another and do not overlap: the worker leaves out words whose middle lies
    before the end of the last final. If `text` and `words` differ, `text` counts. A final with an
    empty text says that the audio is silence; it moves the session's position and is not published.
    """

    text: str
    start: float
    end: float
    words: tuple[ProviderWord, ...] = ()
    confidence: float | None = None
    language: str | None = None
    times_estimated: bool = False
    """The times are estimates of the plugin, not the provider's."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The start or the end of a turn. It follows the finals that belong before it."""

    event: TurnKind
    at: float
    """Time of the boundary; NaN if it is not known."""
    text: str | None = None
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """The provider's own account of the stream."""

    audio_seconds: float | None = None
    credits_remaining_seconds: float | None = None
    low: bool = False
    """The provider warns that little credit is left."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Any other message of the provider."""

    code: str
    """A word from a small fixed set, since it is a metric label. `malformed` counts a message that
    could not be decoded and was skipped."""
    message: str = ""
    harmless: bool = False
    """The message was certainly no final. Otherwise, if audio has no final after a message that was
    skipped (`malformed`), the worker takes that message for the final, and sends the audio again.
    """


ProviderEvent = Interim | Final | Turn | Usage | Notice


class ProviderStream(ABC):
    """One stream to a provider. One task sends audio while another iterates over events.

    Iteration ends when the provider has sent everything that is due after `finish`, and raises
    ProviderError if the stream ends in any other way, `close` included. Every method may be
    cancelled; after that the stream can only be closed.
    """

    reference: str | None = None
    """The provider's own identifier of this stream, for support requests."""
    used_seconds: float | None = None
    """Seconds that the provider bills for this stream so far, if they differ from the audio that
    was sent. The worker reads it about once a second."""

    @abstractmethod
    async def send(self, audio: bytes) -> None:
        """Send the next audio: whole frames in the request's format, never empty.

        Waits while the provider accepts no more, so that little audio is held in memory. Raises
        ProviderError.
        """

    def send_nowait(self, audio: bytes) -> bool:
        """Send the next audio if that needs no waiting, and return True.

        Returns False, and sends nothing, if it does; the worker then calls `send`. Implementing
        this method is optional: it saves waking a task for each chunk of audio. Raises
        ProviderError.
        """
        return False

    @abstractmethod
    async def finish(self) -> None:
        """Tell the provider that no audio follows. Raises ProviderError.

        Iteration ends once the provider has sent the last events.
        """

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[ProviderEvent]:
        """Iterate over events as they arrive. Called once per stream."""

    @abstractmethod
    async def close(self) -> None:
        """Release the stream at once, in whatever state it is.

        Idempotent; returns within two seconds and raises nothing. Iteration that is still going on
        raises ProviderError.
        """

    async def finalize(self) -> None:
        """Ask the provider to turn pending audio into finals. Raises ProviderError.

        Implemented if the capabilities have `finalize`.
        """
        raise NotImplementedError

    async def configure(self, changes: Mapping[str, Any]) -> None:
        """Change settings of the open stream. Raises ProviderError.

        `changes` has only names that `Capabilities.configurable` lists.
        """
        raise NotImplementedError


class Provider(Plugin):
    """A speech provider. The worker makes one object per process."""

    capabilities: Capabilities
    """On the class, the capabilities with default settings; on an object, with its own settings."""

    @abstractmethod
    async def open(self, request: StreamRequest) -> ProviderStream:
        """Open a stream that is ready for audio.

        Bounded in time by the plugin's own settings. Raises ProviderError. A cancelled `open`
        leaves no connection behind.
        """

    async def check(self) -> str:
        """Open a stream, to which no audio is sent, and close it."""
        rates = self.capabilities.sample_rates
        rate = CHECK_RATE if not rates or CHECK_RATE in rates else rates[0]
        audio_format = AudioFormat(self.capabilities.encodings[0], rate, 1)
        stream = await self.open(StreamRequest(session_id="check", format=audio_format))
        await stream.close()
        return "a stream was opened"
