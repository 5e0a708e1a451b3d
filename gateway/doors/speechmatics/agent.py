"""The messages of `/v2/agent` for the events of a session (Speechmatics docs, "Segmentation",
"Turn detection"; specification, Agent STT)."""

from __future__ import annotations

from collections.abc import Iterator

from natterjack.events import Event, FinalEvent, InterimEvent

from ..turns import Turns
from ..words import TimedWord, delimiter, timed_words
from .errors import Fatal
from .protocol import Labels, Message, Start, warning

_ENDS_SENTENCE = (".", "?", "!", "…", "。", "？", "！", "؟", "।")  # noqa: RUF001


class Agent:
    """The messages of one session of `/v2/agent`.

    Each final is a segment at once, or several if speakers change or sentences end in it. In `vad`
    mode turns are those of the backend; in `external` mode the client ends them.
    """

    def __init__(self, config: Start) -> None:
        self.config = config
        self._turns = Turns()
        self._labels = Labels()
        self._timestamp = -1.0
        """Timestamp of the last ForceEndOfUtterance."""
        self._waiting: list[float] = []
        """Timestamps of requests to end the turn that have no answer yet."""
        self._interim = False
        """Whether text was heard that is not final."""
        self._late = 0
        """How many of the requests in `_waiting` are answered with the next final."""
        self.open = False

    def receive(self, event: Event) -> list[Message]:
        """The messages for an event."""
        messages: list[Message] = []
        started = self._turns.starts(event)
        if started is not None and not self.open:
            self.open = True
            if not self.config.external_turns:
                messages.append(_timed("SpeechStarted", "start_time", started))
            messages.append(_timed("StartOfTurn", "start_time", started))
        match event:
            case InterimEvent() if event.text.strip():
                self._interim = True
                if self.config.partials:
                    words = timed_words(event)
                    messages.append(self._segment("AddPartialSegment", event.text, words, event))
            case FinalEvent() if event.text.strip():
                self._interim = False
                messages += self._segments(event)
                while self._late:
                    self._late -= 1
                    messages += self.forced(True)
        ended = self._turns.ends(event)
        if ended is not None and not self.config.external_turns:
            self.open = False
            messages.append(_timed("SpeechEnded", "end_time", ended))
            messages.append(_timed("EndOfTurn", "end_time", ended))
        return messages

    def force(self, timestamp: float | None) -> tuple[bool, list[Message]]:
        """Note a ForceEndOfUtterance, which does nothing in `vad` mode. Raises: Fatal."""
        if timestamp is None:
            raise Fatal("invalid_message", "timestamp: ForceEndOfUtterance needs it")
        if not self.config.external_turns:
            return False, []
        if timestamp <= self._timestamp:
            return False, [warning(None, "ForceEndOfUtterance: the timestamp does not increase")]
        self._timestamp = timestamp
        self._waiting.append(timestamp)
        return True, []

    def forced(self, complete: bool) -> list[Message]:
        """The end of the turn that the client has ended; nothing if no turn is open. If a backend
        cannot make its text final, it comes with the next final."""
        if not self._waiting:
            return []
        if not complete and self._interim:
            self._late += 1
            return []
        at = self._waiting.pop(0)
        if not self.open:
            return []
        self.open = False
        self._turns.end()
        return [_timed("EndOfTurn", "end_time", at)]

    def _segments(self, event: FinalEvent) -> list[Message]:
        words = timed_words(event)
        parts = list(self._parts(words))
        if len(parts) < 2:
            return [self._segment("AddSegment", event.text, words, event)]
        joint = delimiter(event.language or self.config.language)
        return [
            self._segment("AddSegment", joint.join(word.text for word in part), part, None)
            for part in parts
        ]

    def _parts(self, words: list[TimedWord]) -> Iterator[list[TimedWord]]:
        part: list[TimedWord] = []
        for word in words:
            ends = part and (
                (self.config.sentences and part[-1].text.endswith(_ENDS_SENTENCE))
                or (self.config.speakers and part[-1].speaker != word.speaker)
            )
            if ends:
                yield part
                part = []
            part.append(word)
        if part:
            yield part

    def _segment(
        self, kind: str, text: str, words: list[TimedWord], event: InterimEvent | FinalEvent | None
    ) -> Message:
        """A segment; it has the times of `event`, or else of its words."""
        start, end = words[0].start, words[-1].end
        if event is not None:
            start, end = event.start, event.end
        segment = {"transcript": text}
        if self.config.speakers and words[0].speaker is not None:
            segment["speaker"] = self._labels.label(words[0].speaker)
        metadata = {"start_time": round(start, 3), "end_time": round(end, 3)}
        return {"message": kind, "metadata": metadata, "segment": segment}


def _timed(kind: str, name: str, at: float) -> Message:
    return {"message": kind, "metadata": {name: round(at, 3)}}
