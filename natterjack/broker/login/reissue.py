"""Asks for new credentials before those of an enrolled agent expire, and writes them into its file
once the server has accepted them: nobody could bring back the old ones.

`Renewal` then notices that the file has changed, tries the credentials, and connects with them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path

from nats.errors import Error as NatsError

from natterjack.errors import UsageError
from natterjack.process.files import replace_text
from natterjack.subjects import RENEW_PREFIX

from ..client.fastpath import Client
from .credentials import Credentials, Identity
from .jwt import credentials, read_claims
from .renewal import Try, refused

log = logging.getLogger(__name__)

RENEWED, TENANT = "renew", "tenant:"
"""Tags of a JWT that a registrar renews; the second is followed by the tenant."""
_SHARE = 1 / 3
"""The share of their lifetime after which credentials are renewed."""
_LOOK_S = 30.0
_TIMEOUT_S = 5.0
_LEAST_PAUSE_S, _MOST_PAUSE_S = 0.5, 600.0


@dataclass(frozen=True)
class Renewable:
    """The contents of a JWT that a registrar renews."""

    public_key: str
    tenant: str
    agent: str
    issued: float
    expires: float
    """In seconds since 1970."""

    @property
    def due(self) -> float:
        """When it should be renewed, in seconds since 1970."""
        return self.issued + (self.expires - self.issued) * _SHARE


def renewable(jwt: str | None) -> Renewable | None:
    """Return what is needed to renew a JWT, or None if no registrar does."""
    try:
        claims = read_claims(jwt or "")
        tags = claims["nats"].get("tags") or []
        tenant = next((tag.removeprefix(TENANT) for tag in tags if tag.startswith(TENANT)), None)
        if RENEWED not in tags or tenant is None or not claims.get("exp"):
            return None
        issued, expires = float(claims["iat"]), float(claims["exp"])
        if not math.isfinite(expires - issued):
            return None
        return Renewable(claims["sub"], tenant, claims["name"], issued, expires)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None


def pause(credentials: Renewable, now: float) -> float:
    """Return the seconds to wait after an attempt that failed."""
    return min(_MOST_PAUSE_S, max(_LEAST_PAUSE_S, (credentials.expires - now) / 10))


class Reissue:
    """Renews the credentials file of one connection."""

    def __init__(self, client: Client, held: Credentials, path: Path, trial: Try) -> None:
        self._client = client
        self._held = held
        self._path = path
        self._try = trial
        self._problem = ""

    async def run(self) -> None:
        """Renew the file whenever it is due, until cancelled."""
        while True:
            identity = self._held.read()
            current = renewable(identity.jwt)
            if current is None:
                await asyncio.sleep(_LOOK_S)
                continue
            now = time.time()
            if now < current.due or not self._client.is_connected:
                await asyncio.sleep(min(_LOOK_S, max(_LEAST_PAUSE_S, current.due - now)))
                continue
            await self._renew(identity, current)
            wait = pause(current, time.time())
            await asyncio.sleep(wait * random.uniform(0.8, 1.2))  # noqa: S311 - jitter

    async def _renew(self, identity: Identity, current: Renewable) -> None:
        request = json.dumps({"tenant": current.tenant, "agent": current.agent}).encode()
        try:
            message = await self._client.request(
                f"{RENEW_PREFIX}.{current.public_key}", request, timeout=_TIMEOUT_S
            )
            jwt = _checked(message.data, current)
            assert identity.seed is not None
            if (error := await refused(self._try, replace(identity, jwt=jwt))) is not None:
                raise ValueError(f"the server refuses what the registrar has signed: {error}")
            replace_text(self._path, credentials(jwt, identity.seed), mode=0o600)
        except (NatsError, TimeoutError, OSError, ValueError, UsageError) as error:
            problem = " ".join(str(error).split()) or type(error).__name__
            if problem != self._problem:
                log.warning("the credentials cannot be renewed yet: %s", problem)
            self._problem = problem
        else:
            self._problem = ""
            log.info("the registrar has renewed the credentials")


def _checked(data: bytes, current: Renewable) -> str:
    """Return the JWT in a reply. Raises ValueError if there is none that replaces `current`."""
    try:
        reply = json.loads(data)
    except (ValueError, RecursionError):
        reply = None
    if not isinstance(reply, dict):
        raise ValueError("the registrar's answer cannot be read")
    jwt = reply.get("jwt")
    if not isinstance(jwt, str):
        raise ValueError(f"the registrar refuses: {str(reply.get('detail'))[:300]}")
    new = renewable(jwt)
    if new is None or new.public_key != current.public_key or new.expires <= current.expires:
        raise ValueError("the registrar's answer is for another agent, or has no later expiry")
    return jwt
