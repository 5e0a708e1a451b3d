"""`natterjack users`: least-privilege users of the broker, their keys and the server's config."""

from __future__ import annotations

import argparse
import base64
import binascii
import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import nkeys

from natterjack.broker import streams
from natterjack.broker.roles import ROLES, User
from natterjack.errors import NatterjackError, UsageError
from natterjack.subjects import AUDIO_PREFIX, SESSION_PREFIX, TRANSCRIPT_PREFIX

from .arguments import add_command

_LIST, _CONFIG, _LIMITS = "users.json", "users.conf", "limits.json"
MAIN = "STT"
"""The account of workers, subscribers, operators and all streams."""
_MAX_STREAMS, _MAX_CONSUMERS = 16, 4096
"""Each listening subscriber has a consumer."""
EDGE_CONNECTIONS = 1024
"""Default limit of simultaneous connections for all edges of a tenant together."""
_EDGE_SUBSCRIPTIONS = 1024
"""Limit of subscriptions per connection. An edge has two for each session."""


class NoSuchUser(NatterjackError):
    """No user has that name."""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `users` and its actions."""
    command = commands.add_parser(
        "users",
        help="manage least-privilege users of the broker",
        description="Create an NKey for each user, and the nats-server configuration for all of "
        "them. Only the seeds (*.nk) are secret, and the server does not need them.",
    )
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    adding = actions.add_parser(
        "add",
        help="add a user: write DIR/<user>.nk and update DIR/users.conf",
        description="Add a user: write its seed to DIR/<user>.nk and update DIR/users.conf. "
        "Reload the server afterwards: nats-server --signal reload.",
        epilog="Roles: " + "; ".join(f"{role}: {what}" for role, what in ROLES.items()),
    )
    adding.add_argument("role", choices=ROLES, metavar="ROLE", help=", ".join(ROLES))
    adding.add_argument(
        "--tenant", help="tenant of an edge; for a subscriber, the only tenant it may read"
    )
    adding.add_argument(
        "--name",
        default="",
        help="distinguishes users of the same role, for example edges or services",
    )
    adding.add_argument("--speaker", help="the only speaker for which an edge may open sessions")
    adding.add_argument(
        "--control",
        action="store_true",
        help="a subscriber may also send control requests to sessions",
    )
    adding.add_argument(
        "--live",
        action="store_true",
        help="a subscriber receives live events but cannot read stored ones: for third parties",
    )
    adding.add_argument(
        "--public-key", help="public key (U...) of a key pair made elsewhere; no seed is written"
    )
    removing = add_command(
        actions, "remove", "remove a user: delete its seed and update DIR/users.conf"
    )
    removing.add_argument("user", metavar="USER", help="name as shown by `natterjack users list`")
    listing = add_command(actions, "list", "show all users and the settings for their programs")
    listing.add_argument("--json", action="store_true", help="print JSON")
    showing = add_command(
        actions, "config", "update DIR/users.conf to the roles of this version, and print it"
    )
    showing.add_argument(
        "--format", choices=("nats", "helm"), default="nats",
        help="format to print: nats for users.conf, helm for values of the NATS chart",
    )  # fmt: skip
    showing.add_argument(
        "--edge-connections", type=int, metavar="NUMBER",
        help="set the limit of simultaneous connections for all edges of a tenant together "
        f"(initially {EDGE_CONNECTIONS})",
    )  # fmt: skip
    for action in (adding, removing, listing, showing):
        action.add_argument(
            "--dir", type=Path, required=True, help="directory of seeds and configuration"
        )


def run(flags: argparse.Namespace) -> int:
    """Run the action and return the exit status. Raises UsageError, NoSuchUser."""
    directory: Path = flags.dir
    if flags.action == "list":
        return _list(flags, _read(directory))
    if flags.action == "add":
        fields = {
            name: getattr(flags, name)
            for name in ("role", "name", "tenant", "speaker", "control", "live")
        }
        user = User(**fields, public_key=flags.public_key or "")
        if user.public_key:
            _check(user.public_key)
        with _locked(directory):
            return _add(directory, _read(directory), user)
    if flags.action == "remove" and not (directory / _LIST).exists():
        raise NoSuchUser(f"there is no user {flags.user} in {directory}")
    with _locked(directory):
        users = _read(directory)
        if flags.action == "remove":
            return _remove(directory, users, flags.user)
        if flags.edge_connections is not None:
            if flags.edge_connections < 1:
                raise UsageError("--edge-connections must be 1 or more")
            _put(directory / _LIMITS, json.dumps({"edge_connections": flags.edge_connections}))
        _write(directory, users)
        connections = _edge_connections(directory)
    render = helm_values if flags.format == "helm" else server_config
    print(render(users, connections), end="")
    return 0


def _remove(directory: Path, users: list[User], name: str) -> int:
    remaining = [user for user in users if user.id != name]
    if len(remaining) == len(users):
        raise NoSuchUser(f"there is no user {name} in {directory}")
    _write(directory, remaining)
    (directory / f"{name}.nk").unlink(missing_ok=True)
    print(f"{name}: removed; reload the server, which closes the user's connections")
    return 0


def _add(directory: Path, users: list[User], user: User) -> int:
    for other in users:
        if other.id == user.id:
            raise UsageError(_taken(other, user, directory))
        if other.public_key == user.public_key:
            raise UsageError(f"--public-key: the user {other.id} already has this key")
    if not user.public_key:
        seed, public_key = _make_key()
        _write_secret(directory / f"{user.id}.nk", seed)
        user = replace(user, public_key=public_key)
    _write(directory, [*users, user])
    print(_settings(directory, user))
    if user.role == "edge" and all(other.tenant != user.tenant for other in users):
        # nats-server 2.15 activates the imports of a new account only at the second reload.
        print(f"# first edge of {user.tenant}: reload the server twice")
    return 0


def _taken(other: User, user: User, directory: Path) -> str:
    """Explain why `user` cannot be added: `other` has the same id."""
    if (other.tenant, other.name) == (user.tenant, user.name):
        return f"there is already a user {user.id} in {directory}: remove it first"
    return (
        f"the {other.role} of the tenant {other.tenant} with the name {other.name} in {directory} "
        f"is also called {user.id}: choose another --name"
    )


def _settings(directory: Path, user: User) -> str:
    path = directory / f"{user.id}.nk"
    key = f"NATS_NKEY={path}\n" if path.exists() else ""
    return f"# {user.id}\n{key}NATS_INBOX_PREFIX={user.inbox_prefix}"


def _list(flags: argparse.Namespace, users: Sequence[User]) -> int:
    if flags.json:
        shown = [
            {"user": user.id, "inbox_prefix": user.inbox_prefix, **asdict(user),
             **user.permissions().config()}
            for user in users
        ]  # fmt: skip
        print(json.dumps(shown, indent=2))
    else:
        print("\n\n".join(_settings(flags.dir, user) for user in users) or "no users")
    return 0


# ---- files --------------------------------------------------------------------------------------


def _read(directory: Path) -> list[User]:
    path = directory / _LIST
    try:
        return [User(**entry) for entry in json.loads(path.read_text())]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold an exclusive lock on the directory for the block, so that no update is lost."""
    with contextlib.ExitStack() as stack:
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            with contextlib.suppress(ImportError):  # not available on Windows
                import fcntl

                descriptor = os.open(directory, os.O_RDONLY)
                stack.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise UsageError(f"{directory} cannot be used: {error.strerror}") from None
        yield


def _edge_connections(directory: Path) -> int:
    path = directory / _LIMITS
    try:
        return int(json.loads(path.read_text())["edge_connections"])
    except FileNotFoundError:
        return EDGE_CONNECTIONS
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path} cannot be read: {error!r}") from None


def _write(directory: Path, users: Sequence[User]) -> None:
    configuration = server_config(users, _edge_connections(directory))
    _put(directory / _LIST, json.dumps([asdict(user) for user in users], indent=2) + "\n")
    _put(directory / _CONFIG, configuration)


def _put(path: Path, text: str) -> None:
    """Replace a file atomically."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def _write_secret(path: Path, seed: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(f"{path} already exists but belongs to no user: move it away") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(seed + b"\n")


def _make_key() -> tuple[bytes, str]:
    """Make the seed and the public key of a new user."""
    seed = bytes(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))
    return seed, nkeys.from_seed(seed).public_key.decode()


def _check(public_key: str) -> None:
    """Raise UsageError unless `public_key` is a user's NKey: nats-server does not start otherwise.

    The key is a type byte, 32 bytes and a CRC-16, encoded in base 32.
    """
    if len(public_key) != 56 or not public_key.startswith("U"):
        raise UsageError("--public-key: a user's public NKey has 56 characters and begins with U")
    try:
        raw = base64.b32decode(public_key)
    except ValueError:
        raw = b""
    if (
        len(raw) != 35
        or raw[0] != nkeys.PREFIX_BYTE_USER
        or binascii.crc_hqx(raw[:-2], 0) != int.from_bytes(raw[-2:], "little")
    ):
        raise UsageError("--public-key: the key has a typing error, its checksum is wrong")


# ---- configurations -----------------------------------------------------------------------------


def accounts(users: Sequence[User], edge_connections: int = EDGE_CONNECTIONS) -> dict[str, Any]:
    """The `accounts` section of nats-server's configuration.

    The edges of each tenant have an account of their own, with only the imports they need. They
    must not share the account that has the streams: a client that may publish to a stream chooses
    the reply subject of the acknowledgement, and the server does not check it. It could be another
    tenant's transcript subject, or the API that purges streams.
    """
    tenants = sorted({user.tenant for user in users if user.role == "edge" and user.tenant})
    to_edges = {"accounts": [edge_account(tenant) for tenant in tenants]}
    sections: dict[str, Any] = {
        MAIN: {
            "jetstream": {"max_streams": _MAX_STREAMS, "max_consumers": _MAX_CONSUMERS},
            "users": _users(user for user in users if user.role != "edge"),
            "exports": [{kind: subject, **to_edges} for kind, subject in _crossing("*") if tenants],
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
                {kind: {"account": MAIN, "subject": subject}} for kind, subject in _crossing(tenant)
            ],
        }
    return sections


def edge_account(tenant: str) -> str:
    """Name of the account of a tenant's edges."""
    return f"EDGE_{tenant}"


def _crossing(tenant: str) -> list[tuple[str, str]]:
    """Imports of an edge account: services it requests and streams it receives from MAIN."""
    status = f"{TRANSCRIPT_PREFIX}.{tenant}.*.*.status"
    return [
        ("service", f"{SESSION_PREFIX}.{tenant}.*.*"),
        ("service", f"{AUDIO_PREFIX}.{tenant}.*.*"),
        ("service", f"$JS.API.DIRECT.GET.{streams.TRANSCRIPTS}.{status}"),
        ("stream", status),
    ]


def _users(users: Iterable[User]) -> list[dict[str, Any]]:
    return [{"nkey": user.public_key, "permissions": user.permissions().config()} for user in users]


def server_config(users: Sequence[User], edge_connections: int = EDGE_CONNECTIONS) -> str:
    """The file to `include` in nats-server's configuration, which accepts JSON."""
    named = "".join(f"# {user.public_key} is {user.id}\n" for user in users)
    section = json.dumps(accounts(users, edge_connections), indent=2)
    return (
        "# Written by `natterjack users`: changes are lost when a user is added or removed.\n"
        f"{named}accounts: {section}\nsystem_account: SYS\n"
    )


def helm_values(users: Sequence[User], edge_connections: int = EDGE_CONNECTIONS) -> str:
    """Values for the official NATS Helm chart. JSON is valid YAML."""
    named = "".join(f"# {user.public_key} is {user.id}\n" for user in users)
    merge = {"accounts": accounts(users, edge_connections), "system_account": "SYS"}
    text = json.dumps({"config": {"merge": merge}}, indent=2)
    return f"# Written by `natterjack users config --format helm`.\n{named}{text}\n"
