"""`natterjack users`: least-privilege users of the broker, their keys and the server's config."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from natterjack.broker.login.jwt import is_public_key, make_key
from natterjack.broker.roles import KINDS, ROLES, User
from natterjack.errors import NatterjackError, UsageError
from natterjack.process.files import locked
from natterjack.settings import BrokerSettings, add_flags, load

from .arguments import add_command, path
from .enrollment.claims import account_of
from .enrollment.directory import SignedDirectory
from .enrollment.files import (
    LIST,
    NEWER,
    configuration,
    edge_connections,
    limit_connections,
    overwrite,
    read_users,
    write_accounts,
    write_secret,
    write_users,
)
from .enrollment.push import push
from .users_config import EDGE_CONNECTIONS, durables


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
    pushing = add_command(
        actions, "push", "bring the accounts of a running broker with JWTs up to date"
    )
    add_flags(pushing, BrokerSettings, "nats-")
    for action in (adding, showing):
        action.add_argument(
            "--jwt",
            action="store_true",
            help="from now on, give all users of DIR JWTs (credentials files), which NATS needs to "
            "enroll edges and to take tenants without a reload; other programs need NATS_CREDS "
            "in place of NATS_NKEY then",
        )
    for action in (adding, rotating, removing, listing, showing, pushing):
        action.add_argument(
            "--dir", type=path, required=True, help="directory of seeds and configuration"
        )


def run(flags: argparse.Namespace) -> int:
    """Run the action and return the exit status. Raises UsageError, NoSuchUser."""
    directory: Path = flags.dir
    if getattr(flags, "public_key", None):
        _check(flags.public_key)
    if getattr(flags, "jwt", False):
        with locked(directory):
            SignedDirectory(directory).create()
    if flags.action == "push":
        return _push(flags, directory)
    if flags.action == "list":
        return _list(flags, read_users(directory))
    if flags.action == "add":
        fields = {
            name: getattr(flags, name)
            for name in ("role", "name", "tenant", "speaker", "control", "live", *NEWER)
        }
        user = User(**fields, public_key=flags.public_key or "")
        with locked(directory):
            return _add(directory, read_users(directory), user)
    if flags.action in ("remove", "rotate") and not (directory / LIST).exists():
        raise NoSuchUser(f"there is no user {flags.user} in {directory}")
    with locked(directory):
        users = read_users(directory)
        if flags.action == "remove":
            return _remove(directory, users, flags.user)
        if flags.action == "rotate":
            return _rotate(directory, users, flags)
        if flags.edge_connections is not None:
            if flags.edge_connections < 1:
                raise UsageError("--edge-connections must be 1 or more")
            limit_connections(directory, flags.edge_connections)
        write_users(directory, users)
        connections = edge_connections(directory)
        print(configuration(directory, users, connections, flags.format), end="")
    return 0


def _push(flags: argparse.Namespace, directory: Path) -> int:
    with locked(directory):
        jwts = write_accounts(directory)
    signed, settings = SignedDirectory(directory), load(BrokerSettings, flags)
    pushed = asyncio.run(push(jwts, signed.system_credentials, settings))
    print("\n".join(f"{name}: pushed" for name in pushed) or "the broker has all accounts")
    return 0


def _remove(directory: Path, users: list[User], name: str) -> int:
    remaining = [user for user in users if user.id != name]
    if len(remaining) == len(users):
        raise NoSuchUser(f"there is no user {name} in {directory}")
    write_users(directory, remaining)
    (directory / f"{name}.nk").unlink(missing_ok=True)
    for user in users:
        if user.id == name:
            SignedDirectory(directory).forget(user)
    print(f"{name}: removed; {_apply(directory)}, which closes the user's connections")
    return 0


def _apply(directory: Path) -> str:
    """How a change reaches the broker."""
    if not SignedDirectory(directory).used:
        return "reload the server"
    return f"run `natterjack users push --dir {directory}`"


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
        if (signed := SignedDirectory(directory)).used:
            signed.revoke(account_of(user), [user.old_key])
        done = f"the old key is removed; {_apply(directory)}, which disconnects whoever uses it"
    else:
        if user.old_key:
            raise UsageError(
                f"{user.id} still has an old key: remove it first with "
                f"`natterjack users rotate --dir {directory} --finish {user.id}`"
            )
        seed, public_key = (b"", flags.public_key) if flags.public_key else _make_key()
        _check_unused(public_key, users)
        changed = replace(user, public_key=public_key, old_key=user.public_key)
        done = "the new key is valid beside the old one"
        if not SignedDirectory(directory).used:
            done += " once you have reloaded the server"
    if seed:
        # First: without its seed, a key in the configuration would be the only one that is left
        # after `--finish`.
        overwrite(path, seed + b"\n")
    write_users(directory, [changed if each is user else each for each in users])
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
        write_secret(directory / f"{user.id}.nk", seed)
        user = replace(user, public_key=public_key)
    write_users(directory, [*users, user])
    print(_settings(directory, user))
    if SignedDirectory(directory).used:
        print(f"# {_apply(directory)}")
    elif user.role == "edge" and all(other.tenant != user.tenant for other in users):
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
    path, creds = directory / f"{user.id}.nk", directory / f"{user.id}.creds"
    key = f"NATS_NKEY={path}\n" if path.exists() else ""
    key = f"NATS_CREDS={creds}\n" if creds.exists() else key
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


def _make_key() -> tuple[bytes, str]:
    """Make the seed and the public key of a new user."""
    key = make_key()
    return key.seed, key.public


def _check_unused(public_key: str, users: Sequence[User]) -> None:
    for other in users:
        if public_key in other.keys:
            raise UsageError(f"--public-key: the user {other.id} already has this key")


def _check(public_key: str) -> None:
    """Raise UsageError unless `public_key` is a user's NKey, or nats-server would not start."""
    if len(public_key) != 56 or not public_key.startswith("U"):
        raise UsageError("--public-key: a user's public NKey has 56 characters and begins with U")
    if not is_public_key(public_key):
        raise UsageError("--public-key: the key has a typing error, its checksum is wrong")
