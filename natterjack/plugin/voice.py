"""The interface between the worker and a voice provider.

A plugin is a subclass of `Voice` that a package registers in the entry-point group
`natterjack.voices`. A worker makes one object of it per process, and opens one stream on it per
connection. The worker divides an utterance into phrases, which end at sentences: a phrase is what
is synthesized again after a fault, so no word is heard twice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from natterjack.audio import Encoding

from .base import Plugin
from .provider import Notice


@dataclass(frozen=True, slots=True)
class VoiceCapabilities:
    """The audio that a voice provider makes, its limits, and its price."""

    encodings: tuple[Encoding, ...] = ("linear16",)
    """Encodings that it makes, best first. The worker publishes linear16."""
    sample_rates: tuple[int, ...] = ()
    """Rates that it makes, in hertz; empty for any. The worker asks for the nearest one that is not
    lower than the session's, or the highest, and resamples."""
    max_phrase_characters: int = 2000
    """The longest text between two `flush`; the worker divides longer text."""
    characters_per_minute: int | None = None
    """Text that one stream accepts in a minute; the worker paces what it sends."""
    flushes_per_minute: int | None = None
    """Phrases that one stream accepts in a minute; the worker makes longer phrases."""
    marks: bool = False
    """True if `Mark` events say where words begin."""
    reports_spoken: bool = False
    """True if `Interrupted` says which text was spoken."""
    configurable: frozenset[str] = frozenset()
    """Names of the settings that `configure` changes on an open stream."""
    max_seconds: float | None = None
    """How long the provider keeps a stream; the worker opens another in time."""
    price_per_1000_characters: float = 0.0
    """Price of 1,000 characters of text, in `currency`."""
    currency: str = "USD"
    """ISO 4217 code."""


@dataclass(frozen=True, slots=True)
class VoiceStreamRequest:
    """The parameters of one stream."""

    session_id: str
    """Identifier of the session, the same for all of its streams."""
    encoding: Encoding
    """One of the provider's encodings."""
    sample_rate: int
    """One of the provider's rates, in hertz. Audio has one channel."""
    model: str | None = None
    """The provider's name of the voice; None for its default."""
    language: str | None = None
    """Language tag, such as `en-US`; None leaves the choice to the voice."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the provider, as the client gave them. The plugin validates them, and raises
    RequestRefused (`request`) with the name of an option that is unknown or wrong."""


class Speech(NamedTuple):
    """Audio of the oldest phrase that has not ended."""

    audio: bytes
    """Whole frames in the request's encoding, never empty."""


class Mark(NamedTuple):
    """The place of a word in the audio of the current phrase."""

    character: int
    """Index in the phrase's text of the word's first character."""
    seconds: float
    """Where the word begins, in seconds of the phrase's audio."""


class PhraseEnd(NamedTuple):
    """All audio of the oldest phrase has been returned. One for each `flush`, in order, unless an
    interrupt comes first. A phrase without anything to speak ends without audio."""

    billed_characters: int | None = None
    """Characters that the provider bills for the phrase; None if it does not say."""


class Interrupted(NamedTuple):
    """The answer to `interrupt`: no audio of earlier text follows."""

    text_spoken: str | None = None
    """Text of the current phrase that was spoken; None if the provider does not say."""
    billed_characters: int | None = None
    """Characters that the provider bills for the phrase; None if it does not say."""


VoiceStreamEvent = Speech | Mark | PhraseEnd | Interrupted | Notice


class VoiceStream(ABC):
    """One stream to a voice provider. One task sends text while another iterates over events.

    Iteration ends when the provider has returned everything that is due after `finish`, and raises
    ProviderError if the stream ends in any other way, `close` included. Every method may be
    cancelled; after that the stream can only be closed. Reading slowly holds the provider back:
    a stream keeps little audio in memory.
    """

    reference: str | None = None
    """The provider's own identifier of this stream, for support requests."""

    @abstractmethod
    async def speak(self, text: str) -> None:
        """Append text to the current phrase. Never empty.

        Texts are joined as they are; one may end within a word. Audio may be returned before the
        phrase is complete. Raises ProviderError.
        """

    @abstractmethod
    async def flush(self) -> None:
        """End the current phrase: everything in it is to be spoken. Raises ProviderError."""

    @abstractmethod
    async def interrupt(self, played_seconds: float | None = None) -> None:
        """Tell the provider at once to stop: text of all phrases that was not spoken is dropped.

        `played_seconds` is how much audio of this stream was played so far, in all phrases; audio
        that an earlier interrupt dropped does not count. None if that is not known. The stream
        discards what the provider still sends of earlier text, then returns Interrupted, also when
        nothing was being spoken. Text that is sent afterwards begins a new phrase. Raises
        ProviderError.
        """

    @abstractmethod
    async def finish(self) -> None:
        """Tell the provider that no text follows. Raises ProviderError.

        A phrase that was not flushed is flushed. Iteration ends once the provider has returned the
        last audio.
        """

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[VoiceStreamEvent]:
        """Iterate over events as they arrive. Called once per stream."""

    @abstractmethod
    async def close(self) -> None:
        """Release the stream at once, in whatever state it is.

        Idempotent; returns within two seconds and raises nothing. Iteration that is still going on
        raises ProviderError.
        """

    async def configure(self, changes: Mapping[str, Any]) -> None:
        """Change settings of the open stream. Raises ProviderError.

        `changes` has only names that `VoiceCapabilities.configurable` lists.
        """
        raise NotImplementedError


class Voice(Plugin):
    """A voice provider. The worker makes one object per process."""

    capabilities: VoiceCapabilities
    """On the class, the capabilities with default settings; on an object, with its own settings."""

    @abstractmethod
    async def open(self, request: VoiceStreamRequest) -> VoiceStream:
        """Open a stream that is ready for text.

        Bounded in time by the plugin's own settings. Raises ProviderError. A cancelled `open`
        leaves no connection behind.
        """

    async def check(self) -> str:
        """Open a stream, to which no text is sent, and close it."""
        rates = self.capabilities.sample_rates
        request = VoiceStreamRequest(
            session_id="check",
            encoding=self.capabilities.encodings[0],
            sample_rate=max(rates) if rates else 24_000,
        )
        stream = await self.open(request)
        await stream.close()
        return "a stream was opened"
