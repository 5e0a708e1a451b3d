"""The state of one stream to Speechmatics, from RecognitionStarted to EndOfTranscript.

Pure: no sockets, clocks or environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from natterjack.plugin.errors import Dropped, ProviderError, RemoteProtocolError, Stalled
from natterjack.plugin.provider import Notice, ProviderEvent, Usage
from natterjack.plugin.websocket import Closed

from . import failures, messages, protocol
from .options import NAME, Recognition
from .transcript import Transcripts
from .window import Window

_TOLD_SECONDS = 1.0
"""Acknowledgements are told of in steps of so much audio at least."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a stream, from the settings of the same names."""

    max_unacknowledged_seconds: float
    max_unacknowledged_frames: int
    final_timeout_seconds: float
    silence_margin_seconds: float


class StreamState:
    """What was sent, what was said, and what is owed."""

    def __init__(self, recognition: Recognition, delimiter: str, limits: Limits) -> None:
        self.over = False
        """EndOfTranscript has come: nothing follows."""
        self._config = recognition.transcription_config
        self._format = recognition.format
        self._frame_bytes = recognition.format.frame_bytes
        self._window = Window(limits.max_unacknowledged_seconds, limits.max_unacknowledged_frames)
        self._transcripts = Transcripts(delimiter, limits.silence_margin_seconds)
        self._final_timeout = limits.final_timeout_seconds
        self._owed_since = 0.0
        """Acknowledged seconds when the words now pending were first shown, or since the last
        final."""
        self._told = 0.0
        self._limit: str | None = None
        self._finishing = False

    # ---- out --------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether audio may be sent now. Never again past the duration limit: it would be
        acknowledged and ignored."""
        return self._window.open and self._limit is None

    def sent(self, size_bytes: int) -> None:
        """A frame of so many bytes goes out."""
        self._window.sent(size_bytes // self._frame_bytes / self._format.sample_rate)

    def finish(self) -> str:
        """The message that ends the audio."""
        self._finishing = True
        return protocol.encode_end_of_stream(self._window.frames)

    def finalize(self) -> str:
        """The message that asks for finals of all that was sent."""
        return protocol.encode_force_end_of_utterance(self._window.seconds)

    def configure(self, changes: Mapping[str, Any]) -> str:
        """The message that changes the configuration. Raises: RequestRefused."""
        text, self._config = protocol.encode_changes(self._config, changes)
        return text

    # ---- in ---------------------------------------------------------------------------------

    def receive(self, message: messages.Message) -> list[ProviderEvent]:
        """Provider events that follow from a message. Raises: ProviderError when it ends the
        stream in any way but the right one."""
        match message:
            case messages.AudioAdded():
                return self._added(message.seq_no)
            case messages.Transcript():
                return self._transcript(message)
            case messages.EndOfUtterance():
                return self._transcripts.end_of_utterance(message)
            case messages.EndOfTranscript():
                return self._end()
            case messages.LanguageInfo():
                self._transcripts.language(message)
                return []
            case messages.DurationLimit():
                self._limit = message.message or "duration_limit_exceeded"
                return [Notice("duration_limit_exceeded", message.message)]
            case messages.Error():
                raise failures.error_of(message)
            case messages.RecognitionStarted():
                return [Notice("malformed", "RecognitionStarted a second time")]
            case Notice():
                return [message]

    def malformed(self, error: RemoteProtocolError) -> list[ProviderEvent]:
        """A message could not be decoded. Raises: the error, if words may be lost with it."""
        if isinstance(error, protocol.BadFinal):
            raise error
        return [Notice("malformed", str(error))]

    def closed(self, closed: Closed) -> ProviderError:
        """What the end of the connection means: EndOfTranscript has not come."""
        return failures.close_error(closed)

    def _added(self, seq_no: int) -> list[ProviderEvent]:
        if not self._window.added(seq_no):
            return [Notice("malformed", f"AudioAdded of frame {seq_no}, which was never sent")]
        acknowledged = self._window.acknowledged
        owed = acknowledged - self._owed_since
        if self._transcripts.pending and self._final_timeout and owed > self._final_timeout:
            raise Stalled(NAME, "mute", f"words are not final after {owed:.0f} s more of audio")
        if acknowledged - self._told < _TOLD_SECONDS:
            return []
        # The one message that silence is sure to get: by it the session knows that the server
        # lives. It is no promise that the audio has been transcribed.
        self._told = acknowledged
        return [Notice("audio_added", f"{acknowledged:.2f} s")]

    def _transcript(self, message: messages.Transcript) -> list[ProviderEvent]:
        if message.final or not self._transcripts.pending:
            self._owed_since = self._window.acknowledged
        return self._transcripts.transcript(message)

    def _end(self) -> list[ProviderEvent]:
        if self._limit is not None:
            raise Dropped(NAME, self._limit, "duration_limit_exceeded")
        if not self._finishing:
            raise Dropped(NAME, "the provider ended the transcript before the audio")
        self.over = True
        used = Usage(audio_seconds=round(self._window.acknowledged, 6))
        return [*self._transcripts.end(), used]
