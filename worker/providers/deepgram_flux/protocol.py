"""Wire protocol of Deepgram's listen v2 (Flux): no sockets, time, environment or broker.

Sections named in comments are pages of the vendor's documentation ("Deepgram docs"). Where a page
differs from the machine-readable specification, the code follows the official SDK (7.16).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from pydantic import SecretStr

from natterjack.plugin.errors import (
    Dropped,
    ProviderError,
    RemoteProtocolError,
    RequestRefused,
    Unavailable,
)
from natterjack.plugin.provider import Notice, ProviderWord
from natterjack.plugin.websocket import Closed, ConnectRequest

from .. import wire
from ..deepgram import vendor
from ..wire import MAX_QUOTE
from .options import NAME, Listen

# ---- out ------------------------------------------------------------------------------------


def connect_request(url: str, api_key: SecretStr, stream: Listen) -> ConnectRequest:
    """The upgrade request of a stream."""
    return ConnectRequest(
        f"{url}/v2/listen?{urlencode(stream.query)}", vendor.authorization(api_key)
    )


def encode_force_end_turn() -> str:
    """A request to end the open turn with the text decoded so far ("Force End Turn").

    Audio not decoded yet belongs to the next turn. The response is EndOfTurn, or a Warning if no
    turn is open.
    """
    return '{"type": "ForceEndTurn"}'


def encode_close_stream() -> str:
    """The end of the audio ("Close Stream").

    Updates for the audio not decoded yet follow, then a close without a status; no EndOfTurn.
    """
    return '{"type": "CloseStream"}'


def encode_configure(changes: Mapping[str, Any]) -> str:
    """A change of settings ("Configure"). `changes` must have been checked
    (options.parse_changes)."""
    message: dict[str, Any] = {"type": "Configure"}
    for name, value in changes.items():
        if name.startswith(("eot_", "eager_")):
            message.setdefault("thresholds", {})[name] = value
        else:
            message[name] = value
    return json.dumps(message)


# ---- in -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    """The first message: the stream is ready."""

    request_id: str | None


@dataclass(frozen=True, slots=True)
class TurnInfo:
    """The complete state of a turn ("Flux state machine"). Times are on the provider's clock."""

    event: str
    """Update, StartOfTurn, EagerEndOfTurn, TurnResumed or EndOfTurn; any other value counts as
    Update."""
    index: int | None
    """None, as `window_end`, if it cannot be read."""
    window_end: float | None
    """End of the audio that is transcribed."""
    text: str
    words: tuple[ProviderWord, ...]
    """`start` and `end` may be missing."""
    confidence: float | None
    """Confidence that the turn has ended."""
    trigger: str | None = None
    """Why the turn ended: model, timeout, manual, or an unknown value."""
    language: str | None = None


@dataclass(frozen=True, slots=True)
class Configured:
    """Success of a Configure; `values` are now in effect."""

    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ConfigureFailed:
    """Failure of a Configure: nothing has changed, and the stream continues."""

    code: str
    description: str


@dataclass(frozen=True, slots=True)
class Warned:
    """A message was ignored; the stream continues."""

    code: str
    description: str


@dataclass(frozen=True, slots=True)
class FatalError:
    """The stream has failed; the server closes the connection."""

    code: str
    description: str


Message = Connected | TurnInfo | Configured | ConfigureFailed | Warned | FatalError | Notice


_OTHER_EVENT: Final = re.compile(r'"event"\s*:\s*"(?!EndOfTurn")\w+"')
"""Matches TurnInfo that is not EndOfTurn, even if it is not JSON. Inside a JSON string, the quotes
would be escaped."""


class Decoded(NamedTuple):
    """A message and its `sequence_id`, which some samples in the documentation lack."""

    sequence: int | None
    message: Message


def decode(message: str | bytes, latest: float = math.inf) -> Decoded:
    """Decode a message. A well-formed message of an unknown type becomes a Notice.

    Times after `latest`, the end of the audio sent, are not used.

    Raises: RemoteProtocolError if the message may be an EndOfTurn, since no later message repeats
    its words ("Flux state machine"). wire.Harmless for any other malformed message: each message
    repeats the whole turn.
    """
    try:
        content = wire.parse(NAME, message)
        # TurnInfo is known by its shape too, so that its text is kept if its type is wrong.
        is_turn = "transcript" in content or "turn_index" in content
        kind = "TurnInfo" if is_turn else wire.kind(NAME, content, "type")
        decoded = _message(kind, content, latest)
    except wire.Harmless:
        raise
    except RemoteProtocolError as error:
        if isinstance(message, str) and _OTHER_EVENT.search(message):
            what = str(error).removeprefix(f"{NAME}: ")
            raise wire.Harmless(NAME, what) from None
        raise
    return Decoded(wire.index(content.get("sequence_id")), decoded)


def _message(kind: str, content: dict[str, Any], latest: float) -> Message:
    match kind:
        case "TurnInfo":
            return _turn_info(content, latest)
        case "Connected":
            return Connected(wire.text(content.get("request_id")))
        case "ConfigureSuccess":
            thresholds = content.get("thresholds")
            nested = thresholds if isinstance(thresholds, dict) else {}
            return Configured({**content, **nested})
        case "ConfigureFailure":
            return ConfigureFailed(_text(content, "code"), _text(content, "description"))
        case "Warning":
            return Warned(_text(content, "code"), _text(content, "description"))
        case "Error":
            return FatalError(_text(content, "code"), _text(content, "description"))
    return Notice("unknown", f"message of type {kind[:MAX_QUOTE]!r}")


def _text(content: dict[str, Any], name: str) -> str:
    return (wire.text(content.get(name)) or "")[:MAX_QUOTE]


def _turn_info(content: dict[str, Any], latest: float) -> TurnInfo:
    text, items = wire.text(content.get("transcript")), content.get("words")
    found = [_word(item, latest) for item in items] if isinstance(items, list) else []
    if text is None and not (found and all(found)):
        raise RemoteProtocolError(NAME, "TurnInfo without a transcript")
    words = wire.restored(found, text or "")
    if not text or text.isspace():
        text = wire.joined(words)
    if text and not words:
        words = tuple([ProviderWord(word) for word in text.split()])
    return TurnInfo(
        # Without an event, the turn ends when the next one starts.
        event=wire.text(content.get("event")) or "Update",
        index=wire.index(content.get("turn_index")),
        window_end=wire.seconds(content.get("audio_window_end"), latest),
        text=text,
        words=words if text else (),
        confidence=wire.confidence(content.get("end_of_turn_confidence")),
        trigger=wire.text(content.get("trigger")),
        language=wire.label(wire.first(content.get("languages"))),
    )


def _word(word: Any, latest: float) -> ProviderWord | None:
    """A word; None if it has no text."""
    if not isinstance(word, dict) or not isinstance(text := word.get("word"), str) or not text:
        return None
    return wire.word(text, word.get("start"), word.get("end"), word.get("confidence"), None, latest)


class Sequence:
    """Checks `sequence_id`, which is 0 for Connected and increases by one with each message."""

    def __init__(self) -> None:
        self._expected: int | None = None

    def check(self, sequence: int | None) -> Notice | None:
        """Return a Notice if messages are missing or repeated."""
        expected, self._expected = self._expected, None if sequence is None else sequence + 1
        if expected is None or sequence is None or sequence == expected:
            return None
        return Notice("sequence_gap", f"sequence_id {sequence}, expected {expected}")


# ---- errors ---------------------------------------------------------------------------------

KNOWN_ERRORS: Final = ("INTERNAL_SERVER_ERROR", "INACTIVE_CLIENT", "UNPARSABLE_CLIENT_MESSAGE")


def handshake_error(status: int, headers: Mapping[str, str]) -> ProviderError:
    """The error for a failed handshake."""
    return vendor.http_error(NAME, status, headers, "handshake refused")


def fatal_error(error: FatalError, *, again: bool) -> ProviderError:
    """The error for an Error message. `again` means that the session's last stream also failed with
    an unknown code."""
    reason = error.description or "the stream failed"
    match error.code:
        case "UNPARSABLE_CLIENT_MESSAGE":
            # A message from this client is at fault, and the next stream would send it again.
            return RequestRefused(NAME, "request", reason, error.code)
        case "INACTIVE_CLIENT":
            return Dropped(NAME, reason, error.code)
        case "INTERNAL_SERVER_ERROR":
            return Unavailable(NAME, "server_error", reason, error.code)
    if again:
        return RequestRefused(NAME, "request", reason, error.code)
    return Unavailable(NAME, "server_error", reason, error.code)


def close_error(closed: Closed, *, finishing: bool) -> ProviderError | None:
    """The error for the end of a connection; None if the end is normal.

    "Close Stream": after CloseStream the server closes without a status, which RFC 6455 calls 1005.
    """
    return vendor.close_error(NAME, closed, normal=(1000, 1005) if finishing else ())
