"""Wire protocol of Deepgram's listen v1: no sockets, clocks, environment or broker.

Sections named in comments are pages of the vendor's documentation ("Deepgram docs").
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, NoReturn
from urllib.parse import urlencode

from pydantic import SecretStr

from natterjack.plugin.errors import ProviderError, RemoteProtocolError
from natterjack.plugin.provider import Notice, ProviderWord, Usage
from natterjack.plugin.websocket import Closed, ConnectRequest

from . import vendor
from .options import MAX_CHANNELS, NAME, Listen, refused
from .vendor import MAX_QUOTE

CONFIGURABLE: Final = frozenset({"keyterms", "numerals"})
"""Names of the settings that `configure` changes."""


# ---- out ------------------------------------------------------------------------------------


def connect_request(url: str, api_key: SecretStr, stream: Listen) -> ConnectRequest:
    """The upgrade request of a stream."""
    return ConnectRequest(
        f"{url}/v1/listen?{urlencode(stream.query)}", vendor.authorization(api_key)
    )


def encode_keepalive() -> str:
    """A keepalive ("Keep Alive").

    The server closes a connection after ten seconds without audio or text; the documentation
    recommends a keepalive every 3 to 5 s. It must be a text frame: a binary one would be decoded
    as audio. The server does not respond to it.
    """
    return '{"type": "KeepAlive"}'


def encode_finalize() -> str:
    """A request for finals of all audio sent so far ("Finalize"); a response is not guaranteed."""
    return '{"type": "Finalize"}'


def encode_close_stream() -> str:
    """The end of the audio ("Close Stream"); finals, Metadata and close code 1000 follow.

    An empty binary frame means the same, so never send one as audio.
    """
    return '{"type": "CloseStream"}'


def encode_configure(changes: Mapping[str, Any]) -> str:
    """A change of keyterms (the list replaces the previous one) and features ("Configure").

    Raises: RequestRefused for a name that is not in CONFIGURABLE or a value of the wrong type.
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


class Results(NamedTuple):
    """Transcript of one channel's audio from `start` to `end` ("Interim Results")."""

    channel: int
    start: float
    end: float
    is_final: bool
    speech_final: bool
    """Whether silence has ended the utterance ("Endpointing")."""
    text: str
    words: tuple[ProviderWord, ...]
    confidence: float | None
    language: str | None


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Start of voice activity ("Speech Started"); words may not follow."""

    channel: int
    at: float


@dataclass(frozen=True, slots=True)
class UtteranceEnd:
    """A gap after a word ("Utterance End"). `last_word_end` is None if the word was already
    final."""

    channel: int
    last_word_end: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """The last message of a stream that ends normally ("Close Stream": Metadata)."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class ConfigureAnswer:
    """Response to a change of settings ("Configure")."""

    refusal: str | None = None
    """Reason of a failure; None if the change is in effect."""
    keyterms: list[Any] | None = None
    """Keyterms now in effect, if the change replaced them."""


Message = Results | SpeechStarted | UtteranceEnd | Summary | ConfigureAnswer | Notice


def decode(message: str | bytes) -> tuple[Message, ...]:
    """Decode a message. A well-formed message of an unknown type becomes a Notice.

    Raises: RemoteProtocolError if the message is malformed.
    """
    content = vendor.parse_message(NAME, message)
    kind: str = content["type"]
    match kind:
        case "Results":
            return (_results(content),)
        case "SpeechStarted":
            return (SpeechStarted(_channel(content, "channel"), _seconds(content, "timestamp")),)
        case "UtteranceEnd":
            # "Utterance End": -1 if the word was already final; to be ignored.
            end = _number(content, "last_word_end")
            return (UtteranceEnd(_channel(content, "channel"), end if end >= 0 else None),)
        case "Metadata":
            return (_summary(content),)
        case "ConfigureSuccess":
            keyterms = content.get("keyterms")
            answer = ConfigureAnswer(keyterms=keyterms if isinstance(keyterms, list) else None)
            return (answer, Notice("configured"))
        case "ConfigureFailure":
            reason = f"{content.get('code')}: {content.get('description')}"[:MAX_QUOTE]
            return (ConfigureAnswer(refusal=reason), Notice("configure_failed", reason))
        case "Error":
            # "Errors": about a text message from the client; the stream continues.
            reason = f"{content.get('variant')}: {content.get('description')}"[:MAX_QUOTE]
            notice = Notice("provider_error", reason)
            # It quotes a message that the server could not parse. Of the messages that this
            # client sends, only Configure can be wrong.
            quoted = content.get("message")
            if isinstance(quoted, str) and quoted and '"Configure"' not in quoted:
                return (notice,)
            return (ConfigureAnswer(refusal=reason), notice)
    return (Notice("unknown", f"message of type {kind[:MAX_QUOTE]!r}"),)


def is_lost_final(message: str | bytes, *, interims: bool) -> bool:
    """Whether a message that `decode` rejected was a final.

    Later finals would cover its audio without its words. Without `interims`, every result is
    final.
    """
    try:
        content = vendor.parse_message(NAME, message)
    except RemoteProtocolError:
        return False
    if content["type"] != "Results":
        return False
    return not interims or any(
        content.get(name) not in (None, False) for name in ("is_final", "speech_final")
    )


def _results(content: dict[str, Any]) -> Results:
    is_final, speech_final = _boolean(content, "is_final"), _boolean(content, "speech_final")
    start, duration = _seconds(content, "start"), _seconds(content, "duration")
    best = vendor.best_alternative(NAME, content.get("channel"))
    text: str = best["transcript"]
    languages = best.get("languages")
    language = languages[0] if isinstance(languages, list) and languages else None
    return Results(
        channel=_channel(content, "channel_index"),
        start=start,
        end=start + duration,
        is_final=is_final,
        speech_final=speech_final,
        text=text,
        words=tuple([vendor.parse_word(NAME, word) for word in best.get("words", ())]),
        confidence=vendor.confidence(NAME, best) if text else None,
        language=language if isinstance(language, str) else None,
    )


def _summary(content: dict[str, Any]) -> Summary:
    channels = content.get("channels")
    if not isinstance(channels, int) or isinstance(channels, bool) or channels < 0:
        _protocol_error("Metadata without channels")
    # Each channel's audio is billed (Deepgram docs, pricing).
    return Summary(Usage(audio_seconds=_seconds(content, "duration") * channels))


def _boolean(content: dict[str, Any], name: str) -> bool:
    """A boolean; False if it is null or missing."""
    value = content.get(name)
    if value is not None and not isinstance(value, bool):
        _protocol_error(f"{name} is {value!r:.{MAX_QUOTE}}")
    return value is True


def _channel(content: dict[str, Any], name: str) -> int:
    """The index in a pair of channel index and number of channels ("Multichannel")."""
    pair = content.get(name)
    index = pair[0] if isinstance(pair, list) and pair else None
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < MAX_CHANNELS:
        _protocol_error(f"{name} is {pair!r:.{MAX_QUOTE}}")
    return index


def _number(content: dict[str, Any], name: str) -> float:
    return vendor.number(NAME, content, name)


def _seconds(content: dict[str, Any], name: str) -> float:
    return vendor.seconds(NAME, content, name)


def _protocol_error(what: str) -> NoReturn:
    vendor.protocol_error(NAME, what)


# ---- errors ---------------------------------------------------------------------------------


def handshake_error(status: int, headers: Mapping[str, str]) -> ProviderError:
    """The error for a failed handshake."""
    return vendor.http_error(NAME, status, headers, "handshake refused")


def close_error(closed: Closed, *, finishing: bool) -> ProviderError | None:
    """The error for the end of a connection; None if the end is normal.

    `finishing` means that CloseStream was sent, so that code 1000 confirms that all audio was
    transcribed.
    """
    return vendor.close_error(NAME, closed, normal=(1000,) if finishing else ())
