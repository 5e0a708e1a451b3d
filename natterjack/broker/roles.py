"""The permissions of each kind of broker user, from which server configurations are made.

The server checks every subject that a user publishes or subscribes to, and refuses what is not
listed here. docs/explanation/security.md explains each permission and what it still makes possible.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from natterjack.errors import UsageError
from natterjack.subjects import (
    AUDIO_PREFIX,
    CONTROL_PREFIX,
    DEAD_PREFIX,
    DIAL_PREFIX,
    DURABLE_PREFIX,
    HOLD_PREFIX,
    PLAYED_PREFIX,
    PLAYER_HOLD_PREFIX,
    REPUBLISHED_PREFIX,
    SESSION_PREFIX,
    SLOT_PREFIX,
    SPEECH_PREFIX,
    TEXT_PREFIX,
    TRANSCRIPT_KINDS,
    TRANSCRIPT_PREFIX,
    VOICE_CONTROL_PREFIX,
    VOICE_EVENT_KINDS,
    VOICE_EVENT_PREFIX,
    VOICE_SESSION_PREFIX,
    check_token,
)

from . import streams

Role = Literal["edge", "worker", "gateway", "subscriber", "application", "monitor", "operator"]
ROLES: Mapping[Role, str] = {
    "edge": "an edge of one tenant: opens sessions, publishes audio, receives their status, plays "
    "speech",
    "worker": "claims sessions, reads audio and text, publishes transcripts and speech",
    "gateway": "a gateway: opens sessions of both kinds for its clients, of all tenants, publishes "
    "their audio and text, controls them; reads transcripts, speech and the state of sessions",
    "subscriber": "a service that reads transcripts, of one tenant or of all",
    "application": "a service that speaks, to one tenant or to all: opens voice sessions, "
    "publishes their text, controls them; reads what a subscriber reads",
    "monitor": "reads the state of sessions and streams, but no transcripts",
    "operator": "creates streams, sets budgets and limits, ends sessions, erases data",
}

KINDS = tuple(dict.fromkeys((*TRANSCRIPT_KINDS, *VOICE_EVENT_KINDS)))
"""The kinds of event to which a subscriber may be confined."""

_API = "$JS.API"


@dataclass(frozen=True)
class Permissions:
    """Subjects, with wildcards, that a user may publish and subscribe to."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    denied: tuple[str, ...] = ()
    """Subjects that the user may not publish to, although `publish` includes them."""
    responds: bool = False
    """True if the user may reply to requests that it receives."""

    def config(self) -> dict[str, Any]:
        """Return the permissions in the form of nats-server's configuration."""
        # An empty list would allow everything.
        publish = {"allow": list(self.publish)} if self.publish else {"deny": [">"]}
        if self.publish and self.denied:
            publish["deny"] = list(self.denied)
        config: dict[str, Any] = {
            "publish": publish,
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
    durable: str | None = None
    """Name of the durable consumer that a subscriber may use."""
    conversation: str | None = None
    """The only conversation of a subscriber; None for all of its tenant."""
    kinds: tuple[str, ...] = ()
    """The kinds of event that a subscriber reads; empty for all."""
    public_key: str = field(default="", compare=False)
    old_key: str = field(default="", compare=False)
    """The public key that `public_key` is about to replace; while it is set, both are valid."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", tuple(self.kinds))  # JSON has a list
        for field_name in ("name", "tenant", "speaker", "durable", "conversation"):
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
        if self.role != "subscriber":
            for field_name in ("durable", "conversation", "kinds"):
                if getattr(self, field_name):
                    raise UsageError(f"--{field_name} is for subscribers")
        if self.live and self.durable:
            raise UsageError("--durable reads stored events, which --live forbids")
        if self.conversation and not self.tenant:
            raise UsageError("--conversation needs --tenant")
        for kind in self.kinds:
            if kind not in KINDS:
                raise UsageError(f"--kinds: {kind!r} is none of {', '.join(KINDS)}")

    @property
    def id(self) -> str:
        """The name of the user's files and inboxes."""
        parts = (self.role, self.tenant or "", self.name)
        return "_".join(part for part in parts if part)

    @property
    def reads(self) -> tuple[str, ...]:
        """The subjects of the events that a service reads."""
        return tuple(subject for _, subjects in self._readable() for subject in subjects)

    @property
    def keys(self) -> tuple[str, ...]:
        """The public keys that are valid."""
        return tuple(filter(None, (self.public_key, self.old_key)))

    @property
    def inbox_prefix(self) -> str:
        """The user's NATS_INBOX_PREFIX; no other user may subscribe to it."""
        return f"_INBOX_{self.id}"

    def permissions(self, reserved: Iterable[str] = ()) -> Permissions:
        """Return what the user may publish and subscribe to. `reserved`: the names of the durable
        consumers of all users."""
        own = (f"{self.inbox_prefix}.>",)
        if self.role == "edge":
            return _edge(f"{self.tenant}.*.{self.speaker or '*'}", own)
        if self.role == "worker":
            return _worker(own)
        if self.role in ("subscriber", "application"):
            return self._service(own, reserved)
        if self.role == "gateway":
            return _gateway(own, reserved)
        return _monitor(own) if self.role == "monitor" else _operator(own)

    def _service(self, own: tuple[str, ...], reserved: Iterable[str]) -> Permissions:
        """What a subscriber or an application may do."""
        speaks = self.role == "application"
        key = f"{self.tenant or '*'}.{self.conversation or '*'}.*"
        readable = self._readable()
        controlled = (
            *((CONTROL_PREFIX,) if self.control else ()),
            *((VOICE_CONTROL_PREFIX,) if self.control or speaks else ()),
        )
        below = ".".join((*filter(None, (self.tenant, self.conversation)), ">"))
        stored = (
            *(request for stream, subjects in readable for request in _read(stream, subjects)),
            # Whoever may ask about a stream can list its subjects: the keys of all tenants.
            *(() if self.tenant else (f"{_API}.STREAM.INFO.{stream}" for stream, _ in readable)),
            *(_durable(self.durable, key) if self.durable else ()),
        )  # fmt: skip
        others = [] if self.live else sorted(set(reserved) - {self.durable})
        return Permissions(
            publish=(
                *(() if self.live else stored),
                *(f"{prefix}.{below}" for prefix in controlled),
                *((f"{VOICE_SESSION_PREFIX}.{key}", f"{TEXT_PREFIX}.{key}") if speaks else ()),
            ),
            subscribe=(
                *own,
                *self.reads,
                *((f"{DURABLE_PREFIX}.{self.durable}",) if self.durable else ()),
            ),
            denied=tuple(request for name in others for request in _consumer(name)),
        )

    def _readable(self) -> list[tuple[str, tuple[str, ...]]]:
        """The streams that a service reads, and for each the subjects of the events."""
        below = ".".join(filter(None, (self.tenant, self.conversation)))
        every = f"{below}.>" if below else ">"
        key = f"{self.tenant or '*'}.{self.conversation or '*'}.*"
        found = []
        for stream, prefix, kinds in (
            (streams.TRANSCRIPTS, TRANSCRIPT_PREFIX, TRANSCRIPT_KINDS),
            (streams.VOICE_EVENTS, VOICE_EVENT_PREFIX, VOICE_EVENT_KINDS),
        ):
            chosen = [kind for kind in self.kinds if kind in kinds]
            ends = [f"{key}.{kind}" for kind in chosen] if self.kinds else [every]
            if ends:
                found.append((stream, tuple(f"{prefix}.{end}" for end in ends)))
        return found


def _article(role: Role) -> str:
    return f"an {role}" if role[0] in "aeiou" else f"a {role}"


def _read(stream: str, subjects: tuple[str, ...]) -> tuple[str, ...]:
    """Requests that read a stream's messages on `subjects`. The filter is part of the request's
    subject, which confines them to a tenant."""
    return (
        *(f"{_API}.CONSUMER.CREATE.{stream}.*.{subject}" for subject in subjects),
        f"{_API}.CONSUMER.INFO.{stream}.*",
        f"{_API}.CONSUMER.MSG.NEXT.{stream}.*",
        *(f"{_API}.DIRECT.GET.{stream}.{subject}" for subject in subjects),
    )


def _durable(name: str, key: str) -> tuple[str, ...]:
    """What a durable consumer publishes beside the requests that read: acknowledgements, its
    progress, signs of life, and dead letters."""
    progress = streams.bucket_subject(streams.DURABLES_BUCKET, f"{name}.>")
    dead = f"{DEAD_PREFIX}.{key}.{name}"
    return (
        f"$JS.ACK.{streams.TRANSCRIPTS}.{name}.>",
        progress,
        f"{_API}.DIRECT.GET.KV_{streams.DURABLES_BUCKET}.{progress}",
        f"{DURABLE_PREFIX}.{name}",
        dead,
        *_read(streams.DEAD_LETTERS, (dead,)),
    )


def _consumer(name: str) -> tuple[str, ...]:
    """Requests about a durable consumer, whose name can be guessed: they are its user's."""
    return (
        f"{_API}.CONSUMER.CREATE.{streams.TRANSCRIPTS}.{name}.>",
        f"{_API}.CONSUMER.INFO.{streams.TRANSCRIPTS}.{name}",
        f"{_API}.CONSUMER.MSG.NEXT.{streams.TRANSCRIPTS}.{name}",
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


def _gateway(own: tuple[str, ...], reserved: Iterable[str]) -> Permissions:
    transcripts, voice_events = f"{TRANSCRIPT_PREFIX}.>", f"{VOICE_EVENT_PREFIX}.>"
    holds = (f"{HOLD_PREFIX}.*.*.*", f"{PLAYER_HOLD_PREFIX}.*.*.*")
    speech = f"{SPEECH_PREFIX}.*.*.*"
    queues = tuple(streams.QUEUES.values())
    buckets = (streams.WORKERS_BUCKET, streams.BUDGETS_BUCKET, streams.USAGE_BUCKET)
    sent = (
        SESSION_PREFIX, AUDIO_PREFIX, CONTROL_PREFIX,
        VOICE_SESSION_PREFIX, TEXT_PREFIX, PLAYED_PREFIX, VOICE_CONTROL_PREFIX,
    )  # fmt: skip
    events = (streams.TRANSCRIPTS, streams.VOICE_EVENTS)
    return Permissions(
        publish=(
            *(f"{prefix}.*.*.*" for prefix in sent),
            *holds,
            *_read(streams.TRANSCRIPTS, (transcripts,)),
            *_read(streams.VOICE_EVENTS, (voice_events,)),
            f"{_API}.DIRECT.GET.{streams.SPEECH}.{speech}",
            # Batches, whose requests name the subjects in their payload.
            *(f"{_API}.DIRECT.GET.{stream}" for stream in (*events, streams.AUDIO)),
            *(f"{_API}.DIRECT.GET.KV_{bucket}" for bucket in buckets),
            *(f"{_API}.STREAM.INFO.{stream}" for stream in (*events, *queues)),
            *(f"{_API}.STREAM.MSG.GET.{queue}" for queue in queues),
        ),
        subscribe=(*own, transcripts, voice_events, *holds, speech),
        denied=tuple(request for name in sorted(set(reserved)) for request in _consumer(name)),
        responds=True,  # to gateways that ask whether a client is still there
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
