"""Grants: the rights of the holder of a key or a token."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import uuid4

from natterjack.errors import InvalidKey
from natterjack.fleet.keys import AUDIO_DOORS, DOORS, READ_KINDS, KeyRecord
from natterjack.subjects import check_token

from .refused import Reason, Refused


@dataclass(frozen=True, slots=True)
class Grant:
    """The rights of a client: those of its key, narrowed by its token if it has one."""

    key_id: str
    """The key's name in logs, labels and counts; not a secret."""
    tenant: str
    doors: frozenset[str] = frozenset(AUDIO_DOORS)
    """Names from `natterjack.fleet.keys.DOORS`."""
    kinds: frozenset[str] = frozenset(READ_KINDS)
    """The kinds of event that it may read by the door `api`."""
    conversations: tuple[str, ...] = ()
    """Patterns of the conversations that it may use; empty for all."""
    conversation: str | None = None
    """The only conversation, for a token that is bound to one."""
    provider: tuple[str, ...] = ()
    """Providers of its sessions, tried in order; empty for the worker's default."""
    model: str | None = None
    language: str | None = None
    keyterms: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    """Options for the provider, which those of the client override."""
    labels: dict[str, str] = field(default_factory=dict)
    max_connections: int | None = None
    """At once, at each gateway."""
    max_session_seconds: float | None = None
    expires_at: datetime | None = None
    """New connections are refused from this time on."""
    token: bool = False
    """Whether it comes from a token, which cannot make tokens."""

    @classmethod
    def of(cls, record: KeyRecord) -> Grant:
        """The grant of a key."""
        return cls(
            key_id=record.id,
            tenant=record.tenant,
            doors=frozenset(record.doors),
            kinds=frozenset(record.kinds or READ_KINDS),
            conversations=record.conversations,
            provider=record.provider,
            model=record.model,
            language=record.language,
            keyterms=record.keyterms,
            options=record.options,
            labels=record.labels,
            max_connections=record.max_connections,
            max_session_seconds=record.max_session_seconds,
            expires_at=record.expires_at,
        )

    @classmethod
    def everything(cls, tenant: str) -> Grant:
        """The grant of all clients of a gateway without keys."""
        return cls(key_id="none", tenant=tenant, doors=frozenset(DOORS))

    def narrowed(
        self,
        *,
        doors: frozenset[str],
        kinds: frozenset[str],
        conversation: str | None,
        expires_at: datetime,
    ) -> Grant:
        """The grant of a token that was made with this key: never more than the key's."""
        return replace(
            self,
            doors=self.doors & doors,
            kinds=self.kinds & kinds,
            conversation=conversation or self.conversation,
            expires_at=min(expires_at, self.expires_at or expires_at),
            token=True,
        )

    def check_door(self, door: str) -> None:
        """Raise Refused unless this grant opens `door`."""
        if door not in self.doors:
            raise Refused(
                Reason.DOOR, f"key {self.key_id} does not open this door ({door}); make one that "
                f"does with `natterjack keys add --doors {door}`",
            )  # fmt: skip

    def may_use(self, conversation: str) -> bool:
        """Whether it may send audio to a conversation, or read it."""
        if self.conversation is not None and conversation != self.conversation:
            return False
        patterns = self.conversations
        return not patterns or any(_compiled(p).fullmatch(conversation) for p in patterns)

    def check_conversation(self, conversation: str) -> str:
        """Return `conversation` if this grant may use it. Raises Refused."""
        try:
            check_token("conversation", conversation)
        except InvalidKey as error:
            raise Refused(Reason.CONVERSATION, str(error)) from None
        if not self.may_use(conversation):
            raise Refused(
                Reason.CONVERSATION,
                f"key {self.key_id} may not use the conversation {conversation}",
            )
        return conversation

    def conversation_for(self, wanted: str | None = None, unique: str | None = None) -> str:
        """The conversation of a new session: the `wanted` one, else the only one of this grant,
        else one that its patterns allow, which `unique` tells from others. Raises Refused."""
        if wanted is not None:
            return self.check_conversation(wanted)
        if self.conversation is not None:
            return self.check_conversation(self.conversation)
        unique = unique or uuid4().hex
        for pattern in self.conversations:
            name = pattern.replace("*", unique, 1).replace("*", "")
            if len(name) <= 64:
                return name
        return unique


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    """A pattern whose only special character is `*`. Others of fnmatch are not valid in it."""
    return re.compile(".*".join(map(re.escape, re.split(r"\*+", pattern))))
