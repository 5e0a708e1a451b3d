"""Turn detection of Deepgram's listen v2 (Flux).

Follows the vendor's page "Flux state machine": about one message per 0.25 s of transcribed audio,
an Update unless the state changes. Undocumented behavior is our choice.
"""

from __future__ import annotations

import enum
import math
from typing import Any, Final

from ..canned import Recognizer
from ..tones import TimedWord
from .flux_query import Config

_STEP_SECONDS: Final = 0.25
_SENTENCE_ENDS_SECONDS: Final = 0.25
"""Silence after which the last word gets a full stop, until the turn continues."""
_TOLERANCE_SECONDS: Final = 1e-9


class State(enum.Enum):
    READY = "ready"  # no turn is open
    SPEAKING = "speaking"
    PENDING = "pending"  # EagerEndOfTurn was sent


def confidence(quiet_seconds: float) -> float:
    """Return the confidence in the turn's end: 0.7 after half a second of silence, never 1."""
    return round(min(0.1 + 1.2 * quiet_seconds, 0.99), 4)


class Turns:
    """The turns of one stream. Times are seconds of audio since its first byte."""

    def __init__(self, decoder: Recognizer) -> None:
        self.decoder = decoder
        self.state = State.READY
        self.index = 0
        self.window_end = 0.0
        """Position up to which audio has been transcribed."""
        self._window_start = 0.0
        self._steps = 0
        self._ahead: list[TimedWord] = []
        """Words received and not transcribed yet."""
        self._words: list[TimedWord] = []
        """Words of this turn."""
        self._last_word_end = 0.0
        self._full_stop = False

    @property
    def mid_word(self) -> bool:
        onset = self.decoder.onset
        return onset is not None and 0.05 < self.decoder.seconds - onset < 0.2

    @property
    def words(self) -> int:
        """Number of words in the open turn."""
        return len(self._words) if self.state is not State.READY else 0

    def process(self, audio: bytes, lag: float, config: Config, log: list[TimedWord]) -> list[Any]:
        """Process a short piece of audio and return the messages for it.

        The last `lag` seconds of audio are not decoded yet.
        """
        self._take(self.decoder.feed(audio), log)
        messages = []
        limit = self.decoder.seconds - lag + _TOLERANCE_SECONDS
        while (at := (self._steps + 1) * _STEP_SECONDS) <= limit:
            self._steps += 1
            messages.append(self._step(at, config))
        return messages

    def force_end(self, lag: float) -> dict[str, Any] | None:
        """End the turn with the text decoded so far. Return None if no turn is open."""
        self._transcribe(max(self.window_end, self.decoder.seconds - lag))
        if self.state is State.READY:
            return None
        if self.state is State.SPEAKING:
            self._full_stop = True
        return self._end("manual")

    def close(self, log: list[TimedWord]) -> list[dict[str, Any]]:
        """Decode the remaining audio. Only Updates follow; the open turn does not end."""
        self._take(self.decoder.flush(), log)
        messages = []
        while self.window_end < self.decoder.seconds - _TOLERANCE_SECONDS:
            self._steps += 1
            at = min(self._steps * _STEP_SECONDS, self.decoder.seconds)
            if at > self.window_end:
                self._transcribe(at, last=at >= self.decoder.seconds)
                messages.append(self._message("Update"))
        return messages

    def end_open(self) -> dict[str, Any] | None:
        """End the open turn, as older servers did after CloseStream."""
        return self._end("model") if self._words else None

    def _take(self, decoded: list[TimedWord], log: list[TimedWord]) -> None:
        self._ahead += decoded
        log += decoded

    def _transcribe(self, at: float, *, last: bool = False) -> None:
        """Transcribe up to `at`. With `last`, include a word whose rounded end is later."""
        self.window_end = at
        while self._ahead and (last or self._ahead[0].end <= at + _TOLERANCE_SECONDS):
            self._words.append(self._ahead.pop(0))
            self._last_word_end = self._words[-1].end

    @property
    def _quiet(self) -> float:
        """Seconds of silence before the end of the window."""
        onset = self.decoder.onset
        speaking = (self._ahead and self._ahead[0].start < self.window_end) or (
            onset is not None and onset < self.window_end
        )
        return 0.0 if speaking else max(0.0, self.window_end - self._last_word_end)

    def _step(self, at: float, config: Config) -> dict[str, Any]:
        known = len(self._words)
        self._transcribe(at)
        grown = len(self._words) > known
        quiet = self._quiet
        sure = confidence(quiet)
        if self.state is not State.PENDING or grown or not quiet:
            self._full_stop = quiet >= _SENTENCE_ENDS_SECONDS
        match self.state:
            case State.READY:
                if not self._words:
                    return self._message("Update")
                self.state = State.SPEAKING
                return self._message("StartOfTurn")
            case State.SPEAKING:
                if quiet * 1000 >= config.eot_timeout_ms:
                    return self._end("timeout")
                eager = config.eager_eot_threshold
                if eager is not None:
                    if sure < eager:
                        return self._message("Update")
                    self.state = State.PENDING
                    return self._message("EagerEndOfTurn")
                if sure >= config.eot_threshold:
                    return self._end("model")
            case State.PENDING:
                # EndOfTurn repeats the eager text; otherwise TurnResumed comes first.
                if grown or not quiet:
                    self.state = State.SPEAKING
                    return self._message("TurnResumed")
                if sure >= config.eot_threshold:
                    return self._end("model")
                if quiet * 1000 >= config.eot_timeout_ms:
                    return self._end("timeout")
        return self._message("Update")

    def resume(self) -> dict[str, Any]:
        """Resume the turn without speech."""
        self.state = State.SPEAKING
        return self._message("TurnResumed")

    def _end(self, trigger: str) -> dict[str, Any]:
        message = {**self._message("EndOfTurn"), "trigger": trigger}
        self.state = State.READY
        self.index += 1
        self._words = []
        self._full_stop = False
        self._window_start = self.window_end
        self._steps = math.floor(self.window_end / _STEP_SECONDS + _TOLERANCE_SECONDS)
        return message

    def _message(self, event: str) -> dict[str, Any]:
        words: list[dict[str, Any]] = []
        for position, word in enumerate(self._words):
            shown = word.word.capitalize() if position == 0 else word.word
            last = position == len(self._words) - 1
            words.append(
                {
                    "word": shown + "." if last and self._full_stop else shown,
                    "confidence": 0.99,
                    "start": round(word.start, 2),
                    "end": round(word.end, 2),
                }
            )
        return {
            "type": "TurnInfo",
            "event": event,
            "turn_index": self.index,
            "audio_window_start": round(self._window_start, 2),
            "audio_window_end": round(self.window_end, 6),
            "transcript": " ".join(word["word"] for word in words),
            "words": words,
            "end_of_turn_confidence": confidence(self._quiet) if words else 0.1,
        }
