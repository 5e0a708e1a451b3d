"""Sends one webhook to the receiver, and judges the answer. Nothing is repeated here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Literal

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from natterjack.errors import UsageError

from .addresses import refusal
from .judgment import Answer, judge
from .settings import WebhookSettings
from .signature import signed_headers

log = logging.getLogger(__name__)

_MAX_BODY_BYTES = 16 * 1024
_BODY_S = 1.0
"""The body of an answer has no meaning. Reading a short one keeps the connection usable."""


class AddressRefused(OSError):
    """The host has no address that a webhook may be sent to."""


class _CheckedResolver(AbstractResolver):
    """Looks up a host and leaves out the addresses that webhooks may not be sent to.

    aiohttp connects to the addresses that it gets here, so there is no second look-up whose result
    could differ.
    """

    def __init__(self, *, allow_private: bool, tls: bool) -> None:
        self._resolver = aiohttp.ThreadedResolver()
        self._allow_private, self._tls = allow_private, tls

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        reasons = [
            refusal(one["host"], allow_private=self._allow_private, tls=self._tls) for one in found
        ]
        usable = [one for one, reason in zip(found, reasons, strict=True) if reason is None]
        if not usable:
            raise AddressRefused(f"{host}: {reasons[0] if reasons else 'it has no address'}")
        return usable

    async def close(self) -> None:
        await self._resolver.close()


class Sender:
    """A client for one receiver. Use it as an asynchronous context manager."""

    def __init__(self, settings: WebhookSettings, now: Callable[[], float] = time.time) -> None:
        """Raises: UsageError for unusable settings, secrets or certificates."""
        self._settings = settings
        self._url = settings.target
        self._secrets = settings.secrets()
        self._now = now
        self._tls = _tls(settings)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Sender:
        settings = self._settings
        connector = aiohttp.TCPConnector(
            limit=0,  # the caller limits requests
            ssl=self._tls,
            resolver=_CheckedResolver(
                allow_private=settings.allow_private, tls=self._url.startswith("https:")
            ),
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=settings.timeout_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={
                "content-type": "application/json",
                "user-agent": f"natterjack/{version('natterjack')}",
            },
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    def _sign(self, webhook_id: str, body: bytes) -> dict[str, str]:
        try:
            self._secrets = self._settings.secrets()
        except UsageError as error:  # a file that is just being replaced
            log.warning("signing with the secrets that were read before: %s", error)
        return signed_headers(self._secrets, webhook_id, int(self._now()), body)

    async def send(self, webhook_id: str, body: bytes) -> Answer:
        """Send one webhook, once. Its ID is the same in each attempt. Cancel-safe: it may then have
        arrived or not."""
        assert self._session is not None, "used outside of its context"
        headers = self._sign(webhook_id, body)
        try:
            async with self._session.post(
                self._url, data=body, headers=headers, allow_redirects=False
            ) as response:
                answer = judge(
                    response.status,
                    response.headers.get("Retry-After"),
                    datetime.fromtimestamp(self._now(), UTC),
                )
                await _read_short(response)
                return answer
        except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError
            return _failure(error, self._settings.timeout_seconds)


async def _read_short(response: aiohttp.ClientResponse) -> None:
    """Read the body if it is short and there, else end the connection."""
    left = _MAX_BODY_BYTES
    with contextlib.suppress(aiohttp.ClientError, OSError):
        async with asyncio.timeout(_BODY_S):
            while left > 0 and (data := await response.content.read(left)):
                left -= len(data)
    if not response.content.at_eof():
        response.close()


def _tls(settings: WebhookSettings) -> ssl.SSLContext | Literal[True]:
    """How receivers are verified; True with the authorities of the system alone, which aiohttp has
    loaded already."""
    if settings.ca is None:
        return True
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(settings.ca)
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror or "it has no certificate"
        raise UsageError(f"WEBHOOK_CA: cannot use {settings.ca}: {reason}") from None
    return context


def _failure(error: Exception, timeout_seconds: float) -> Answer:
    """Judge an error of aiohttp. Its text is not used: it may contain headers."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, AddressRefused):
            return Answer("failed", "address", str(cause))
        cause = cause.__cause__ or getattr(cause, "os_error", None)
    if isinstance(error, TimeoutError):
        return Answer("failed", "timeout", f"no answer within {timeout_seconds:g} s")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = getattr(error.certificate_error, "verify_message", "") or "it is not valid"
        return Answer("failed", "tls", f"the receiver's certificate: {reason}")
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return Answer("failed", "tls", "the receiver does not answer with TLS")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Answer("failed", "connection", f"the host {error.host} is not found")
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        reason = os.strerror(number).lower() if number else "no connection"
        return Answer("failed", "connection", f"cannot connect: {reason}")
    return Answer("failed", "connection", "the connection ended before the answer")
