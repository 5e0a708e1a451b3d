"""Segments and turns of Agent STT: the timing and shape of its messages.

Follows the vendor's documentation ("Segmentation", "Turn detection"). Undocumented behavior is
marked "our choice".
"""

from __future__ import annotations

from typing import Any, Final

from ..canned import Recognizer
from ..tones import TimedWord

_PARTIAL_SECONDS: Final = 0.3
_SPEECH_OVER_SECONDS: Final = 0.3
_TURN_OVER_SECONDS: Final = 0.5
"""Silence that ends speech, and a turn in `vad` mode (our choice)."""
_SENTENCE_WORDS: Final = 6
"""Number of words in a sentence (our choice); a turn may end earlier."""
_SPEECH_SECONDS: Final = 0.05
"""Part of a word after which a cut falls inside the word."""


class SegmentEngine:
    """Segments of one stream. Times are seconds of audio since the connection's first frame,
    rounded to hundredths on the wire, as in the vendor's examples."""

    def __init__(
        self,
        config: dict[str, Any],
        turn_detection_mode: str,
        decoder: Recognizer,
        log: list[TimedWord],
    ) -> None:
        self.decoder = decoder
        self.config = config
        """The current `transcription_config`."""
        self.cap_seconds = 120.0
        """Longest segment."""
        self._vad = turn_detection_mode == "vad"
        self._log = log
        self._words: list[TimedWord] = []
        """Words received and not in a final segment yet."""
        self._next_partial = _PARTIAL_SECONDS
        self._speech = False
        self._turns = 0
        self._turn_open = False
        self._last_word_end = 0.0
        self._forced = -1.0
        """Timestamp of the last ForceEndOfUtterance."""

    @property
    def seconds(self) -> float:
        return self.decoder.seconds

    @property
    def mid_word(self) -> bool:
        onset = self.decoder.onset
        return onset is not None and _SPEECH_SECONDS < self.seconds - onset < 0.2

    def process(self, decoded: list[TimedWord]) -> list[dict[str, Any]]:
        """Return the messages after a short piece of audio in which the words `decoded` ended."""
        now, onset = self.seconds, self.decoder.onset
        messages = self._started(onset) + self._take(decoded)
        quiet = now - self._last_word_end
        if self.config.get("emit_sentences", False):
            # A sentence ends once the next word shows it (our choice).
            while len(self._words) > _SENTENCE_WORDS:
                messages.append(self._segment(_SENTENCE_WORDS))
        if self._words and now - self._words[0].start >= self.cap_seconds:
            messages.append(self._segment(len(self._words)))
        if onset is None and self._vad:
            if self._speech and quiet >= _SPEECH_OVER_SECONDS:
                self._speech = False
                messages.append(_timed("SpeechEnded", "end_time", self._last_word_end))
            if self._turn_open and quiet >= _TURN_OVER_SECONDS:
                messages += self._turn_ends(self._last_word_end)
        if self.config.get("enable_partials", False) and now >= self._next_partial:
            self._next_partial = now + _PARTIAL_SECONDS
            if self._words:
                messages.append(self._message("AddPartialSegment", self._words))
        return messages

    def force(self, until: float | None) -> list[dict[str, Any]]:
        """Return the answer to ForceEndOfUtterance: none in `vad` mode, or without a turn (our
        choice). A word in progress is deferred (our choice)."""
        assert until is not None
        if not self._vad and until <= self._forced:
            # A Warning needs no type (specification, Warning).
            return [{"message": "Warning", "reason": "The timestamp does not increase"}]
        if self._vad:
            return []
        self._forced = until
        return self._turn_ends(until) if self._turn_open else []

    def end(self) -> list[dict[str, Any]]:
        """Return the messages for EndOfStream. In `vad` mode the turn ends, too (our choice)."""
        messages = self._take(self.decoder.flush())
        if self._vad and self._speech:
            messages.append(_timed("SpeechEnded", "end_time", self._last_word_end))
        if self._vad and self._turn_open:
            return messages + self._turn_ends(self._last_word_end)
        if self._words:
            messages.append(self._segment(len(self._words)))
        return messages

    def _started(self, onset: float | None) -> list[dict[str, Any]]:
        if onset is None or self._speech or not self._vad:
            return []
        self._speech = True
        return [_timed("SpeechStarted", "start_time", onset)]

    def _take(self, decoded: list[TimedWord]) -> list[dict[str, Any]]:
        """Add words; the first one of a turn starts the turn."""
        messages = []
        for word in decoded:
            self._words.append(word)
            self._log.append(word)
            self._last_word_end = word.end
            if not self._turn_open:
                self._turn_open = True
                self._turns += 1
                messages.append(_timed("StartOfTurn", "start_time", word.start))
        return messages

    def _turn_ends(self, at: float) -> list[dict[str, Any]]:
        """Return the last segment of the turn, and its end."""
        # The client's times are rounded.
        count = sum(word.end <= at + 0.01 for word in self._words)
        messages = [self._segment(count)] if count else []
        self._turn_open = False
        return [*messages, _timed("EndOfTurn", "end_time", at)]

    def _segment(self, count: int) -> dict[str, Any]:
        """Return the final segment of the oldest words."""
        words, self._words = self._words[:count], self._words[count:]
        return self._message("AddSegment", words)

    def _message(self, kind: str, words: list[TimedWord]) -> dict[str, Any]:
        texts = [word.word for word in words]
        for at in range(0, len(texts), _SENTENCE_WORDS):
            texts[at] = texts[at].capitalize()
            if at:
                texts[at - 1] += "."
        if kind == "AddSegment":
            texts[-1] += "."
        segment = {"transcript": " ".join(texts)}
        if self.config.get("diarization", "none") == "speaker":
            segment["speaker"] = f"S{2 - self._turns % 2}"
        start, end = round(words[0].start, 2), round(words[-1].end, 2)
        metadata = {"start_time": start, "end_time": end}
        return {"message": kind, "metadata": metadata, "segment": segment}


def _timed(kind: str, name: str, at: float) -> dict[str, Any]:
    return {"message": kind, "metadata": {name: round(at, 2)}}
