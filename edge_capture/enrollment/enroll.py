"""Enrolling this machine: a request to the registrar with an invitation."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from nats.errors import Error as NatsError
from pydantic import ValidationError

from natterjack.broker.connection import connected
from natterjack.broker.login.jwt import Key, credentials
from natterjack.broker.login.reissue import renewable
from natterjack.enrollment.records import EnrollRequest, Reply
from natterjack.enrollment.token import Token, inbox_of
from natterjack.errors import BrokerUnreachable
from natterjack.process.terminal import plain
from natterjack.settings import BrokerSettings
from natterjack.subjects import ENROLL_PREFIX, check_token

from ..errors import EnrollmentRefused
from .identity import Enrollment, Identity
from .machine import Machine

log = logging.getLogger(__name__)

_TIMEOUT_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_UNAVAILABLE = "unavailable"


def default_name(host: str) -> str:
    """Return the name of an agent on a machine with this host name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", host.partition(".")[0]).strip("-")[:64] or "edge"


async def enroll(
    token: Token, identity: Identity, machine: Machine, *, agent: str | None, new_key: bool
) -> Enrollment:
    """Enroll this machine, and store its identity. May be repeated after any interruption.

    `agent` is the name that somebody chose. Raises: EnrollmentRefused; BrokerUnreachable if there
    is no answer; UsageError.
    """
    if agent is not None:
        check_token("--agent", agent)
    if token.expires is not None and token.expires <= time.time():
        raise EnrollmentRefused(
            "the token has expired: ask for another one (`natterjack edges invite`)"
        )
    host = socket.gethostname()
    key = identity.key(new=new_key)
    request = EnrollRequest(
        public_key=key.public,
        agent=agent or default_name(host),
        chosen=agent is not None,
        host=host[:255],
    )
    reply = await _ask(token, request)
    if reply.jwt is None or reply.tenant is None or reply.agent is None:
        detail = plain(reply.detail) or "the registrar gives no reason"
        if reply.refusal == _UNAVAILABLE:
            raise BrokerUnreachable(detail)
        if reply.refusal == "revoked":
            identity.discard_pending()
        raise EnrollmentRefused(detail)
    return _store(identity, token, machine, key, reply)


def _store(
    identity: Identity, token: Token, machine: Machine, key: Key, reply: Reply
) -> Enrollment:
    new = renewable(reply.jwt)
    if new is None or new.public_key != key.public or reply.tenant is None or reply.agent is None:
        raise BrokerUnreachable("the registrar's answer is for another machine")
    enrollment = Enrollment(
        url=token.url,
        tenant=reply.tenant,
        agent=reply.agent,
        public_key=key.public,
        machine=machine,
    )
    identity.write(enrollment, reply.jwt or "", key, token.ca)
    return enrollment


async def _ask(token: Token, request: EnrollRequest) -> Reply:
    public = token.public_key
    with _files(token) as (creds, ca):
        settings = BrokerSettings(
            url=token.url, creds=creds, ca=ca, nkey=None, user=None, password=None,
            cert=None, key=None, inbox_prefix=inbox_of(public),
        )  # fmt: skip
        async with connected(settings, name="natterjack-edge enroll", once=True) as broker:
            try:
                message = await broker.client.request(
                    f"{ENROLL_PREFIX}.{public}",
                    request.model_dump_json().encode(),
                    timeout=_TIMEOUT_S,
                )
            except (NatsError, TimeoutError) as error:
                raise BrokerUnreachable(
                    "no registrar answers; is `natterjack registrar` running? "
                    f"({' '.join(str(error).split())})"
                ) from None
    try:
        return Reply.model_validate_json(message.data)
    except ValidationError:
        raise BrokerUnreachable("the registrar's answer cannot be read") from None


@contextlib.contextmanager
def _files(token: Token) -> Iterator[tuple[Path, Path | None]]:
    """The token's credentials and CAs as files, for the block."""
    with tempfile.TemporaryDirectory(prefix="natterjack-") as directory:  # mode 700
        creds, ca = Path(directory) / "token.creds", Path(directory) / "ca.pem"
        creds.write_text(credentials(token.jwt, token.seed.encode()))
        ca.write_text(token.ca)
        yield creds, ca if token.ca else None


async def enroll_until(
    token: Token, identity: Identity, machine: Machine, *, agent: str | None, new_key: bool
) -> Enrollment:
    """Like `enroll`, for a machine that nobody watches: tries again until there is an answer."""
    wait = _FIRST_PAUSE_S
    while True:
        try:
            return await enroll(token, identity, machine, agent=agent, new_key=new_key)
        except BrokerUnreachable as error:
            log.warning("not enrolled yet: %s; next attempt in %.0f s", error, wait)
        await asyncio.sleep(wait)
        wait = min(_LONGEST_PAUSE_S, 2 * wait)


def environment(enrollment: Enrollment, identity: Identity) -> dict[str, str]:
    """Return the settings of an enrolled edge, as environment variables."""
    inbox = f"_INBOX_edge_{enrollment.tenant}_{enrollment.agent}"
    found = {
        "NATS_URL": enrollment.url,
        "NATS_CREDS": str(identity.creds),
        "NATS_INBOX_PREFIX": inbox,
        "EDGE_TENANT": enrollment.tenant,
        "EDGE_AGENT": enrollment.agent,
    }
    if identity.ca.exists():
        found["NATS_CA"] = os.fspath(identity.ca)
    return found
