"""The files of `natterjack users`: the users, their secrets, and nats-server's configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from natterjack.broker.roles import User
from natterjack.errors import UsageError
from natterjack.process.files import replace_text

from ..users_config import EDGE_CONNECTIONS, helm_values, server_config
from . import render
from .directory import SignedDirectory

NEWER = ("durable", "conversation", "kinds", "captions", "agent")
"""Fields that earlier releases do not know: users.json has them only for users who need them."""
LIST = "users.json"
_CONFIG, _LIMITS = "users.conf", "limits.json"


def read_users(directory: Path) -> list[User]:
    """Read the list of users. Raises UsageError."""
    path = directory / LIST
    try:
        return [User(**entry) for entry in json.loads(path.read_text())]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


def edge_connections(directory: Path) -> int:
    """Read the limit of connections of a tenant's edges. Raises UsageError."""
    path = directory / _LIMITS
    try:
        return int(json.loads(path.read_text())["edge_connections"])
    except FileNotFoundError:
        return EDGE_CONNECTIONS
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path} cannot be read: {error!r}") from None


def limit_connections(directory: Path, number: int) -> None:
    """Set the limit of simultaneous connections for all edges of a tenant together."""
    replace_text(directory / _LIMITS, json.dumps({"edge_connections": number}))


def write_users(directory: Path, users: Sequence[User]) -> None:
    """Write all files but for the seeds. Raises UsageError."""
    connections = edge_connections(directory)
    if (signed := SignedDirectory(directory)).used:
        signed.write(users, connections)
    server = configuration(directory, users, connections)
    entries = [asdict(user) for user in users]
    for entry in entries:
        for name in ("old_key", *NEWER):
            if not entry[name]:
                del entry[name]
    replace_text(directory / LIST, json.dumps(entries, indent=2) + "\n")
    replace_text(directory / _CONFIG, server)


def write_secret(path: Path, seed: bytes) -> None:
    """Write a seed into a file that does not exist yet. Raises UsageError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(f"{path} already exists but belongs to no user: move it away") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(seed + b"\n")


def overwrite(path: Path, content: bytes) -> None:
    """Write a secret in place, so that a container that has the file mounted sees the change."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.write(content)
            file.truncate()
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def configuration(
    directory: Path, users: Sequence[User], connections: int, format_: str = "nats"
) -> str:
    """Return nats-server's configuration, for the server itself or for its chart."""
    signed = SignedDirectory(directory)
    if not signed.used:
        return (helm_values if format_ == "helm" else server_config)(users, connections)
    settings = signed.server_settings(signed.accounts(users, connections))
    return (render.helm_values if format_ == "helm" else render.server_config)(settings)


def write_accounts(directory: Path) -> dict[str, str]:
    """Bring the files of a locked directory with JWTs up to date. Returns the JWT of each account,
    by its public key. Raises UsageError if its users have none."""
    signed = SignedDirectory(directory)
    if not signed.used:
        raise UsageError(
            f"the users in {directory} have no JWTs: `natterjack users config --jwt --dir "
            f"{directory}` gives them some"
        )
    users = read_users(directory)
    write_users(directory, users)
    return signed.accounts(users, edge_connections(directory))
