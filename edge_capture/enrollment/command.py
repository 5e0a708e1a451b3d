"""`natterjack-edge enroll`, and what every command does with the identity that it stores."""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import time
from collections.abc import Coroutine, Mapping
from typing import Any

from natterjack.enrollment.token import parse_token
from natterjack.errors import BrokerUnreachable, NatterjackError, UsageError
from natterjack.process.run import end_tasks
from natterjack.settings import BrokerSettings, load
from natterjack.telemetry.log import fields

from ..config.preview import Preview, preview
from ..errors import EnrollmentRefused
from .enroll import enroll, enroll_until, environment
from .identity import Enrollment, Identity
from .machine import read_machine
from .settings import IdentitySettings

log = logging.getLogger(__name__)

_MAX_TOKEN = 256 * 1024
_OFFLINE = ("probe", "devices", "enroll")
"""The commands that do not connect with the credentials of an enrolled edge."""
_OWN = ("creds", "nkey", "user")
"""Settings of a user of NATS; whoever sets one does not want the enrolled one."""
_NO_NEW_ONES = "the credentials have expired, and the token gives no new ones"
_FIRST_PAUSE_S, _LOOK_S, _LONGEST_PAUSE_S = 2.0, 30.0, 120.0
_IN_FILE = {"NATS_URL": "url", "NATS_CA": "ca"}
"""Settings that come with the token, with the keys of the table `[nats]` that override them."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `natterjack-edge enroll`."""
    command.add_argument(
        "invitation", nargs="?", metavar="TOKEN",
        help="token of `natterjack edges invite`; - reads it from standard input, which keeps it "
        "out of the list of processes (default: EDGE_TOKEN or EDGE_TOKEN_FILE)",
    )  # fmt: skip
    command.add_argument(
        "--agent",
        help="name of this edge, refused if another one of the tenant has it (default: the host "
        "name, to which a few characters of the key are added if it is taken)",
    )
    command.add_argument(
        "--new-key", action="store_true", help="make a new key, although there is one already"
    )


async def run(flags: argparse.Namespace) -> int:
    """Run `natterjack-edge enroll`. Returns the exit status: 0 enrolled, 1 refused or no answer.

    Raises: UsageError.
    """
    settings = load(IdentitySettings, flags)
    text = flags.invitation
    if text == "-":
        text = sys.stdin.read(_MAX_TOKEN)
    text = text or settings.stored_token()
    if not text:
        raise UsageError("enroll needs a TOKEN: `natterjack edges invite` prints one")
    token, identity, machine = parse_token(text), Identity(settings.directory), read_machine()
    known = identity.read()
    new_key = flags.new_key or (known is not None and known.machine.is_other(machine))
    agent = flags.agent or (known.agent if known is not None and not new_key else None)
    try:
        enrollment = await enroll(token, identity, machine, agent=agent, new_key=new_key)
    except (EnrollmentRefused, BrokerUnreachable) as error:
        print(f"natterjack-edge enroll: {error}", file=sys.stderr)
        return 1
    _report(enrollment, identity)
    return 0


def _report(enrollment: Enrollment, identity: Identity) -> None:
    log.info(
        "enrolled",
        extra=fields(
            tenant=enrollment.tenant, agent=enrollment.agent, identity=str(identity.directory)
        ),
    )


def _enroll_again(text: str, identity: Identity, known: Enrollment) -> Enrollment:
    """Enroll with the key and the name that this edge has, whose credentials have expired. It is
    tried once: an edge without NATS still captures into its spool, and `kept` tries again."""
    try:
        found = asyncio.run(
            enroll(parse_token(text), identity, read_machine(), agent=known.agent, new_key=False)
        )
    except (NatterjackError, OSError) as error:
        log.warning("%s: %s", _NO_NEW_ONES, _reason(error))
        return known
    _report(found, identity)
    return found


def _reason(error: NatterjackError | OSError) -> str:
    """Why it failed, without the name of a temporary file, which would be another one each time."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


async def kept(work: Coroutine[Any, Any, int], flags: argparse.Namespace) -> int:
    """Run a command. Meanwhile, enroll again whenever the credentials have expired, as they do
    while an edge is cut off for long, if there is a token. The connection uses what it finds."""
    keeping = asyncio.create_task(_stay_enrolled(flags), name="enrollment")
    try:
        return await work
    finally:
        await end_tasks([keeping])


async def _stay_enrolled(flags: argparse.Namespace) -> None:
    settings = load(IdentitySettings, flags)
    identity = Identity(settings.directory)
    problem, pause = "", _FIRST_PAUSE_S
    while True:
        await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
        if not identity.expired(time.time()):
            pause = _LOOK_S
            continue
        pause = min(_LONGEST_PAUSE_S, 2 * pause)
        try:
            text, known = settings.stored_token(), identity.read()
            if text is None or known is None:
                continue
            found = await enroll(
                parse_token(text), identity, known.machine, agent=known.agent, new_key=False
            )
        except (NatterjackError, OSError) as error:  # nobody looks at the end of this task
            if _reason(error) != problem:
                problem = _reason(error)
                log.warning("%s: %s", _NO_NEW_ONES, problem)
        else:
            problem, pause = "", _LOOK_S
            _report(found, identity)


def _has_no_key(broker: BrokerSettings, config: Preview, given: Mapping[str, str]) -> bool:
    """Whether the only user that is set is that of a key file which is missing or empty."""
    others = [broker.creds, broker.user, *(name in config.nats for name in _OWN)]
    if any(others) or broker.nkey is None or str(broker.nkey) != given.get("NATS_NKEY"):
        return False
    try:
        return not broker.nkey.read_bytes().strip()
    except OSError as error:
        return isinstance(error, FileNotFoundError)


def apply(flags: argparse.Namespace, given: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of the enrolled identity that the environment `given` lacks, or nothing
    if there is none, or another user is set. An empty value is a variable to unset: a key in a file
    that is missing or empty is not another user, so that one unit serves both kinds of machines.

    Enrolls first if a token is stored and this edge is not enrolled, or runs on a clone, or was
    switched off until its credentials expired, unless the command only examines. Raises:
    UsageError; EnrollmentRefused.
    """
    if flags.command in _OFFLINE:
        return {}
    broker = load(BrokerSettings, flags)
    config = preview(flags.config) if getattr(flags, "config", None) is not None else Preview()
    no_key = _has_no_key(broker, config, given)
    if not no_key and any(getattr(broker, name) or name in config.nats for name in _OWN):
        return {}
    settings = load(IdentitySettings, flags)
    identity = Identity(settings.directory)
    known, machine = identity.read(), read_machine()
    cloned = known is not None and known.machine.is_other(machine)
    # A command that only examines the machine changes nothing on it, and waits for no registrar.
    examines = flags.command == "check" or getattr(flags, "check_config", False)
    if known is None or cloned:
        text = settings.stored_token()
        if text is None and known is None:
            if no_key and not examines:
                raise UsageError(
                    f"NATS_NKEY: {broker.nkey} is missing or empty, and this machine is not "
                    "enrolled: store the key of `natterjack users` in the edge.nk that the unit "
                    "names, or run `natterjack-edge enroll TOKEN`"
                )
            return {}
        if text is None:
            raise UsageError(
                f"{identity.directory} has the identity of another machine, of which this one is a "
                "clone (or its hardware was replaced): run `natterjack-edge enroll TOKEN`, or set "
                "EDGE_TOKEN_FILE, and it gets one of its own"
            )
        if examines:
            log.warning(
                "this edge is not enrolled yet; its next start does that, or `natterjack-edge "
                "enroll`"
            )
            return {}
        if cloned:
            log.warning("this machine is a clone of an enrolled one; it enrolls anew")
        known = asyncio.run(
            enroll_until(parse_token(text), identity, machine, agent=None, new_key=cloned)
        )
        _report(known, identity)
    elif not examines and identity.expired(time.time()) and (again := settings.stored_token()):
        known = _enroll_again(again, identity, known)
    found = {
        name: value
        for name, value in environment(known, identity).items()
        if not given.get(name) and _IN_FILE.get(name) not in config.nats
    }
    if no_key:
        found["NATS_NKEY"] = ""
    for name, enrolled in (("agent", known.agent), ("tenant", known.tenant)):
        named = getattr(config, name)
        if named is not None and named != enrolled and f"EDGE_{name.upper()}" in found:
            log.warning(
                "%s = %r of %s is not used: this machine is enrolled as agent %s of tenant %s",
                name, named, flags.config, known.agent, known.tenant,
            )  # fmt: skip
    return found
