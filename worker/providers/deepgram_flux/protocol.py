"""Deepgram's listen v2 (Flux) as it is on the wire: no sockets, time, environment or broker.

Sections named in comments are pages of the vendor's documentation ("Deepgram docs"); where a page
differs from the machine-readable specification, the official SDK (7.16) decides.
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
    """Ends the open turn with the text decoded so far ("Force End Turn"); audio that is not decoded
    yet belongs to the next turn. The answer is EndOfTurn, or a Warning when no turn is open."""
    return '{"type": "ForceEndTurn"}'


def encode_close_stream() -> str:
    """Says that no audio follows ("Close Stream"): Updates of what is not decoded yet come then,
    no EndOfTurn, and a close without a status."""
    return '{"type": "CloseStream"}'


def encode_configure(changes: Mapping[str, Any]) -> str:
    """New settings from here on ("Configure"), of names in options.Changes and checked."""
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
    """The stream is ready: the first message of all."""

    request_id: str | None


@dataclass(frozen=True, slots=True)
class TurnInfo:
    """All that is known of a turn ("Flux state machine"). Times are of the provider's clock."""

    event: str
    """Update, StartOfTurn, EagerEndOfTurn, TurnResumed or EndOfTurn; any other is an Update."""
    index: int
    window_end: float
    """How far audio has been transcribed."""
    text: str
    words: tuple[ProviderWord, ...]
    """`start` and `end` may be missing."""
    confidence: float | None
    """That the turn has ended."""
    trigger: str | None = None
    """Why it has: model, timeout, manual, or something new."""
    language: str | None = None


@dataclass(frozen=True, slots=True)
class Configured:
    """A Configure was taken; `values` are those now in force."""

    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ConfigureFailed:
    """A Configure was not taken: nothing has changed, and the stream goes on."""

    code: str
    description: str


@dataclass(frozen=True, slots=True)
class Warned:
    """Something was ignored, and the stream goes on."""

    code: str
    description: str


@dataclass(frozen=True, slots=True)
class FatalError:
    """The stream is over; the connection will be closed."""

    code: str
    description: str


Message = Connected | TurnInfo | Configured | ConfigureFailed | Warned | FatalError | Notice


class UnreadableEnd(RemoteProtocolError):
    """An EndOfTurn that cannot be read. Nothing later has its words ("Flux state machine"): the
    stream cannot go on without losing them."""


_END_OF_TURN: Final = re.compile(r'"event"\s*:\s*"EndOfTurn"')
"""In a message that may not even be JSON. Within a text of JSON the quotes would be escaped."""


class Decoded(NamedTuple):
    """A message and its `sequence_id`; some samples of the documentation have none."""

    sequence: int | None
    message: Message


def decode(message: str | bytes) -> Decoded:
    """What the server said. A well-formed message of a type that is unknown is a Notice.

    Raises: UnreadableEnd for an EndOfTurn; RemoteProtocolError for anything else, without which
    the stream can go on: each message of a turn restates the whole of it.
    """
    try:
        content = vendor.parse_message(NAME, message)
        decoded = _message(content)
    except RemoteProtocolError as error:
        if isinstance(message, str) and _END_OF_TURN.search(message):
            what = str(error).removeprefix(f"{NAME}: ")
            raise UnreadableEnd(NAME, f"an EndOfTurn that cannot be read: {what}") from None
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
            return ConfigureFailed(_said(content, "code"), _said(content, "description"))
        case "Warning":
            return Warned(_said(content, "code"), _said(content, "description"))
        case "Error":
            return FatalError(_said(content, "code"), _said(content, "description"))
    return Notice("unknown", f"message of type {content['type'][: vendor.MAX_QUOTE]!r}")


def _said(content: dict[str, Any], name: str) -> str:
    return str(content.get(name) or "")[: vendor.MAX_QUOTE]


def _turn_info(content: dict[str, Any]) -> TurnInfo:
    event, text, words = content.get("event"), content.get("transcript"), content.get("words")
    if not isinstance(event, str) or not isinstance(text, str) or not isinstance(words, list):
        vendor.protocol_error(NAME, "TurnInfo without event, transcript or words")
    trigger, languages = content.get("trigger"), content.get("languages")
    language = languages[0] if isinstance(languages, list) and languages else None
    said = tuple([_word(word) for word in words])
    if text and not said:
        said = tuple(ProviderWord(word) for word in text.split())
    return TurnInfo(
        event=event,
        index=_index(content, "turn_index"),
        window_end=vendor.seconds(NAME, content, "audio_window_end"),
        text=text,
        words=said if text else (),
        confidence=_confidence(content, "end_of_turn_confidence"),
        trigger=trigger if isinstance(trigger, str) else None,
        language=language if isinstance(language, str) else None,
    )


def _word(word: Any) -> ProviderWord:
    if not isinstance(word, dict) or not isinstance(text := word.get("word"), str) or not text:
        vendor.protocol_error(NAME, "a word without text")
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
    """Nothing hangs on a confidence: one that is no number is none."""
    value = content.get(name)
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:  # an integer that no float can be
        pass
    return None


class Sequence:
    """Watches `sequence_id`: 0 on Connected, and one more on each message of any type."""

    def __init__(self) -> None:
        self._expected: int | None = None

    def check(self, sequence: int | None) -> Notice | None:
        """A Notice when messages are missing or doubled."""
        expected, self._expected = self._expected, None if sequence is None else sequence + 1
        if expected is None or sequence is None or sequence == expected:
            return None
        return Notice("sequence_gap", f"sequence_id {sequence}, expected was {expected}")


# ---- errors ---------------------------------------------------------------------------------

KNOWN_ERRORS: Final = ("INTERNAL_SERVER_ERROR", "INACTIVE_CLIENT", "UNPARSABLE_CLIENT_MESSAGE")


def handshake_error(status: int, headers: Mapping[str, str]) -> ProviderError:
    """What a refused handshake means."""
    return vendor.http_error(NAME, status, headers, "the handshake was refused")


def fatal_error(error: FatalError, *, again: bool) -> ProviderError:
    """What an Error means. `again`: the session has met an unknown one before, on its last try."""
    said = error.description or "the stream was ended with an error"
    match error.code:
        case "UNPARSABLE_CLIENT_MESSAGE":
            # A message of ours is at fault: the next stream would send it again.
            return RequestRefused(NAME, "request", said, error.code)
        case "INACTIVE_CLIENT":
            return Dropped(NAME, said, error.code)
        case "INTERNAL_SERVER_ERROR":
            return Unavailable(NAME, "server_error", said, error.code)
    if again:
        return RequestRefused(NAME, "request", said, error.code)
    return Unavailable(NAME, "server_error", said, error.code)


def close_error(closed: Closed, *, finishing: bool) -> ProviderError | None:
    """What the end of a connection means; None: it is as it should be. "Close Stream": after
    CloseStream comes a close without a status, which RFC 6455 calls 1005."""
    return vendor.close_error(NAME, closed, normal=(1000, 1005) if finishing else ())
