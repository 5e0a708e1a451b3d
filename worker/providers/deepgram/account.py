"""Deepgram's account interface, as far as the credit that is left: projects and balances.

Pure functions for the wire (no sockets, clocks, environment or broker), then the thin loop that
asks. Sections named in comments are pages of the vendor's documentation ("Deepgram docs").
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import aiohttp
from pydantic import SecretStr

from natterjack.plugin.errors import (
    Dropped,
    ProviderError,
    RemoteProtocolError,
    RequestRefused,
    Stalled,
    Unavailable,
)
from natterjack.plugin.provider import Balance
from natterjack.plugin.proxy import proxy_for

from . import vendor
from .options import NAME, refused
from .vendor import MAX_QUOTE

MAX_BODY_BYTES: Final = 1024 * 1024
"""An answer is a few hundred bytes a project or balance."""
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
    """What to ask for, and how to say who asks. The headers hold a secret: they are not shown."""

    url: str
    headers: Mapping[str, str] = field(repr=False)


def projects_request(url: str, key: SecretStr) -> Get:
    """ "List Projects": the projects that the key belongs to."""
    return Get(f"{url}/v1/projects", vendor.authorization(key))


def balances_request(url: str, key: SecretStr, project_id: str) -> Get:
    """ "Get Project Balances"."""
    path = f"/v1/projects/{quote(project_id, safe='')}/balances"
    return Get(url + path, vendor.authorization(key))


# ---- in -------------------------------------------------------------------------------------


def decode_projects(body: bytes) -> list[str]:
    """Identifiers of the projects in an answer ("List Projects"). Raises: RemoteProtocolError."""
    found = []
    for project in _items(body, "projects"):
        project_id = project.get("project_id")
        if not isinstance(project_id, str) or not project_id:
            vendor.wrong(NAME, "a project without an identifier")
        found.append(project_id)
    return found


def only_project(project_ids: Sequence[str]) -> str:
    """The one that the key belongs to. Raises: RequestRefused that names the setting which
    chooses, when there is more than one, or none."""
    if len(project_ids) == 1:
        return project_ids[0]
    if not project_ids:
        raise refused("DEEPGRAM_ADMIN_KEY belongs to no project: its balance cannot be asked for")
    named = ", ".join(project_ids[:_MAX_NAMED])[:MAX_QUOTE]
    raise refused(
        f"DEEPGRAM_ADMIN_KEY belongs to {len(project_ids)} projects: "
        f"set DEEPGRAM_PROJECT_ID to one of them ({named})"
    )


def decode_balances(body: bytes) -> list[Balance]:
    """What is left ("Get Project Balances"): the balances of a unit are summed, different units
    never are. A project may have none. Raises: RemoteProtocolError."""
    amounts: dict[str, list[float]] = {}
    for item in _items(body, "balances"):
        amounts.setdefault(_unit(item), []).append(_amount(item))
    try:
        return [Balance(math.fsum(each), unit) for unit, each in sorted(amounts.items())]
    except OverflowError:
        vendor.wrong(NAME, "balances too large to be summed")


def status_error(status: int, body: bytes) -> ProviderError:
    """What an answer of another status than 200 means. It quotes the body."""
    code = str(status)
    if status < 400:
        return RemoteProtocolError(NAME, "the balance was not told, nor an error", code)
    said = vendor.said(body)[:MAX_QUOTE]
    if status in (401, 403):
        # "Roles": members may transcribe, and may not see money.
        message = (
            f"DEEPGRAM_ADMIN_KEY may not read the balance, it needs billing:read (role admin or "
            f"owner): {said}"
        )
        return RequestRefused(NAME, "auth", message, code)
    if status == 404:
        message = (
            f"no such project, or no such interface at DEEPGRAM_API_URL (regional hosts have "
            f"none); see DEEPGRAM_PROJECT_ID: {said}"
        )
        return RequestRefused(NAME, "request", message, code)
    return vendor.http_error(NAME, status, {}, f"the balance was not told: {said}")


def _items(body: bytes, name: str) -> list[dict[str, Any]]:
    """The objects of the list `name`. Raises: RemoteProtocolError."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        # Not quoted: what answers in Deepgram's stead may echo the request, and the key.
        vendor.wrong(NAME, f"an answer that is not JSON, of {len(body)} bytes")
    items = content.get(name) if isinstance(content, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        vendor.wrong(NAME, f"an answer without a list of {name}")
    return items


def _amount(item: Mapping[str, Any]) -> float:
    amount = item.get("amount", 0)  # the default of the vendor's specification
    if not isinstance(amount, int | float) or isinstance(amount, bool):
        vendor.wrong(NAME, f"a balance's amount is no number: {amount!r:.{MAX_QUOTE}}")
    try:
        amount = float(amount)
    except OverflowError:
        amount = math.inf
    if not math.isfinite(amount):
        vendor.wrong(NAME, "a balance's amount is not finite")
    return amount


def _unit(item: Mapping[str, Any]) -> str:
    """ "Get Project Balances": `usd` or `USD`; on old contracts `hour`."""
    units = item.get("units")
    if isinstance(units, str):
        if (known := _UNITS.get(units.strip().lower())) is not None:
            return known
        currency = units.strip().upper()
        if len(currency) == 3 and currency.isascii() and currency.isalpha():
            return currency
    vendor.wrong(NAME, f"a balance's unit is {units!r:.{MAX_QUOTE}}")


# ---- the loop -------------------------------------------------------------------------------


class Account:
    """Asks what is left. Connections are not kept: minutes lie between two questions."""

    def __init__(
        self, url: str, key: SecretStr, project_id: str | None, *, timeout_seconds: float
    ) -> None:
        """`timeout_seconds` bounds each request, connecting included."""
        self._url = url
        self._key = key
        self._project_id = project_id
        self._found: str | None = None
        """The key's one project, once it is known."""
        self._seconds = timeout_seconds

    async def balance(self) -> list[Balance]:
        """One balance of each unit; empty when the project has none.

        Raises: RequestRefused (auth: the key may not; request: no such project, or several to
        choose from), Unavailable, Stalled (mute), Dropped, RemoteProtocolError.
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
                self._found = None  # the project may have gone: look again the next time
                raise
            self._found = project_id
            return balances

    async def _get(self, session: aiohttp.ClientSession, request: Get) -> bytes:
        # `from None`: aiohttp's errors show the request's headers, and with them the key.
        try:
            async with session.get(
                request.url,
                headers=request.headers,
                allow_redirects=False,
                **proxy_for(request.url),
            ) as response:
                status, body = response.status, await _read(response)
        except aiohttp.ClientConnectorError as error:
            raise Unavailable(NAME, "connect", f"no connection for the balance: {error}") from None
        except TimeoutError:
            message = f"the balance was not told within {self._seconds:g} s"
            raise Stalled(NAME, "mute", message) from None
        except (aiohttp.ClientError, OSError) as error:
            shown = str(error).replace(self._key.get_secret_value(), "***")[:MAX_QUOTE]
            message = f"the connection broke before the balance was told: {shown}"
            raise Dropped(NAME, message) from None
        if status != 200:
            raise status_error(status, body.replace(self._key.get_secret_value().encode(), b"***"))
        return body


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body. Raises: RemoteProtocolError when there is no end to it."""
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            vendor.wrong(NAME, f"an answer of more than {MAX_BODY_BYTES} bytes")
    return bytes(body)
