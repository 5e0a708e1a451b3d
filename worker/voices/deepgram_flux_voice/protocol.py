"""Wire protocol of Deepgram's speak v2 (Flux): no sockets, time, environment or broker.

Rules named in comments are those of the vendor's documentation ("Client Messages", "Server
Messages", "The Speech Lifecycle", "Interruption Handling"). Where a page differs from the
machine-readable specification, which is older, the code follows the official SDK (7.17).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from pydantic import SecretStr

from natterjack.plugin.errors import (
    Dropped,
    ProviderError,
    RemoteProtocolError,
    RequestRefused,
    Unavailable,
)
from natterjack.plugin.provider import Notice
from natterjack.plugin.websocket import Closed, ConnectRequest
from worker.providers import wire
from worker.providers.deepgram import vendor
from worker.providers.wire import MAX_QUOTE

from .options import NAME

# ---- out ------------------------------------------------------------------------------------
# "Client Messages": an unknown type and an unknown field are fatal, so nothing is added to these.


def connect_request(
    url: str, api_key: SecretStr, query: Sequence[tuple[str, str]]
) -> ConnectRequest:
    """The upgrade request of a stream. An unknown parameter would fail the connection."""
    return ConnectRequest(f"{url}/v2/speak?{urlencode(query)}", vendor.authorization(api_key))


def encode_speak(text: str) -> str:
    """Text for the active turn, which it opens if none is active. Texts are joined as they are."""
    return json.dumps({"type": "Speak", "text": text})


def encode_flush() -> str:
    """The end of the active turn: the rest of its text is spoken."""
    return '{"type": "Flush"}'


def encode_interrupt(offset_ms: int | None) -> str:
    """The cancellation of the active turn.

    `offset_ms` is what was played since the start of the session, in milliseconds. Without it the
    answer has no text.
    """
    if offset_ms is None:
        return '{"type": "Interrupt"}'
    offset = {"type": "time_ms", "value": offset_ms}
    return json.dumps({"type": "Interrupt", "playback_offset": offset})


def encode_configure(changes: Mapping[str, Any]) -> str:
    """A change of settings. `changes` must have been checked (options.parse_changes)."""
    return json.dumps({"type": "Configure", **changes})


def encode_close() -> str:
    """The end of the text. The rest of the audio, SessionMetadata and a close follow."""
    return '{"type": "Close"}'


# ---- in -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    """The first message: the stream is ready."""

    request_id: str | None


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """A turn has begun: its audio follows."""


@dataclass(frozen=True, slots=True)
class Flushed:
    """The text of a turn was given to synthesis. It says nothing about the audio, which may still
    follow, and its place is not certain: ignored."""


@dataclass(frozen=True, slots=True)
class SpeechMetadata:
    """A turn has ended: all of its audio was sent."""

    billed_characters: int | None


@dataclass(frozen=True, slots=True)
class SpeechInterrupted:
    """An Interrupt was carried out: a turn has ended, without SpeechMetadata."""

    played_ms: int | None
    """The offset of the Interrupt, or what was generated in the session if it had none."""
    text_spoken: str | None
    """None if the Interrupt had no offset."""
    billed_characters: int | None


@dataclass(frozen=True, slots=True)
class Configured:
    """Success of a Configure, which takes effect at the next segment."""


@dataclass(frozen=True, slots=True)
class ConfigureFailed:
    """Failure of a Configure: nothing has changed, and the stream continues."""

    code: str
    description: str


@dataclass(frozen=True, slots=True)
class SessionMetadata:
    """The last message, after Close."""


@dataclass(frozen=True, slots=True)
class Warned:
    """A condition that leaves the stream open."""

    code: str
    description: str


@dataclass(frozen=True, slots=True)
class FatalError:
    """The stream has failed; the server closes the connection."""

    code: str
    description: str


Message = (
    Connected
    | SpeechStarted
    | Flushed
    | SpeechMetadata
    | SpeechInterrupted
    | Configured
    | ConfigureFailed
    | SessionMetadata
    | Warned
    | FatalError
    | Notice
)

_BILLED: Final = "billable_character_count"
_SHAPES: Final = (
    ("SpeechInterrupted", ("audio_played_ms", "text_spoken", "text_remaining")),
    ("SpeechMetadata", ("audio_duration_ms", _BILLED)),
)
"""Messages that are known by their fields, too, since a turn would not end without them."""


def decode(message: str) -> Message:
    """Decode a text frame. A well-formed message of an unknown type becomes a Notice.

    Raises: RemoteProtocolError if the message may be the end of a turn; wire.Harmless for any other
    malformed message.
    """
    content = wire.parse(NAME, message)
    for kind, fields in _SHAPES:
        if not content.keys().isdisjoint(fields):
            return _message(kind, content)
    return _message(wire.kind(NAME, content, "type"), content)


def _message(kind: str, content: dict[str, Any]) -> Message:
    match kind:
        case "Connected":
            return Connected(wire.text(content.get("request_id")))
        case "SpeechStarted":
            return SpeechStarted()
        case "Flushed":
            return Flushed()
        case "SpeechMetadata":
            return SpeechMetadata(wire.index(content.get(_BILLED)))
        case "SpeechInterrupted":
            metadata = content.get("metadata")  # `speech_id` and the counts are in there
            return SpeechInterrupted(
                wire.index(content.get("audio_played_ms")),
                wire.text(content.get("text_spoken")),
                wire.index(metadata.get(_BILLED)) if isinstance(metadata, dict) else None,
            )
        case "ConfigureSuccess":
            return Configured()
        case "ConfigureFailure":
            return ConfigureFailed(_text(content, "code"), _text(content, "description"))
        case "SessionMetadata":
            return SessionMetadata()
        case "Warning":
            return Warned(
                _text(content, "code"), _text(content, "description") or _text(content, "warn_msg")
            )
        case "Error":
            return FatalError(_text(content, "code"), _text(content, "description"))
    return Notice("unknown", f"message of type {kind[:MAX_QUOTE]!r}")


def _text(content: dict[str, Any], name: str) -> str:
    return (wire.text(content.get(name)) or "")[:MAX_QUOTE]


# ---- errors ---------------------------------------------------------------------------------


def handshake_error(status: int, headers: Mapping[str, str]) -> ProviderError:
    """The error for a failed handshake."""
    return vendor.http_error(NAME, status, headers, "handshake refused")


def fatal_error(error: FatalError) -> ProviderError:
    """The error for an Error message. An undocumented code is taken for a fault of the server."""
    reason = error.description or "the stream failed"
    match error.code:
        case "MESSAGE-0000" | "DATA-0000" | "DATA-0002":
            # A message or a text of this client is at fault, and would be again.
            return RequestRefused(NAME, "request", reason, error.code)
        case "BIG-0000":
            reason += "; lower DEEPGRAM_FLUX_VOICE_MESSAGE_CHARACTERS"
            return RequestRefused(NAME, "request", reason, error.code)
        case "NET-0001" | "NET-0002" | "NET-0003" | "NET-0004":
            # Receiving or sending failed, the session is an hour old, or it was idle.
            return Dropped(NAME, reason, error.code)
    return Unavailable(NAME, "server_error", reason, error.code)


def configure_error(failed: ConfigureFailed) -> ProviderError:
    """The error for a change that was not applied."""
    reason = ": ".join(part for part in (failed.code, failed.description) if part)
    message = f"configure: {reason or 'rejected by the provider'}"
    if failed.code == "INTERNAL_ERROR":
        return Unavailable(NAME, "server_error", message)
    return RequestRefused(NAME, "request", message)


def close_error(closed: Closed) -> ProviderError:
    """The error for the end of a connection before the end of the stream.

    Close codes are not documented: an Error message, which comes first, says more.
    """
    error = vendor.close_error(NAME, closed, normal=())
    assert error is not None
    return error


def uninvited(what: str) -> RemoteProtocolError:
    """The error for a message that ends the text that is being spoken, and was not asked for."""
    return RemoteProtocolError(NAME, what)
