"""The state of one stream to Agent STT, from StartRecognition to EndOfTranscript.

Pure apart from numpy: no sockets, clocks or environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from natterjack.plugin.provider import Final, ProviderEvent

from ..speechmatics import messages as common
from ..speechmatics.control import Recognition
from ..speechmatics.exchange import Exchange, Limits
from . import protocol
from .messages import Content, EndOfTurn, Segment, Speech, StartOfTurn
from .options import NAME
from .silences import Silences
from .transcript import Segments

_SILENCE_STEP_SECONDS = 1.0
"""Minimum length of finals for silence."""


class AgentState(Exchange[Content]):
    """Audio sent, segments received, and words that must still become final."""

    def __init__(
        self, recognition: Recognition, limits: Limits, noise_margin_seconds: float
    ) -> None:
        super().__init__(NAME, recognition, limits)
        self._segments = Segments()
        self._silences = Silences(
            recognition.format.sample_rate, limits.silence_margin_seconds, noise_margin_seconds
        )
        turns = recognition.turn_config or {}
        self._external = turns.get("turn_detection_mode") == "external"
        self._forced = 0.0
        """Timestamp of the last ForceEndOfUtterance."""

    def decode(self, message: str | bytes) -> common.Control | Content:
        return protocol.decode(message, self.latest)

    def begin(self, started: common.RecognitionStarted) -> None:
        """Nothing to note: segments are texts, so no separator of words is needed."""

    def sent(self, audio: bytes) -> None:
        super().sent(audio)
        self._silences.sent(audio)

    def configure(self, changes: Mapping[str, Any]) -> str:
        text, self._config = protocol.encode_changes(self._config, changes)
        return text

    def finalize(self) -> str | None:
        if not self._external:  # the server would ignore it
            raise NotImplementedError
        # Speechmatics docs, "Turn detection": the timestamps of ForceEndOfUtterance must increase.
        at = round(self._window.seconds, 3)
        if at <= self._forced:
            return None
        self._forced = at
        return super().finalize()

    def content(self, message: Content) -> list[ProviderEvent]:
        match message:
            case Segment():
                self.owe(final=message.final)
                return self._segments.segment(message)
            case StartOfTurn():
                return self._segments.start_of_turn(message)
            case EndOfTurn():
                return self._segments.end_of_turn(message)
            case Speech():
                self._segments.speech_changed(message)
                return []

    def silence(self, acknowledged: float) -> list[ProviderEvent]:
        segments = self._segments
        if self._speaking:
            return []
        until = self._silences.until(segments.frontier, acknowledged)
        if until < segments.frontier + _SILENCE_STEP_SECONDS:
            return []
        return segments.silence(until)

    @property
    def _speaking(self) -> bool:
        """Whether words may be on their way."""
        segments = self._segments
        if segments.speech or segments.pending is not None:
            return True
        # In a turn that nobody ends, interims show whether there are words.
        shown = self._external and self._config.get("enable_partials", False)
        return segments.turn_open and not shown

    @property
    def pending(self) -> bool:
        return self._segments.pending is not None

    @property
    def unfinalized(self) -> Final | None:
        return self._segments.unfinalized

    def remaining(self) -> list[ProviderEvent]:
        return self._segments.end()
