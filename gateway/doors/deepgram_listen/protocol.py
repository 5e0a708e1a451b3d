"""Wire protocol of Deepgram's listen v1, the server's side: no sockets, clocks or broker.

Sections named in comments are pages of the vendor's documentation ("Deepgram docs").
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import NAMESPACE_URL, uuid5

from natterjack.events import Event, FinalEvent, InterimEvent, TurnEvent

from ..words import TimedWord, delimiter, timed_words
from .messages import ClientMessage
from .query import Query

NO_DATA = (
    "NET-0001: Deepgram did not receive audio data or a text message within the timeout window. "
    "See https://dpgr.am/net0001"
)
NO_ANSWER = (
    "NET-0000: Deepgram did not provide a response message within the timeout window. "
    "See https://dpgr.am/net0000"
)
UNDECODABLE = "DATA-0000"
"""Clients look for the code in the text ("Errors")."""
_PUNCTUATION = "!\"#&'()*+,-./:;<=>?@[\\]^_`{|}~" + "\u2026\u201c\u201d\u201e\u2018\u2019«»¿¡"
_PUNCTUATION += "\u2013\u2014\u3001\u3002\uff0c\uff01\uff1f"
"""Punctuation that is stripped from a word to get its plain form; % and $ belong to numbers."""
_MAX_QUOTE = 1000


class _Held(NamedTuple):
    """A final that waits shortly for what decides on its flags."""

    words: list[TimedWord]
    event: FinalEvent
    end: float
    turn_ended: bool = False


class _Channel:
    """The progress of one channel."""

    def __init__(self) -> None:
        self.cursor = 0.0
        """End of the last final that was sent: finals follow one another ("Interim Results")."""
        self.held: _Held | None = None
        self.spoken = False
        """Whether there were words since the last `speech_final`."""
        self.open = False
        """Whether there are words that are not final."""
        self.last_word: float | None = None
        """End of the last final word; None once an UtteranceEnd has told it."""
        self.quiet = False
        """Whether the backend says that speech has ended after that word."""
        self.speakers: dict[str, int] = {}


class ListenStream:
    """Turns the events of sessions, one for each channel, into the messages of one stream.

    Times of events must be on the client's clock: seconds since its first sample.
    """

    def __init__(self, query: Query, request_id: str, backend: str, release: str) -> None:
        """`backend` names what transcribes, and `release` this program, for the metadata."""
        self._query = query
        self._request_id = request_id
        self._count = query.streams
        self._channels = [_Channel() for _ in range(self._count)]
        self._metadata: dict[str, Any] = {
            "request_id": request_id,
            "model_info": {"name": query.model, "version": release, "arch": backend},
            "model_uuid": str(uuid5(NAMESPACE_URL, f"natterjack:{backend}:{query.model}")),
        }
        if query.extra:
            self._metadata["extra"] = dict(query.extra)

    @property
    def waits(self) -> bool:
        """Whether a final is held back: call `release` soon if no event follows."""
        return any(channel.held is not None for channel in self._channels)

    @property
    def counts_silence(self) -> bool:
        """Whether `progress` has something to do."""
        return self._query.utterance_end_seconds is not None

    @property
    def quiet(self) -> bool:
        """Whether all words that are known are final, so that the connection can be closed."""
        return not any(channel.open or channel.held for channel in self._channels)

    # ---- the session's events ---------------------------------------------------------------

    def receive(self, index: int, event: Event, *, keep: bool = False) -> list[str]:
        """The messages for an event of a channel's session. With `keep`, a final is held until
        `finalized`, whose flag it may get."""
        channel = self._channels[index]
        messages: list[str] = []
        match event:
            case InterimEvent():
                channel.spoken |= bool(event.text)
                channel.open = bool(event.text)
                if self._query.interim_results:
                    messages += self._send_held(index)
                    messages.append(self._interim(index, event))
                if event.text and channel.last_word is not None:
                    channel.last_word, channel.quiet = None, False
            case FinalEvent():
                messages += self._send_held(index)
                words = timed_words(event)
                channel.held = _Held(words, event, max(event.end, channel.cursor))
                channel.spoken |= bool(event.text)
                channel.open = False
                if words:
                    channel.last_word, channel.quiet = words[-1].end, False
                if not (self._query.endpointing or keep):
                    messages += self._send_held(index)
            case TurnEvent(event="started") if self._query.vad_events:
                at = event.start if event.start is not None else channel.cursor
                messages += self._send_held(index)
                messages.append(
                    _encode({"type": "SpeechStarted", "channel": self._place(index),
                             "timestamp": _seconds(at)})
                )  # fmt: skip
            case TurnEvent(event="ended"):
                channel.quiet = True
                if not self._query.endpointing:
                    pass
                elif channel.held is not None:
                    channel.held = channel.held._replace(turn_ended=True)
                    if not keep:
                        messages += self._send_held(index)
                elif channel.spoken:
                    end = max(channel.cursor, event.end or 0.0)
                    messages.append(self._silence(index, end, speech_final=True))
        return messages

    def release(self) -> list[str]:
        """Send the finals that are held back."""
        return [text for index in range(self._count) for text in self._send_held(index)]

    def progress(self, received: float) -> list[str]:
        """The messages that are due when `received` seconds have come ("Utterance End")."""
        gap = self._query.utterance_end_seconds
        messages: list[str] = []
        for index, channel in enumerate(self._channels):
            if gap is None or channel.last_word is None or received < channel.last_word + gap:
                continue
            if channel.quiet or channel.cursor >= channel.last_word + gap:
                messages += self._send_held(index)
                messages.append(
                    _encode({"type": "UtteranceEnd", "channel": self._place(index),
                             "last_word_end": _seconds(channel.last_word)})
                )  # fmt: skip
                channel.last_word = None
        return messages

    # ---- what the client asks for -----------------------------------------------------------

    def finalized(self, only: int | None, position: float, *, complete: bool) -> list[str]:
        """The answer to a Finalize, for one channel or all. `complete`: everything up to
        `position`, in seconds, is final."""
        messages: list[str] = []
        for index, channel in enumerate(self._channels):
            if only is not None and only != index:
                continue
            end = max(position, channel.cursor) if complete else channel.cursor
            if channel.held is not None:
                if complete:
                    channel.held = channel.held._replace(end=max(end, channel.held.end))
                messages += self._send_held(index, from_finalize=True)
            else:
                messages.append(self._silence(index, end, from_finalize=True))
        return messages

    def ended(self, received: float, *, complete: bool) -> list[str]:
        """The last results, after everything sent was transcribed (`complete`) or given up."""
        messages: list[str] = []
        for index, channel in enumerate(self._channels):
            if channel.held is not None and complete:
                channel.held = channel.held._replace(end=max(channel.held.end, received))
            messages += self._send_held(index, speech_final=self._query.endpointing)
            if complete and received > channel.cursor + 1e-6:
                messages.append(self._silence(index, received))
        return messages

    def metadata(self, received: float, sha256: str, created: datetime) -> str:
        """The summary before the close ("Metadata")."""
        return _encode(
            {
                "type": "Metadata",
                "transaction_key": "deprecated",
                "request_id": self._request_id,
                "sha256": sha256,
                "created": created.astimezone(UTC)
                .isoformat(timespec="milliseconds")
                .replace("+00:00", "Z"),
                "duration": _seconds(received),
                "channels": self._count if received else 0,
                "models": [self._metadata["model_uuid"]],
                "model_info": {self._metadata["model_uuid"]: self._metadata["model_info"]},
            }
        )

    def configured(self, message: ClientMessage, problem: str | None) -> str:
        """The answer to a Configure ("Configure"); `problem` says why it was not carried out."""
        if problem is not None:
            keyterms = "keyterms" in message.content
            code = "CONFIGURE_KEYTERMS_NOT_SUPPORTED" if keyterms else "CONFIGURE_INTERNAL_ERROR"
            return _encode(
                {"type": "ConfigureFailure", "request_id": self._request_id, "code": code,
                 "description": problem[:_MAX_QUOTE]}
            )  # fmt: skip
        answer: dict[str, Any] = {"type": "ConfigureSuccess", "request_id": self._request_id}
        if isinstance(message.content.get("keyterms"), list):
            answer["keyterms"] = message.content["keyterms"]
        return _encode(answer)

    # ---- messages ---------------------------------------------------------------------------

    def _place(self, index: int) -> list[int]:
        return [index, self._count]

    def _send_held(
        self, index: int, *, speech_final: bool = False, from_finalize: bool = False
    ) -> list[str]:
        channel = self._channels[index]
        held, channel.held = channel.held, None
        if held is None:
            return []
        start, end = channel.cursor, max(held.end, channel.cursor)
        channel.cursor = end
        speech_final |= held.turn_ended
        if speech_final:
            channel.spoken = False
        return [
            self._results(
                index, start, end, held.words, held.event,
                is_final=True, speech_final=speech_final, from_finalize=from_finalize,
            )
        ]  # fmt: skip

    def _silence(
        self, index: int, end: float, *, speech_final: bool = False, from_finalize: bool = False
    ) -> str:
        channel = self._channels[index]
        start, channel.cursor = channel.cursor, max(end, channel.cursor)
        if speech_final:
            channel.spoken = False
        return self._results(
            index, start, channel.cursor, [], None,
            is_final=True, speech_final=speech_final, from_finalize=from_finalize,
        )  # fmt: skip

    def _interim(self, index: int, event: InterimEvent) -> str:
        cursor = self._channels[index].cursor
        words = timed_words(event)
        return self._results(
            index, cursor, max(event.end, cursor), words, event,
            is_final=False, speech_final=False, from_finalize=False,
        )  # fmt: skip

    def _results(
        self,
        index: int,
        start: float,
        end: float,
        words: Sequence[TimedWord],
        event: InterimEvent | FinalEvent | None,
        *,
        is_final: bool,
        speech_final: bool,
        from_finalize: bool,
    ) -> str:
        alternative: dict[str, Any] = {"transcript": "", "confidence": 0.0, "words": []}
        if event is not None:
            alternative = self._alternative(index, words, event)
        return _encode(
            {
                "type": "Results",
                "channel_index": self._place(index),
                "duration": _seconds(end - start),
                "start": _seconds(start),
                "is_final": is_final,
                "speech_final": speech_final,
                "channel": {"alternatives": [alternative]},
                "metadata": self._metadata,
                "from_finalize": from_finalize,
            }
        )

    def _alternative(
        self, index: int, words: Sequence[TimedWord], event: InterimEvent | FinalEvent
    ) -> dict[str, Any]:
        shown = [found for word in words if (found := self._word(index, word)) is not None]
        text = event.text.strip()
        if not self._query.punctuated:
            between = delimiter(event.language or self._query.language)
            text = between.join(word["word"] for word in shown)
        alternative: dict[str, Any] = {
            "transcript": text,
            "confidence": _confidence(event, words) if text else 0.0,
            "words": shown,
        }
        if self._query.language == "multi" and event.language:
            alternative["languages"] = [event.language]
        return alternative

    def _word(self, index: int, word: TimedWord) -> dict[str, Any] | None:
        """A word as clients get it; None if it has no letters."""
        plain = word.text.strip().strip(_PUNCTUATION).lower()
        if not plain:
            return None
        found: dict[str, Any] = {
            "word": plain,
            "start": _seconds(word.start),
            "end": _seconds(word.end),
            "confidence": 1.0 if word.confidence is None else word.confidence,
        }
        if self._query.punctuated:
            found["punctuated_word"] = word.text
        if self._query.diarize and word.speaker is not None:
            speakers = self._channels[index].speakers
            found["speaker"] = speakers.setdefault(word.speaker, len(speakers))
        return found


def schema_error(text: str, problem: str) -> str:
    """The answer to a text message of an unknown form ("Errors"). The stream goes on."""
    return _encode(
        {
            "type": "Error",
            "variant": "SchemaError",
            "description": f"Could not deserialize last text message: {problem}",
            "message": text[:_MAX_QUOTE],
        }
    )


def failure(description: str) -> str:
    """The message before a close for a reason that the protocol has no code for."""
    return _encode({"type": "Error", "variant": "SessionEnded", "description": description})


def _confidence(event: InterimEvent | FinalEvent, words: Sequence[TimedWord]) -> float:
    """The confidence of a text; 1 if the backend gives none, since clients may drop what is low."""
    if event.confidence is not None:
        return event.confidence
    known = [word.confidence for word in words if word.confidence is not None]
    return round(sum(known) / len(known), 6) if known else 1.0


def _seconds(value: float) -> float:
    return round(float(value), 6)


def _encode(message: dict[str, Any]) -> str:
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))
