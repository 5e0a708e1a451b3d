"""The configuration of nats-server for users with JWTs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from natterjack.broker.login.jwt import read_claims

from .directory import RESOLVER_DIR

_RESOLVER = {"type": "full", "interval": "2m", "timeout": "1.9s"}
"""Every server keeps all accounts on disk, and compares them with the others every two minutes."""


def server_config(settings: Mapping[str, Any]) -> str:
    """The file to `include` in nats-server's configuration, which accepts JSON."""
    shown = {**settings, "resolver": {**_RESOLVER, "dir": RESOLVER_DIR}}
    lines = "".join(f"{name}: {json.dumps(value, indent=2)}\n" for name, value in shown.items())
    names = "".join(
        f"# {key} is {read_claims(jwt).get('name')}\n"
        for key, jwt in settings["resolver_preload"].items()
    )
    return (
        "# Written by `natterjack users`. The server reads it when it starts; changes of accounts\n"
        "# reach a running server by `natterjack users push`. The server keeps the newest of each\n"
        f"# account in {RESOLVER_DIR}: without it, an older copy of this file would let\n"
        "# revoked users in again.\n" + names + lines
    )


def helm_values(settings: Mapping[str, Any]) -> str:
    """Values for the official NATS Helm chart. JSON is valid YAML."""
    config = {"resolver": {"enabled": True, "merge": _RESOLVER}, "merge": dict(settings)}
    text = json.dumps({"config": config}, indent=2)
    return f"# Written by `natterjack users config --format helm`.\n{text}\n"
