"""The state of one stream from StartRecognition to EndOfTranscript: the part that does not depend
on the form of transcripts.

Pure: no sockets, clocks or environment.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from natterjack.plugin.errors import Dropped, ProviderError, RemoteProtocolError, Stalled
from natterjack.plugin.provider import Final, Notice, ProviderEvent, Usage
from natterjack.plugin.websocket import Closed

from .. import wire
from . import control, failures
from .control import Recognition
from .messages import (
    AudioAdded,
    Control,
    DurationLimit,
    EndOfTranscript,
    Error,
    RecognitionStarted,
)
from .window import Window

Content = TypeVar("Content")

_REPORT_SECONDS = 1.0
"""Minimum audio between notices of acknowledgements, in seconds."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a stream, from the settings of the same names."""

    max_unacknowledged_seconds: float
    max_unacknowledged_frames: int
    final_timeout_seconds: float
    silence_margin_seconds: float


class Exchange(ABC, Generic[Content]):
    """Audio sent and acknowledged, and the messages of both sides. A subclass reads `Content`: the
    messages with transcripts and turns."""

    def __init__(self, provider: str, recognition: Recognition, limits: Limits) -> None:
        self.provider = provider
        """Name of the provider, for errors."""
        self.over = False
        """Whether EndOfTranscript has arrived; nothing follows it."""
        self.recognition = recognition
        self._config = recognition.transcription_config
        self._frame_bytes = recognition.format.frame_bytes
        self._window = Window(limits.max_unacknowledged_seconds, limits.max_unacknowledged_frames)
        self._final_timeout = limits.final_timeout_seconds
        self._owed_since = 0.0
        """Acknowledged seconds when the pending words first appeared, or at the last final."""
        self._reported = 0.0
        self._limit: str | None = None
        self._finishing = False

    # ---- what the form of transcripts defines -----------------------------------------------

    @abstractmethod
    def decode(self, message: str | bytes) -> Control | Content:
        """Decode a message. Raises: RemoteProtocolError if it may be a final whose text cannot be
        read; wire.Harmless for any other message that cannot be read."""

    @abstractmethod
    def begin(self, started: RecognitionStarted) -> None:
        """Note that recognition has started."""

    @abstractmethod
    def configure(self, changes: Mapping[str, Any]) -> str:
        """Return the message that changes the configuration. Raises: RequestRefused."""

    @abstractmethod
    def content(self, message: Content) -> list[ProviderEvent]:
        """Return the provider events for a transcript or a turn."""

    @property
    @abstractmethod
    def pending(self) -> bool:
        """Whether words of an interim are not final yet."""

    @property
    @abstractmethod
    def unfinalized(self) -> Final | None:
        """At the end, the words of the last interim that never became final; None if all did."""

    @abstractmethod
    def remaining(self) -> list[ProviderEvent]:
        """Return the remaining events once everything is final."""

    def silence(self, acknowledged: float) -> list[ProviderEvent]:
        """Return the finals for silence that an acknowledgement shows, if any does."""
        return []

    # ---- out --------------------------------------------------------------------------------

    def start(self) -> str:
        """Return the message that starts recognition."""
        return control.encode_start(self.recognition)

    @property
    def ready(self) -> bool:
        """Whether audio may be sent now; never after the duration limit, when the server
        acknowledges but ignores audio."""
        return self._window.open and self._limit is None

    @property
    def latest(self) -> float:
        """The latest time that a message can have: shortly after the audio sent, in seconds."""
        return self._window.seconds + wire.AHEAD_SECONDS

    def sent(self, audio: bytes) -> None:
        """Count a frame that is sent next."""
        frames = len(audio) // self._frame_bytes
        self._window.sent(frames / self.recognition.format.sample_rate)

    def finish(self) -> str:
        """Return the message that ends the audio."""
        self._finishing = True
        return control.encode_end_of_stream(self._window.frames)

    def finalize(self) -> str | None:
        """Return the message that requests finals for all audio sent so far; None if there is
        nothing to request."""
        return control.encode_force_end_of_utterance(self._window.seconds)

    # ---- in ---------------------------------------------------------------------------------

    def receive(self, message: Control | Content) -> list[ProviderEvent]:
        """Return the provider events for a message. Raises: ProviderError if it ends the stream
        abnormally."""
        match message:
            case AudioAdded():
                return self._added(message.seq_no)
            case EndOfTranscript():
                return self._end()
            case DurationLimit():
                self._limit = message.message or "duration_limit_exceeded"
                return [Notice("duration_limit_exceeded", message.message)]
            case Error():
                raise failures.error_of(self.provider, message)
            case RecognitionStarted():
                return [Notice("malformed", "unexpected second RecognitionStarted", harmless=True)]
            case Notice():
                return [message]
            case _:
                return self.content(message)

    def closed(self, closed: Closed) -> ProviderError:
        """The error for the end of the connection before EndOfTranscript."""
        return failures.close_error(self.provider, closed)

    def owe(self, *, final: bool) -> None:
        """Note a transcript, before it is read: the wait for finals starts anew."""
        if final or not self.pending:
            self._owed_since = self._window.acknowledged

    def _added(self, seq_no: int) -> list[ProviderEvent]:
        if not self._window.added(seq_no):
            return [
                Notice(
                    "malformed", f"AudioAdded for frame {seq_no}, which was not sent", harmless=True
                )
            ]
        acknowledged = self._window.acknowledged
        owed = acknowledged - self._owed_since
        if self.pending and self._final_timeout and owed > self._final_timeout:
            what = f"words not final after {owed:.0f} s of further audio"
            raise Stalled(self.provider, "mute", what)
        events = self.silence(acknowledged)
        if acknowledged - self._reported >= _REPORT_SECONDS:
            # The only message that is certain to arrive during silence. It shows the session that
            # the server is alive, but not that the audio has been transcribed.
            self._reported = acknowledged
            events.append(Notice("audio_added", f"{acknowledged:.2f} s"))
        return events

    def _end(self) -> list[ProviderEvent]:
        if self._limit is not None:
            raise Dropped(self.provider, self._limit, "duration_limit_exceeded")
        if not self._finishing:
            raise Dropped(self.provider, "EndOfTranscript before the end of the audio")
        if (left := self.unfinalized) is not None:
            what = f"words up to {left.end:.1f} s never became final"
            raise RemoteProtocolError(self.provider, what, readable=left)
        self.over = True
        used = Usage(audio_seconds=round(self._window.acknowledged, 6))
        return [*self.remaining(), used]
