"""Deepgram's management API: projects and their balances.

Pure functions for the wire format (no sockets, clocks, environment or broker), then a thin HTTP
client. Sections named in comments are pages of the vendor's documentation ("Deepgram docs").
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn
from urllib.parse import quote

import aiohttp
from pydantic import SecretStr

from natterjack.plugin.base import Balance
from natterjack.plugin.errors import (
    Dropped,
    ProviderError,
    RemoteProtocolError,
    RequestRefused,
    Stalled,
    Unavailable,
)
from natterjack.plugin.proxy import proxy_for

from .. import wire
from ..wire import MAX_QUOTE
from . import vendor
from .options import NAME, refused

MAX_BODY_BYTES: Final = 1024 * 1024
"""Largest response that is read; a project or balance takes a few hundred bytes."""
_UNITS: Final = {
    "second": "seconds",
    "seconds": "seconds",
    "hour": "hours",
    "hours": "hours",
}
_MAX_NAMED: Final = 5


# ---- out ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Get:
    """A GET request. `repr` omits the headers, which hold the key."""

    url: str
    headers: Mapping[str, str] = field(repr=False)


def projects_request(url: str, key: SecretStr) -> Get:
    """The request for the projects of the key ("List Projects")."""
    return Get(f"{url}/v1/projects", vendor.authorization(key))


def balances_request(url: str, key: SecretStr, project_id: str) -> Get:
    """The request for a project's balances ("Get Project Balances")."""
    path = f"/v1/projects/{quote(project_id, safe='')}/balances"
    return Get(url + path, vendor.authorization(key))


# ---- in -------------------------------------------------------------------------------------


def decode_projects(body: bytes) -> list[str]:
    """Identifiers of the projects in a response ("List Projects"). Raises: RemoteProtocolError."""
    found = []
    for project in _items(body, "projects"):
        project_id = project.get("project_id")
        if not isinstance(project_id, str) or not project_id:
            _protocol_error("project without an identifier")
        found.append(project_id)
    return found


def only_project(project_ids: Sequence[str]) -> str:
    """Return the only project of the key.

    Raises: RequestRefused if there is none or more than one; it names the setting to use.
    """
    if len(project_ids) == 1:
        return project_ids[0]
    if not project_ids:
        raise refused("DEEPGRAM_ADMIN_KEY belongs to no project, so there is no balance to read")
    named = ", ".join(project_ids[:_MAX_NAMED])[:MAX_QUOTE]
    raise refused(
        f"DEEPGRAM_ADMIN_KEY belongs to {len(project_ids)} projects: "
        f"set DEEPGRAM_PROJECT_ID to one of them ({named})"
    )


def decode_balances(body: bytes) -> list[Balance]:
    """Balances in a response ("Get Project Balances"), summed by unit; a project may have none.

    Raises: RemoteProtocolError.
    """
    amounts: dict[str, list[float]] = {}
    for item in _items(body, "balances"):
        amounts.setdefault(_unit(item), []).append(_amount(item))
    try:
        return [Balance(math.fsum(each), unit) for unit, each in sorted(amounts.items())]
    except OverflowError:
        _protocol_error("the sum of the balances is out of range")


def status_error(status: int, body: bytes) -> ProviderError:
    """The error for a response whose status is not 200; its message quotes the body."""
    code = str(status)
    if status < 400:
        return RemoteProtocolError(NAME, "unexpected status in response to a balance request", code)
    reason = vendor.error_text(body)[:MAX_QUOTE]
    if status in (401, 403):
        # "Roles": members may transcribe but may not read balances.
        message = (
            f"DEEPGRAM_ADMIN_KEY may not read the balance; it needs billing:read (role admin or "
            f"owner): {reason}"
        )
        return RequestRefused(NAME, "auth", message, code)
    if status == 404:
        message = (
            f"project not found (see DEEPGRAM_PROJECT_ID), or DEEPGRAM_API_URL does not serve "
            f"balances (regional hosts do not): {reason}"
        )
        return RequestRefused(NAME, "request", message, code)
    return vendor.http_error(NAME, status, {}, f"balance request failed: {reason}")


def _items(body: bytes, name: str) -> list[dict[str, Any]]:
    """The objects of the list `name`. Raises: RemoteProtocolError."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        # Not quoted: a proxy that responds instead of Deepgram may echo the request with the key.
        _protocol_error(f"response of {len(body)} bytes is not JSON")
    items = content.get(name) if isinstance(content, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        _protocol_error(f"response without a list of {name}")
    return items


def _amount(item: Mapping[str, Any]) -> float:
    amount = item.get("amount", 0)  # the default in the vendor's specification
    if not isinstance(amount, int | float) or isinstance(amount, bool):
        _protocol_error(f"amount of a balance is {wire.quoted(amount)}")
    try:
        amount = float(amount)
    except OverflowError:
        amount = math.inf
    if not math.isfinite(amount):
        _protocol_error("amount of a balance is not finite")
    return amount


def _unit(item: Mapping[str, Any]) -> str:
    """The unit of a balance ("Get Project Balances": `usd` or `USD`; `hour` on old contracts)."""
    units = item.get("units")
    if isinstance(units, str):
        if (known := _UNITS.get(units.strip().lower())) is not None:
            return known
        currency = units.strip().upper()
        if len(currency) == 3 and currency.isascii() and currency.isalpha():
            return currency
    _protocol_error(f"unknown unit of a balance: {wire.quoted(units)}")


def _protocol_error(what: str) -> NoReturn:
    raise RemoteProtocolError(NAME, what)


# ---- client ---------------------------------------------------------------------------------


class Account:
    """Reads balances. It keeps no connection open, since minutes pass between two requests."""

    def __init__(
        self, url: str, key: SecretStr, project_id: str | None, *, timeout_seconds: float
    ) -> None:
        """`timeout_seconds` bounds each request, including its connection."""
        self._url = url
        self._key = key
        self._project_id = project_id
        self._found: str | None = None
        """The only project of the key, once it is known."""
        self._seconds = timeout_seconds

    async def balance(self) -> list[Balance]:
        """Return one balance per unit; empty if the project has none.

        Raises: RequestRefused (auth: the key lacks permission; request: the project does not
        exist, or the key has several), Unavailable, Stalled (mute), Dropped, RemoteProtocolError.
        """
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self._seconds), cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            project_id = self._project_id or self._found
            if project_id is None:
                request = projects_request(self._url, self._key)
                project_id = only_project(decode_projects(await self._get(session, request)))
            try:
                request = balances_request(self._url, self._key, project_id)
                balances = decode_balances(await self._get(session, request))
            except RequestRefused:
                self._found = None  # the project may be gone: look it up next time
                raise
            self._found = project_id
            return balances

    async def _get(self, session: aiohttp.ClientSession, request: Get) -> bytes:
        # `from None`: aiohttp's errors show the request's headers, which hold the key.
        try:
            async with session.get(
                request.url,
                headers=request.headers,
                allow_redirects=False,
                **proxy_for(request.url),
            ) as response:
                status, body = response.status, await _read(response)
        except aiohttp.ClientConnectorError as error:
            raise Unavailable(
                NAME, "connect", f"cannot connect to read the balance: {error}"
            ) from None
        except TimeoutError:
            message = f"no response to a balance request within {self._seconds:g} s"
            raise Stalled(NAME, "mute", message) from None
        except (aiohttp.ClientError, OSError) as error:
            shown = str(error).replace(self._key.get_secret_value(), "***")[:MAX_QUOTE]
            message = f"connection lost before the balance was read: {shown}"
            raise Dropped(NAME, message) from None
        if status != 200:
            raise status_error(status, body.replace(self._key.get_secret_value().encode(), b"***"))
        return body


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Read the body. Raises: RemoteProtocolError if it exceeds MAX_BODY_BYTES."""
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            _protocol_error(f"response exceeds {MAX_BODY_BYTES} bytes")
    return bytes(body)
