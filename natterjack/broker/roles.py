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
    REPUBLISHED_PREFIX,
    SESSION_PREFIX,
    SLOT_PREFIX,
    TRANSCRIPT_PREFIX,
    check_token,
)

from . import streams

Role = Literal["edge", "worker", "subscriber", "monitor", "operator"]
ROLES: Mapping[Role, str] = {
    "edge": "an edge of one tenant: opens sessions, publishes audio, receives their status",
    "worker": "claims sessions, reads audio, publishes transcripts",
    "subscriber": "a service that reads transcripts, of one tenant or of all",
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
    """True if a subscriber may send control requests to sessions."""
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
        if self.role == "subscriber" and not self.name:
            raise UsageError("a subscriber needs --name")
        if self.tenant and self.role not in ("edge", "subscriber"):
            raise UsageError(f"a {self.role} has no tenant")
        if self.speaker and self.role != "edge":
            raise UsageError("--speaker is for edges")
        if (self.control or self.live) and self.role != "subscriber":
            raise UsageError("--control and --live are for subscribers")

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
        if self.role == "subscriber":
            return self._subscriber(f"{self.tenant}.>" if self.tenant else ">", own)
        return _monitor(own) if self.role == "monitor" else _operator(own)

    def _subscriber(self, key: str, own: tuple[str, ...]) -> Permissions:
        stored = (
            # The filter is part of the subject, which confines it to the tenant.
            f"{_API}.CONSUMER.CREATE.{streams.TRANSCRIPTS}.*.{TRANSCRIPT_PREFIX}.{key}",
            f"{_API}.CONSUMER.MSG.NEXT.{streams.TRANSCRIPTS}.*",
            f"{_API}.DIRECT.GET.{streams.TRANSCRIPTS}.{TRANSCRIPT_PREFIX}.{key}",
        )
        return Permissions(
            publish=(
                *(() if self.live else stored),
                *((f"{CONTROL_PREFIX}.{key}",) if self.control else ()),
            ),
            subscribe=(*own, f"{TRANSCRIPT_PREFIX}.{key}"),
        )


def _edge(key: str, own: tuple[str, ...]) -> Permissions:
    status, hold = f"{TRANSCRIPT_PREFIX}.{key}.status", f"{HOLD_PREFIX}.{key}"
    return Permissions(
        publish=(
            f"{SESSION_PREFIX}.{key}",
            f"{AUDIO_PREFIX}.{key}",
            hold,
            # The newest status of a session, by its subject.
            f"{_API}.DIRECT.GET.{streams.TRANSCRIPTS}.{status}",
        ),
        subscribe=(*own, status, hold),
        responds=True,  # to other edges that ask for its keys
    )


def _worker(own: tuple[str, ...]) -> Permissions:
    read = (
        streams.AUDIO,
        *(
            f"KV_{bucket}"
            for bucket in (
                streams.CHECKPOINTS_BUCKET, streams.WORKERS_BUCKET, streams.USAGE_BUCKET,
                streams.BUDGETS_BUCKET, streams.PROVIDERS_BUCKET,
            )
        ),
        streams.SLOTS,
    )  # fmt: skip
    written = (
        streams.CHECKPOINTS_BUCKET, streams.WORKERS_BUCKET, streams.USAGE_BUCKET,
        streams.PROVIDERS_BUCKET,
    )  # fmt: skip
    queue = f"{streams.SESSIONS}.{streams.CONSUMER}"
    return Permissions(
        publish=(
            f"{TRANSCRIPT_PREFIX}.*.*.*.*",
            f"{SLOT_PREFIX}.>",
            f"{DIAL_PREFIX}.>",
            f"{REPUBLISHED_PREFIX}.waiting.>",
            *(streams.bucket_subject(bucket, ">") for bucket in written),
            f"{_API}.CONSUMER.INFO.{queue}",
            f"{_API}.CONSUMER.MSG.NEXT.{queue}",
            f"$JS.ACK.{queue}.>",
            f"{_API}.STREAM.INFO.*",
            # Answered by the leader; a replica may lag behind.
            f"{_API}.STREAM.MSG.GET.{streams.SESSIONS}",
            f"{_API}.STREAM.MSG.GET.{streams.TRANSCRIPTS}",
            f"{_API}.STREAM.MSG.GET.{streams.SLOTS}",
            f"{_API}.STREAM.MSG.GET.KV_{streams.CHECKPOINTS_BUCKET}",
            f"{_API}.STREAM.MSG.GET.KV_{streams.USAGE_BUCKET}",
            *(f"{_API}.DIRECT.GET.{stream}" for stream in read),
            *(f"{_API}.DIRECT.GET.{stream}.>" for stream in read),
        ),
        subscribe=(
            *own,
            f"{AUDIO_PREFIX}.*.*.*",
            f"{CONTROL_PREFIX}.*.*.*",
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
            f"{_API}.STREAM.MSG.GET.{streams.SESSIONS}",
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
            f"{SESSION_PREFIX}.*.*.*",
        ),
        subscribe=(*own, f"{TRANSCRIPT_PREFIX}.>", f"{REPUBLISHED_PREFIX}.>"),
    )
