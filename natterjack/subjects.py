"""Session keys, and the subjects made from them. All subjects of the project are defined here."""

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
HOLD_PREFIX = "stt.hold"
ENROLL_PREFIX, RENEW_PREFIX = "stt.enroll", "stt.renew"
"""Prefixes of requests to the registrar; the next token is the public key of whoever asks, which
the server has checked."""
EDGE_PREFIX = "stt.edge"
"""Prefix of the subjects on which edges receive requests about themselves."""
SLOT_PREFIX = "stt.slot"
DIAL_PREFIX = "stt.dial"
DURABLE_PREFIX = "stt.durable"
"""Prefix under which the processes of a durable consumer tell each other that they live."""
DEAD_PREFIX = "stt.dead"
"""Prefix of dead letters: events that a durable consumer has rejected."""
REPUBLISHED_PREFIX = "stt.slots"
"""Prefix under which the server republishes stored messages of `stt.slot.>` and `stt.dial.>`."""


VOICE_SESSION_PREFIX = "tts.session"
TEXT_PREFIX = "tts.text"
SPEECH_PREFIX = "tts.audio"
PLAYED_PREFIX = "tts.played"
PLAYER_HOLD_PREFIX = "tts.hold"
VOICE_CONTROL_PREFIX = "tts.control"
VOICE_EVENT_PREFIX = "tts.event"

EventKind = Literal["interim", "final", "turn", "status", "usage", "notice"]
TRANSCRIPT_KINDS: tuple[EventKind, ...] = (
    "interim", "final", "turn", "status", "usage", "notice",
)  # fmt: skip
DURABLE_KINDS: tuple[EventKind, ...] = ("final", "turn", "status", "usage", "notice")
"""Kinds of event that the broker stores: all but `interim`."""
VoiceEventKind = Literal["status", "utterance", "usage"]
VOICE_EVENT_KINDS: tuple[VoiceEventKind, ...] = ("status", "utterance", "usage")


def check_token(name: str, value: str) -> str:
    """Return `value` if it can be one token of a subject. Raises InvalidKey, which names `name`."""
    if not _TOKEN.fullmatch(value):
        raise InvalidKey(
            f"{name} {value!r} is not valid: use 1 to 64 of the characters A-Z a-z 0-9 _ -"
        )
    return value


class SessionKey(NamedTuple):
    """`<tenant>.<conversation>.<speaker>`, from which the subjects of a session are made.

    Successive sessions may use the same key; their `session_id` distinguishes them.
    """

    tenant: str
    conversation: str
    speaker: str

    def __str__(self) -> str:
        return f"{self.tenant}.{self.conversation}.{self.speaker}"

    @classmethod
    def checked(cls, tenant: str, conversation: str, speaker: str) -> SessionKey:
        """A key with validated tokens. Raises InvalidKey."""
        return cls(
            check_token("tenant", tenant),
            check_token("conversation", conversation),
            check_token("speaker", speaker),
        )

    @classmethod
    def parse(cls, text: str) -> SessionKey:
        """Parse `<tenant>.<conversation>.<speaker>`. Raises InvalidKey."""
        parts = text.split(".")
        if len(parts) != 3:
            raise InvalidKey(f"session key {text!r} is not <tenant>.<conversation>.<speaker>")
        return cls.checked(*parts)


def session_subject(key: SessionKey) -> str:
    """The subject on which an edge publishes its request to open a session."""
    return f"{SESSION_PREFIX}.{key}"


def audio_subject(key: SessionKey) -> str:
    """The subject on which an edge publishes the session's chunks."""
    return f"{AUDIO_PREFIX}.{key}"


def control_subject(key: SessionKey) -> str:
    """The subject on which the session's worker receives control requests."""
    return f"{CONTROL_PREFIX}.{key}"


def hold_subject(key: SessionKey) -> str:
    """The subject on which edges ask each other whether one of them captures the key."""
    return f"{HOLD_PREFIX}.{key}"


def edge_subject(tenant: str, agent: str) -> str:
    """The subject on which the edge `agent` receives requests. Raises InvalidKey.

    One more token makes it a subject for the reply, which crosses from the edge's account.
    """
    return f"{EDGE_PREFIX}.{check_token('tenant', tenant)}.{check_token('agent', agent)}"


def transcript_subject(key: SessionKey, kind: EventKind) -> str:
    """The subject on which a worker publishes the session's events of one kind."""
    return f"{TRANSCRIPT_PREFIX}.{key}.{kind}"


def transcript_filter(
    tenant: str | None = None,
    conversation: str | None = None,
    speaker: str | None = None,
    kind: EventKind | None = None,
) -> str:
    """A subject filter for transcript events; None matches any token. Raises InvalidKey."""
    return f"{TRANSCRIPT_PREFIX}.{_filter(tenant, conversation, speaker)}.{kind or '*'}"


def dead_filter(
    name: str,
    tenant: str | None = None,
    conversation: str | None = None,
    speaker: str | None = None,
) -> str:
    """A subject filter for the dead letters of the durable consumer `name`; None matches any token.

    Raises InvalidKey.
    """
    return f"{DEAD_PREFIX}.{_filter(tenant, conversation, speaker)}.{name}"


def _filter(tenant: str | None, conversation: str | None, speaker: str | None) -> str:
    tokens = (("tenant", tenant), ("conversation", conversation), ("speaker", speaker))
    return ".".join("*" if value is None else check_token(name, value) for name, value in tokens)


def voice_session_subject(key: SessionKey) -> str:
    """The subject on which an application publishes its request to open a voice session."""
    return f"{VOICE_SESSION_PREFIX}.{key}"


def text_subject(key: SessionKey) -> str:
    """The subject on which an application publishes the pieces of its text."""
    return f"{TEXT_PREFIX}.{key}"


def speech_subject(key: SessionKey) -> str:
    """The subject on which a worker publishes the session's speech."""
    return f"{SPEECH_PREFIX}.{key}"


def played_subject(key: SessionKey) -> str:
    """The subject on which a player publishes how far it has played."""
    return f"{PLAYED_PREFIX}.{key}"


def player_hold_subject(key: SessionKey) -> str:
    """The subject on which players ask each other whether one of them plays the key."""
    return f"{PLAYER_HOLD_PREFIX}.{key}"


def voice_control_subject(key: SessionKey) -> str:
    """The subject on which the voice session's worker receives control requests."""
    return f"{VOICE_CONTROL_PREFIX}.{key}"


def voice_event_subject(key: SessionKey, kind: VoiceEventKind) -> str:
    """The subject on which a worker publishes the voice session's events of one kind."""
    return f"{VOICE_EVENT_PREFIX}.{key}.{kind}"


def voice_event_filter(
    tenant: str | None = None, conversation: str | None = None, speaker: str | None = None
) -> str:
    """A subject filter for events of voice sessions; None matches any token. Raises InvalidKey."""
    return f"{VOICE_EVENT_PREFIX}.{_filter(tenant, conversation, speaker)}.*"


def parse_key(subject: str) -> SessionKey:
    """The key in any of the subjects above. Raises InvalidKey."""
    parts = subject.split(".")
    if len(parts) < 5 or parts[0] not in ("stt", "tts"):
        raise InvalidKey(f"subject {subject!r} contains no session key")
    return SessionKey.checked(*parts[2:5])
