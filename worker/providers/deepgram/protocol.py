"""Wire protocol of Deepgram's listen v1: no sockets, clocks, environment or broker.

Sections named in comments are pages of the vendor's documentation ("Deepgram docs").
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from pydantic import SecretStr

from natterjack.plugin.errors import ProviderError, RemoteProtocolError
from natterjack.plugin.provider import Notice, ProviderWord, Usage
from natterjack.plugin.websocket import Closed, ConnectRequest

from .. import wire
from ..wire import MAX_QUOTE
from . import vendor
from .options import MAX_CHANNELS, NAME, Listen, refused

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

    channel: int | None
    """None, as `start` and `end`, if it cannot be read."""
    start: float | None
    end: float | None
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


def decode(
    message: str | bytes, *, interims: bool = True, latest: float = math.inf
) -> tuple[Message, ...]:
    """Decode a message. A well-formed message of an unknown type becomes a Notice.

    Without `interims`, every result is final. Times after `latest`, the end of the audio sent, are
    not used.

    Raises: RemoteProtocolError if the message may be a final whose text cannot be read: later
    finals would cover its audio without its words. wire.Harmless for other malformed messages.
    """
    content = wire.parse(NAME, message)
    # A result is known by its shape too, so that its text is kept if its type is wrong.
    kind = "Results" if _has_alternatives(content) else wire.kind(NAME, content, "type")
    match kind:
        case "Results":
            return (_results(content, interims, latest),)
        case "SpeechStarted":
            at = wire.required(
                wire.seconds(content.get("timestamp"), latest), NAME, content, "timestamp"
            )
            channel = wire.required(_channel(content, "channel"), NAME, content, "channel")
            return (SpeechStarted(channel, at),)
        case "UtteranceEnd":
            # "Utterance End": -1 if the word was already final; to be ignored.
            end = wire.required(
                wire.number(content.get("last_word_end")), NAME, content, "last_word_end"
            )
            channel = wire.required(_channel(content, "channel"), NAME, content, "channel")
            return (UtteranceEnd(channel, end if 0 <= end <= latest else None),)
        case "Metadata":
            return (_summary(content),)
        case "ConfigureSuccess":
            keyterms = content.get("keyterms")
            answer = ConfigureAnswer(keyterms=keyterms if isinstance(keyterms, list) else None)
            return (answer, Notice("configured"))
        case "ConfigureFailure":
            reason = _reason(content, "code")
            return (ConfigureAnswer(refusal=reason), Notice("configure_failed", reason))
        case "Error":
            # "Errors": about a text message from the client; the stream continues.
            reason = _reason(content, "variant")
            notice = Notice("provider_error", reason)
            # It quotes a message that the server could not parse. Of the messages that this
            # client sends, only Configure can be wrong.
            about = content.get("message")
            if isinstance(about, str) and about and '"Configure"' not in about:
                return (notice,)
            return (ConfigureAnswer(refusal=reason), notice)
    return (Notice("unknown", f"message of type {kind[:MAX_QUOTE]!r}"),)


def _has_alternatives(content: dict[str, Any]) -> bool:
    channel = content.get("channel")
    return isinstance(channel, dict) and "alternatives" in channel


def _results(content: dict[str, Any], interims: bool, latest: float) -> Results:
    mark, ends_speech = wire.flag(content.get("is_final")), wire.flag(content.get("speech_final"))
    if mark is None and ends_speech:
        mark = True  # "Endpointing": the end of speech is final
    if not interims:
        mark = True
    best = vendor.best_alternative(content.get("channel"), latest)
    if best is None:
        kind = wire.Harmless if mark is False else RemoteProtocolError
        raise kind(NAME, f"Results without a transcript: {wire.quoted(content.get('channel'))}")
    start = wire.seconds(content.get("start"), latest)
    duration = wire.seconds(content.get("duration"), latest)
    end = None
    if start is not None and duration is not None:
        end = wire.seconds(start + duration, latest)
    words = best.words
    ends = [
        found for word in words if (found := wire.end_of(word.start, word.end, end)) is not None
    ]
    if end is not None and any(word.end is not None and word.end > end for word in words):
        words = tuple([one._replace(end=wire.end_of(one.start, one.end, end)) for one in words])
    if ends and (end is None or end < ends[-1]):
        end = max(ends)
    if mark is None:
        what = f"is_final is {wire.quoted(content.get('is_final'))}"
        raise wire.unclear(NAME, what, best.text, start, end, words)
    return Results(
        channel=_channel(content, "channel_index"),
        start=start,
        end=end,
        is_final=mark,
        speech_final=ends_speech is True,
        text=best.text,
        words=words,
        confidence=best.confidence,
        language=best.language,
    )


def _summary(content: dict[str, Any]) -> Summary:
    channels = wire.required(wire.index(content.get("channels")), NAME, content, "channels")
    seconds = wire.required(wire.seconds(content.get("duration")), NAME, content, "duration")
    # Each channel's audio is billed (Deepgram docs, pricing).
    return Summary(Usage(audio_seconds=seconds * min(channels, MAX_CHANNELS)))


def _channel(content: dict[str, Any], name: str) -> int | None:
    """The index in a pair of channel index and number of channels ("Multichannel"); None if it
    cannot be read."""
    found = wire.index(wire.first(content.get(name)))
    return found if found is None or found < MAX_CHANNELS else None


def _reason(content: dict[str, Any], name: str) -> str:
    parts = [wire.label(content.get(name)), wire.text(content.get("description"))]
    return ": ".join(part for part in parts if part)[:MAX_QUOTE] or "no reason"


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
