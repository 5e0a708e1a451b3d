"""Pushing accounts to a running broker, which takes them without a reload."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from natterjack.broker.connection import Broker, connected
from natterjack.broker.login.jwt import read_claims, same_claims
from natterjack.errors import BrokerUnreachable
from natterjack.settings import BrokerSettings

from .directory import SYSTEM_INBOX

_TIMEOUT_S = 5.0


async def push(jwts: Mapping[str, str], system: Path, settings: BrokerSettings) -> list[str]:
    """Push those accounts that say something else than the broker's. Returns their names.

    Raises: BrokerUnreachable, also if the broker refuses one.
    """
    settings = settings.model_copy(
        update={"creds": system, "nkey": None, "user": None, "inbox_prefix": SYSTEM_INBOX}
    )
    pushed = []
    async with connected(settings, name="natterjack users push", once=True) as broker:
        for account, jwt in jwts.items():
            name = str(read_claims(jwt).get("name"))
            known = await _ask(broker, f"$SYS.REQ.ACCOUNT.{account}.CLAIMS.LOOKUP", b"", name)
            if same_claims(known.decode(errors="replace"), jwt):
                continue
            answer = await _ask(broker, "$SYS.REQ.CLAIMS.UPDATE", jwt.encode(), name)
            _check(answer, name)
            pushed.append(name)
    return pushed


async def _ask(broker: Broker, subject: str, data: bytes, name: str) -> bytes:
    try:
        return (await broker.client.request(subject, data, timeout=_TIMEOUT_S)).data
    except NoRespondersError:
        raise BrokerUnreachable(
            "the broker has no resolver for accounts: include the users.conf that "
            "`natterjack users config` has written, and restart it"
        ) from None
    except (NatsError, TimeoutError) as error:
        raise BrokerUnreachable(f"the account {name} cannot be pushed: {error}") from None


def _check(answer: bytes, name: str) -> None:
    """Raise BrokerUnreachable unless the broker has taken the account."""
    try:
        content = json.loads(answer)
        error = content.get("error")
        ok = error is None and content["data"]["code"] == 200
    except (ValueError, KeyError, TypeError, AttributeError):
        error, ok = None, False
    if not ok:
        raise BrokerUnreachable(f"the broker refuses the account {name}: {error or answer!r}")
