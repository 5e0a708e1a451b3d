"""Results and events of Deepgram's listen v1 for one channel of audio."""

from __future__ import annotations

import math
from typing import Any, Final

from ..canned import Recognizer
from ..tones import TimedWord
from .query import Listen

_INTERIM_SECONDS: Final = 1.0
_LONGEST_SECONDS: Final = 4.3
"""Longest stretch of audio without a final."""
_KEPT_SECONDS: Final = 3.3
"""Longest stretch of it that the final covers; the tail appears again in the next interim."""
_VOICE_ENDS_SECONDS: Final = 0.3
"""Silence after which voice activity ends, independent of endpointing (our choice)."""
_SPEECH_SECONDS: Final = 0.05
"""Part of a word after which a cut falls inside the word."""


class Channel:
    """Results of one channel. Times are seconds of audio since the connection's first byte."""

    def __init__(self, index: int, count: int, query: Listen, decoder: Recognizer) -> None:
        self.index = index
        self.decoder = decoder
        self._count = count
        self._query = query
        self._words: list[TimedWord] = []
        """Words received and not in a final yet."""
        self._frontier = 0.0
        """End of the last final."""
        self._next_interim = _INTERIM_SECONDS
        self._in_speech = False
        """True from the first audio after an endpoint to the next endpoint."""
        self._voice = False
        """Whether voice activity was reported and has not ended."""
        self._sentence_open = False
        self._last_word_end: float | None = None
        """End of the last word; None once UtteranceEnd has been sent for it."""

    @property
    def pending(self) -> bool:
        """Whether there is audio that no final covers."""
        return self.decoder.seconds > self._frontier

    @property
    def mid_word(self) -> bool:
        onset = self.decoder.onset
        return onset is not None and _SPEECH_SECONDS < self.decoder.seconds - onset < 0.2

    def process(self, audio: bytes, log: list[TimedWord]) -> list[dict[str, Any]]:
        """Process a short piece of audio and return the messages for it."""
        messages: list[dict[str, Any]] = []
        decoded = self.decoder.feed(audio)
        self._take(decoded, log)
        onset, now = self.decoder.onset, self.decoder.seconds
        if onset is not None:
            if self._query.vad_events and not self._voice:
                messages.append(self._speech_started(max(onset, self._frontier)))
            self._in_speech = self._voice = True
        else:
            messages += self._silence(now)
        if now - self._frontier >= _LONGEST_SECONDS:
            messages += self._cut(now)
        if self._query.interim_results and now >= self._next_interim:
            self._next_interim = _INTERIM_SECONDS * (math.floor(now / _INTERIM_SECONDS) + 1)
            if now > self._frontier:
                messages.append(self._results(now, self._words, final=False))
        return messages

    def flush(self, log: list[TimedWord], *, from_finalize: bool) -> list[dict[str, Any]]:
        """Finalize all audio received. A word in progress is cut."""
        self._take(self.decoder.cut(), log)
        return [self._final(self.decoder.seconds, from_finalize=from_finalize)]

    def end(self, log: list[TimedWord]) -> list[dict[str, Any]]:
        """Finalize all audio received. No audio may follow."""
        self._take(self.decoder.flush(), log)
        return [self._final(self.decoder.seconds)] if self.pending else []

    def _take(self, decoded: list[TimedWord], log: list[TimedWord]) -> None:
        for word in decoded:
            self._words.append(word)
            log.append(word)
            self._last_word_end = word.end

    def _silence(self, now: float) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        quiet = now - self.decoder.quiet_since
        self._voice = self._voice and quiet < _VOICE_ENDS_SECONDS
        endpointing = self._query.endpointing_ms
        if self._in_speech and endpointing is not None and quiet >= endpointing / 1000:
            self._in_speech = False
            messages.append(self._final(now, speech_final=True))
        gap = self._query.utterance_end_ms
        last = self._last_word_end
        if gap is not None and last is not None and now - last >= gap / 1000:
            if self._words:
                messages.append(self._final(now))
            messages.append(self._utterance_end(last))
            self._last_word_end = None
        return messages

    def _cut(self, now: float) -> list[dict[str, Any]]:
        """Return a final for a long stretch that ends between two words."""
        onset = self.decoder.onset
        limit = self._frontier + _KEPT_SECONDS
        if not self._words:
            end = now if onset is None else max(self._frontier, onset - 0.01)
            return [self._final(end)] if end > self._frontier else []
        starts = [word.start for word in self._words[1:]]
        starts.append(now if onset is None else onset)
        boundaries = [
            min(word.end + 0.04, (word.end + start) / 2)
            for word, start in zip(self._words, starts, strict=True)
        ]
        return [self._final(max([at for at in boundaries if at <= limit] or boundaries[:1]))]

    def _final(
        self, end: float, *, speech_final: bool = False, from_finalize: bool = False
    ) -> dict[str, Any]:
        words = [word for word in self._words if word.end <= end]
        message = self._results(end, words, final=True, speech_final=speech_final)
        message["from_finalize"] = from_finalize
        self._words = self._words[len(words) :]
        self._sentence_open = (self._sentence_open or bool(words)) and not speech_final
        self._frontier = end
        return message

    def _results(
        self, end: float, words: list[TimedWord], *, final: bool, speech_final: bool = False
    ) -> dict[str, Any]:
        items: list[dict[str, Any]] = []
        for position, word in enumerate(words):
            item: dict[str, Any] = {
                "word": word.word,
                "start": round(word.start, 4),
                "end": round(word.end, 4),
                "confidence": 0.99,
            }
            if self._query.punctuated:
                first = position == 0 and not self._sentence_open
                shown = word.word.capitalize() if first else word.word
                stop = speech_final and position == len(words) - 1
                item["punctuated_word"] = shown + "." if stop else shown
            if self._query.diarize:
                item["speaker"] = 0
            items.append(item)
        shown_words = [item.get("punctuated_word", item["word"]) for item in items]
        alternative: dict[str, Any] = {
            "transcript": " ".join(shown_words),
            "confidence": 0.99 if items else 0.0,
            "words": items,
        }
        if self._query.language_hints is not None:
            alternative["languages_hinted"] = list(self._query.language_hints)
        return {
            "type": "Results",
            "channel_index": [self.index, self._count],
            "duration": round(end, 6) - round(self._frontier, 6),
            "start": round(self._frontier, 6),
            "is_final": final,
            "speech_final": speech_final,
            "channel": {"alternatives": [alternative]},
            "from_finalize": False,
        }

    def _speech_started(self, at: float) -> dict[str, Any]:
        return {
            "type": "SpeechStarted",
            "channel": [self.index, self._count],
            "timestamp": round(at, 3),
        }

    def _utterance_end(self, last_word_end: float) -> dict[str, Any]:
        return {
            "type": "UtteranceEnd",
            "channel": [self.index, self._count],
            "last_word_end": round(last_word_end, 4),
        }
