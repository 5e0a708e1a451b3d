"""`natterjack users`: least-privilege users of the broker, their keys and the server's config."""

from __future__ import annotations

import argparse
import base64
import binascii
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import nkeys

from natterjack.broker.roles import KINDS, ROLES, User
from natterjack.errors import NatterjackError, UsageError
from natterjack.process.files import locked, replace_text

from .arguments import add_command, path
from .users_config import EDGE_CONNECTIONS, durables, helm_values, server_config

_NEWER = ("durable", "conversation", "kinds", "captions", "agent")
"""Fields that earlier releases do not know: users.json has them only for users who need them."""
_LIST, _CONFIG, _LIMITS = "users.json", "users.conf", "limits.json"


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
        "--tenant",
        help="tenant of an edge; for a subscriber or an application, its only tenant",
    )
    adding.add_argument(
        "--name",
        default="",
        help="distinguishes users of the same role, for example edges or services",
    )
    adding.add_argument("--speaker", help="the only speaker for which an edge may open sessions")
    adding.add_argument(
        "--captions",
        action="store_true",
        help="an edge may also receive the text of its tenant's sessions while they speak, of "
        "those of its --speaker if it has one, for `natterjack-edge --captions`",
    )
    adding.add_argument(
        "--agent",
        help="the name (EDGE_AGENT) under which an edge reports to the center and is steered by "
        "it (default: --name)",
    )
    adding.add_argument(
        "--control",
        action="store_true",
        help="a subscriber may also send control requests to all sessions; an application, which "
        "may send them to voice sessions, also to the others",
    )
    adding.add_argument(
        "--live",
        action="store_true",
        help="a subscriber receives live events but cannot read stored ones: for third parties",
    )
    adding.add_argument(
        "--durable", metavar="NAME",
        help="a subscriber may also use the durable consumer NAME: acknowledge, share the work "
        "among its processes, reject events. Other users cannot read from it",
    )  # fmt: skip
    adding.add_argument(
        "--conversation", help="the only conversation that a subscriber reads; needs --tenant"
    )
    adding.add_argument(
        "--kinds", type=lambda text: tuple(text.split(",")), default=(), metavar="KIND,...",
        help="the kinds of event that a subscriber reads, all by default: " + ", ".join(KINDS),
    )  # fmt: skip
    adding.add_argument(
        "--public-key", help="public key (U...) of a key pair made elsewhere; no seed is written"
    )
    rotating = add_command(
        actions, "rotate", "give a user a new key beside its old one, or remove the old one"
    )
    rotating.add_argument("user", metavar="USER", help="name as shown by `natterjack users list`")
    rotating.add_argument(
        "--public-key",
        help="new public key (U...) made elsewhere; no seed is written",
    )
    rotating.add_argument(
        "--finish",
        action="store_true",
        help="remove the old key, once all programs of the user have the new one",
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
    for action in (adding, rotating, removing, listing, showing):
        action.add_argument(
            "--dir", type=path, required=True, help="directory of seeds and configuration"
        )


def run(flags: argparse.Namespace) -> int:
    """Run the action and return the exit status. Raises UsageError, NoSuchUser."""
    directory: Path = flags.dir
    if getattr(flags, "public_key", None):
        _check(flags.public_key)
    if flags.action == "list":
        return _list(flags, _read(directory))
    if flags.action == "add":
        fields = {
            name: getattr(flags, name)
            for name in ("role", "name", "tenant", "speaker", "control", "live", *_NEWER)
        }
        user = User(**fields, public_key=flags.public_key or "")
        with locked(directory):
            return _add(directory, _read(directory), user)
    if flags.action in ("remove", "rotate") and not (directory / _LIST).exists():
        raise NoSuchUser(f"there is no user {flags.user} in {directory}")
    with locked(directory):
        users = _read(directory)
        if flags.action == "remove":
            return _remove(directory, users, flags.user)
        if flags.action == "rotate":
            return _rotate(directory, users, flags)
        if flags.edge_connections is not None:
            if flags.edge_connections < 1:
                raise UsageError("--edge-connections must be 1 or more")
            replace_text(
                directory / _LIMITS, json.dumps({"edge_connections": flags.edge_connections})
            )
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


def _rotate(directory: Path, users: list[User], flags: argparse.Namespace) -> int:
    """Let a new key and the old one overlap; with `--finish`, end the overlap."""
    user = next((user for user in users if user.id == flags.user), None)
    if user is None:
        raise NoSuchUser(f"there is no user {flags.user} in {directory}")
    path, seed = directory / f"{user.id}.nk", b""
    if flags.finish:
        if not user.old_key:
            raise UsageError(f"{user.id} has only one key")
        changed = replace(user, old_key="")
        done = "the old key is removed; reload the server, which disconnects whoever still uses it"
    else:
        if user.old_key:
            raise UsageError(
                f"{user.id} still has an old key: remove it first with "
                f"`natterjack users rotate --dir {directory} --finish {user.id}`"
            )
        seed, public_key = (b"", flags.public_key) if flags.public_key else _make_key()
        _check_unused(public_key, users)
        changed = replace(user, public_key=public_key, old_key=user.public_key)
        done = "the new key is valid beside the old one once you have reloaded the server"
    if seed:
        # First: without its seed, a key in the configuration would be the only one that is left
        # after `--finish`.
        _overwrite(path, seed + b"\n")
    _write(directory, [changed if each is user else each for each in users])
    print(f"{user.id}: {done}")
    return 0


def _add(directory: Path, users: list[User], user: User) -> int:
    for other in users:
        if other.id == user.id:
            raise UsageError(_taken(other, user, directory))
        if user.durable and other.durable == user.durable and user.reads != other.reads:
            raise UsageError(
                f"the durable consumer {user.durable} is that of {other.id}, which does not read "
                "the same events: choose another --durable"
            )
    _check_unused(user.public_key, users)
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
    agent = f"\nEDGE_AGENT={user.agent or user.name}" if user.role == "edge" else ""
    both = " (two keys: `natterjack users rotate --finish` removes the old one)"
    inbox = f"NATS_INBOX_PREFIX={user.inbox_prefix}"
    return f"# {user.id}{both if user.old_key else ''}\n{key}{inbox}{agent}"


def _list(flags: argparse.Namespace, users: Sequence[User]) -> int:
    if flags.json:
        shown = [
            {"user": user.id, "inbox_prefix": user.inbox_prefix, **asdict(user),
             **user.permissions(durables(users)).config()}
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
    entries = [asdict(user) for user in users]
    for entry in entries:
        for name in ("old_key", *_NEWER):
            if not entry[name]:
                del entry[name]
    replace_text(directory / _LIST, json.dumps(entries, indent=2) + "\n")
    replace_text(directory / _CONFIG, configuration)


def _write_secret(path: Path, seed: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(f"{path} already exists but belongs to no user: move it away") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(seed + b"\n")


def _overwrite(path: Path, content: bytes) -> None:
    """Write a secret in place, so that a container that has the file mounted sees the change."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.write(content)
            file.truncate()
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def _make_key() -> tuple[bytes, str]:
    """Make the seed and the public key of a new user."""
    seed = bytes(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))
    return seed, nkeys.from_seed(seed).public_key.decode()


def _check_unused(public_key: str, users: Sequence[User]) -> None:
    for other in users:
        if public_key in other.keys:
            raise UsageError(f"--public-key: the user {other.id} already has this key")


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
