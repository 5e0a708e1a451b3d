"""What all of Deepgram's interfaces share: the error table, fields of messages, rules of queries.

Each function is given the name of the provider in whose name it raises. Sections named in comments
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
"""Characters of the provider's own words that go into an error or a notice."""
MAX_CHANNELS: Final = 20
"""Deepgram docs, "Multichannel"."""


# ---- errors ---------------------------------------------------------------------------------


def http_error(
    provider: str, status: int, headers: Mapping[str, str], message: str
) -> ProviderError:
    """What an HTTP error means. "Errors": `dg-error` has the text where it is an upgrade that
    failed (else `message` says it), `dg-request-id` the name under which support finds it."""
    said = headers.get("dg-error", "")[:MAX_QUOTE] or message[:MAX_QUOTE]
    if request_id := headers.get("dg-request-id"):
        said += f", request {request_id}"
    if status == 499:
        return Unavailable(provider, "server_error", said, str(status))
    return errors.http_error(provider, status, said)


def said(body: bytes) -> str:
    """What the body of an HTTP error says. "Errors": plain text, or one of two shapes of JSON."""
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


def close_error(provider: str, closed: Closed, in_order: Collection[int]) -> ProviderError | None:
    """What the end of a WebSocket means; None: its code is one of those that are `in_order` now.
    The code is None where the connection ended without a closing frame."""
    code, reason = closed.code, closed.reason[:MAX_QUOTE]
    if code is not None and code in in_order:
        return None
    shown = None if code is None else str(code)
    # "Errors", close codes: the audio cannot be decoded (1008; 1002 in older texts), or the
    # protocol was misused: the same request will fare the same.
    if code in (1002, 1003, 1007, 1008, 1009) or "DATA-0000" in reason:
        return RequestRefused(provider, "request", reason or "the stream was refused", shown)
    return Dropped(provider, reason or "the connection ended before the stream was done", shown)


def wrong(provider: str, what: str) -> NoReturn:
    """The provider said something that its protocol does not allow."""
    raise RemoteProtocolError(provider, what)


# ---- fields of messages ---------------------------------------------------------------------


def parse_message(provider: str, message: str | bytes) -> dict[str, Any]:
    """A message of a stream: a JSON object with a `type`. Raises: RemoteProtocolError."""
    if isinstance(message, bytes):
        wrong(provider, "a binary frame")
    try:
        content = from_json(message, allow_inf_nan=False, cache_strings="keys")
    except ValueError:
        wrong(provider, f"not JSON: {message[:MAX_QUOTE]!r}")
    if not isinstance(content, dict) or not isinstance(content.get("type"), str):
        wrong(provider, f"no object with a type: {message[:MAX_QUOTE]!r}")
    return content


def number(provider: str, content: Mapping[str, Any], name: str) -> float:
    """A finite number. Raises: RemoteProtocolError."""
    value = content.get(name)
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:  # an integer that no float can be
        wrong(provider, f"{name} is beyond all bounds")
    wrong(provider, f"{name} is {value!r:.{MAX_QUOTE}}")


def seconds(provider: str, content: Mapping[str, Any], name: str) -> float:
    """A length or place in time. Raises: RemoteProtocolError."""
    value = content.get(name)
    if type(value) is float and 0 <= value < math.inf:  # nearly always
        return value
    value = number(provider, content, name)
    if value < 0:
        wrong(provider, f"{name} is {value}")
    return value


def confidence(provider: str, content: Mapping[str, Any]) -> float | None:
    """A confidence, where there is one. Raises: RemoteProtocolError."""
    return None if content.get("confidence") is None else number(provider, content, "confidence")


def parse_word(provider: str, word: Any) -> ProviderWord:
    """One of an alternative's words. Raises: RemoteProtocolError."""
    if not isinstance(word, dict) or not isinstance(bare := word.get("word"), str):
        wrong(provider, "a word without text")
    # "Punctuation": the word as it is to be shown; `word` is bare and in lower case.
    shown, speaker = word.get("punctuated_word"), word.get("speaker")
    start, end, sure = word.get("start"), word.get("end"), word.get("confidence")
    if not (
        type(start) is type(end) is type(sure) is float
        and 0 <= start < math.inf
        and 0 <= end < math.inf
        and -math.inf < sure < math.inf
    ):  # whole numbers, say
        start, end = seconds(provider, word, "start"), seconds(provider, word, "end")
        sure = confidence(provider, word)
    text = shown if isinstance(shown, str) else bare
    # As ProviderWord(...), in half the time: a tuple's constructor is a function of Python.
    return tuple.__new__(
        ProviderWord, (text, start, end, sure, None if speaker is None else str(speaker))
    )


def best_alternative(provider: str, channel: Any) -> dict[str, Any]:
    """The first alternative of a channel's results, checked to have a transcript, and a list of
    words if it has `words`. In odd cases there is none: then nothing was said.

    Raises: RemoteProtocolError.
    """
    alternatives = channel.get("alternatives") if isinstance(channel, dict) else None
    if not isinstance(alternatives, list):
        wrong(provider, "Results without alternatives")
    best = alternatives[0] if alternatives else {"transcript": ""}
    if not isinstance(best, dict) or not isinstance(best.get("transcript"), str):
        wrong(provider, "Results without a transcript")
    if not isinstance(best.get("words", []), list):
        wrong(provider, "Results whose words are no list")
    return best


# ---- requests -------------------------------------------------------------------------------


def authorization(api_key: SecretStr) -> dict[str, str]:
    """ "Authentication": `Token` goes with an API key; `Bearer` is for short-lived tokens only."""
    return {"Authorization": f"Token {api_key.get_secret_value()}"}


def refused(provider: str, message: str) -> RequestRefused:
    """The request cannot be served."""
    return RequestRefused(provider, "request", message)


def either(option: bool | None, setting: bool) -> bool:
    """An option beats the setting."""
    return setting if option is None else option


def many(value: bool | str | Sequence[Any]) -> list[str]:
    """Deepgram docs: a list is given by repeating the parameter."""
    if isinstance(value, bool):
        return ["true"] if value else []
    return [value] if isinstance(value, str) else [str(item) for item in value]


def diarize(
    provider: str, model: str | None, option: bool | None, setting: bool
) -> list[tuple[str, str]]:
    """Deepgram docs, "Diarization": `diarize_model` turns it on, and excludes `diarize`.

    Raises: RequestRefused.
    """
    if model is not None:
        if option is not None:
            raise refused(provider, "option 'diarize_model': not together with 'diarize'")
        return [("diarize_model", model)]
    return [("diarize", "true")] if either(option, setting) else []


def terms(
    provider: str,
    model: str,
    keyterms: Sequence[str],
    keyterm: str | list[str],
    keywords: str | list[str],
) -> list[tuple[str, str]]:
    """Deepgram docs, "Keyterm Prompting", "Keywords": Nova-3 takes the one, older models the
    other. The session's own `keyterms` go as whichever the model takes. Raises: RequestRefused."""
    nova_3 = model.startswith("nova-3")
    if keywords and nova_3:
        raise refused(provider, f"option 'keywords': {model} takes 'keyterm'")
    if keyterm and not nova_3:
        raise refused(provider, f"option 'keyterm': {model} takes 'keywords'")
    found = [*keyterms, *many(keyterm), *many(keywords)]
    return [("keyterm" if nova_3 else "keywords", term) for term in dict.fromkeys(found)]
