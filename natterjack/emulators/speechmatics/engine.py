"""Transcripts of Speechmatics: the timing and shape of partials and finals.

Follows the vendor's documentation ("Output", "Turn detection", "Formatting"). Undocumented
behavior is marked "our choice".
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from ..canned import Recognizer
from ..tones import TimedWord

_PARTIAL_SECONDS: Final = 0.3
_SILENCE_SECONDS: Final = 3.0
"""Interval of empty finals during silence (our choice; documented is only that finals may be
empty)."""
_PAUSE_SECONDS: Final = 0.3
"""Length of a pause that ends a sentence."""
_COMMA_AFTER: Final = 4
"""Number of words before a comma, if another word follows in the same message."""
_SPEECH_SECONDS: Final = 0.05
"""Part of a word after which a cut falls inside the word."""
_ENTITIES: Final = {"monday": "date", "october": "date", "eleven": "number", "hundred": "number"}


class AnyEngine(Protocol):
    """Turns audio into the messages of one endpoint."""

    config: dict[str, Any]
    decoder: Recognizer

    @property
    def seconds(self) -> float: ...

    @property
    def mid_word(self) -> bool: ...

    def process(self, decoded: list[TimedWord]) -> list[dict[str, Any]]: ...

    def force(self, until: float | None) -> list[dict[str, Any]]: ...

    def end(self) -> list[dict[str, Any]]: ...


class Engine:
    """Transcripts of one channel. Times are seconds of audio since the connection's first frame,
    rounded to hundredths on the wire, as in the vendor's examples."""

    def __init__(
        self,
        config: dict[str, Any],
        decoder: Recognizer,
        delimiter: str,
        log: list[TimedWord],
    ) -> None:
        self.decoder = decoder
        self.config = config
        """The current `transcription_config`."""
        self.quiet_in_silence = False
        self.late_punctuation = False
        self.overreaching_finals = False
        self._delimiter = delimiter
        self._log = log
        self._words: list[TimedWord] = []
        """Words received and not in a final yet."""
        self._frontier = 0.0
        """End of the last final."""
        self._next_partial = _PARTIAL_SECONDS
        self._utterance_open = False
        """True from the first word after an EndOfUtterance."""
        self._utterances = 0
        self._last_word_end: float | None = None
        self._sentence_words = 0
        """Number of final words in the open sentence."""
        self._sentence_at = 0.0
        """End of the last final word of the open sentence."""

    @property
    def seconds(self) -> float:
        return self.decoder.seconds

    @property
    def mid_word(self) -> bool:
        onset = self.decoder.onset
        return onset is not None and _SPEECH_SECONDS < self.seconds - onset < 0.2

    @property
    def _max_delay(self) -> float:
        return float(self.config.get("max_delay", 4.0))

    @property
    def _trigger(self) -> float:
        conversation = self.config.get("conversation_config", {})
        return float(conversation.get("end_of_utterance_silence_trigger", 0.0))

    def process(self, decoded: list[TimedWord]) -> list[dict[str, Any]]:
        """Return the messages after a short piece of audio in which the words `decoded` ended."""
        messages: list[dict[str, Any]] = []
        self._take(decoded)
        now, onset = self.seconds, self.decoder.onset
        quiet = now - (self._last_word_end or 0.0)
        if self._utterance_open and onset is None and 0 < self._trigger <= quiet:
            messages += self._finals(self._words, utterance_over=True)
            messages.append(self._end_of_utterance(now))
        elif self._words and now - self._words[0].end >= self._max_delay:
            # "Latency": a word is final at most `max_delay` after its end. Later words that are old
            # enough are included (our choice).
            ready = [w for w in self._words if now - w.end >= self._max_delay / 2]
            messages += self._finals(ready)
        elif self._silent(now, onset):
            messages.append(self._transcript("AddTranscript", self._frontier, now - 0.05, []))
            self._frontier = now - 0.05
        final = bool(messages)
        if self.config.get("enable_partials", False) and (final or now >= self._next_partial):
            # "Partial transcripts": a partial after each final repeats the remaining words.
            self._next_partial = now + _PARTIAL_SECONDS
            if self._words or not self.quiet_in_silence:
                messages.append(self._partial(now))
        return messages

    def force(self, until: float | None) -> list[dict[str, Any]]:
        """Return the finals up to `until`, for ForceEndOfUtterance.

        Without speech there is no answer, and a word in progress is deferred (both our choice).
        """
        if not self._utterance_open:
            return []
        at = self.seconds if until is None else min(until, self.seconds)
        # The client's times are rounded.
        ready = [word for word in self._words if word.end <= at + 0.01]
        messages = self._finals(ready, utterance_over=True) or [
            self._transcript("AddTranscript", self._frontier, self._frontier, [])
        ]
        messages.append(self._end_of_utterance(at))
        return [{**message, "forced": True} for message in messages]

    def end(self) -> list[dict[str, Any]]:
        """Return the finals of all remaining words, for EndOfStream."""
        self._take(self.decoder.flush())
        return self._finals(self._words, utterance_over=True)

    def _take(self, decoded: list[TimedWord]) -> None:
        for word in decoded:
            self._words.append(word)
            self._log.append(word)
            self._last_word_end = word.end
            if not self._utterance_open:
                self._utterance_open = True
                self._utterances += 1

    def _silent(self, now: float, onset: float | None) -> bool:
        return (
            not self.quiet_in_silence
            and not self._words
            and onset is None
            and now - self._frontier >= _SILENCE_SECONDS
        )

    def _finals(
        self, words: list[TimedWord], *, utterance_over: bool = False
    ) -> list[dict[str, Any]]:
        """Return a final of the oldest words, and a separate one for the mark if switched on."""
        if not words:
            return []
        words = list(words)
        self._words = self._words[len(words) :]
        results = self._results(words, final=True, over=utterance_over)
        mark: list[dict[str, Any]] = []
        if self.late_punctuation and results[-1]["type"] == "punctuation":
            mark = [results.pop()]
        end = words[-1].end
        if self.overreaching_finals:
            end = self.seconds
        messages = [self._transcript("AddTranscript", words[0].start, end, results)]
        if mark:
            messages.append(self._transcript("AddTranscript", end, end, mark))
        self._frontier = end
        return messages

    def _partial(self, now: float) -> dict[str, Any]:
        start = self._words[0].start if self._words else self._frontier
        results = self._results(self._words, final=False, over=False)
        return self._transcript("AddPartialTranscript", start, now, results)

    def _end_of_utterance(self, at: float) -> dict[str, Any]:
        self._utterance_open = False
        when = round(at, 2)
        return {"message": "EndOfUtterance", "metadata": {"start_time": when, "end_time": when}}

    # ---- results ----------------------------------------------------------------------------

    def _results(self, words: list[TimedWord], *, final: bool, over: bool) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = []
        count, before = self._sentence_words, self._sentence_at
        for position, word in enumerate(words):
            if count and word.start - before >= _PAUSE_SECONDS:
                count = 0  # the full stop was not permitted or not sent
            count, before = count + 1, word.end
            results.append(self._word(word, first=count == 1, final=final))
            following = words[position + 1 : position + 2]
            pause = (following[0].start if following else self._resumed) - word.end
            paused = pause >= _PAUSE_SECONDS and (final or following)
            if paused or (over and not following):
                results.append(self._mark(".", word.end, final=final))
                count = 0
            elif following and count == _COMMA_AFTER and pause < _PAUSE_SECONDS:
                results.append(self._mark(",", word.end, final=final))
        if final:
            self._sentence_words, self._sentence_at = count, before
        return [result for result in results if result]

    @property
    def _resumed(self) -> float:
        """Where speech continues after the words of a final, or where the audio ends."""
        onset = self.decoder.onset
        if self._words:
            return self._words[0].start
        return self.seconds if onset is None else onset

    def _word(self, word: TimedWord, *, first: bool, final: bool) -> dict[str, Any]:
        kind = _ENTITIES.get(word.word) if self.config.get("enable_entities", True) else None
        text = word.word.capitalize() if first or kind == "date" else word.word
        result: dict[str, Any] = {
            "type": "word" if kind is None else "entity",
            "start_time": round(word.start, 2),
            "end_time": round(word.end, 2),
            "alternatives": [self._alternative(text, final=final)],
            "volume": 50.0,
        }
        if kind is not None:
            spoken = {**result, "type": "word"}
            del spoken["volume"]
            result["entity_class"] = kind
            result["spoken_form"] = [spoken]
            result["written_form"] = [spoken]
        return result

    def _mark(self, text: str, at: float, *, final: bool) -> dict[str, Any]:
        """Return a punctuation mark, or an empty result if it is not permitted."""
        permitted = self.config.get("punctuation_overrides", {}).get("permitted_marks", ["all"])
        if "all" not in permitted and text not in permitted:
            return {}
        return {
            "type": "punctuation",
            "start_time": round(at, 2),
            "end_time": round(at, 2),
            "attaches_to": "previous",
            "is_eos": text == ".",
            "alternatives": [self._alternative(text, final=final)],
        }

    def _alternative(self, text: str, *, final: bool) -> dict[str, Any]:
        alternative: dict[str, Any] = {
            "content": text,
            # Confidence has no meaning in partials.
            "confidence": 0.99 if final else 0.0,
            "language": self.config["language"],
            "display": {"direction": "ltr"},
        }
        if self.config.get("diarization", "none") == "speaker":
            alternative["speaker"] = f"S{2 - self._utterances % 2}"
        return alternative

    def _transcript(
        self, message: str, start: float, end: float, results: list[dict[str, Any]]
    ) -> dict[str, Any]:
        text = ""
        for result in results:
            content = result["alternatives"][0]["content"]
            if result["type"] == "punctuation":
                text = text.removesuffix(self._delimiter) if self._delimiter else text
            text += content + self._delimiter
        return {
            "message": message,
            "format": "2.9",
            "metadata": {
                "start_time": round(start, 2),
                "end_time": round(max(start, end), 2),
                "transcript": text,
            },
            "results": results,
        }
