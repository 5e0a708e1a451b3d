"""Wire protocol of Twilio Media Streams, the server's side: no sockets, clocks or broker.

Numbers in comments are sections of the fact sheet on Twilio Media Streams.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from natterjack.errors import NatterjackError

from ..parsing import parsed

ENCODING, SAMPLE_RATE = "audio/x-mulaw", 8000
BYTES_PER_MS = SAMPLE_RATE // 1000
_MAX_NAME = 200


class BadMessage(NatterjackError):
    """A message that Twilio does not send."""


class Connected(NamedTuple):
    """The first message."""

    protocol: str
    version: str


class Start(NamedTuple):
    """The description of the stream, which comes before all audio."""

    stream_sid: str
    call_sid: str
    account_sid: str
    tracks: tuple[str, ...]
    encoding: str
    sample_rate: int
    channels: int
    parameters: Mapping[str, str]
    """The `<Parameter>` children of the TwiML."""


class Media(NamedTuple):
    """Audio of one track."""

    track: str
    timestamp_ms: int | None
    """Milliseconds since the stream's start."""
    payload: bytes


class Mark(NamedTuple):
    """Everything that was sent before the mark was played, or dropped by `clear`."""

    name: str


class Dtmf(NamedTuple):
    """A key of a telephone."""

    digit: str


class Stop(NamedTuple):
    """The end of the audio."""


class Unknown(NamedTuple):
    """A message of another kind, which is ignored."""

    event: str


Message = Connected | Start | Media | Mark | Dtmf | Stop | Unknown


class Numbered(NamedTuple):
    """A message and its number in the stream; `connected` has none."""

    message: Message
    sequence: int | None


def decode(text: str) -> Numbered:
    """Decode a message of Twilio. Raises BadMessage."""
    try:
        content = parsed(text)
    except ValueError:
        raise BadMessage("not JSON") from None
    if not isinstance(content, dict) or not isinstance(content.get("event"), str):
        raise BadMessage("not an object with the member event")
    event = content["event"]
    return Numbered(_message(event, content), _number(content.get("sequenceNumber")))


def _message(event: str, content: Mapping[str, Any]) -> Message:
    match event:
        case "connected":
            return Connected(_text(content, "protocol"), _text(content, "version"))
        case "start":
            return _start(_object(content, "start"), content)
        case "media":
            return _media(_object(content, "media"))
        case "mark":
            return Mark(_text(_object(content, "mark"), "name"))
        case "dtmf":
            return Dtmf(_text(_object(content, "dtmf"), "digit"))
        case "stop":
            return Stop()
    return Unknown(event[:_MAX_NAME])


def _start(start: Mapping[str, Any], content: Mapping[str, Any]) -> Start:
    media_format, tracks = _object(start, "mediaFormat"), start.get("tracks")
    parameters = start.get("customParameters") or {}
    if not isinstance(tracks, list) or not isinstance(parameters, dict):
        raise BadMessage("start without tracks")
    stream_sid = _text(start, "streamSid") or _text(content, "streamSid")
    call_sid = _text(start, "callSid")
    if not stream_sid or not call_sid:
        raise BadMessage("start without streamSid and callSid")
    return Start(
        stream_sid,
        call_sid,
        _text(start, "accountSid"),
        tuple(str(track)[:_MAX_NAME] for track in tracks[:8]),
        _text(media_format, "encoding"),
        _number(media_format.get("sampleRate")) or 0,
        _number(media_format.get("channels")) or 0,
        {str(name): str(value) for name, value in parameters.items()},
    )


def _media(media: Mapping[str, Any]) -> Media:
    payload = media.get("payload", "")
    try:
        audio = base64.b64decode(payload, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise BadMessage("media whose payload is not base64") from None
    # 2: bidirectional streams spell the track `inbound_track` in some messages.
    track = _text(media, "track").removesuffix("_track") or "inbound"
    return Media(track, _number(media.get("timestamp")), audio)


def _object(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = content.get(name)
    if not isinstance(value, dict):
        raise BadMessage(f"{name} is not an object")
    return value


def _text(content: Mapping[str, Any], name: str) -> str:
    value = content.get(name, "")
    return value[:_MAX_NAME] if isinstance(value, str) else ""


def _number(value: Any) -> int | None:
    """A number of the protocol, which is a string in most places (1)."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 16:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**15:
        return value
    return None


# ---- to Twilio ----------------------------------------------------------------------------------


def encode_media(stream_sid: str, payload: bytes) -> str:
    """Audio to be played (3)."""
    return _json("media", stream_sid, media={"payload": base64.b64encode(payload).decode()})


def encode_mark(stream_sid: str, name: str) -> str:
    """A mark, which comes back when everything before it was played."""
    return _json("mark", stream_sid, mark={"name": name})


def encode_clear(stream_sid: str) -> str:
    """Drop what was not played."""
    return _json("clear", stream_sid)


def _json(event: str, stream_sid: str, **members: Any) -> str:
    # 3: missing or extra members are a warning in the customer's log.
    return json.dumps({"event": event, "streamSid": stream_sid, **members}, separators=(",", ":"))


# ---- signature ----------------------------------------------------------------------------------


def signature(auth_token: str, url: str) -> str:
    """The header `X-Twilio-Signature` of a request without a body (1)."""
    digest = hmac.new(auth_token.encode(), url.encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode()


def is_signed(auth_token: str, given: str, urls: Iterable[str]) -> bool:
    """Whether a signature is that of one of `urls`: Twilio signs the URL of the TwiML as it is
    written there, with or without a port and a slash at its end."""
    expected = [signature(auth_token, url) for url in urls]
    return any(
        hmac.compare_digest(given.encode(errors="replace"), one.encode()) for one in expected
    )


def signed_urls(host: str, path: str, public_url: str | None) -> list[str]:
    """The URLs that Twilio may have signed: the public one, if it is known, else those that lead to
    `host` and `path`."""
    if public_url is not None:
        bases = [public_url.rstrip("/")]
    else:
        bare = host.removesuffix(":443")
        bases = [f"wss://{bare}{path}".rstrip("/"), f"wss://{bare}:443{path}".rstrip("/")]
    return [url for base in bases for url in (base, f"{base}/")]


# ---- time ---------------------------------------------------------------------------------------

_JITTER_MS = 60
"""4 [P]: a smaller jump of a timestamp is normal."""
_MAX_HOLE_MS = 600_000


class Timeline:
    """The clock of one track: finds holes, which messages that Twilio has dropped leave.

    A hole is a jump of the timestamps, while numbers of messages are missing (4).
    """

    def __init__(self) -> None:
        self._next_ms: float | None = None
        """Where the next frame is expected."""
        self._lost = False

    def lose(self) -> None:
        """Numbers of messages are missing."""
        self._lost = True

    def place(self, media: Media) -> int:
        """Return the length of the hole before `media`, in frames, and go on after it."""
        hole_ms, at = 0.0, media.timestamp_ms
        if at is not None:
            if self._next_ms is None:
                self._next_ms = float(at)
            elif self._lost and _JITTER_MS < at - self._next_ms <= _MAX_HOLE_MS:
                hole_ms, self._lost = at - self._next_ms, False
        if self._next_ms is not None:
            self._next_ms += hole_ms + len(media.payload) / BYTES_PER_MS
        return round(hole_ms * BYTES_PER_MS)
