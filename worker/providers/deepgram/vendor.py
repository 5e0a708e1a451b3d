"""Code shared by the providers for Deepgram: errors, message fields and query parameters.

Functions take the name of the provider for the errors that they raise. Sections named in comments
are pages of the vendor's documentation ("Deepgram docs").
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NoReturn

from pydantic import SecretStr
from pydantic_core import from_json

from natterjack.plugin import errors
from natterjack.plugin.errors import (
    Dropped,
    ProviderError,
    RemoteProtocolError,
    RequestRefused,
    Unavailable,
)
from natterjack.plugin.provider import ProviderWord
from natterjack.plugin.websocket import Closed

MAX_QUOTE: Final = 200
"""Length to which quotes from the provider are cut in errors and notices, in characters."""
MAX_CHANNELS: Final = 20
"""Deepgram docs, "Multichannel"."""


# ---- errors ---------------------------------------------------------------------------------


def http_error(
    provider: str, status: int, headers: Mapping[str, str], message: str
) -> ProviderError:
    """The error for an HTTP status.

    "Errors": the header `dg-error` of a failed upgrade holds the text (`message` is used without
    it), and `dg-request-id` identifies the request to Deepgram's support.
    """
    text = headers.get("dg-error", "")[:MAX_QUOTE] or message[:MAX_QUOTE]
    if request_id := headers.get("dg-request-id"):
        text += f", request {request_id}"
    if status == 499:
        return Unavailable(provider, "server_error", text, str(status))
    return errors.http_error(provider, status, text)


def error_text(body: bytes) -> str:
    """Extract the text from the body of an HTTP error: plain text or one of two JSON objects
    ("Errors")."""
    text = body.decode(errors="replace").strip()
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict):
        words = content.get("err_msg") or content.get("message")
        details = content.get("details")
        if isinstance(words, str):
            return f"{words} {details}" if isinstance(details, str) else words
    return text or "the request was refused"


def close_error(provider: str, closed: Closed, normal: Collection[int]) -> ProviderError | None:
    """The error for the end of a WebSocket; None if its code is in `normal`.

    The code is None if the connection ended without a close frame.
    """
    code, reason = closed.code, closed.reason[:MAX_QUOTE]
    if code is not None and code in normal:
        return None
    code_text = None if code is None else str(code)
    # "Errors", close codes: the audio cannot be decoded (1008; 1002 in older versions of the page)
    # or the protocol was violated. A retry would fail as well.
    if code in (1002, 1003, 1007, 1008, 1009) or "DATA-0000" in reason:
        return RequestRefused(provider, "request", reason or "stream refused", code_text)
    return Dropped(provider, reason or "connection closed before the end of the stream", code_text)


def protocol_error(provider: str, what: str) -> NoReturn:
    """Raise RemoteProtocolError for a message that violates the provider's protocol."""
    raise RemoteProtocolError(provider, what)


# ---- fields of messages ---------------------------------------------------------------------


def parse_message(provider: str, message: str | bytes) -> dict[str, Any]:
    """Parse a message: a JSON object with a `type`. Raises: RemoteProtocolError."""
    if isinstance(message, bytes):
        protocol_error(provider, "unexpected binary frame")
    try:
        content = from_json(message, allow_inf_nan=False, cache_strings="keys")
    except ValueError:
        protocol_error(provider, f"not JSON: {message[:MAX_QUOTE]!r}")
    if not isinstance(content, dict) or not isinstance(content.get("type"), str):
        protocol_error(provider, f"not an object with a type: {message[:MAX_QUOTE]!r}")
    return content


def number(provider: str, content: Mapping[str, Any], name: str) -> float:
    """A finite number. Raises: RemoteProtocolError."""
    value = content.get(name)
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:  # an integer too large for a float
        protocol_error(provider, f"{name} is out of range")
    protocol_error(provider, f"{name} is {value!r:.{MAX_QUOTE}}")


def seconds(provider: str, content: Mapping[str, Any], name: str) -> float:
    """A time or duration, not negative. Raises: RemoteProtocolError."""
    value = content.get(name)
    if type(value) is float and 0 <= value < math.inf:  # the usual case
        return value
    value = number(provider, content, name)
    if value < 0:
        protocol_error(provider, f"{name} is {value}")
    return value


def confidence(provider: str, content: Mapping[str, Any]) -> float | None:
    """The confidence; None if there is none. Raises: RemoteProtocolError."""
    return None if content.get("confidence") is None else number(provider, content, "confidence")


def parse_word(provider: str, word: Any) -> ProviderWord:
    """Parse a word of an alternative. Raises: RemoteProtocolError."""
    if not isinstance(word, dict) or not isinstance(bare := word.get("word"), str):
        protocol_error(provider, "word without text")
    # "Punctuation": `punctuated_word` is for display; `word` is bare and lowercase.
    punctuated, speaker = word.get("punctuated_word"), word.get("speaker")
    start, end, certainty = word.get("start"), word.get("end"), word.get("confidence")
    if not (
        type(start) is type(end) is type(certainty) is float
        and 0 <= start < math.inf
        and 0 <= end < math.inf
        and -math.inf < certainty < math.inf
    ):  # integers, for example
        start, end = seconds(provider, word, "start"), seconds(provider, word, "end")
        certainty = confidence(provider, word)
    text = punctuated if isinstance(punctuated, str) else bare
    # Equivalent to ProviderWord(...), in half the time: a named tuple's constructor runs in Python.
    return tuple.__new__(
        ProviderWord, (text, start, end, certainty, None if speaker is None else str(speaker))
    )


def best_alternative(provider: str, channel: Any) -> dict[str, Any]:
    """The first alternative of a channel's results; an empty transcript if there is none.

    It is checked to have a transcript and, if it has `words`, that they are a list.

    Raises: RemoteProtocolError.
    """
    alternatives = channel.get("alternatives") if isinstance(channel, dict) else None
    if not isinstance(alternatives, list):
        protocol_error(provider, "Results without alternatives")
    best = alternatives[0] if alternatives else {"transcript": ""}
    if not isinstance(best, dict) or not isinstance(best.get("transcript"), str):
        protocol_error(provider, "Results without a transcript")
    if not isinstance(best.get("words", []), list):
        protocol_error(provider, "Results whose words are not a list")
    return best


# ---- requests -------------------------------------------------------------------------------


def authorization(api_key: SecretStr) -> dict[str, str]:
    """The header for an API key ("Authentication": `Token`; `Bearer` is for short-lived tokens)."""
    return {"Authorization": f"Token {api_key.get_secret_value()}"}


def refused(provider: str, message: str) -> RequestRefused:
    """The error for a request that the provider cannot serve."""
    return RequestRefused(provider, "request", message)


def either(option: bool | None, setting: bool) -> bool:
    """Return the option if it is set, else the setting."""
    return setting if option is None else option


def as_list(value: bool | str | Sequence[Any]) -> list[str]:
    """The values of a repeatable parameter (Deepgram docs: a list repeats the parameter)."""
    if isinstance(value, bool):
        return ["true"] if value else []
    return [value] if isinstance(value, str) else [str(item) for item in value]


def diarize(
    provider: str, model: str | None, option: bool | None, setting: bool
) -> list[tuple[str, str]]:
    """The query parameter for diarization, if on.

    Deepgram docs, "Diarization": `diarize_model` turns it on and excludes `diarize`.

    Raises: RequestRefused.
    """
    if model is not None:
        if option is not None:
            raise refused(provider, "option 'diarize_model': cannot be combined with 'diarize'")
        return [("diarize_model", model)]
    return [("diarize", "true")] if either(option, setting) else []


def terms(
    provider: str,
    model: str,
    keyterms: Sequence[str],
    keyterm: str | list[str],
    keywords: str | list[str],
) -> list[tuple[str, str]]:
    """The query parameters for keyterms.

    Deepgram docs, "Keyterm Prompting", "Keywords": Nova-3 takes `keyterm`, older models take
    `keywords`. The session's own `keyterms` are sent under the name that the model takes.

    Raises: RequestRefused.
    """
    nova_3 = model.startswith("nova-3")
    if keywords and nova_3:
        raise refused(provider, f"option 'keywords': {model} takes 'keyterm'")
    if keyterm and not nova_3:
        raise refused(provider, f"option 'keyterm': {model} takes 'keywords'")
    found = [*keyterms, *as_list(keyterm), *as_list(keywords)]
    return [("keyterm" if nova_3 else "keywords", term) for term in dict.fromkeys(found)]
