"""The key that goes with a connection: the API key, or a temporary one.

Speechmatics docs, "Authentication": a temporary key (a JWT) serves any number of sessions, in any
region, until it runs out; a session that stands goes on after that.
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

from .options import NAME
from .settings import SpeechmaticsSettings

_RENEWED: Final = 0.8
"""Share of its life after which a temporary key is not used any more."""


def management_error(status: int) -> ProviderError:
    """What it means that no temporary key was given. "Authentication": 201 is success and nothing
    else is; 403, 404 and 410 are about the account or its key."""
    code, said = str(status), "no temporary key was given"
    if status == 429:
        return Unavailable(NAME, "rate_limit", said, code)
    if status == 408 or status >= 500:
        return Unavailable(NAME, "server_error", said, code)
    if status < 400:
        return RemoteProtocolError(NAME, said, code)
    return RequestRefused(NAME, "request" if status == 400 else "auth", said, code)


def _closed() -> Unavailable:
    return Unavailable(NAME, "connect", "the provider was closed here")


def _seen(attempt: asyncio.Task[SecretStr]) -> None:
    if not attempt.cancelled():
        attempt.exception()


class Keys:
    """Gives the key for the next connection, and remembers temporary ones."""

    def __init__(self, api_key: SecretStr, settings: SpeechmaticsSettings) -> None:
        self._api_key = api_key
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._temporary: SecretStr | None = None
        self._good_until = 0.0
        self._closed = False
        self._attempt: asyncio.Task[SecretStr] | None = None
        """To obtain a temporary key, for all who wait for one. Lives until it has one or has
        failed, no longer than the connect timeout, or until `close`."""

    async def get(self) -> SecretStr:
        """The key. Bounded by the connect timeout. Raises: ProviderError."""
        if self._settings.temporary_key is not None or not self._settings.temporary_keys:
            return self._settings.temporary_key or self._api_key
        if self._temporary is not None and asyncio.get_running_loop().time() < self._good_until:
            return self._temporary
        if self._closed:
            raise _closed()
        if self._attempt is None or self._attempt.done():
            self._attempt = asyncio.create_task(self._renew(), name="speechmatics key")
            # Whoever waited may be gone by then: a failure that nobody sees is none.
            self._attempt.add_done_callback(_seen)
        attempt = self._attempt
        # A waiter that is cancelled takes nothing from the others.
        await asyncio.wait([attempt])
        if attempt.cancelled():
            raise _closed()
        return attempt.result()

    def forget(self) -> None:
        """The key was refused: obtain another the next time."""
        self._temporary = None

    async def _renew(self) -> SecretStr:
        asked = asyncio.get_running_loop().time()
        key = await self._obtain()
        self._temporary = key
        self._good_until = asked + _RENEWED * self._settings.temporary_key_ttl_seconds
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
                    allow_redirects=False,  # the key is for nobody else
                    **proxy_for(self._settings.management_url),
                ) as response,
            ):
                if response.status != 201:
                    raise management_error(response.status)
                content = await response.json(content_type=None)
        # `from None`: aiohttp's errors show the request's headers, and with them the key.
        except TimeoutError:
            said = f"no temporary key within {timeout:g} s"
            raise Unavailable(NAME, "connect", said) from None
        except (aiohttp.ClientError, OSError) as error:
            said = f"no temporary key: {type(error).__name__}"
            raise Unavailable(NAME, "connect", said) from None
        except ValueError:
            raise RemoteProtocolError(NAME, "the temporary key came in no JSON") from None
        key = content.get("key_value") if isinstance(content, dict) else None
        if not isinstance(key, str) or not key:
            raise RemoteProtocolError(NAME, "the answer has no temporary key")
        return SecretStr(key)

    async def close(self) -> None:
        """Let go of the HTTP session and of an attempt on its way; no key is obtained any more.
        Idempotent."""
        self._closed = True
        attempt, self._attempt = self._attempt, None
        if attempt is not None and not attempt.done():
            attempt.cancel()
            await asyncio.wait([attempt])
        session, self._session = self._session, None
        if session is not None:
            await session.close()
