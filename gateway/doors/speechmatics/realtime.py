"""The messages of `/v2` for the events of a session (Speechmatics docs, "Output")."""

from __future__ import annotations

from typing import Any, NamedTuple

from natterjack.events import Event, FinalEvent, InterimEvent

from ..turns import Turns
from ..words import TimedWord, delimiter, timed_words
from .protocol import Labels, Message, Start

_FORMAT = "2.9"
_ENDS_SENTENCE = frozenset(".?!…。？！؟।")  # noqa: RUF001


class _Parts(NamedTuple):
    """A word without the marks around it."""

    before: str
    word: str
    after: str


class Realtime:
    """The messages of one session of `/v2`."""

    def __init__(self, config: Start) -> None:
        self.config = config
        self._turns = Turns()
        self._labels = Labels()
        self._end = 0.0
        """Where finals end, in seconds."""
        self._spoken = False
        """Whether a final has come since the last EndOfUtterance."""
        self._interim = False
        """Whether text was heard that is not final."""
        self._forced = 0
        """Open requests to end the utterance."""
        self._late = 0
        """How many of these requests are answered with the next final."""

    @property
    def open(self) -> bool:
        """Whether speech is open."""
        return self._turns.open

    def receive(self, event: Event) -> list[Message]:
        """The messages for an event."""
        messages: list[Message] = []
        self._turns.starts(event)
        match event:
            case InterimEvent():
                self._interim = True
                if self.config.partials:
                    messages.append(self._transcript("AddPartialTranscript", event))
            case FinalEvent():
                messages.append(self._transcript("AddTranscript", event))
                self._spoken, self._interim = True, False
                while self._late:
                    self._late -= 1
                    messages += self.forced(True)
        ends = self._turns.ends(event)
        wanted = self.config.utterance_trigger and not self._forced  # else `forced` says it
        if ends is not None and wanted and self._spoken:
            messages.append(self._utterance(max(ends, self._end)))
        return messages

    def force(self, timestamp: float | None) -> tuple[bool, list[Message]]:
        """Note a ForceEndOfUtterance; all audio before it becomes final, whatever its time."""
        self._forced += 1
        return True, []

    def forced(self, complete: bool) -> list[Message]:
        """The EndOfUtterance for ForceEndOfUtterance. A client that waits for it gets it even if
        nothing was spoken. If a backend cannot make its text final, it comes with the next final.
        """
        if not self._forced:
            return []
        if not complete and self._interim:
            self._late += 1
            return []
        messages = []
        if not self._spoken:
            span = {"start_time": _rounded(self._end), "end_time": _rounded(self._end)}
            messages.append(self._marked({
                "message": "AddTranscript",
                "format": _FORMAT,
                "metadata": {**span, "transcript": ""},
                "results": [],
            }))  # fmt: skip
        messages.append(self._utterance(self._end))
        self._forced -= 1
        return messages

    def _utterance(self, at: float) -> Message:
        self._spoken = False
        metadata = {"start_time": _rounded(at), "end_time": _rounded(at)}
        return self._marked({"message": "EndOfUtterance", "metadata": metadata})

    def _marked(self, message: Message) -> Message:
        if self._forced:
            message["forced"] = True
        return message

    def _transcript(self, kind: str, event: InterimEvent | FinalEvent) -> Message:
        language = event.language or self.config.language
        start = max(event.start, self._end)
        end = max(event.end, start)
        words = timed_words(event)
        message = {
            "message": kind,
            "format": _FORMAT,
            "metadata": {
                "start_time": _rounded(start),
                "end_time": _rounded(end),
                # The transcript of a session is the concatenation of these.
                "transcript": f"{event.text}{delimiter(language)}",
            },
            "results": [result for word in words for result in self._results(word, language)],
        }
        if isinstance(event, FinalEvent):
            self._end = end
            return self._marked(message)
        return message

    def _results(self, word: TimedWord, language: str) -> list[dict[str, Any]]:
        before, text, after = _parted(word.text)
        results = [self._mark(mark, word.start, "next", word, language) for mark in before]
        if text:
            results.append({
                "type": "word",
                "start_time": _rounded(word.start),
                "end_time": _rounded(word.end),
                "alternatives": [self._alternative(text, word, language)],
            })  # fmt: skip
        results += [self._mark(mark, word.end, "previous", word, language) for mark in after]
        return results

    def _mark(
        self, mark: str, at: float, attaches: str, word: TimedWord, language: str
    ) -> dict[str, Any]:
        return {
            "type": "punctuation",
            "start_time": _rounded(at),
            "end_time": _rounded(at),
            "attaches_to": attaches,
            "is_eos": attaches == "previous" and mark in _ENDS_SENTENCE,
            "alternatives": [self._alternative(mark, word, language)],
        }

    def _alternative(self, content: str, word: TimedWord, language: str) -> dict[str, Any]:
        alternative: dict[str, Any] = {
            "content": content,
            "confidence": 1.0 if word.confidence is None else word.confidence,
            "language": language,
        }
        if self.config.speakers:
            alternative["speaker"] = self._labels.label(word.speaker)
        return alternative


def _parted(text: str) -> _Parts:
    """Split a word from the punctuation around it. Marks inside it, and signs such as `$` and `%`,
    belong to the word."""
    begin, end = 0, len(text)
    while begin < end and text[begin] in _OPENING:
        begin += 1
    while end > begin and text[end - 1] in _CLOSING:
        end -= 1
    return _Parts(text[:begin], text[begin:end], text[end:])


_OPENING = frozenset("¿¡([{«“‘\"'")  # noqa: RUF001
_CLOSING = frozenset('.,;:?!…)]}»”"。、，；：？！؟،।') | _ENDS_SENTENCE  # noqa: RUF001


def _rounded(seconds: float) -> float:
    return round(seconds, 3)
