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
from typing import Any, Final, NamedTuple, TypeGuard
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

from ..deepgram import vendor
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
    index: int
    window_end: float
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


class UnreadableEnd(RemoteProtocolError):
    """A malformed EndOfTurn. No later message repeats its words ("Flux state machine"), so the
    stream cannot continue without losing them."""


_END_OF_TURN: Final = re.compile(r'"event"\s*:\s*"EndOfTurn"')
"""Matches messages that may not even be JSON. Inside a JSON string, the quotes would be escaped."""


class Decoded(NamedTuple):
    """A message and its `sequence_id`, which some samples in the documentation lack."""

    sequence: int | None
    message: Message


def decode(message: str | bytes) -> Decoded:
    """Decode a message. A well-formed message of an unknown type becomes a Notice.

    Raises: UnreadableEnd for a malformed EndOfTurn; RemoteProtocolError for any other malformed
    message, which can be skipped, since each message repeats the whole turn.
    """
    try:
        content = vendor.parse_message(NAME, message)
        decoded = _message(content)
    except RemoteProtocolError as error:
        if isinstance(message, str) and _END_OF_TURN.search(message):
            what = str(error).removeprefix(f"{NAME}: ")
            raise UnreadableEnd(NAME, f"malformed EndOfTurn: {what}") from None
        raise
    sequence = content.get("sequence_id")
    return Decoded(sequence if _is_index(sequence) else None, decoded)


def _message(content: dict[str, Any]) -> Message:
    match content["type"]:
        case "TurnInfo":
            return _turn_info(content)
        case "Connected":
            request_id = content.get("request_id")
            return Connected(request_id if isinstance(request_id, str) else None)
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
    return Notice("unknown", f"message of type {content['type'][: vendor.MAX_QUOTE]!r}")


def _text(content: dict[str, Any], name: str) -> str:
    return str(content.get(name) or "")[: vendor.MAX_QUOTE]


def _turn_info(content: dict[str, Any]) -> TurnInfo:
    event, text, words = content.get("event"), content.get("transcript"), content.get("words")
    if not isinstance(event, str) or not isinstance(text, str) or not isinstance(words, list):
        vendor.protocol_error(NAME, "TurnInfo without event, transcript or words")
    trigger, languages = content.get("trigger"), content.get("languages")
    language = languages[0] if isinstance(languages, list) and languages else None
    parsed = tuple([_word(word) for word in words])
    if text and not parsed:
        parsed = tuple(ProviderWord(word) for word in text.split())
    return TurnInfo(
        event=event,
        index=_index(content, "turn_index"),
        window_end=vendor.seconds(NAME, content, "audio_window_end"),
        text=text,
        words=parsed if text else (),
        confidence=_confidence(content, "end_of_turn_confidence"),
        trigger=trigger if isinstance(trigger, str) else None,
        language=language if isinstance(language, str) else None,
    )


def _word(word: Any) -> ProviderWord:
    if not isinstance(word, dict) or not isinstance(text := word.get("word"), str) or not text:
        vendor.protocol_error(NAME, "word without text")
    start = None if word.get("start") is None else vendor.seconds(NAME, word, "start")
    end = None if word.get("end") is None else vendor.seconds(NAME, word, "end")
    return ProviderWord(text, start, end, _confidence(word, "confidence"))


def _index(content: dict[str, Any], name: str) -> int:
    value = content.get(name)
    if not _is_index(value):
        vendor.protocol_error(NAME, f"{name} is {value!r:.{vendor.MAX_QUOTE}}")
    return value


def _is_index(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _confidence(content: dict[str, Any], name: str) -> float | None:
    """The confidence; None if it is missing or not a finite number, since nothing depends on it."""
    value = content.get(name)
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:  # an integer too large for a float
        pass
    return None


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
