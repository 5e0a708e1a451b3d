"""`natterjack users`: users of the broker with least privilege, their keys, its configuration."""

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

_LIST, _CONFIG, _LIMITS = "users.json", "users.conf", "limits.json"
MAIN = "STT"
"""Account of workers, subscribers, operators and all streams."""
_MAX_STREAMS, _MAX_CONSUMERS = 16, 4096
"""A subscriber that listens has a consumer."""
EDGE_CONNECTIONS = 1024
"""Of all agents of a tenant at a time, if nothing else was said."""
_EDGE_SUBSCRIPTIONS = 1024
"""Of one connection: an agent has two for each session."""


class NoSuchUser(NatterjackError):
    """There is none of that name."""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command `users` and those under it."""
    command = commands.add_parser(
        "users",
        help="users of the broker with least privilege",
        description="Makes an NKey for each user, and nats-server's configuration of all of them. "
        "Only the seeds (*.nk) are secret; the server has none of them.",
    )
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    adding = actions.add_parser(
        "add",
        help="make a user: DIR/<user>.nk, and DIR/users.conf anew",
        description="Makes a user. Reload the server then: nats-server --signal reload.",
        epilog="Roles: " + "; ".join(f"{role}: {what}" for role, what in ROLES.items()),
    )
    adding.add_argument("role", choices=ROLES, metavar="ROLE", help=", ".join(ROLES))
    adding.add_argument("--tenant", help="of an edge; of a subscriber, if it is not to read all")
    adding.add_argument("--name", default="", help="which one: an agent, a service")
    adding.add_argument("--speaker", help="the only one that an edge may speak for")
    adding.add_argument(
        "--control", action="store_true", help="a subscriber may also end and steer sessions"
    )
    adding.add_argument(
        "--live",
        action="store_true",
        help="a subscriber reads nothing that is stored, only hears: for strangers",
    )
    adding.add_argument("--public-key", help="of a key made elsewhere (U...); no seed is written")
    removing = actions.add_parser(
        "remove", help="remove a user, its seed, and make users.conf anew"
    )
    removing.add_argument("user", metavar="USER", help="as `users list` shows it")
    listing = actions.add_parser("list", help="every user, and its settings")
    listing.add_argument("--json", action="store_true", help="as JSON")
    showing = actions.add_parser(
        "config", help="make users.conf anew, as this version has the roles, and print it"
    )
    showing.add_argument(
        "--format", choices=("nats", "helm"), default="nats",
        help="nats: users.conf; helm: values for the NATS chart",
    )  # fmt: skip
    showing.add_argument(
        "--edge-connections", type=int, metavar="NUMBER",
        help="from now on so many connections for all agents of a tenant together "
        f"({EDGE_CONNECTIONS}), that it cannot take all that the server has",
    )  # fmt: skip
    for action in (adding, removing, listing, showing):
        action.add_argument("--dir", type=Path, required=True, help="directory of seeds and users")


def run(flags: argparse.Namespace) -> int:
    """Do what `flags` say; the exit status. Raises UsageError, NoSuchUser."""
    directory: Path = flags.dir
    if flags.action == "list":
        return _list(flags, _read(directory))
    if flags.action == "add":
        about = {
            name: getattr(flags, name)
            for name in ("role", "name", "tenant", "speaker", "control", "live")
        }
        user = User(**about, public_key=flags.public_key or "")
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
                raise UsageError("--edge-connections: 1 or more")
            _put(directory / _LIMITS, json.dumps({"edge_connections": flags.edge_connections}))
        _write(directory, users)
        connections = _edge_connections(directory)
    made = helm_values if flags.format == "helm" else server_config
    print(made(users, connections), end="")
    return 0


def _remove(directory: Path, users: list[User], name: str) -> int:
    left = [user for user in users if user.id != name]
    if len(left) == len(users):
        raise NoSuchUser(f"there is no user {name} in {directory}")
    _write(directory, left)
    (directory / f"{name}.nk").unlink(missing_ok=True)
    print(f"{name}: removed; reload the server, which ends its connections")
    return 0


def _add(directory: Path, users: list[User], user: User) -> int:
    for other in users:
        if other.id == user.id:
            raise UsageError(_taken(other, user, directory))
        if other.public_key == user.public_key:
            raise UsageError(f"--public-key: the user {other.id} has that key")
    if not user.public_key:
        seed, public_key = _make_key()
        _write_secret(directory / f"{user.id}.nk", seed)
        user = replace(user, public_key=public_key)
    _write(directory, [*users, user])
    print(_settings(directory, user))
    if user.role == "edge" and all(other.tenant != user.tenant for other in users):
        # Seen with nats-server 2.15: what a new account imports is there from the second reload on.
        print(f"# the first agent of {user.tenant}: reload the server twice")
    return 0


def _taken(other: User, user: User, directory: Path) -> str:
    """Why `user` cannot be made beside `other`, which has its id."""
    if (other.tenant, other.name) == (user.tenant, user.name):
        return f"there is a user {user.id} in {directory} already: remove it first"
    return (
        f"the {other.role} of the tenant {other.tenant} with the name {other.name} is called "
        f"{user.id} too, in {directory}: take another --name"
    )


def _settings(directory: Path, user: User) -> str:
    path = directory / f"{user.id}.nk"
    key = f"NATS_NKEY={path}\n" if path.exists() else ""
    return f"# {user.id}\n{key}NATS_INBOX_PREFIX={user.inbox_prefix}"


def _list(flags: argparse.Namespace, users: Sequence[User]) -> int:
    if flags.json:
        told = [
            {"user": user.id, "inbox_prefix": user.inbox_prefix, **asdict(user),
             **user.permissions().config()}
            for user in users
        ]  # fmt: skip
        print(json.dumps(told, indent=2))
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
    """Nobody else reads the users in order to write them, for the block."""
    with contextlib.ExitStack() as held:
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            with contextlib.suppress(ImportError):  # Windows has none
                import fcntl

                descriptor = os.open(directory, os.O_RDONLY)
                held.callback(os.close, descriptor)
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
    """Write a file as a whole."""
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
        raise UsageError(f"{path} is there already, and belongs to no user: move it away") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(seed + b"\n")


def _make_key() -> tuple[bytes, str]:
    """Seed and public key of a new user."""
    seed = bytes(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))
    return seed, nkeys.from_seed(seed).public_key.decode()


def _check(public_key: str) -> None:
    """Raises UsageError unless it is the public key of a user (nkeys: a byte that says so, the key,
    a CRC-16; in base 32): nats-server would not start with another."""
    if len(public_key) != 56 or not public_key.startswith("U"):
        raise UsageError("--public-key: that of a user's NKey has 56 characters, the first a U")
    try:
        raw = base64.b32decode(public_key)
    except ValueError:
        raw = b""
    if (
        len(raw) != 35
        or raw[0] != nkeys.PREFIX_BYTE_USER
        or binascii.crc_hqx(raw[:-2], 0) != int.from_bytes(raw[-2:], "little")
    ):
        raise UsageError("--public-key: there is a mistake in it, its check sum is wrong")


# ---- configurations -----------------------------------------------------------------------------


def accounts(users: Sequence[User], edge_connections: int = EDGE_CONNECTIONS) -> dict[str, Any]:
    """The accounts of the broker, as nats-server's configuration has them (JSON is part of it).

    The edges of each tenant have one of their own. In an account that has streams, whoever may
    publish to one chooses where its acknowledgement goes, and that is not checked: into another
    tenant's transcripts, or to the interface that purges streams. From theirs no more than these
    imports leads out.
    """
    tenants = sorted({user.tenant for user in users if user.role == "edge" and user.tenant})
    to_edges = {"accounts": [edge_account(tenant) for tenant in tenants]}
    made: dict[str, Any] = {
        MAIN: {
            "jetstream": {"max_streams": _MAX_STREAMS, "max_consumers": _MAX_CONSUMERS},
            "users": _users(user for user in users if user.role != "edge"),
            "exports": [{kind: subject, **to_edges} for kind, subject in _crossing("*") if tenants],
        },
        "SYS": {},
    }
    for tenant in tenants:
        made[edge_account(tenant)] = {
            "limits": {
                "max_connections": edge_connections,
                "max_subscriptions": _EDGE_SUBSCRIPTIONS,
            },
            "users": _users(u for u in users if u.role == "edge" and u.tenant == tenant),
            "imports": [
                {kind: {"account": MAIN, "subject": subject}} for kind, subject in _crossing(tenant)
            ],
        }
    return made


def edge_account(tenant: str) -> str:
    """The account of a tenant's edges."""
    return f"EDGE_{tenant}"


def _crossing(tenant: str) -> list[tuple[str, str]]:
    """What edges of a tenant ask of, and hear from, the account with the streams."""
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
    """For `include` in nats-server's configuration."""
    named = "".join(f"# {user.public_key} is {user.id}\n" for user in users)
    made = json.dumps(accounts(users, edge_connections), indent=2)
    return (
        "# Made by `natterjack users`: changes are lost when a user is added or removed.\n"
        f"{named}accounts: {made}\nsystem_account: SYS\n"
    )


def helm_values(users: Sequence[User], edge_connections: int = EDGE_CONNECTIONS) -> str:
    """For the values of the official NATS chart (YAML, of which JSON is a part)."""
    named = "".join(f"# {user.public_key} is {user.id}\n" for user in users)
    merge = {"accounts": accounts(users, edge_connections), "system_account": "SYS"}
    text = json.dumps({"config": {"merge": merge}}, indent=2)
    return f"# Made by `natterjack users config --format helm`.\n{named}{text}\n"
