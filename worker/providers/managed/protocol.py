"""Wire protocol of `/ws/transcribe`, for both sides: no sockets, clocks, environment or broker.

Numbers in comments are sections of the fact sheet on the managed proxy. [P] marks its proposals,
which a proxy may not implement.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import SecretStr

from natterjack.plugin.errors import (
    Dropped,
    ProviderError,
    RemoteProtocolError,
    RequestRefused,
    Unavailable,
)
from natterjack.plugin.websocket import Closed

from .. import wire
from ..wire import MAX_QUOTE

NAME: Final = "managed"
PATH: Final = "/ws/transcribe"
SAMPLE_RATE: Final = 16_000
BYTES_PER_SECOND: Final = 2 * SAMPLE_RATE
"""5: positions and usage are measured by this rate."""
FRAME_MS: Final = 64
"""3.2: blocks of 1024 frames."""


# ---- client messages ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Config:
    """The parameters of the stream (3.1). Defaults are those of the table."""

    model: str = "nova-2"
    language: str = "en-US"
    sample_rate: int = SAMPLE_RATE
    channels: int = 1
    encoding: str = "linear16"
    interim_results: bool = True


@dataclass(frozen=True, slots=True)
class Auth:
    """The first frame (3.1)."""

    token: SecretStr
    config: Config = field(default_factory=Config)


@dataclass(frozen=True, slots=True)
class Finalize:
    """A request for finals of the audio sent so far; the stream continues (6 [P])."""


@dataclass(frozen=True, slots=True)
class End:
    """The end of the audio; last transcripts, session_end and close 1000 follow (6 [P])."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A message of an unknown type, which both sides ignore (4)."""

    type: str


ClientMessage = Auth | Finalize | End | Unknown
"""Messages in text frames. Binary frames hold audio: 16-bit little-endian PCM, 16 kHz, mono
(3.2)."""


# ---- server messages ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready:
    """Audio may be sent (4). A repeated one means that the upstream is back."""

    session_id: str | None = None
    """6 [P]."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """A transcript (4). A final adds to the text; an interim replaces the previous one."""

    text: str
    is_final: bool = False
    start: float | None = None
    """Start in seconds of the connection's audio; this and the fields below are 6 [P]."""
    end: float | None = None
    seq: int | None = None
    session_id: str | None = None


@dataclass(frozen=True, slots=True)
class CreditsLow:
    seconds_remaining: float


@dataclass(frozen=True, slots=True)
class Error:
    """An error (4). It is fatal if a close follows (5)."""

    message: str = ""
    code: str | None = None


@dataclass(frozen=True, slots=True)
class SessionEnd:
    seconds_used: float


ServerMessage = Ready | Transcript | CreditsLow | Error | SessionEnd | Unknown


# ---- encoding -------------------------------------------------------------------------------


def encode_client(message: ClientMessage) -> str:
    """Encode a client's message as a text frame."""
    match message:
        case Auth(token, config):
            return _json("auth", token=token.get_secret_value(), config=_members(config))
        case Finalize():
            return _json("finalize")
        case End():
            return _json("end")
        case Unknown(kind):
            return _json(kind)


def encode_server(message: ServerMessage) -> str:
    """Encode a server's message as a text frame; fields that are None are left out."""
    match message:
        case Unknown(kind):
            return _json(kind)
        case Ready():
            kind = "ready"
        case Transcript():
            kind = "transcript"
        case CreditsLow():
            kind = "credits_low"
        case Error():
            kind = "error"
        case SessionEnd():
            kind = "session_end"
    return _json(kind, **_members(message))


def _members(message: Any) -> dict[str, Any]:
    values = {name: getattr(message, name) for name in message.__slots__}
    return {name: value for name, value in values.items() if value is not None}


def _json(kind: str, **members: Any) -> str:
    return json.dumps({"type": kind, **members}, ensure_ascii=False)


# ---- decoding -------------------------------------------------------------------------------


def decode_client(message: str) -> ClientMessage:
    """Decode a client's text frame. Raises: RemoteProtocolError."""
    content = wire.parse(NAME, message)
    kind = wire.kind(NAME, content, "type")
    match kind:
        case "auth":
            return _auth(content)
        case "finalize":
            return Finalize()
        case "end":
            return End()
    return Unknown(kind[:MAX_QUOTE])


def decode_server(message: str | bytes) -> ServerMessage:
    """Decode a server's message.

    Raises: RemoteProtocolError if the message may be a final whose text cannot be read;
    wire.Harmless for any other malformed message.
    """
    content = wire.parse(NAME, message)
    # A transcript is known by its shape too, so that its text is kept if its type is wrong.
    kind = "transcript" if "is_final" in content else wire.kind(NAME, content, "type")
    match kind:
        case "ready":
            return Ready(_text_or_none(content, "session_id"))
        case "transcript":
            return _transcript(content)
        case "credits_low":
            return CreditsLow(_number(content, "seconds_remaining"))
        case "error":
            # "code optional": it may also be null.
            text = wire.text(content.get("message")) or ""
            return Error(text, _text_or_none(content, "code"))
        case "session_end":
            return SessionEnd(_number(content, "seconds_used"))
    return Unknown(kind[:MAX_QUOTE])


def _auth(content: Mapping[str, Any]) -> Auth:
    token, config = content.get("token"), content.get("config", {})
    if not isinstance(token, str) or not token:
        raise RemoteProtocolError(NAME, "auth without a token")
    if not isinstance(config, dict):
        raise RemoteProtocolError(NAME, "auth whose config is not an object")
    # 3.1 [P]: unknown members are ignored, missing ones have the table's defaults.
    given: dict[str, Any] = {}
    for name, default in _members(Config()).items():
        value = config.get(name, default)
        if type(value) is not type(default):
            raise RemoteProtocolError(NAME, f"config.{name} is {wire.quoted(value)}")
        given[name] = value
    return Auth(SecretStr(token), Config(**given))


def _transcript(content: Mapping[str, Any]) -> Transcript:
    # 4: `text` is empty and `is_final` false by default.
    mark = wire.flag(content.get("is_final", False))
    text = wire.text(content.get("text", ""))
    if text is None:
        kind = wire.Harmless if mark is False else RemoteProtocolError
        raise kind(NAME, f"text is {wire.quoted(content.get('text'))}")
    # 4: times are optional, so invalid ones are ignored and the text is kept.
    start, end = wire.seconds(content.get("start")), wire.seconds(content.get("end"))
    if start is not None and end is not None and end < start:
        start = end = None
    if mark is None:
        what = f"is_final is {wire.quoted(content.get('is_final'))}"
        raise wire.unclear(NAME, what, text, start, end, ())
    return Transcript(
        text=text,
        is_final=mark,
        start=start,
        end=end,
        seq=wire.index(content.get("seq")),
        session_id=_text_or_none(content, "session_id"),
    )


def _text_or_none(content: Mapping[str, Any], name: str) -> str | None:
    return wire.text(content.get(name)) or None


def _number(content: Mapping[str, Any], name: str) -> float:
    return wire.required(wire.number(content.get(name)), NAME, content, name)


# ---- errors ---------------------------------------------------------------------------------

CLOSE_CODES: Final[Mapping[str, int]] = {
    "bad_request": 1008,
    "auth_failed": 4401,
    "credits_exhausted": 4402,
    "too_many_sessions": 4429,
    "upstream_unavailable": 1013,
    "internal": 1011,
    "audio_too_large": 1009,
    "session_limit": 4408,
}
"""Fatal error codes and the codes of the closes that follow them (6 [P])."""

_CODES: Final = {close: code for code, close in CLOSE_CODES.items()} | {
    # RFC 6455, 7.4.1: the client's frames are invalid, and would be again.
    **dict.fromkeys((1002, 1003, 1007), "bad_request")
}


def is_fatal(error: Error) -> bool:
    """Whether the error's code is known to be fatal; other errors are fatal only if a close
    follows."""
    return error.code in CLOSE_CODES


def session_error(error: Error | None, closed: Closed | None) -> ProviderError:
    """The error for the end of a session, from the last error message or else the close code."""
    code = error.code if error is not None else None
    if code not in CLOSE_CODES:
        code = None if closed is None or closed.code is None else _CODES.get(closed.code)
    message = (error.message if error is not None else "") or (closed.reason if closed else "")
    message = message[:MAX_QUOTE] or "the proxy ended the session"
    shown_code = (error.code if error is not None else None) or code
    if shown_code is None and closed is not None and closed.code is not None:
        shown_code = str(closed.code)
    match code:
        case "auth_failed":
            return RequestRefused(NAME, "auth", message, shown_code)
        case "credits_exhausted":
            return RequestRefused(NAME, "credit", message, shown_code)
        case "bad_request" | "audio_too_large":
            return RequestRefused(NAME, "request", message, shown_code)
        case "too_many_sessions":
            return Unavailable(NAME, "rate_limit", message, shown_code)
        case "upstream_unavailable" | "internal":
            return Unavailable(NAME, "server_error", message, shown_code)
    return Dropped(NAME, message, shown_code)


def ready_error(error: Error | None, closed: Closed | None) -> ProviderError:
    """The error for the end of a session before `ready`. With an unknown code it may be of any
    kind, so it is retried; the worker limits retries."""
    found = session_error(error, closed)
    if isinstance(found, Dropped) and error is not None:
        return Unavailable(NAME, "server_error", error.message[:MAX_QUOTE], found.code)
    return found
