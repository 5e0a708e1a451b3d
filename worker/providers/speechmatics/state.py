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

_REPORT_SECONDS = 1.0
"""Minimum audio between notices of acknowledgements, in seconds."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a stream, from the settings of the same names."""

    max_unacknowledged_seconds: float
    max_unacknowledged_frames: int
    final_timeout_seconds: float
    silence_margin_seconds: float


class StreamState:
    """Audio sent, transcripts received, and words that must still become final."""

    def __init__(self, recognition: Recognition, delimiter: str, limits: Limits) -> None:
        self.over = False
        """Whether EndOfTranscript has arrived; nothing follows it."""
        self._config = recognition.transcription_config
        self._format = recognition.format
        self._frame_bytes = recognition.format.frame_bytes
        self._window = Window(limits.max_unacknowledged_seconds, limits.max_unacknowledged_frames)
        self._transcripts = Transcripts(delimiter, limits.silence_margin_seconds)
        self._final_timeout = limits.final_timeout_seconds
        self._owed_since = 0.0
        """Acknowledged seconds when the pending words first appeared, or at the last final."""
        self._reported = 0.0
        self._limit: str | None = None
        self._finishing = False

    # ---- out --------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether audio may be sent now; never after the duration limit, when the server
        acknowledges but ignores audio."""
        return self._window.open and self._limit is None

    @property
    def sent_seconds(self) -> float:
        """Seconds of audio sent."""
        return self._window.seconds

    def sent(self, size_bytes: int) -> None:
        """Count a frame that is sent next."""
        self._window.sent(size_bytes // self._frame_bytes / self._format.sample_rate)

    def finish(self) -> str:
        """Return the message that ends the audio."""
        self._finishing = True
        return protocol.encode_end_of_stream(self._window.frames)

    def finalize(self) -> str:
        """Return the message that requests finals for all audio sent so far."""
        return protocol.encode_force_end_of_utterance(self._window.seconds)

    def configure(self, changes: Mapping[str, Any]) -> str:
        """Return the message that changes the configuration. Raises: RequestRefused."""
        text, self._config = protocol.encode_changes(self._config, changes)
        return text

    # ---- in ---------------------------------------------------------------------------------

    def receive(self, message: messages.Message) -> list[ProviderEvent]:
        """Return the provider events for a message. Raises: ProviderError if it ends the stream
        abnormally."""
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
                return [Notice("malformed", "unexpected second RecognitionStarted", harmless=True)]
            case Notice():
                return [message]

    def closed(self, closed: Closed) -> ProviderError:
        """The error for the end of the connection before EndOfTranscript."""
        return failures.close_error(closed)

    def _added(self, seq_no: int) -> list[ProviderEvent]:
        if not self._window.added(seq_no):
            return [
                Notice(
                    "malformed", f"AudioAdded for frame {seq_no}, which was not sent", harmless=True
                )
            ]
        acknowledged = self._window.acknowledged
        owed = acknowledged - self._owed_since
        if self._transcripts.pending and self._final_timeout and owed > self._final_timeout:
            raise Stalled(NAME, "mute", f"words not final after {owed:.0f} s of further audio")
        if acknowledged - self._reported < _REPORT_SECONDS:
            return []
        # The only message that is certain to arrive during silence. It shows the session that the
        # server is alive, but not that the audio has been transcribed.
        self._reported = acknowledged
        return [Notice("audio_added", f"{acknowledged:.2f} s")]

    def _transcript(self, message: messages.Transcript) -> list[ProviderEvent]:
        if message.final or not self._transcripts.pending:
            self._owed_since = self._window.acknowledged
        return self._transcripts.transcript(message)

    def _end(self) -> list[ProviderEvent]:
        if self._limit is not None:
            raise Dropped(NAME, self._limit, "duration_limit_exceeded")
        if not self._finishing:
            raise Dropped(NAME, "EndOfTranscript before the end of the audio")
        if (left := self._transcripts.unfinalized) is not None:
            what = f"words up to {left.end:.1f} s never became final"
            raise RemoteProtocolError(NAME, what, readable=left)
        self.over = True
        used = Usage(audio_seconds=round(self._window.acknowledged, 6))
        return [*self._transcripts.end(), used]
