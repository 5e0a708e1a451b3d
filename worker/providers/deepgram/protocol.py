"""Deepgram's listen v1 as it is on the wire: no sockets, clocks, environment or broker.

Sections named in comments are pages of the vendor's documentation ("Deepgram docs").
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from urllib.parse import urlencode

from pydantic import SecretStr

from ...errors import Dropped, ProviderError, RemoteProtocolError, RequestRefused, Unavailable
from ...provider import Notice, ProviderWord, Usage
from ..websocket import Closed, ConnectRequest
from .options import MAX_CHANNELS, NAME, Listen, refused

CONFIGURABLE: Final = frozenset({"keyterms", "numerals"})
"""Names that a stream's `configure` takes."""

_MAX_QUOTE: Final = 200
"""Characters of the provider's own words that go into an error or a notice."""


# ---- out ------------------------------------------------------------------------------------


def connect_request(url: str, api_key: SecretStr, stream: Listen) -> ConnectRequest:
    """The upgrade request of a stream."""
    # "Authentication": `Token` goes with an API key; `Bearer` is for short-lived tokens only.
    headers = {"Authorization": f"Token {api_key.get_secret_value()}"}
    return ConnectRequest(f"{url}/v1/listen?{urlencode(stream.query)}", headers)


def encode_keepalive() -> str:
    """Resets the server's timer of ten seconds; there is no answer. "Keep Alive": a text frame,
    for in a binary one it would be decoded as audio."""
    return '{"type": "KeepAlive"}'


def encode_finalize() -> str:
    """Asks for finals of all that was sent ("Finalize"); an answer is not guaranteed."""
    return '{"type": "Finalize"}'


def encode_close_stream() -> str:
    """Says that no audio follows ("Close Stream"): finals, Metadata and close 1000 come then.
    An empty binary frame would mean the same, which is why none must ever be sent."""
    return '{"type": "CloseStream"}'


def encode_configure(changes: Mapping[str, Any]) -> str:
    """New keyterms (they replace all before) and features ("Configure").

    Raises: RequestRefused for a name that is not in CONFIGURABLE, or a value of a wrong type.
    """
    message: dict[str, Any] = {"type": "Configure"}
    for name, value in changes.items():
        if name == "keyterms":
            if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
                raise refused("configure 'keyterms': not a list of strings")
            message["keyterms"] = list(value)
        elif name == "numerals":
            if not isinstance(value, bool):
                raise refused("configure 'numerals': not a boolean")
            message["features"] = {"numerals": value}
        else:
            raise refused(f"configure: unknown name {name!r}")
    return json.dumps(message)


# ---- in -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Results:
    """What the audio from `start` to `end` of a channel says ("Interim Results")."""

    channel: int
    start: float
    end: float
    is_final: bool
    speech_final: bool
    """"Endpointing": silence has followed the speech."""
    text: str
    words: tuple[ProviderWord, ...]
    confidence: float | None
    language: str | None


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Voice activity ("Speech Started"); words need not follow."""

    channel: int
    at: float


@dataclass(frozen=True, slots=True)
class UtteranceEnd:
    """A gap after a word ("Utterance End"). `last_word_end` None: it was final before."""

    channel: int
    last_word_end: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """The last message of a stream that was closed in order ("Close Stream": Metadata)."""

    usage: Usage


Message = Results | SpeechStarted | UtteranceEnd | Summary | Notice


def decode(message: str | bytes) -> tuple[Message, ...]:
    """What the server said. A well-formed message of a type that is unknown is a Notice.

    Raises: RemoteProtocolError for anything else.
    """
    if isinstance(message, bytes):
        _wrong("a binary frame")
    try:
        content = json.loads(message, parse_constant=_wrong)
    except (ValueError, RecursionError):
        _wrong(f"not JSON: {message[:_MAX_QUOTE]!r}")
    if not isinstance(content, dict) or not isinstance(content.get("type"), str):
        _wrong(f"no object with a type: {message[:_MAX_QUOTE]!r}")
    kind: str = content["type"]
    match kind:
        case "Results":
            return (_results(content),)
        case "SpeechStarted":
            return (SpeechStarted(_channel(content, "channel"), _seconds(content, "timestamp")),)
        case "UtteranceEnd":
            # "Utterance End": -1 when the result was final already; to be ignored.
            end = _number(content, "last_word_end")
            return (UtteranceEnd(_channel(content, "channel"), end if end >= 0 else None),)
        case "Metadata":
            return (_summary(content),)
        case "ConfigureSuccess":
            return (Notice("configured"),)
        case "ConfigureFailure":
            said = f"{content.get('code')}: {content.get('description')}"
            return (Notice("configure_failed", said[:_MAX_QUOTE]),)
        case "Error":
            # "Errors": about a text message of ours; the stream goes on.
            said = f"{content.get('variant')}: {content.get('description')}"
            return (Notice("provider_error", said[:_MAX_QUOTE]),)
    return (Notice("unknown", f"message of type {kind[:_MAX_QUOTE]!r}"),)


def _results(content: dict[str, Any]) -> Results:
    start, duration = _seconds(content, "start"), _seconds(content, "duration")
    channel = content.get("channel")
    alternatives = channel.get("alternatives") if isinstance(channel, dict) else None
    if not isinstance(alternatives, list):
        _wrong("Results without alternatives")
    # In odd cases there is none: then nothing was said.
    best = alternatives[0] if alternatives else {"transcript": "", "words": []}
    if not isinstance(best, dict) or not isinstance(best.get("transcript"), str):
        _wrong("Results without a transcript")
    words = best.get("words", [])
    if not isinstance(words, list):
        _wrong("Results whose words are no list")
    text: str = best["transcript"]
    languages = best.get("languages")
    language = languages[0] if isinstance(languages, list) and languages else None
    return Results(
        channel=_channel(content, "channel_index"),
        start=start,
        end=start + duration,
        is_final=content.get("is_final") is True,
        speech_final=content.get("speech_final") is True,
        text=text,
        words=tuple(_word(word) for word in words),
        confidence=_confidence(best) if text else None,
        language=language if isinstance(language, str) else None,
    )


def _word(word: Any) -> ProviderWord:
    if not isinstance(word, dict) or not isinstance(word.get("word"), str):
        _wrong("a word without text")
    # "Punctuation": the word as it is to be shown; `word` is bare and in lower case.
    shown = word.get("punctuated_word")
    speaker = word.get("speaker")
    return ProviderWord(
        text=shown if isinstance(shown, str) else word["word"],
        start=_seconds(word, "start"),
        end=_seconds(word, "end"),
        confidence=_confidence(word),
        speaker=None if speaker is None else str(speaker),
    )


def _summary(content: dict[str, Any]) -> Summary:
    channels = content.get("channels")
    if not isinstance(channels, int) or isinstance(channels, bool) or channels < 0:
        _wrong("Metadata without channels")
    # Billed are the seconds of audio of each channel (Deepgram docs, pricing).
    return Summary(Usage(audio_seconds=_seconds(content, "duration") * channels))


def _channel(content: dict[str, Any], name: str) -> int:
    """ "Multichannel": a pair of the channel's index and the number of channels."""
    pair = content.get(name)
    index = pair[0] if isinstance(pair, list) and pair else None
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < MAX_CHANNELS:
        _wrong(f"{name} is {pair!r:.{_MAX_QUOTE}}")
    return index


def _number(content: dict[str, Any], name: str) -> float:
    value = content.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        _wrong(f"{name} is {value!r:.{_MAX_QUOTE}}")
    return float(value)


def _seconds(content: dict[str, Any], name: str) -> float:
    value = _number(content, name)
    if value < 0:
        _wrong(f"{name} is {value}")
    return value


def _confidence(content: dict[str, Any]) -> float | None:
    return None if content.get("confidence") is None else _number(content, "confidence")


def _wrong(what: str) -> NoReturn:
    raise RemoteProtocolError(NAME, what)


# ---- errors ---------------------------------------------------------------------------------


def handshake_error(status: int, headers: Mapping[str, str]) -> ProviderError:
    """What a refused handshake means. "Errors": `dg-error` has the text, `dg-request-id` the name
    under which support finds it."""
    code = str(status)
    said = headers.get("dg-error", "")[:_MAX_QUOTE] or "the handshake was refused"
    if request_id := headers.get("dg-request-id"):
        said += f", request {request_id}"
    if status in (401, 403):
        return RequestRefused(NAME, "auth", said, code)
    if status == 402:
        return RequestRefused(NAME, "credit", said, code)
    if status == 429:
        return Unavailable(NAME, "rate_limit", said, code)
    if status in (408, 499) or status >= 500:
        return Unavailable(NAME, "server_error", said, code)
    return RequestRefused(NAME, "request", said, code)


def close_error(closed: Closed, *, finishing: bool) -> ProviderError | None:
    """What the end of a connection means; None: it is as it should be. `finishing`: after
    CloseStream, so that 1000 says that all was transcribed."""
    code, reason = closed.code, closed.reason[:_MAX_QUOTE]
    if code == 1000 and finishing:
        return None
    shown = None if code is None else str(code)
    # "Errors", close codes: the audio cannot be decoded (1008; 1002 in older texts), or the
    # protocol was misused: the same request will fare the same.
    if code in (1002, 1003, 1007, 1008, 1009) or "DATA-0000" in reason:
        return RequestRefused(NAME, "request", reason or "the stream was refused", shown)
    return Dropped(NAME, reason or "the connection ended before the stream was done", shown)


# ---- state ----------------------------------------------------------------------------------


class Keepalive:
    """When the next keepalive is due. "Keep Alive": after ten seconds without audio or a text
    message the server closes; one each 3 to 5 s is advised. Times are of any one clock, in
    seconds."""

    def __init__(self, interval_seconds: float, now: float) -> None:
        self._interval = interval_seconds
        self._sent = now

    def sent(self, now: float) -> None:
        """Audio or a message went out."""
        self._sent = now

    @property
    def deadline(self) -> float:
        """When to send a keepalive if nothing else is sent before."""
        return self._sent + self._interval
