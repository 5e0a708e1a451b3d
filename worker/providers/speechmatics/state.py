"""The state of one stream to Speechmatics' realtime API, from StartRecognition to EndOfTranscript.

Pure: no sockets, clocks or environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from natterjack.plugin.provider import Final, ProviderEvent

from . import messages, protocol
from .control import Recognition
from .exchange import Exchange, Limits
from .options import NAME
from .transcript import Transcripts

Content = messages.Transcript | messages.EndOfUtterance | messages.LanguageInfo


class StreamState(Exchange[Content]):
    """Audio sent, transcripts received, and words that must still become final."""

    def __init__(self, recognition: Recognition, limits: Limits) -> None:
        super().__init__(NAME, recognition, limits)
        self._margin = limits.silence_margin_seconds
        self._transcripts = Transcripts(" ", self._margin)

    def decode(self, message: str | bytes) -> messages.Message:
        return protocol.decode(message, self.latest)

    def begin(self, started: messages.RecognitionStarted) -> None:
        self._transcripts = Transcripts(started.delimiter, self._margin)

    def configure(self, changes: Mapping[str, Any]) -> str:
        text, self._config = protocol.encode_changes(self._config, changes)
        return text

    def content(self, message: Content) -> list[ProviderEvent]:
        match message:
            case messages.Transcript():
                self.owe(final=message.final)
                return self._transcripts.transcript(message)
            case messages.EndOfUtterance():
                return self._transcripts.end_of_utterance(message)
            case messages.LanguageInfo():
                self._transcripts.language(message)
                return []

    @property
    def pending(self) -> bool:
        return bool(self._transcripts.pending)

    @property
    def unfinalized(self) -> Final | None:
        return self._transcripts.unfinalized

    def remaining(self) -> list[ProviderEvent]:
        return self._transcripts.end()
