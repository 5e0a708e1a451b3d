"""Session keys and the subjects made from them. Every subject name in the project is made here."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from .errors import InvalidKey

TOKEN_PATTERN = r"[A-Za-z0-9_-]{1,64}"  # noqa: S105 - a pattern, not a secret
_TOKEN = re.compile(TOKEN_PATTERN)

SESSION_PREFIX = "stt.session"
AUDIO_PREFIX = "stt.audio"
TRANSCRIPT_PREFIX = "stt.transcript"
CONTROL_PREFIX = "stt.control"
SLOT_PREFIX = "stt.slot"
DIAL_PREFIX = "stt.dial"
HEARD_PREFIX = "stt.slots"
"""Where the server republishes what it has stored of `stt.slot.>` and `stt.dial.>`."""

EventKind = Literal["interim", "final", "turn", "status", "usage"]
DURABLE_KINDS: tuple[EventKind, ...] = ("final", "turn", "status", "usage")
"""Kinds of event that the broker stores; `interim` is the one it does not."""


def check_token(name: str, value: str) -> str:
    """`value` if it can be one token of a subject, else InvalidKey naming `name` and the rule."""
    if not _TOKEN.fullmatch(value):
        raise InvalidKey(
            f"{name} {value!r} is not valid: use 1 to 64 of the characters A-Z a-z 0-9 _ -"
        )
    return value


class SessionKey(NamedTuple):
    """`<tenant>.<conversation>.<speaker>`: names the subjects of a session.

    Sessions that follow one another may reuse a key; `session_id` tells them apart.
    """

    tenant: str
    conversation: str
    speaker: str

    def __str__(self) -> str:
        return f"{self.tenant}.{self.conversation}.{self.speaker}"

    @classmethod
    def checked(cls, tenant: str, conversation: str, speaker: str) -> SessionKey:
        """A key whose three tokens are valid. Raises InvalidKey."""
        return cls(
            check_token("tenant", tenant),
            check_token("conversation", conversation),
            check_token("speaker", speaker),
        )

    @classmethod
    def parse(cls, text: str) -> SessionKey:
        """The key in `tenant.conversation.speaker`. Raises InvalidKey."""
        parts = text.split(".")
        if len(parts) != 3:
            raise InvalidKey(f"session key {text!r} is not <tenant>.<conversation>.<speaker>")
        return cls.checked(*parts)


def session_subject(key: SessionKey) -> str:
    """Where an edge publishes its request to open a session."""
    return f"{SESSION_PREFIX}.{key}"


def audio_subject(key: SessionKey) -> str:
    """Where an edge publishes the session's chunks."""
    return f"{AUDIO_PREFIX}.{key}"


def control_subject(key: SessionKey) -> str:
    """Where the session's worker answers requests."""
    return f"{CONTROL_PREFIX}.{key}"


def transcript_subject(key: SessionKey, kind: EventKind) -> str:
    """Where a worker publishes the session's events of one kind."""
    return f"{TRANSCRIPT_PREFIX}.{key}.{kind}"


def transcript_filter(
    tenant: str | None = None,
    conversation: str | None = None,
    speaker: str | None = None,
    kind: EventKind | None = None,
) -> str:
    """A subject filter over transcript events; None matches anything. Raises InvalidKey."""
    tokens = [
        "*" if value is None else check_token(name, value)
        for name, value in (
            ("tenant", tenant),
            ("conversation", conversation),
            ("speaker", speaker),
        )
    ]
    return ".".join([TRANSCRIPT_PREFIX, *tokens, kind or "*"])


def parse_key(subject: str) -> SessionKey:
    """The key inside any session, audio, control or transcript subject. Raises InvalidKey."""
    parts = subject.split(".")
    if len(parts) < 5 or parts[0] != "stt":
        raise InvalidKey(f"subject {subject!r} carries no session key")
    return SessionKey.checked(*parts[2:5])
