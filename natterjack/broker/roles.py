"""The permissions of each kind of broker user, from which server configurations are made.

The server checks every subject that a user publishes or subscribes to, and refuses what is not
listed here. docs/explanation/security.md explains each permission and what it still makes possible.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from natterjack.errors import UsageError
from natterjack.subjects import (
    AUDIO_PREFIX,
    CONTROL_PREFIX,
    DIAL_PREFIX,
    HOLD_PREFIX,
    PLAYED_PREFIX,
    PLAYER_HOLD_PREFIX,
    REPUBLISHED_PREFIX,
    SESSION_PREFIX,
    SLOT_PREFIX,
    SPEECH_PREFIX,
    TEXT_PREFIX,
    TRANSCRIPT_PREFIX,
    VOICE_CONTROL_PREFIX,
    VOICE_EVENT_PREFIX,
    VOICE_SESSION_PREFIX,
    check_token,
)

from . import streams

Role = Literal["edge", "worker", "subscriber", "application", "monitor", "operator"]
ROLES: Mapping[Role, str] = {
    "edge": "an edge of one tenant: opens sessions, publishes audio, receives their status, plays "
    "speech",
    "worker": "claims sessions, reads audio and text, publishes transcripts and speech",
    "subscriber": "a service that reads transcripts, of one tenant or of all",
    "application": "a service that speaks, to one tenant or to all: opens voice sessions, "
    "publishes their text, controls them; reads what a subscriber reads",
    "monitor": "reads the state of sessions and streams, but no transcripts",
    "operator": "creates streams, sets budgets and limits, ends sessions, erases data",
}

_API = "$JS.API"


@dataclass(frozen=True)
class Permissions:
    """Subjects, with wildcards, that a user may publish and subscribe to."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    responds: bool = False
    """True if the user may reply to requests that it receives."""

    def config(self) -> dict[str, Any]:
        """Return the permissions in the form of nats-server's configuration."""
        # An empty list would allow everything.
        config: dict[str, Any] = {
            "publish": {"allow": list(self.publish)} if self.publish else {"deny": [">"]},
            "subscribe": {"allow": list(self.subscribe)},
        }
        if self.responds:
            # A minute, because a control request may wait for a provider. Edges reply at once.
            config["allow_responses"] = {"max": 1, "expires": "1m"}
        return config


@dataclass(frozen=True)
class User:
    """A user of the broker. Raises UsageError for a combination that is not possible."""

    role: Role
    name: str = ""
    """Distinguishes users of one role: the name of an edge or a service."""
    tenant: str | None = None
    speaker: str | None = None
    """The only speaker of an edge; None for any."""
    control: bool = False
    """True if a subscriber or an application may send control requests to sessions."""
    live: bool = False
    """True if a subscriber receives live events only, and may not read stored ones."""
    public_key: str = field(default="", compare=False)
    old_key: str = field(default="", compare=False)
    """The public key that `public_key` is about to replace; while it is set, both are valid."""

    def __post_init__(self) -> None:
        for field_name in ("name", "tenant", "speaker"):
            value = getattr(self, field_name)
            if value:
                check_token(field_name, value)
        if self.role == "edge" and not (self.tenant and self.name):
            raise UsageError("an edge needs --tenant and --name")
        if self.role in ("subscriber", "application") and not self.name:
            raise UsageError(f"{_article(self.role)} needs --name")
        if self.tenant and self.role not in ("edge", "subscriber", "application"):
            raise UsageError(f"{_article(self.role)} has no tenant")
        if self.speaker and self.role != "edge":
            raise UsageError("--speaker is for edges")
        if self.control and self.role not in ("subscriber", "application"):
            raise UsageError("--control is for subscribers and applications")
        if self.live and self.role != "subscriber":
            raise UsageError("--live is for subscribers")

    @property
    def id(self) -> str:
        """The name of the user's files and inboxes."""
        parts = (self.role, self.tenant or "", self.name)
        return "_".join(part for part in parts if part)

    @property
    def keys(self) -> tuple[str, ...]:
        """The public keys that are valid."""
        return tuple(filter(None, (self.public_key, self.old_key)))

    @property
    def inbox_prefix(self) -> str:
        """The user's NATS_INBOX_PREFIX; no other user may subscribe to it."""
        return f"_INBOX_{self.id}"

    def permissions(self) -> Permissions:
        """Return what the user may publish and subscribe to."""
        own = (f"{self.inbox_prefix}.>",)
        if self.role == "edge":
            return _edge(f"{self.tenant}.*.{self.speaker or '*'}", own)
        if self.role == "worker":
            return _worker(own)
        if self.role in ("subscriber", "application"):
            return self._service(own)
        return _monitor(own) if self.role == "monitor" else _operator(own)

    def _service(self, own: tuple[str, ...]) -> Permissions:
        """What a subscriber or an application may do."""
        speaks = self.role == "application"
        below = f"{self.tenant}.>" if self.tenant else ">"
        key = f"{self.tenant or '*'}.*.*"
        stored = (
            *_read(streams.TRANSCRIPTS, TRANSCRIPT_PREFIX, below),
            *_read(streams.VOICE_EVENTS, VOICE_EVENT_PREFIX, below),
        )
        controlled = (
            *((CONTROL_PREFIX,) if self.control else ()),
            *((VOICE_CONTROL_PREFIX,) if self.control or speaks else ()),
        )
        return Permissions(
            publish=(
                *(() if self.live else stored),
                *(f"{prefix}.{below}" for prefix in controlled),
                *((f"{VOICE_SESSION_PREFIX}.{key}", f"{TEXT_PREFIX}.{key}") if speaks else ()),
            ),
            subscribe=(*own, f"{TRANSCRIPT_PREFIX}.{below}", f"{VOICE_EVENT_PREFIX}.{below}"),
        )


def _article(role: Role) -> str:
    return f"an {role}" if role[0] in "aeiou" else f"a {role}"


def _read(stream: str, prefix: str, below: str) -> tuple[str, ...]:
    """Requests that read a stream's messages below `prefix`. The filter is part of the subject,
    which confines them to a tenant."""
    return (
        f"{_API}.CONSUMER.CREATE.{stream}.*.{prefix}.{below}",
        f"{_API}.CONSUMER.MSG.NEXT.{stream}.*",
        f"{_API}.DIRECT.GET.{stream}.{prefix}.{below}",
    )


def _edge(key: str, own: tuple[str, ...]) -> Permissions:
    status = f"{TRANSCRIPT_PREFIX}.{key}.status"
    holds = (f"{HOLD_PREFIX}.{key}", f"{PLAYER_HOLD_PREFIX}.{key}")
    speech, voice_status = f"{SPEECH_PREFIX}.{key}", f"{VOICE_EVENT_PREFIX}.{key}.status"
    return Permissions(
        publish=(
            f"{SESSION_PREFIX}.{key}",
            f"{AUDIO_PREFIX}.{key}",
            *holds,
            f"{PLAYED_PREFIX}.{key}",
            # The newest status of a session, and its newest chunk of speech, by their subjects.
            f"{_API}.DIRECT.GET.{streams.TRANSCRIPTS}.{status}",
            f"{_API}.DIRECT.GET.{streams.VOICE_EVENTS}.{voice_status}",
            f"{_API}.DIRECT.GET.{streams.SPEECH}.{speech}",
        ),
        subscribe=(*own, status, *holds, speech, voice_status),
        responds=True,  # to other edges that ask for its keys
    )


def _worker(own: tuple[str, ...]) -> Permissions:
    written = (
        streams.CHECKPOINTS_BUCKET, streams.VOICE_CHECKPOINTS_BUCKET, streams.WORKERS_BUCKET,
        streams.USAGE_BUCKET, streams.PROVIDERS_BUCKET,
    )  # fmt: skip
    read = (
        streams.AUDIO, streams.TEXT, streams.SPEECH,
        *(f"KV_{bucket}" for bucket in (*written, streams.BUDGETS_BUCKET)),
        streams.SLOTS,
    )  # fmt: skip
    # Answered by the leader; a replica may lag behind.
    read_from_leader = (
        *streams.QUEUES.values(), streams.TRANSCRIPTS, streams.VOICE_EVENTS, streams.SPEECH,
        streams.SLOTS, f"KV_{streams.CHECKPOINTS_BUCKET}", f"KV_{streams.VOICE_CHECKPOINTS_BUCKET}",
        f"KV_{streams.USAGE_BUCKET}",
    )  # fmt: skip
    queues = [f"{queue}.{streams.CONSUMER}" for queue in streams.QUEUES.values()]
    return Permissions(
        publish=(
            f"{TRANSCRIPT_PREFIX}.*.*.*.*",
            f"{SPEECH_PREFIX}.*.*.*",
            f"{VOICE_EVENT_PREFIX}.*.*.*.*",
            f"{SLOT_PREFIX}.>",
            f"{DIAL_PREFIX}.>",
            f"{REPUBLISHED_PREFIX}.waiting.>",
            *(streams.bucket_subject(bucket, ">") for bucket in written),
            *(f"{_API}.CONSUMER.INFO.{queue}" for queue in queues),
            *(f"{_API}.CONSUMER.MSG.NEXT.{queue}" for queue in queues),
            *(f"$JS.ACK.{queue}.>" for queue in queues),
            f"{_API}.STREAM.INFO.*",
            *(f"{_API}.STREAM.MSG.GET.{stream}" for stream in read_from_leader),
            *(f"{_API}.DIRECT.GET.{stream}" for stream in read),
            *(f"{_API}.DIRECT.GET.{stream}.>" for stream in read),
        ),
        subscribe=(
            *own,
            f"{AUDIO_PREFIX}.*.*.*",
            f"{CONTROL_PREFIX}.*.*.*",
            f"{TEXT_PREFIX}.*.*.*",
            f"{PLAYED_PREFIX}.*.*.*",
            f"{VOICE_CONTROL_PREFIX}.*.*.*",
            f"{TRANSCRIPT_PREFIX}.*.*.*.turn",  # a speaker's turn interrupts a voice
            f"{REPUBLISHED_PREFIX}.>",
            streams.bucket_subject(streams.BUDGETS_BUCKET, ">"),
            streams.bucket_subject(streams.USAGE_BUCKET, ">"),
            streams.bucket_subject(streams.PROVIDERS_BUCKET, ">"),
        ),
        responds=True,
    )


def _monitor(own: tuple[str, ...]) -> Permissions:
    return Permissions(
        publish=(
            f"{_API}.INFO",
            f"{_API}.STREAM.NAMES",
            f"{_API}.STREAM.LIST",
            f"{_API}.STREAM.INFO.*",
            f"{_API}.CONSUMER.INFO.*.*",
            *(f"{_API}.STREAM.MSG.GET.{queue}" for queue in streams.QUEUES.values()),
            f"{_API}.DIRECT.GET.KV_{streams.WORKERS_BUCKET}",
            f"{_API}.DIRECT.GET.KV_{streams.USAGE_BUCKET}",
            f"{_API}.DIRECT.GET.KV_{streams.BUDGETS_BUCKET}",
            f"{_API}.DIRECT.GET.{streams.SLOTS}",
        ),
        subscribe=own,
    )


def _operator(own: tuple[str, ...]) -> Permissions:
    return Permissions(
        publish=(
            f"{_API}.>",
            # Acknowledgements of a backup, and the data of a restore.
            "$JS.SNAPSHOT.>",
            streams.bucket_subject(streams.BUDGETS_BUCKET, ">"),
            streams.bucket_subject(streams.USAGE_BUCKET, streams.usage_erased("*")),
            f"{CONTROL_PREFIX}.>",
            f"{VOICE_CONTROL_PREFIX}.>",
            f"{SESSION_PREFIX}.*.*.*",
            f"{VOICE_SESSION_PREFIX}.*.*.*",
        ),
        subscribe=(
            *own,
            f"{TRANSCRIPT_PREFIX}.>",
            f"{VOICE_EVENT_PREFIX}.>",
            f"{REPUBLISHED_PREFIX}.>",
        ),
    )
