"""Notices renewed credentials and certificates, tries them, and connects with them in time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from nats.errors import Error as NatsError

from natterjack.errors import BrokerError
from natterjack.telemetry.log import fields

from ..client.fastpath import Client
from .attempts import Attempts, reason
from .credentials import Credentials, Identity

log = logging.getLogger(__name__)

_LOOK_S = 2.0
"""How often the files are read."""
_TRY_AGAIN_S = 20.0
"""The pause after an attempt in which the server refused the renewed credentials, or did not
answer."""
_SPREAD_S = 60.0
"""Within this time, the processes that share a file connect again with its new content."""

Try = Callable[[Identity], Awaitable[None]]
"""Makes a connection with the identity and closes it. Raises what fails."""


async def refused(trial: Try, renewed: Identity) -> Exception | None:
    """Try `renewed`. Returns why they cannot be used, or None if the server accepts them."""
    try:
        await trial(renewed)
    except (NatsError, OSError, TimeoutError, ValueError, BrokerError) as error:
        # The server checks an account's limit after the credentials.
        limit = reason(error) == "limit" and "account" in str(error).lower()
        return None if limit else error
    return None


def reconnect_after(expires: float | None, now: float, chance: float) -> float | None:
    """Return in how many seconds a connection whose credentials expire at `expires` is to be
    replaced, once the renewed ones are accepted; None if it may stay.

    `chance`, from 0 to 1, differs between processes, so that they do not all reconnect at once.
    """
    if expires is None:
        return None
    return max(0.0, chance * min(_SPREAD_S, (expires - now) / 2))


class Renewal:
    """Keeps one client's connection from ending because its credentials expire."""

    def __init__(
        self, client: Client, credentials: Credentials, attempts: Attempts, trial: Try
    ) -> None:
        self._client = client
        self._credentials = credentials
        self._attempts = attempts
        self._try = trial
        self._tried: Identity | None = None
        """The renewed identity that the server has accepted."""
        self._refused: Identity | None = None
        """The renewed identity that was refused, which has been logged."""

    async def run(self) -> None:
        """Check the files until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
            renewed = self._credentials.read()
            if renewed in (self._client.identity, self._tried) or not self._client.is_connected:
                continue  # while it reconnects, the client reads the files itself
            if await self._accepted(renewed):
                self._tried = renewed
                await self._connect_with(renewed)
            else:
                await asyncio.sleep(_TRY_AGAIN_S * random.uniform(0.8, 1.2))  # noqa: S311

    async def _accepted(self, renewed: Identity) -> bool:
        error = await refused(self._try, renewed)
        if error is not None:
            words = self._attempts.count(error, expired=renewed.expired)
            if renewed != self._refused:
                self._refused = renewed
                log.warning(
                    "renewed credentials or certificates cannot be used yet: %s", words,
                    extra=_until(self._client.identity),
                )  # fmt: skip
            return False
        log.info("renewed credentials or certificates are accepted", extra=_until(renewed))
        return True

    async def _connect_with(self, renewed: Identity) -> None:
        """Replace a connection that would end because its credentials expire."""
        used = self._client.identity
        chance = random.random()  # noqa: S311 - jitter
        seconds = reconnect_after(used.expires, time.time(), chance)
        if seconds is None:
            return  # the next connection uses the renewed ones
        await asyncio.sleep(seconds)
        if self._client.identity is used and self._client.is_connected:
            log.info("reconnecting before the credentials in use expire", extra=_until(used))
            with contextlib.suppress(NatsError, TimeoutError, OSError, RuntimeError):
                await self._client.flush(timeout=2)
            await self._client.force_reconnect()


def _until(identity: Identity) -> dict[str, Any]:
    """The field `expires` of a log line, if the identity expires."""
    if identity.expires is None:
        return {}
    return fields(expires=datetime.fromtimestamp(identity.expires, UTC).isoformat())
