"""The configuration of nats-server for the users of `natterjack users`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from natterjack.broker import streams
from natterjack.broker.login.permissions import CAPTION_KINDS
from natterjack.broker.roles import User
from natterjack.subjects import (
    AUDIO_PREFIX,
    EDGE_PREFIX,
    PLAYED_PREFIX,
    SESSION_PREFIX,
    SPEECH_PREFIX,
    TRANSCRIPT_PREFIX,
    VOICE_EVENT_PREFIX,
)

MAIN = "STT"
"""The account of workers, subscribers, operators and all streams."""
_MAX_STREAMS, _MAX_CONSUMERS = 32, 4096
"""Each listening subscriber has a consumer."""
EDGE_CONNECTIONS = 1024
"""Default limit of simultaneous connections for all edges of a tenant together."""
_EDGE_SUBSCRIPTIONS = 1024
"""Limit of subscriptions per connection. An edge has three for each session."""


def accounts(
    users: Sequence[User],
    edge_connections: int = EDGE_CONNECTIONS,
    others: Iterable[str] = (),
    captions: Iterable[str] = (),
) -> dict[str, Any]:
    """The `accounts` section of nats-server's configuration, with accounts for the edges of the
    tenants `others`, too; edges of the tenants `captions` may show captions.

    The edges of each tenant have an account of their own, with only the imports they need. They
    must not share the account that has the streams: a client that may publish to a stream chooses
    the reply subject of the acknowledgement, and the server does not check it. It could be another
    tenant's transcript subject, or the API that purges streams.
    """
    edges = [user for user in users if user.role == "edge"]
    tenants = sorted({*(user.tenant for user in edges if user.tenant), *others})
    allowed = {user.tenant for user in edges if user.tenant and user.captions}
    readers = sorted({*allowed, *captions})
    sections: dict[str, Any] = {
        MAIN: {
            "jetstream": {"max_streams": _MAX_STREAMS, "max_consumers": _MAX_CONSUMERS},
            "users": _users((user for user in users if user.role != "edge"), durables(users)),
            "exports": [
                {kind: subject, "accounts": [edge_account(tenant) for tenant in importing]}
                for importing, crossing in ((tenants, _crossing("*")), (readers, _captions("*")))
                for kind, subject in crossing
                if importing
            ],
        },
        "SYS": {},
    }
    for tenant in tenants:
        sections[edge_account(tenant)] = {
            "limits": {
                "max_connections": edge_connections,
                "max_subscriptions": _EDGE_SUBSCRIPTIONS,
            },
            "users": _users(u for u in users if u.role == "edge" and u.tenant == tenant),
            "imports": [
                {kind: {"account": MAIN, "subject": subject}}
                for kind, subject in (
                    *_crossing(tenant),
                    *(_captions(tenant) if tenant in readers else ()),
                )
            ],
        }
    return sections


def edge_account(tenant: str) -> str:
    """Name of the account of a tenant's edges."""
    return f"EDGE_{tenant}"


def _crossing(tenant: str) -> list[tuple[str, str]]:
    """Imports of an edge account: services it requests and streams it receives from MAIN."""
    status = f"{TRANSCRIPT_PREFIX}.{tenant}.*.*.status"
    speech, voice_status = (
        f"{SPEECH_PREFIX}.{tenant}.*.*", f"{VOICE_EVENT_PREFIX}.{tenant}.*.*.status"
    )  # fmt: skip
    presence = streams.bucket_subject(streams.EDGES_BUCKET, f"{tenant}.*")
    return [
        ("service", f"{SESSION_PREFIX}.{tenant}.*.*"),
        ("service", f"{AUDIO_PREFIX}.{tenant}.*.*"),
        ("service", f"{PLAYED_PREFIX}.{tenant}.*.*"),
        ("service", f"$JS.API.DIRECT.GET.{streams.TRANSCRIPTS}.{status}"),
        ("service", f"$JS.API.DIRECT.GET.{streams.VOICE_EVENTS}.{voice_status}"),
        ("service", f"$JS.API.DIRECT.GET.{streams.SPEECH}.{speech}"),
        ("service", presence),
        ("service", f"$JS.API.DIRECT.GET.KV_{streams.EDGES_BUCKET}.{presence}"),
        # Requests to edges, and their replies. If these were services of the edges' accounts, MAIN
        # would import one of each tenant, and change with every new tenant.
        ("stream", f"{EDGE_PREFIX}.{tenant}.*"),
        ("service", f"{EDGE_PREFIX}.{tenant}.*.*"),
        ("stream", status),
        ("stream", speech),
        ("stream", voice_status),
    ]


def _captions(tenant: str) -> list[tuple[str, str]]:
    """Further imports of an edge account, one of whose users has `captions`."""
    return [("stream", f"{TRANSCRIPT_PREFIX}.{tenant}.*.*.{kind}") for kind in CAPTION_KINDS]


def durables(users: Iterable[User]) -> list[str]:
    """The names of the durable consumers of all users."""
    return sorted({user.durable for user in users if user.durable})


def _users(users: Iterable[User], reserved: Sequence[str] = ()) -> list[dict[str, Any]]:
    return [
        {"nkey": key, "permissions": user.permissions(reserved).config()}
        for user in users
        for key in user.keys
    ]


def _named(users: Iterable[User]) -> str:
    """Comments that say which user each key belongs to."""
    return "".join(f"# {key} is {user.id}\n" for user in users for key in user.keys)


def server_config(users: Sequence[User], edge_connections: int = EDGE_CONNECTIONS) -> str:
    """The file to `include` in nats-server's configuration, which accepts JSON."""
    section = json.dumps(accounts(users, edge_connections), indent=2)
    return (
        "# Written by `natterjack users`: changes are lost when a user is added or removed.\n"
        f"{_named(users)}accounts: {section}\nsystem_account: SYS\n"
    )


def helm_values(users: Sequence[User], edge_connections: int = EDGE_CONNECTIONS) -> str:
    """Values for the official NATS Helm chart. JSON is valid YAML."""
    merge = {"accounts": accounts(users, edge_connections), "system_account": "SYS"}
    text = json.dumps({"config": {"merge": merge}}, indent=2)
    return f"# Written by `natterjack users config --format helm`.\n{_named(users)}{text}\n"
