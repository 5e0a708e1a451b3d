"""The text messages of listen v1 clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from ..parsing import parsed

_COMMANDS = ("KeepAlive", "Finalize", "CloseStream", "Configure")
Command = Literal["KeepAlive", "Finalize", "CloseStream", "Configure"]


class Unparsable(Exception):
    """A text message of an unknown form. The stream goes on."""


class ClientMessage(NamedTuple):
    """A text message of a client."""

    kind: Command
    content: Mapping[str, Any]

    @property
    def channel(self) -> int | None:
        """The channel to finalize; None for all."""
        channel = self.content.get("channel")
        return channel if isinstance(channel, int) and not isinstance(channel, bool) else None


def decode(text: str) -> ClientMessage:
    """Decode a client's message. Raises: Unparsable, whose text says why."""
    try:
        content = parsed(text)
    except ValueError as error:
        raise Unparsable(str(error)) from None
    if not isinstance(content, dict):
        raise Unparsable("invalid type: expected an object")
    kind = content.get("type")
    if kind not in _COMMANDS:
        shown = str(kind)[:100]
        raise Unparsable(f"unknown variant `{shown}`, expected one of {', '.join(_COMMANDS)}")
    return ClientMessage(kind, content)


def settings_of(message: ClientMessage) -> dict[str, Any]:
    """The settings that a Configure changes. Raises: Unparsable.

    "Configure": `null` and what is left out keep their values.
    """
    found: dict[str, Any] = {}
    keyterms = message.content.get("keyterms")
    if keyterms is not None:
        if not isinstance(keyterms, list) or not all(isinstance(term, str) for term in keyterms):
            raise Unparsable("invalid type for `keyterms`: expected a list of strings")
        found["keyterms"] = keyterms
    features = message.content.get("features")
    if features is not None:
        if not isinstance(features, dict) or not all(
            isinstance(value, bool) for value in features.values()
        ):
            raise Unparsable("invalid type for `features`: expected booleans by name")
        found |= features
    return found
