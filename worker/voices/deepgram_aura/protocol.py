"""Wire protocol of Deepgram's speak v1: no sockets, clocks, environment or broker.

Sections named in comments are pages of the vendor's documentation ("Deepgram docs").
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from pydantic import SecretStr

from natterjack.plugin.errors import ProviderError, Unavailable
from natterjack.plugin.websocket import Closed, ConnectRequest
from worker.providers import wire
from worker.providers.deepgram import vendor
from worker.providers.wire import MAX_QUOTE

from .options import NAME

MAX_TEXT_CHARACTERS: Final = 2000
"""Longest text of one Speak; a longer one ends the connection ("Limits": 1009, BIG-0001)."""
_TOO_FAST: Final = "DATA-0001"
"""Reason of close code 1008 for too many characters in a minute ("Troubleshooting")."""


# ---- out ------------------------------------------------------------------------------------


def connect_request(
    url: str, api_key: SecretStr, query: Sequence[tuple[str, str]]
) -> ConnectRequest:
    """The upgrade request of a stream."""
    return ConnectRequest(f"{url}/v1/speak?{urlencode(query)}", vendor.authorization(api_key))


def encode_speak(text: str) -> str:
    """Text for the server's buffer ("Text chunking"): joined as sent. At most 2,000 characters."""
    return json.dumps({"type": "Speak", "text": text})


FLUSH: Final = '{"type": "Flush"}'
"""Speak everything in the buffer ("Flush"). The answer, Flushed, follows the last audio."""
CLEAR: Final = '{"type": "Clear"}'
"""Drop the buffer and all audio that was not sent ("Clear"). The answer is Cleared."""
CLOSE: Final = '{"type": "Close"}'
"""End the stream ("Close"). The documentation disagrees on whether what is left is spoken, so it is
sent when nothing is."""


# ---- in -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Metadata:
    """The first message, and in some descriptions the last one too ("Close")."""

    request_id: str | None


@dataclass(frozen=True, slots=True)
class Flushed:
    """All audio of a flushed text was sent.

    `sequence_id` is left out: how it counts is not documented, so answers are matched by order.
    """


@dataclass(frozen=True, slots=True)
class Cleared:
    """All that follows is of text that was sent after the Clear."""


@dataclass(frozen=True, slots=True)
class Warned:
    """A warning. The only documented one is about too many flushes, one of which was ignored: it
    will have no answer ("Flush")."""

    code: str
    description: str

    @property
    def about_flush(self) -> bool:
        """True if a Flush was ignored. No code is documented, so this looks for the word."""
        return "flush" in f"{self.code} {self.description}".lower()


@dataclass(frozen=True, slots=True)
class Failed:
    """An error. The specification has none: errors are close codes. Older ones had this message,
    and clients still look for it."""

    code: str | None
    description: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A well-formed message of another type."""

    kind: str


Message = Metadata | Flushed | Cleared | Warned | Failed | Unknown


def decode(message: str) -> Message:
    """Decode a text message.

    Raises: RemoteProtocolError if the message may be an answer that cannot be read. wire.Harmless
    for other malformed messages.
    """
    content = wire.parse(NAME, message)
    kind = wire.kind(NAME, content, "type")
    match kind:
        case "Metadata":
            return Metadata(wire.label(content.get("request_id")))
        case "Flushed":
            return Flushed()
        case "Cleared":
            return Cleared()
        case "Warning":
            code = _first_text(content, "code", "warn_code")
            return Warned(code, _first_text(content, "description", "warn_msg"))
        case "Error" | "error":
            names = ("description", "error_message", "err_msg", "message")
            code = _first_text(content, "code", "error_code", "err_code")
            return Failed(code or None, _first_text(content, *names) or "the server failed")
    return Unknown(kind[:MAX_QUOTE])


def _first_text(content: Mapping[str, Any], *names: str) -> str:
    """The first field that is a text; messages have other names in older versions."""
    found = (wire.text(content.get(name)) for name in names)
    return next((text[:MAX_QUOTE] for text in found if text), "")


# ---- errors ---------------------------------------------------------------------------------


def handshake_error(status: int, headers: Mapping[str, str]) -> ProviderError:
    """The error for a refused upgrade ("Errors")."""
    return vendor.http_error(NAME, status, headers, "the handshake was refused")


def failure(message: Failed) -> ProviderError:
    """The error for an error message. What is wrong is not documented, so a retry may succeed."""
    return Unavailable(NAME, "server_error", message.description, message.code)


def ignored_flush(message: Warned) -> ProviderError:
    """The error for a Flush that the server ignored. Another connection has a limit of its own, as
    far as documented, so the phrase is spoken sooner there than after the limit's minute."""
    text = message.description or "too many flushes in a minute"
    return Unavailable(NAME, "rate_limit", text, message.code or None)


def close_error(closed: Closed) -> ProviderError:
    """The error for the end of a connection on which something was due ("Troubleshooting")."""
    if _TOO_FAST in closed.reason:
        return Unavailable(NAME, "rate_limit", closed.reason[:MAX_QUOTE], str(closed.code))
    error = vendor.close_error(NAME, closed, normal=())
    assert error is not None
    return error
