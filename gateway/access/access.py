"""Access: one object that says who may do what, for all doors."""

from __future__ import annotations

import logging
import time
from contextlib import AbstractContextManager

from aiohttp import hdrs, web

from natterjack.telemetry.log import fields

from .admission import Admission, Refusals
from .credentials import Credentials, credentials
from .grant import Grant
from .keyring import Keyring
from .origins import Origins
from .refused import Reason, Refused
from .settings import AccessSettings
from .tokens import Tokens

log = logging.getLogger(__name__)


class Access:
    """Admits clients. A door checks a request with `admit`, then holds `connection` open."""

    def __init__(self, settings: AccessSettings) -> None:
        """Raises UsageError if the file of keys, or the secret for tokens, is invalid."""
        self.settings = settings
        tokens = Tokens(settings.secrets(), max_seconds=settings.token_max_seconds)
        self.keyring = Keyring(settings.keys_file, tokens, open_tenant=settings.tenant)
        self.admission = Admission(settings.max_connections)
        self.origins = Origins(settings.origins)
        self._refusals = Refusals()

    def admit(self, request: web.Request, door: str) -> Grant:
        """Return the grant of the client that sent `request` to `door`, a name in
        `natterjack.fleet.keys`.

        Raises: Refused, which each door answers in its own protocol.
        """
        return self.admit_secret(request, door, credentials_of(request, door).secret)

    def admit_secret(self, request: web.Request, door: str, secret: str | None) -> Grant:
        """As `admit`, for doors where the secret comes in a message. Raises Refused."""
        try:
            if self.keyring.open:
                self.check_page(request)
            grant = self.keyring.check(secret)
            grant.check_door(door)
        except Refused as refused:
            raise self._noted(refused, request, door, secret) from None
        return grant

    def check_page(self, request: web.Request) -> None:
        """Check the page that sent a request, which counts where there are no keys. Raises
        Refused."""
        self.origins.check_open(request.headers.get(hdrs.ORIGIN), request.host)

    def connection(self, grant: Grant) -> AbstractContextManager[None]:
        """Count a connection for a block. Raises Refused if there are too many."""
        return self.admission.connection(grant)

    def waiting(self, request: web.Request) -> AbstractContextManager[None]:
        """Count, for a block, a connection whose client has not said yet who it is, or is refused;
        it is cut if others need its place. Raises Refused."""
        transport = request.transport
        return self.admission.waiting(transport.abort if transport is not None else lambda: None)

    def _noted(
        self, refused: Refused, request: web.Request, door: str, secret: str | None
    ) -> Refused:
        address = self.address_of(request)
        shown = self._refusals.note(refused, time.monotonic(), address, secret)
        if shown.reason is not Reason.RATE:
            log.warning(
                "refused: %s", refused,
                extra=fields(door=door, reason=refused.reason.value, address=address),
            )  # fmt: skip
        return shown

    def address_of(self, request: web.Request) -> str:
        """The address of the client: that of the connection, or, behind proxies, the one that the
        outermost of them has seen."""
        hops = self.settings.trusted_proxies
        seen = [
            part.strip()
            for value in request.headers.getall(hdrs.X_FORWARDED_FOR, [])
            for part in value.split(",")
        ]
        if hops and len(seen) >= hops:
            return seen[-hops]
        return request.remote or "unknown"


def credentials_of(request: web.Request, door: str) -> Credentials:
    """The secret that a request to `door` brings, and the subprotocol to name in the answer."""
    offered = [
        word.strip()
        for value in request.headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, [])
        for word in value.split(",")
        if word.strip()
    ]
    return credentials(request.headers, request.query, offered, door)


def secret_of(request: web.Request, door: str) -> str | None:
    """The secret that a request to `door` brings."""
    return credentials_of(request, door).secret
