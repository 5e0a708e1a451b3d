"""Code shared by the providers for Deepgram: errors, message fields and query parameters.

Functions take the name of the provider for the errors that they raise. Sections named in comments
are pages of the vendor's documentation ("Deepgram docs").
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pydantic import SecretStr

from natterjack.plugin import errors
from natterjack.plugin.errors import (
    Dropped,
    ProviderError,
    RequestRefused,
    Unavailable,
)
from natterjack.plugin.provider import ProviderWord
from natterjack.plugin.websocket import Closed

from .. import wire
from ..wire import MAX_QUOTE

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


# ---- fields of messages ---------------------------------------------------------------------


def parse_word(word: Any, latest: float = math.inf) -> ProviderWord | None:
    """A word of an alternative, with times up to `latest`; None if it has no text."""
    if not isinstance(word, dict):
        return None
    # "Punctuation": `punctuated_word` is for display; `word` is bare and lowercase.
    text = word.get("punctuated_word")
    if not isinstance(text, str) or not text:
        text = word.get("word")
        if not isinstance(text, str) or not text:
            return None
    return wire.word(
        text,
        word.get("start"),
        word.get("end"),
        word.get("confidence"),
        word.get("speaker"),
        latest,
    )


class Alternative(NamedTuple):
    """The first alternative of a channel's results."""

    text: str
    words: tuple[ProviderWord, ...]
    """Empty if the message has none."""
    confidence: float | None
    language: str | None


def best_alternative(channel: Any, latest: float = math.inf) -> Alternative | None:
    """The first alternative of a channel's results, with times up to `latest`; without text if
    there is no alternative. None if neither its text nor its words can be read."""
    alternatives = channel.get("alternatives") if isinstance(channel, dict) else None
    if not isinstance(alternatives, list):
        return None
    if not alternatives:
        return Alternative("", (), None, None)
    best = alternatives[0]
    if not isinstance(best, dict):
        return None
    text, items = wire.text(best.get("transcript")), best.get("words")
    found = [parse_word(item, latest) for item in items] if isinstance(items, list) else []
    if text is None and not (found and all(found)):
        return None
    words = wire.restored(found, text or "")
    text = text if text and not text.isspace() else wire.joined(words)
    return Alternative(
        text,
        words if text else (),
        wire.confidence(best.get("confidence")) if text else None,
        wire.label(wire.first(best.get("languages"))),
    )


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
