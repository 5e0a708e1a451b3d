"""Deepgram's listen v1 as it is on the wire: no sockets, clocks, environment or broker.

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
"""Names that a stream's `configure` takes."""


# ---- out ------------------------------------------------------------------------------------


def connect_request(url: str, api_key: SecretStr, stream: Listen) -> ConnectRequest:
    """The upgrade request of a stream."""
    return ConnectRequest(
        f"{url}/v1/listen?{urlencode(stream.query)}", vendor.authorization(api_key)
    )


def encode_keepalive() -> str:
    """Resets the server's timer of ten seconds, after which it closes a connection without audio or
    text; there is no answer, and one each 3 to 5 s is advised. "Keep Alive": a text frame, for in a
    binary one it would be decoded as audio."""
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


class Results(NamedTuple):
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


@dataclass(frozen=True, slots=True)
class ConfigureAnswer:
    """What became of a change of settings ("Configure")."""

    refusal: str | None = None
    """None: it is in force."""
    keyterms: list[Any] | None = None
    """Now in force, where the change replaced them."""


Message = Results | SpeechStarted | UtteranceEnd | Summary | ConfigureAnswer | Notice


def decode(message: str | bytes) -> tuple[Message, ...]:
    """What the server said. A well-formed message of a type that is unknown is a Notice.

    Raises: RemoteProtocolError for anything else.
    """
    content = vendor.parse_message(NAME, message)
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
            keyterms = content.get("keyterms")
            answer = ConfigureAnswer(keyterms=keyterms if isinstance(keyterms, list) else None)
            return (answer, Notice("configured"))
        case "ConfigureFailure":
            said = f"{content.get('code')}: {content.get('description')}"[:MAX_QUOTE]
            return (ConfigureAnswer(refusal=said), Notice("configure_failed", said))
        case "Error":
            # "Errors": about a text message of ours; the stream goes on.
            said = f"{content.get('variant')}: {content.get('description')}"[:MAX_QUOTE]
            notice = Notice("provider_error", said)
            # It quotes the message where it could not be read. Nothing else of ours that may be
            # unanswered can be wrong.
            about = content.get("message")
            if isinstance(about, str) and about and '"Configure"' not in about:
                return (notice,)
            return (ConfigureAnswer(refusal=said), notice)
    return (Notice("unknown", f"message of type {kind[:MAX_QUOTE]!r}"),)


def is_lost_final(message: str | bytes, *, interims: bool) -> bool:
    """Whether a message that `decode` raised an error for was to make audio final: the finals
    after it would go over what it said. `interims` off: every result is final."""
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
    is_final, speech_final = _flag(content, "is_final"), _flag(content, "speech_final")
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
        _wrong("Metadata without channels")
    # Billed are the seconds of audio of each channel (Deepgram docs, pricing).
    return Summary(Usage(audio_seconds=_seconds(content, "duration") * channels))


def _flag(content: dict[str, Any], name: str) -> bool:
    """One that is null or not there is not set."""
    value = content.get(name)
    if value is not None and not isinstance(value, bool):
        _wrong(f"{name} is {value!r:.{MAX_QUOTE}}")
    return value is True


def _channel(content: dict[str, Any], name: str) -> int:
    """ "Multichannel": a pair of the channel's index and the number of channels."""
    pair = content.get(name)
    index = pair[0] if isinstance(pair, list) and pair else None
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < MAX_CHANNELS:
        _wrong(f"{name} is {pair!r:.{MAX_QUOTE}}")
    return index


def _number(content: dict[str, Any], name: str) -> float:
    return vendor.number(NAME, content, name)


def _seconds(content: dict[str, Any], name: str) -> float:
    return vendor.seconds(NAME, content, name)


def _wrong(what: str) -> NoReturn:
    vendor.wrong(NAME, what)


# ---- errors ---------------------------------------------------------------------------------


def handshake_error(status: int, headers: Mapping[str, str]) -> ProviderError:
    """What a refused handshake means."""
    return vendor.http_error(NAME, status, headers, "the handshake was refused")


def close_error(closed: Closed, *, finishing: bool) -> ProviderError | None:
    """What the end of a connection means; None: it is as it should be. `finishing`: CloseStream
    is on the wire, so that 1000 says that all was transcribed."""
    return vendor.close_error(NAME, closed, in_order=(1000,) if finishing else ())
