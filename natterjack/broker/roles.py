"""The permissions of each kind of broker user, from which server configurations are made.

The server checks every subject that a user publishes or subscribes to, and refuses what is not
listed here. docs/explanation/security.md explains each permission and what it still makes possible.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from natterjack.errors import UsageError
from natterjack.subjects import (
    CONTROL_PREFIX,
    DURABLE_PREFIX,
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
from .login import permissions
from .login.permissions import API, Permissions

Role = Literal[
    "edge", "worker", "gateway", "subscriber", "application", "registrar", "monitor", "operator"
]  # fmt: skip
ROLES: Mapping[Role, str] = {
    "edge": "an edge of one tenant: opens sessions, publishes audio, receives their status, plays "
    "speech",
    "worker": "claims sessions, reads audio and text, publishes transcripts and speech",
    "gateway": "a gateway: opens sessions of both kinds for its clients, of all tenants, publishes "
    "their audio and text, controls them; reads transcripts, speech and the state of sessions",
    "subscriber": "a service that reads transcripts, of one tenant or of all",
    "application": "a service that speaks, to one tenant or to all: opens voice sessions, "
    "publishes their text, controls them; reads what a subscriber reads",
    "registrar": "enrolls edges and renews their credentials; reads and writes nothing else",
    "monitor": "reads the state of sessions, edges and streams, but no transcripts",
    "operator": "creates streams, sets budgets and limits, ends sessions, erases data, invites "
    "and steers edges",
}

KINDS = tuple(dict.fromkeys((*TRANSCRIPT_KINDS, *VOICE_EVENT_KINDS)))
"""The kinds of event to which a subscriber may be confined."""


@dataclass(frozen=True)
class User:
    """A user of the broker. Raises UsageError for a combination that is not possible."""

    role: Role
    name: str = ""
    """Distinguishes users of one role: the name of an edge or a service."""
    tenant: str | None = None
    speaker: str | None = None
    """The only speaker of an edge; None for any."""
    agent: str | None = None
    """The name by which the center knows an edge; None for `name`."""
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
    captions: bool = False
    """True if an edge may receive the live text of its sessions, to show it."""
    public_key: str = field(default="", compare=False)
    old_key: str = field(default="", compare=False)
    """The public key that `public_key` is about to replace; while it is set, both are valid."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", tuple(self.kinds))  # JSON has a list
        for field_name in ("name", "tenant", "speaker", "agent", "durable", "conversation"):
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
        if self.agent and self.role != "edge":
            raise UsageError("--agent is for edges")
        if self.control and self.role not in ("subscriber", "application"):
            raise UsageError("--control is for subscribers and applications")
        if self.captions and self.role != "edge":
            raise UsageError("--captions is for edges")
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
            key = f"{self.tenant}.*.{self.speaker or '*'}"
            agent = f"{self.tenant}.{self.agent or self.name}"
            return permissions.edge(key, agent, own, captions=self.captions)
        if self.role == "worker":
            return permissions.worker(own)
        if self.role in ("subscriber", "application"):
            return self._service(own, reserved)
        if self.role == "gateway":
            return permissions.gateway(own, reserved)
        if self.role == "registrar":
            return permissions.registrar(own)
        return permissions.monitor(own) if self.role == "monitor" else permissions.operator(own)

    def _service(self, own: tuple[str, ...], reserved: Iterable[str]) -> Permissions:
        """Return the permissions of a subscriber or an application."""
        speaks = self.role == "application"
        key = f"{self.tenant or '*'}.{self.conversation or '*'}.*"
        readable = self._readable()
        controlled = (
            *((CONTROL_PREFIX,) if self.control else ()),
            *((VOICE_CONTROL_PREFIX,) if self.control or speaks else ()),
        )
        below = ".".join((*filter(None, (self.tenant, self.conversation)), ">"))
        stored = (
            *(request for each in readable for request in permissions.reads(*each)),
            # Whoever may ask about a stream can list its subjects: the keys of all tenants.
            *(() if self.tenant else (f"{API}.STREAM.INFO.{stream}" for stream, _ in readable)),
            *(permissions.durable_use(self.durable, key) if self.durable else ()),
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
            denied=tuple(request for name in others for request in permissions.requests_of(name)),
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
