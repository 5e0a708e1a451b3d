"""Reading JSON messages of providers, whatever a server sends: no sockets, clocks or environment.

The text of a message is never lost because another field is wrong: fields are read one by one, and
a field that cannot be used is None. A message that cannot be read may have been a final, whose
words no later message repeats. It is therefore an error of the stream, after which the audio is
sent again, unless it is Harmless.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar

from pydantic_core import from_json

from natterjack.plugin.errors import RemoteProtocolError
from natterjack.plugin.provider import Final as FinalEvent
from natterjack.plugin.provider import ProviderWord

from .cleaning import text_of

Value = TypeVar("Value")

MAX_QUOTE: Final = 200
"""Length to which quotes from a provider are cut in errors and notices, in characters."""

AHEAD_SECONDS: Final = 1.0
"""How far after the end of the audio sent a time may be, because of rounding."""
_MAX_DEPTH: Final = 100
"""Depth of nesting up to which values are read; deeper ones become null."""
_MAX_DIGITS: Final = 400
"""Integers with as many digits or more become infinite; a float holds 309 digits."""
_MAX_INDEX: Final = 2**31
_LABEL_CHARACTERS: Final = 100
"""Longest speaker or language, in characters; a longer one is left out."""
_OVER_SECONDS: Final = 0.5
"""How long after a transcript its last word may end, because of rounding and later revisions."""
_FLAGS: Final = {"true": True, "false": False}
_ABOVE_ONE: Final = 0.001
"""Rounding error of a confidence."""
_TOKENS: Final = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\Z)|[\[{]+|[\]}]+', re.DOTALL)


class Harmless(RemoteProtocolError):
    """The message cannot be read, but is certainly not a final with words. It is skipped."""


# ---- messages -------------------------------------------------------------------------------


def parse(provider: str, message: str | bytes) -> dict[str, Any]:
    """Parse a message: a JSON object. Raises: RemoteProtocolError; Harmless if it has no text."""
    content = load(provider, message)
    if not isinstance(content, dict):
        raise undecodable(provider, f"not an object: {quoted(message)}", content)
    return content


def load(provider: str, message: str | bytes) -> Any:
    """Parse JSON, including NaN, infinities, lone surrogates, and numbers and nesting of any size.

    Raises: RemoteProtocolError; Harmless if the message has no text.
    """
    try:
        return from_json(message, cache_strings="keys")
    except ValueError:
        pass
    text = message.decode(errors="replace") if isinstance(message, bytes) else message
    try:
        return json.loads(
            _shallow(text.lstrip("\ufeff")),
            strict=False,
            parse_int=_integer,
            object_pairs_hook=_object,
        )
    except (ValueError, RecursionError):
        pass
    # Any part of an object has one of these characters.
    kind = RemoteProtocolError if any(mark in text for mark in '{}"') else Harmless
    raise kind(provider, f"not JSON: {quoted(message)}")


def kind(provider: str, content: Mapping[str, Any], name: str) -> str:
    """The kind of a message, which `name` holds. Raises: RemoteProtocolError, Harmless."""
    value = content.get(name)
    if isinstance(value, str):
        return value
    raise undecodable(provider, f"{name} is {quoted(value)}", content)


def undecodable(provider: str, what: str, content: Any) -> RemoteProtocolError:
    """The error for a value that is not a message of the protocol."""
    return RemoteProtocolError(provider, what) if _has_text(content) else Harmless(provider, what)


def unclear(
    provider: str,
    what: str,
    text: str,
    start: float | None,
    end: float | None,
    words: tuple[ProviderWord, ...],
) -> RemoteProtocolError:
    """The error for a transcript that may be a final or an interim. It has the text, in case
    the provider repeats the message.

    Taken for a final, an interim would cover words that it does not have yet.
    """
    if not text.strip():
        return Harmless(provider, what)
    estimated = start is None or end is None
    final = FinalEvent(text, start or 0.0, end or 0.0, words, times_estimated=estimated)
    return RemoteProtocolError(provider, what, readable=final)


def required(value: Value | None, provider: str, content: Mapping[str, Any], name: str) -> Value:
    """The value of the field `name`. Raises: Harmless if it is None: use it only in messages that
    have no transcript."""
    if value is None:
        raise Harmless(provider, f"{name} is {quoted(content.get(name))}")
    return value


def quoted(value: object) -> str:
    """A short form of any value, for people."""
    if isinstance(value, str | bytes):
        return repr(value[:MAX_QUOTE])[:MAX_QUOTE]
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if value.bit_length() < 64 else "a huge integer"
    return "an array" if isinstance(value, list) else "an object"


def _shallow(text: str) -> str:
    """Replace values below _MAX_DEPTH by null: a parser has a limit of depth."""
    kept: list[str] = []
    depth, cut, at = 0, False, 0
    for token in _TOKENS.finditer(text):
        run = token[0]
        if run[0] in "[{":
            if not cut and depth + len(run) > _MAX_DEPTH:
                cut = True
                kept += (text[at : token.start() + _MAX_DEPTH - depth], "null")
            depth += len(run)
        elif run[0] in "]}":
            depth -= len(run)
            if cut and depth <= _MAX_DEPTH:
                cut = False
                at = token.end() - (_MAX_DEPTH - depth)
    return "".join((*kept, text[at:])) if kept and not cut else text


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < _MAX_DIGITS else float(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {_clean(name): _clean(value) for name, value in pairs}


def _clean(value: Any) -> Any:
    """Replace lone surrogates, which cannot be encoded."""
    if isinstance(value, list):
        return [text_of(item) if isinstance(item, str) else item for item in value]
    return text_of(value) if isinstance(value, str) else value


def _has_text(content: Any) -> bool:
    left = [content]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
        elif isinstance(value, str) and value.strip():
            return True
    return False


# ---- fields ---------------------------------------------------------------------------------


def number(value: Any) -> float | None:
    """A finite number; None for anything else."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:  # an integer too large for a float
        pass
    return None


def seconds(value: Any, latest: float = math.inf) -> float | None:
    """A time or duration from 0 to `latest`; None for anything else."""
    if type(value) is not float:
        value = number(value)
    return value if value is not None and 0 <= value <= latest and value != math.inf else None


def confidence(value: Any) -> float | None:
    """A confidence from 0 to 1; None for anything else."""
    found = number(value)
    return min(found, 1.0) if found is not None and 0 <= found <= 1 + _ABOVE_ONE else None


def index(value: Any) -> int | None:
    """A whole number from 0 to _MAX_INDEX; None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_INDEX:
        return value
    return None


def flag(value: Any) -> bool | None:
    """A boolean, or a value that many languages write for one; None for anything else."""
    if isinstance(value, bool) or (type(value) is int and value in (0, 1)):
        return bool(value)
    return _FLAGS.get(value.lower()) if isinstance(value, str) else None


def text(value: Any) -> str | None:
    """A text; None for anything else."""
    return value if isinstance(value, str) else None


def label(value: Any) -> str | None:
    """A short text or a number as a text; None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < 64:
        return str(value)
    short = isinstance(value, str) and 0 < len(value) <= _LABEL_CHARACTERS
    return value if short else None


def first(values: Any) -> Any:
    """The first item of a list; None if there is none."""
    return values[0] if isinstance(values, list) and values else None


# ---- words ----------------------------------------------------------------------------------


def word(
    text: str, start: Any, end: Any, certainty: Any, speaker: Any, latest: float = math.inf
) -> ProviderWord:
    """A word with the times that can be used: from 0 to `latest`, and not backwards."""
    if not (
        type(start) is type(end) is type(certainty) is float
        and 0 <= start <= end <= latest
        and end != math.inf
        and 0 <= certainty <= 1
    ):  # integers, for example
        start, end = seconds(start, latest), seconds(end, latest)
        if start is not None and end is not None and end < start:
            end = None
        certainty = confidence(certainty)
    # Equivalent to ProviderWord(...), in half the time: a named tuple's constructor runs in Python.
    return tuple.__new__(
        ProviderWord, (text, start, end, certainty, None if speaker is None else label(speaker))
    )


def end_of(start: float | None, end: float | None, latest: float | None) -> float | None:
    """The end of a word of a transcript that ends at `latest`, if that is known.

    A word that begins in its transcript does not end well after it: its end is wrong, and would
    cover the words of the next transcript.
    """
    if start is None or end is None or latest is None:
        return end
    return latest if start <= latest < end - _OVER_SECONDS else end


def restored(words: Iterable[ProviderWord | None], text: str) -> tuple[ProviderWord, ...]:
    """The words of `text`. Words that could not be read, which are None, are taken from the text;
    if it has another number of words, no word has times."""
    given = tuple(words)
    if None not in given:
        return given  # type: ignore[return-value]
    texts = text.split()
    if not texts:
        return tuple([one for one in given if one is not None])
    if len(texts) != len(given):
        return tuple([ProviderWord(one) for one in texts])
    pairs = zip(given, texts, strict=True)
    return tuple([ProviderWord(own) if one is None else one for one, own in pairs])


def joined(words: Iterable[ProviderWord]) -> str:
    """The words as a text, for a message whose own text cannot be read."""
    return " ".join(one.text for one in words)
