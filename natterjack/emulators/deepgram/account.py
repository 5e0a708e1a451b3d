"""Emulator of a Deepgram account: projects, and balances that emulated streams consume.

Follows the vendor's documentation ("List Projects", "Get Project", "Get Project Balances", "Get
Project Balance", "Roles", "Errors") and the shapes of deepgram-openapi.yml. Undocumented
behavior is marked "our choice".
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from typing import Any, Final, Literal, NoReturn, cast

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from ..faults import ConnectionLog, Faults
from ..server import Emulator
from ..session import Refusal
from .query import check_auth, refuse

Role = Literal["owner", "admin", "member"]
_MAY_READ_BALANCES: Final[tuple[Role, ...]] = ("owner", "admin")  # "Roles": billing:read
_IDS: Final = uuid.UUID("123e4567-e89b-42d3-a456-426614174000")


class Credit(BaseModel):
    """A purchased balance."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    amount: float
    units: str = "usd"


class AccountFaults(Faults):
    """Switches of an emulator with an account: its contents and its faults.

    Audio received since the emulator's start is deducted from the first balance.
    """

    balances: tuple[Credit, ...] = Field(
        (Credit(amount=200.0),), description="purchased balances; the first one pays for audio"
    )
    price_per_hour: float = Field(
        0.288,
        ge=0,
        description="per hour of audio and channel, in the first balance's units; 1 for `hour`",
    )
    roles: dict[str, Role] = Field(
        {}, description="roles by key; these keys are also valid, and other valid keys are members"
    )
    projects: int = Field(1, ge=0, description="number of projects of the keys; the first one pays")
    payment_required: bool = Field(
        False, description="answer handshakes with 402 when no balance is above zero"
    )
    account_status: int | None = Field(
        None, description="answer account requests with this HTTP status"
    )
    account_body: str | None = Field(
        None, description="answer account requests with this text and `account_status` or 200"
    )
    account_delay_seconds: float = Field(0, description="delay of account answers")
    account_drop: bool = Field(False, description="abort the TCP connection of account requests")


@dataclass(frozen=True)
class AccountRequest:
    """A logged account request, without its key."""

    path: str
    role: Role | None
    """None if the key was not valid."""
    status: int | None
    """None if the connection was aborted."""


class AccountEmulator(Emulator):
    """An emulator with an account in addition to its streams."""

    def __init__(self, **options: Any) -> None:
        self.account_requests: list[AccountRequest] = []
        super().__init__(**options)

    @property
    def account_url(self) -> str:
        """Base address of the account interface."""
        return self.url.replace("ws://", "http://")

    def route(self, router: web.UrlDispatcher) -> None:
        super().route(router)
        one = "/v1/projects/{project_id}"
        router.add_get("/v1/projects", self._answer)
        router.add_get(one, self._answer)
        router.add_get(f"{one}/balances", self._answer)
        router.add_get(f"{one}/balances/{{balance_id}}", self._answer)

    @property
    def project_ids(self) -> list[str]:
        return [_identifier("project", n) for n in range(self._account.projects)]

    def remaining(self) -> list[Credit]:
        """Return the paying project's current balances. Use is booked at once (our choice)."""
        account = self._account
        left = list(account.balances)
        if left:
            first = left[0]
            price = 1.0 if first.units.lower() == "hour" else account.price_per_hour
            used = sum(map(billed_seconds, self.log)) / 3600 * price
            left[0] = Credit(amount=round(first.amount - used, 9), units=first.units)
        return left

    def check_credit(self) -> None:
        """Check the balance at a handshake; running streams continue. Raises Refusal."""
        if self._account.payment_required and all(each.amount <= 0 for each in self.remaining()):
            raise self.refusal(402)

    @property
    def _account(self) -> AccountFaults:
        return cast(AccountFaults, self.faults)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        faults, role = self._account, None
        await asyncio.sleep(faults.account_delay_seconds)
        if faults.account_drop and request.transport is not None:
            self.account_requests.append(AccountRequest(request.path, None, None))
            request.transport.abort()
            return web.Response(status=503)
        try:
            role = self._role(request)
            if faults.account_body is not None:
                status = faults.account_status or 200
                response = web.Response(status=status, text=faults.account_body)
            elif faults.account_status is not None:
                raise self.refusal(faults.account_status)
            else:
                response = web.json_response(self._content(request.path.split("/")[3:], role))
        except Refusal as refusal:
            response = refusal.response()
        self.account_requests.append(AccountRequest(request.path, role, response.status))
        return response

    def _role(self, request: web.Request) -> Role:
        """Return the role of the request's key. Raises Refusal."""
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        roles = self._account.roles
        if scheme.lower() == "token" and key in roles:
            return roles[key]
        if scheme.lower() != "token":  # grant tokens do not open the account
            raise refuse(401, "INVALID_AUTH", "Invalid credentials.")
        check_auth(request, self.api_key)
        return "member"

    def _content(self, path: list[str], role: Role) -> dict[str, Any]:
        """Return the content at `path`, below the projects. Raises Refusal."""
        if not path:
            return {"projects": [self._project(project_id) for project_id in self.project_ids]}
        project_id = _parsed(path[0])
        if project_id not in self.project_ids:
            _not_found("PROJECT_NOT_FOUND", "Project not found.")
        if len(path) == 1:
            return {**self._project(project_id), "mip_opt_out": False}
        if role not in _MAY_READ_BALANCES:
            message = "User does not have sufficient permissions."
            raise refuse(401, "INSUFFICIENT_PERMISSIONS", message)
        balances = self._balances(project_id)
        if len(path) == 2:
            return {"balances": balances}
        balance_id = _parsed(path[2])
        for balance in balances:
            if balance["balance_id"] == balance_id:
                return balance
        _not_found("BALANCE_NOT_FOUND", "Balance not found.")  # our choice

    def _project(self, project_id: str) -> dict[str, Any]:
        return {"project_id": project_id, "name": f"Project {self.project_ids.index(project_id)}"}

    def _balances(self, project_id: str) -> list[dict[str, Any]]:
        if project_id != self.project_ids[0]:
            return []
        return [
            {
                "balance_id": _identifier("balance", n),
                **credit.model_dump(),
                "purchase_order_id": _identifier("purchase", n),
            }
            for n, credit in enumerate(self.remaining())
        ]


def billed_seconds(entry: ConnectionLog) -> float:
    """Return the audio of a connection, times its channels if they are transcribed separately."""
    if not entry.audio_seconds:  # for example, if the query was invalid
        return 0.0
    separate = entry.query.get("multichannel") == ["true"]
    return entry.audio_seconds * (int(entry.query.get("channels", ["1"])[0]) if separate else 1)


def _identifier(kind: str, number: int) -> str:
    """Return an identifier that is the same in each run."""
    return str(uuid.uuid5(_IDS, f"{kind} {number}"))


def _parsed(identifier: str) -> str:
    """Return a UUID in canonical form. Raises Refusal."""
    try:
        return str(uuid.UUID(identifier))
    except ValueError:
        detail = f"invalid length: expected a UUID, found {len(identifier)} characters"
        raise Refusal(404, f"UUID parsing failed: {detail}") from None


def _not_found(code: str, message: str) -> NoReturn:
    raise Refusal(404, {"err_code": code, "err_msg": message})
