"""Wire protocol of Deepgram's listen v2 (Flux), the server's side: no sockets, clocks or broker.

Sections named in comments are pages of the vendor's documentation ("Deepgram docs").
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from natterjack.events import Event, FinalEvent, InterimEvent, StatusEvent, TurnEvent

from ..parsing import parsed
from ..turns import Turns
from ..words import delimiter, timed_words
from .query import MULTILINGUAL, Invalid, Query, Unparsable, configured

_UPDATE_SECONDS = 0.25
""""Flux state machine": about one message for each 0.25 s of audio."""
MAX_TURN_WORDS = 1000
"""A turn of more words ends with its next final. Each message repeats the whole turn, so that its
size must have a limit; the vendor states none."""
_UNSURE = 0.1
"""Confidence in the end of a turn while it goes on."""

Command = Literal["CloseStream", "ForceEndTurn", "Configure", "KeepAlive"]


class ClientMessage(NamedTuple):
    """A text message of a client."""

    kind: Command
    content: Mapping[str, Any]


def decode(text: str) -> ClientMessage:
    """Decode a client's message. Raises: Unparsable.

    KeepAlive is not part of the protocol, but clients that were written for listen v1 send it.
    """
    try:
        content = parsed(text)
    except ValueError:
        raise Unparsable from None
    kind = content.get("type") if isinstance(content, dict) else None
    match kind:
        case "CloseStream" | "ForceEndTurn" | "Configure" | "KeepAlive":
            return ClientMessage(kind, content)
    raise Unparsable


class FluxStream:
    """Turns the events of a session into the messages of one stream.

    Times of events must be on the client's clock: seconds since its first sample.
    """

    def __init__(self, query: Query, request_id: str) -> None:
        self.config = query
        self.request_id = request_id
        self._model = query.model
        self._sequence = 0
        self._turns = Turns()
        self._index = 0
        self._window_start = self._window_end = 0.0
        self._finals: list[tuple[str, list[dict[str, Any]]]] = []
        """Text and words of the finals of the open turn."""
        self._interim: tuple[str, list[dict[str, Any]]] = ("", [])
        self._languages: list[str] = []
        self._delimiter = delimiter(query.language)
        self._eager: str | None = None
        """The text of the last EagerEndOfTurn, while the turn has not resumed."""
        self._likely: TurnEvent | None = None
        """An eager end whose text has not come yet: interims may arrive after events of turns."""
        self._forced = 0
        """Requests to end the turn that have no answer yet."""
        self._late = False
        """Whether they are answered with the next final."""
        self._streaming = False
        self._text_at = 0.0
        """Position in the received audio when the turn last changed, in seconds."""
        self._sent_at = 0.0
        """Position in the received audio at the last message, in seconds."""
        self._received = 0.0

    @property
    def turn_open(self) -> bool:
        return self._turns.open

    # ---- the session's events ---------------------------------------------------------------

    def connected(self) -> str:
        """The first message."""
        return self._encode({"type": "Connected", "request_id": self.request_id})

    def receive(self, event: Event) -> list[str]:
        """The messages for an event of the session."""
        messages: list[str] = []
        started = self._turns.starts(event)
        match event:
            case InterimEvent() | FinalEvent():
                self._take(event)
                self._window_end = max(self._window_end, event.end)
                if started is not None:
                    messages.append(self._turn("StartOfTurn"))
                elif self._turns.open:
                    messages.append(self._changed())
            case TurnEvent(event="eager_end"):
                messages += self._eager_end(event)
            case TurnEvent(event="resumed"):
                self._likely = None
                if self._eager is not None:
                    messages.append(self._resume())
            case StatusEvent():
                self._streaming = event.state == "streaming"
                self._text_at = self._received
        if self._turns.ends(event) is not None:
            confidence = event.confidence if isinstance(event, TurnEvent) else None
            messages += self._end(self._trigger("model"), confidence)
        elif isinstance(event, FinalEvent) and self._late:
            messages += self.forced(True)
        elif isinstance(event, FinalEvent) and self._words > MAX_TURN_WORDS:
            self._turns.end()
            messages += self._end(self._trigger("timeout"), None)
        return messages

    def audio(self, received: float) -> list[str]:
        """The messages that are due once `received` seconds of audio have come.

        The end of the window stays where transcripts end: for audio after it, no transcript has
        come, be it silence or not.
        """
        self._received = received
        timeout = self.config.eot_timeout_ms / 1000
        quiet = received - max(self._text_at, self._window_end)
        if self._turns.open and self._streaming and not self._interim[0] and quiet >= timeout:
            # "Flux configuration", eot_timeout_ms: for backends that end no turn.
            self._turns.end()
            return self._end("timeout", None)
        if received - self._sent_at < _UPDATE_SECONDS:
            return []
        return [self._turn("Update")]

    def end(self, received: float) -> list[str]:
        """The messages once all audio is transcribed: "Close Stream" has Updates last."""
        self._window_end = max(self._window_end, received)
        return [self._turn("Update")]

    # ---- the client's messages --------------------------------------------------------------

    def force(self) -> None:
        """Note that the client forces the end of the turn, which ends with the next final, or once
        `forced` says that all audio is final."""
        self._forced += 1

    def forced(self, complete: bool) -> list[str]:
        """The messages once all audio is final that had come before a request to end the turn. If a
        backend cannot make its text final (not `complete`), the turn ends with the next final."""
        if not self._forced:
            return []  # the turn has ended since
        if not complete and self._interim[0]:
            self._late = True
            return []
        if self._turns.end() is not None:
            return self._end(self._trigger("manual"), None)
        self._forced, self._late = 0, False
        return [self._encode({
            "type": "Warning",
            "request_id": self.request_id,
            "code": "FORCE_END_TURN_NO_ACTIVE_TURN",
            "description": "ForceEndTurn was ignored because no turn is active.",
        })]  # fmt: skip

    def configure(self, content: Mapping[str, Any]) -> list[str]:
        """Change settings. Return the answer. Raises: Unparsable."""
        try:
            config = configured(self.config, content, self._model)
        except Invalid as invalid:
            failure = {"code": invalid.code, "description": invalid.description}
            return [self._encode({"type": "ConfigureFailure", "request_id": self.request_id,
                                  **failure})]  # fmt: skip
        self.config = self.config.model_copy(update=dict(config))
        return [self._encode({"type": "ConfigureSuccess", "request_id": self.request_id,
                              **self.config.as_message()})]  # fmt: skip

    def error(self, code: str, description: str) -> str:
        """The last message of a stream that fails."""
        return self._encode({"type": "Error", "code": code, "description": description})

    # ---- the open turn ----------------------------------------------------------------------

    def _take(self, event: InterimEvent | FinalEvent) -> None:
        words = [
            {
                "word": word.text,
                "confidence": 1.0 if word.confidence is None else word.confidence,
                "start": round(word.start, 3),
                "end": round(word.end, 3),
            }
            for word in timed_words(event)
        ]
        self._interim = (event.text, words)
        if isinstance(event, FinalEvent):
            self._finals.append(self._interim)
            self._interim = ("", [])
        if event.language is not None:
            self._delimiter = delimiter(event.language)
            language = event.language.partition("-")[0]
            if language not in self._languages:
                self._languages.append(language)
        self._text_at = self._received

    @property
    def _words(self) -> int:
        return sum(len(words) for _, words in self._finals)

    @property
    def _transcript(self) -> str:
        texts = [text for text, _ in (*self._finals, self._interim) if text]
        return self._delimiter.join(texts)

    def _changed(self) -> str:
        likely = self._likely
        if likely is not None and _same(likely.text, self._transcript):
            return self._end_eagerly(likely)
        if self._eager is not None and self._transcript != self._eager:
            return self._resume()
        return self._turn("Update")

    def _resume(self) -> str:
        self._eager = self._likely = None
        return self._turn("TurnResumed")

    def _eager_end(self, event: TurnEvent) -> list[str]:
        if self.config.eager_eot_threshold is None or self._eager is not None:
            return []
        if not self._turns.open or not _same(event.text, self._transcript):
            self._likely = event
            return []
        return [self._end_eagerly(event)]

    def _end_eagerly(self, event: TurnEvent) -> str:
        self._eager, self._likely = self._transcript, None
        sure = event.confidence or self.config.eager_eot_threshold or self.config.eot_threshold
        return self._turn("EagerEndOfTurn", confidence=sure)

    def _trigger(self, otherwise: str) -> str:
        """Why the turn ends: `manual` if the client has asked for it."""
        if not self._forced:
            return otherwise
        self._forced, self._late = 0, False
        return "manual"

    def _end(self, trigger: str, confidence: float | None) -> list[str]:
        """End the turn with its finals; an interim without a final is withdrawn."""
        self._interim = ("", [])
        messages = []
        if self._eager is not None and self._transcript != self._eager:
            # "Flux state machine": EndOfTurn repeats the text of EagerEndOfTurn.
            messages.append(self._resume())
        sure = self.config.eot_threshold if confidence is None else confidence
        messages.append(self._turn("EndOfTurn", confidence=sure, trigger=trigger))
        self._index += 1
        self._finals, self._languages = [], []
        self._eager = self._likely = None
        self._window_start = self._window_end
        return messages

    # ---- messages ---------------------------------------------------------------------------

    def _turn(self, event: str, *, confidence: float = _UNSURE, trigger: str | None = None) -> str:
        words = [word for _, words in (*self._finals, self._interim) for word in words]
        message: dict[str, Any] = {
            "type": "TurnInfo",
            "request_id": self.request_id,
            "event": event,
            "turn_index": self._index,
            "audio_window_start": round(self._window_start, 3),
            "audio_window_end": round(self._window_end, 3),
            "transcript": self._transcript,
            "words": words,
            "end_of_turn_confidence": confidence,
        }
        if trigger is not None:
            message["trigger"] = trigger
        if self._model == MULTILINGUAL:
            # Absent or not empty: clients use the first one.
            if words and self._languages:
                message["languages"] = list(self._languages)
            if self.config.language_hints:
                message["languages_hinted"] = list(self.config.language_hints)
        return self._encode(message)

    def _encode(self, message: dict[str, Any]) -> str:
        message["sequence_id"] = self._sequence
        self._sequence += 1
        self._sent_at = self._received
        return json.dumps(message, ensure_ascii=False, separators=(",", ":"))


def _same(text: str | None, transcript: str) -> bool:
    """Whether a text, if it is known, is that of the transcript."""
    return text is None or text.split() == transcript.split()
