"""`natterjack edges invite`, `invitations`, `withdraw` and `revoke`: who may enroll, and who no
longer may."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from natterjack.broker import streams
from natterjack.broker.buckets import broker_of, store_of
from natterjack.broker.connection import Broker
from natterjack.broker.login.jwt import make_key
from natterjack.enrollment.records import MAX_USES, AgentRecord, Invitation
from natterjack.enrollment.store import (
    Found,
    ModelT,
    Store,
    agent_key,
    invitation_key,
    revoked_key,
)
from natterjack.enrollment.token import Token
from natterjack.errors import BrokerUnreachable, NatterjackError, UsageError
from natterjack.process.files import locked
from natterjack.process.table import table
from natterjack.settings import BrokerSettings, add_flags, load
from natterjack.subjects import check_token

from ..arguments import add_command, number, path
from ..users_config import edge_account
from .directory import SignedDirectory
from .files import write_accounts
from .push import push

_MAX_HOURS = 87_600
ACTIONS = ("invite", "invitations", "withdraw", "revoke")


class NotFound(NatterjackError):
    """There is no such invitation or agent."""


def add_to(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the actions of `natterjack edges` that have to do with enrollment."""
    inviting = actions.add_parser(
        "invite",
        help="print a token with which machines enroll as edges of a tenant",
        description="Print a token with which machines enroll as edges of a tenant: "
        "`natterjack-edge enroll TOKEN` makes a key on the machine, which gets credentials of its "
        "own. A tenant that is new gets its account on the running broker. The token is shown "
        "only once, and the center keeps none. Whoever has it can become an edge of the tenant.",
        epilog="Run it as a user with the role operator. Exit status: 0 success, 1 failure, "
        "2 wrong usage or no connection to NATS.",
    )
    inviting.add_argument("--tenant", required=True, help="tenant of the edges")
    inviting.add_argument(
        "--uses", type=number(1, MAX_USES), default=1, help="number of machines (default: 1)"
    )
    inviting.add_argument(
        "--hours", type=number(1, _MAX_HOURS), default=24,
        help="hours until the token expires (default: 24)",
    )  # fmt: skip
    inviting.add_argument(
        "--captions",
        action="store_true",
        help="the edges may also receive the text of all sessions of the tenant while they speak, "
        "for `natterjack-edge --captions`",
    )
    inviting.add_argument(
        "--url", help="URL of NATS as the machines see it (default: that of this command)"
    )
    inviting.add_argument(
        "--ca", type=path,
        help="CA bundle that the machines are to trust (default: that of this command)",
    )  # fmt: skip
    listing = add_command(actions, "invitations", "show the invitations and their uses")
    listing.add_argument("--json", action="store_true", help="print JSON")
    withdrawing = add_command(
        actions, "withdraw", "withdraw an invitation; machines that have enrolled keep their rights"
    )
    withdrawing.add_argument(
        "invitation", metavar="ID", help="as `natterjack edges invitations` shows it, or its start"
    )
    revoking = add_command(
        actions,
        "revoke",
        "disconnect an enrolled edge, and never accept its key again; its name is free then",
    )
    revoking.add_argument("agent", metavar="AGENT", help="name of the edge")
    revoking.add_argument("--tenant", required=True, help="tenant of the edge")
    for action in (inviting, revoking):
        action.add_argument(
            "--dir", type=path, required=True, help="directory of `natterjack users`"
        )
    for action in (inviting, listing, withdrawing, revoking):
        add_flags(action, BrokerSettings, "nats-")


async def run(flags: argparse.Namespace) -> int:
    """Run the action and return the exit status. Raises UsageError, NotFound, BrokerError."""
    act = {"invite": _invite, "invitations": _list, "withdraw": _withdraw, "revoke": _revoke}
    await act[flags.action](flags)
    return 0


# ---- inviting ------------------------------------------------------------------------------------


async def _invite(flags: argparse.Namespace) -> None:
    check_token("--tenant", flags.tenant)
    settings, signed = load(BrokerSettings, flags), SignedDirectory(flags.dir)
    ca = _certificates(flags.ca or settings.ca)
    url = BrokerSettings(url=flags.url).url if flags.url else settings.url
    with locked(flags.dir):
        if signed.used:
            signed.add_tenant(flags.tenant)
            if flags.captions:
                signed.allow_captions(flags.tenant)
        jwts = write_accounts(flags.dir)
    await push(jwts, signed.system_credentials, settings)
    key, now = make_key(), datetime.now(UTC)
    invitation = Invitation(
        tenant=flags.tenant,
        account=signed.account_key(edge_account(flags.tenant)).public,
        uses=flags.uses,
        captions=flags.captions,
        created_at=now,
        expires_at=now + timedelta(hours=flags.hours),
    )
    token = Token(
        url=url,
        jwt=signed.invite(key, invitation.expires_at.timestamp()),
        seed=key.seed.decode(),
        ca=ca,
    )
    async with broker_of(flags, "natterjack edges invite") as broker:
        if not await Store(broker).put(invitation_key(key.public), invitation, 0):
            raise BrokerUnreachable("the invitation could not be stored")
    # The token is all that standard output has: a script can take it from there.
    print(token.encode(), flush=True)
    print(
        f"# invitation {key.public[:12]} for {flags.uses} edges of {flags.tenant} until "
        f"{invitation.expires_at:%Y-%m-%d %H:%M} UTC; the token above is a secret, which is not "
        "stored and cannot be shown again",
        file=sys.stderr,
    )


def _certificates(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        return file.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise UsageError(f"--ca: {file} cannot be read: {error}") from None


# ---- invitations ---------------------------------------------------------------------------------


async def _read(broker: Broker, model: type[ModelT], keys: str) -> dict[str, ModelT]:
    """Return all entries whose keys begin with `keys`, by the rest of their keys."""
    prefix = streams.bucket_subject(streams.ENROLLMENTS_BUCKET, keys)
    async with store_of(broker, f"KV_{streams.ENROLLMENTS_BUCKET}") as store:
        stored = await store.read_all(f"{prefix}*")
    found = {}
    for message in stored:
        entry = Found(message.data, message.sequence).parse(model)
        if entry is not None:
            found[message.subject.removeprefix(prefix)] = entry
    return found


async def _invitations(broker: Broker) -> dict[str, Invitation]:
    """Return all invitations by their public keys, oldest first."""
    found = await _read(broker, Invitation, invitation_key(""))
    return dict(sorted(found.items(), key=lambda item: item[1].created_at))


async def _list(flags: argparse.Namespace) -> None:
    async with broker_of(flags, "natterjack edges invitations") as broker:
        found = await _invitations(broker)
    now = datetime.now(UTC)
    if flags.json:
        shown = [
            {"id": key, "used": len(one.keys), **one.model_dump(mode="json", exclude_none=True)}
            for key, one in found.items()
        ]
        print(json.dumps(shown, indent=2))
        return
    rows = [("ID", "TENANT", "USED", "EXPIRES", "STATE")]
    for key, one in found.items():
        rows.append(
            (key[:12], one.tenant, f"{len(one.keys)} of {one.uses}",
             f"{one.expires_at:%Y-%m-%d %H:%M}", _state(one, now))
        )  # fmt: skip
    print("\n".join(table(rows)) if found else "no invitations")


def _state(invitation: Invitation, now: datetime) -> str:
    problem = invitation.problem("", now)
    return problem[0].replace("_", " ") if problem else "open"


async def _withdraw(flags: argparse.Namespace) -> None:
    async with broker_of(flags, "natterjack edges withdraw") as broker:
        found = [key for key in await _invitations(broker) if key.startswith(flags.invitation)]
        if len(found) != 1:
            what = "no" if not found else "more than one"
            raise NotFound(f"{what} invitation begins with {flags.invitation}")
        store, entry = Store(broker), invitation_key(found[0])
        while True:  # machines may use it at the same time
            current = await store.get(entry)
            invitation = current.parse(Invitation)
            if invitation is None:
                raise NotFound(f"there is no invitation {flags.invitation}")
            changed = invitation.model_copy(update={"withdrawn_at": datetime.now(UTC)})
            if await store.put(entry, changed, current.revision):
                break
    print(f"{found[0][:12]}: withdrawn; no other machine can enroll with it")


# ---- revoking ------------------------------------------------------------------------------------


async def _revoke(flags: argparse.Namespace) -> None:
    tenant, agent = check_token("--tenant", flags.tenant), check_token("AGENT", flags.agent)
    settings, signed = load(BrokerSettings, flags), SignedDirectory(flags.dir)
    now = datetime.now(UTC)
    async with broker_of(flags, "natterjack edges revoke") as broker:
        store, entry = Store(broker), agent_key(tenant, agent)
        while True:  # another machine may take the name at the same time
            found = await store.get(entry)
            record = found.parse(AgentRecord)
            if record is None:
                raise NotFound(f"{tenant} has no enrolled agent {agent}")
            revoked = record.model_copy(update={"revoked_at": now})
            # First: from now on, no registrar renews it, or enrolls the key again.
            refused = revoked_key(record.public_key)
            if not (await store.get(refused)).value:
                await store.put(refused, revoked, 0)
            if await store.put(entry, revoked, found.revision):
                break
        until = max(
            one.expires_at.timestamp()
            for one in (
                revoked,
                *(await _read(broker, AgentRecord, agent_key(tenant, ""))).values(),
            )
            if one.public_key == record.public_key  # which may have had another name before
        )
    with locked(flags.dir):
        write_accounts(flags.dir)
        signed.revoke(edge_account(tenant), [record.public_key], until)
        jwts = write_accounts(flags.dir)
    await push(jwts, signed.system_credentials, settings)
    print(f"{agent}: revoked; the broker has disconnected it, and the name is free")
