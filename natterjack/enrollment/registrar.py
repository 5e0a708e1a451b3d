"""The registrar: answers machines that have an invitation, and agents whose credentials age.

It holds a key that can sign users of one kind only: nats-server gives them the permissions of an
edge of their account, whatever the registrar signs. Several registrars may run; they share the
requests, and every decision is one write by compare-and-set. A request may be repeated: a key that
has used an invitation does not use it again, and keeps its name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError

from natterjack.broker.connection import Broker
from natterjack.broker.login.jwt import is_public_key, make_jwt
from natterjack.broker.login.permissions import CAPTION_KINDS
from natterjack.broker.login.reissue import RENEWED, TENANT
from natterjack.errors import BrokerError, UsageError, first_problem
from natterjack.subjects import ENROLL_PREFIX, RENEW_PREFIX
from natterjack.telemetry.log import fields

from .records import (
    CAPTIONS_TAG,
    MAX_REQUEST_BYTES,
    AgentRecord,
    EnrollRequest,
    Invitation,
    Refusal,
    RenewRequest,
    Reply,
    other_name,
)
from .settings import RegistrarSettings
from .store import Found, Store, agent_key, invitation_key, revoked_key

log = logging.getLogger(__name__)

_ATTEMPTS = 50
"""How often a write is tried again after another registrar was faster."""
_REVOKED = (
    "this key was revoked: if the machine may come back, run `natterjack-edge enroll --new-key`"
)


class Refused(Exception):
    """The registrar does not do what was asked. The message is for whoever asked."""

    def __init__(self, refusal: Refusal, detail: str) -> None:
        super().__init__(detail)
        self.refusal = refusal


class Registrar:
    """Answers requests on one connection."""

    def __init__(
        self, settings: RegistrarSettings, broker: Broker, count: Callable[[str], None]
    ) -> None:
        """`count` is called for each answer with `enrolled`, `renewed`, or why it refuses."""
        self._settings = settings
        self._store = Store(broker)
        self._count = count

    async def answer(self, subject: str, data: bytes) -> Reply:
        """Answer one request. `subject` ends with the key that the server has checked."""
        prefix, _, key = subject.rpartition(".")
        try:
            if not is_public_key(key) or len(data) > MAX_REQUEST_BYTES:
                raise Refused("invalid", "this is no request to a registrar")
            if prefix == ENROLL_PREFIX:
                reply = await self._enroll(key, EnrollRequest.model_validate_json(data))
                outcome = "enrolled"
            elif prefix == RENEW_PREFIX:
                reply = await self._renew(key, RenewRequest.model_validate_json(data))
                outcome = "renewed"
            else:
                raise Refused("invalid", "this is no request to a registrar")
        except ValidationError as error:
            reply = self._refused(key, Refused("invalid", first_problem(error)[:300]))
        except Refused as error:
            reply = self._refused(key, error)
        except (BrokerError, UsageError) as error:
            log.error("a request cannot be answered: %s", error)
            reply = self._refused(
                key, Refused("unavailable", "the registrar cannot answer now; its log says why")
            )
        else:
            self._count(outcome)
            log.info("agent %s", outcome, extra=fields(tenant=reply.tenant, agent=reply.agent))
        return reply

    def _refused(self, key: str, error: Refused) -> Reply:
        self._count(error.refusal)
        log.warning("refused: %s", error, extra=fields(key=key, refusal=error.refusal))
        return Reply(refusal=error.refusal, detail=str(error))

    # ---- enrolling -------------------------------------------------------------------------------

    async def _enroll(self, invited: str, request: EnrollRequest) -> Reply:
        if not is_public_key(request.public_key):
            raise Refused("invalid", "public_key: its checksum is wrong")
        if (await self._store.get(revoked_key(request.public_key))).value:
            raise Refused("revoked", _REVOKED)
        invitation = await self._use(invited, request.public_key)
        expires = self._expiry()
        record = AgentRecord(
            public_key=request.public_key,
            account=invitation.account,
            invitation=invited,
            host=request.host,
            captions=invitation.captions,
            enrolled_at=datetime.now(UTC),
            expires_at=expires,
        )
        agent = await self._name(invitation.tenant, request, record)
        return await self._issue(invitation.tenant, agent, record, expires)

    async def _use(self, invited: str, key: str) -> Invitation:
        """Count `key` as one use of the invitation, unless it is counted already."""
        for _ in range(_ATTEMPTS):
            found = await self._store.get(invitation_key(invited))
            invitation = found.parse(Invitation)
            if invitation is None:
                raise Refused("unknown", "this invitation is not known here")
            if (problem := invitation.problem(key, datetime.now(UTC))) is not None:
                raise Refused(*problem)
            if key in invitation.keys:
                return invitation
            used = invitation.model_copy(update={"keys": (*invitation.keys, key)})
            if await self._store.put(invitation_key(invited), used, found.revision):
                return used
        raise Refused("unavailable", "too many machines enroll at once")

    async def _name(self, tenant: str, request: EnrollRequest, record: AgentRecord) -> str:
        """Write the record under a name that no other agent has. Returns the name."""
        names = [request.agent]
        if not request.chosen:
            names.append(other_name(request.agent, request.public_key))
        for name in names:
            for _ in range(_ATTEMPTS):
                found = await self._store.get(agent_key(tenant, name))
                if not self._free(found, request.public_key):
                    break
                entry = _later(record, found.parse(AgentRecord))
                if await self._store.put(agent_key(tenant, name), entry, found.revision):
                    return name
        raise Refused(
            "taken",
            f"{tenant} has an agent {request.agent}: choose another --agent, or run "
            f"`natterjack edges revoke {request.agent} --tenant {tenant}` first",
        )

    def _free(self, found: Found, key: str) -> bool:
        """Whether the agent with this key may have the name whose entry is `found`."""
        other = found.parse(AgentRecord)
        return other is None or other.public_key == key or other.revoked_at is not None

    # ---- renewing --------------------------------------------------------------------------------

    async def _renew(self, key: str, request: RenewRequest) -> Reply:
        if (await self._store.get(revoked_key(key))).value:
            raise Refused("revoked", _REVOKED)
        entry = agent_key(request.tenant, request.agent)
        found = await self._store.get(entry)
        record = found.parse(AgentRecord)
        if record is None or record.public_key != key:
            raise Refused("unknown", f"{request.tenant} has no agent {request.agent} of this key")
        if record.revoked_at is not None:
            raise Refused("revoked", _REVOKED)
        expires = self._expiry()
        renewed = _later(record.model_copy(update={"expires_at": expires}), record)
        if not await self._store.put(entry, renewed, found.revision):
            raise Refused("unavailable", "the agent's record has just changed")
        return await self._issue(request.tenant, request.agent, renewed, expires)

    # ---- signing ---------------------------------------------------------------------------------

    def _expiry(self) -> datetime:
        return datetime.now(UTC) + timedelta(hours=self._settings.lifetime_hours)

    async def _issue(
        self, tenant: str, agent: str, record: AgentRecord, expires: datetime
    ) -> Reply:
        if (await self._store.get(revoked_key(record.public_key))).value:
            # In the meantime. Whoever revokes a key reads when its credentials expire afterwards.
            raise Refused("revoked", _REVOKED)
        tags = [RENEWED, f"{TENANT}{tenant}"]
        if record.captions:
            tags += [f"{CAPTIONS_TAG}:{kind}" for kind in CAPTION_KINDS]
        claims = {"type": "user", "issuer_account": record.account, "tags": tags}
        jwt = make_jwt(
            self._settings.signing_key(), record.public_key, claims,
            name=agent, expires=expires.timestamp(),
        )  # fmt: skip
        return Reply(jwt=jwt, tenant=tenant, agent=agent)


def _later(record: AgentRecord, before: AgentRecord | None) -> AgentRecord:
    """Return the record with the later expiry, if both are of one key: the lifetime of credentials
    may have been shortened in between."""
    if before is None or before.public_key != record.public_key:
        return record
    return record.model_copy(update={"expires_at": max(record.expires_at, before.expires_at)})
