"""The key for connections: the API key or a temporary one.

Speechmatics docs, "Authentication": a temporary key (a JWT) is valid for any number of sessions in
any region until it expires; open sessions continue after that.
"""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp
from pydantic import SecretStr

from natterjack.plugin.errors import (
    ProviderError,
    RemoteProtocolError,
    RequestRefused,
    Unavailable,
)
from natterjack.plugin.proxy import proxy_for

from .settings import SpeechmaticsAccount

_RENEWED: Final = 0.8
"""Fraction of its lifetime after which a temporary key is replaced."""


def management_error(provider: str, status: int) -> ProviderError:
    """The error for a failed request of a temporary key. "Authentication": only 201 is success;
    403, 404 and 410 concern the account or its key."""
    code, message = str(status), "request of a temporary key failed"
    if status == 429:
        return Unavailable(provider, "rate_limit", message, code)
    if status == 408 or status >= 500:
        return Unavailable(provider, "server_error", message, code)
    if status < 400:
        return RemoteProtocolError(provider, message, code)
    return RequestRefused(provider, "request" if status == 400 else "auth", message, code)


def _closed(provider: str) -> Unavailable:
    return Unavailable(provider, "connect", "the provider was closed")


def _retrieve_error(attempt: asyncio.Task[SecretStr]) -> None:
    if not attempt.cancelled():
        attempt.exception()


class Keys:
    """Provides the key for the next connection, and caches temporary keys."""

    def __init__(self, provider: str, api_key: SecretStr, settings: SpeechmaticsAccount) -> None:
        self._provider = provider
        self._api_key = api_key
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._temporary: SecretStr | None = None
        self._valid_until = 0.0
        self._closed = False
        self._attempt: asyncio.Task[SecretStr] | None = None
        """Task that obtains a temporary key for all waiters. It ends with the key, an error, the
        connect timeout, or `close`."""

    async def get(self) -> SecretStr:
        """Return the key; bounded by the connect timeout. Raises: ProviderError."""
        if self._settings.temporary_key is not None or not self._settings.temporary_keys:
            return self._settings.temporary_key or self._api_key
        if self._temporary is not None and asyncio.get_running_loop().time() < self._valid_until:
            return self._temporary
        if self._closed:
            raise _closed(self._provider)
        if self._attempt is None or self._attempt.done():
            self._attempt = asyncio.create_task(self._renew(), name="speechmatics key")
            # All waiters may be gone by then; this avoids a warning about an error that is never
            # retrieved.
            self._attempt.add_done_callback(_retrieve_error)
        attempt = self._attempt
        # Not awaited directly: cancelling one waiter must not affect the others.
        await asyncio.wait([attempt])
        if attempt.cancelled():
            raise _closed(self._provider)
        return attempt.result()

    def forget(self) -> None:
        """Discard the temporary key after it was refused."""
        self._temporary = None

    async def _renew(self) -> SecretStr:
        requested_at = asyncio.get_running_loop().time()
        key = await self._obtain()
        self._temporary = key
        self._valid_until = requested_at + _RENEWED * self._settings.temporary_key_ttl_seconds
        return key

    async def _obtain(self) -> SecretStr:
        if self._session is None:
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        timeout = self._settings.connect_timeout_seconds
        try:
            async with (
                asyncio.timeout(timeout),
                self._session.post(
                    f"{self._settings.management_url}/v1/api_keys",
                    params={"type": "rt"},
                    json={"ttl": self._settings.temporary_key_ttl_seconds},
                    headers={"Authorization": f"Bearer {self._api_key.get_secret_value()}"},
                    allow_redirects=False,  # a redirect would send the key elsewhere
                    **proxy_for(self._settings.management_url),
                ) as response,
            ):
                if response.status != 201:
                    raise management_error(self._provider, response.status)
                content = await response.json(content_type=None)
        # `from None`: aiohttp's errors show the request's headers, which hold the key.
        except TimeoutError:
            message = f"no temporary key within {timeout:g} s"
            raise Unavailable(self._provider, "connect", message) from None
        except (aiohttp.ClientError, OSError) as error:
            message = f"no temporary key: {type(error).__name__}"
            raise Unavailable(self._provider, "connect", message) from None
        except ValueError:
            raise RemoteProtocolError(
                self._provider, "response with the temporary key is not JSON"
            ) from None
        key = content.get("key_value") if isinstance(content, dict) else None
        if not isinstance(key, str) or not key:
            raise RemoteProtocolError(self._provider, "response without a temporary key")
        return SecretStr(key)

    async def close(self) -> None:
        """Close the HTTP session and cancel a request in flight. No key is obtained afterwards.
        Idempotent."""
        self._closed = True
        attempt, self._attempt = self._attempt, None
        if attempt is not None and not attempt.done():
            attempt.cancel()
            await asyncio.wait([attempt])
        session, self._session = self._session, None
        if session is not None:
            await session.close()
