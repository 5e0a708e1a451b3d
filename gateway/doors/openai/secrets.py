"""`POST /v1/realtime/client_secrets`: tokens for browsers, in OpenAI's form."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from natterjack.errors import UsageError

from ...access import Refused
from ...gateway import Gateway
from ..parsing import parsed
from . import protocol
from .errors import ApiError
from .protocol import Client, Config
from .realtime import DOOR

_BODY_S = 10.0
_DEFAULT_S = 600
"""API reference, "Create client secret"."""


async def create(gateway: Gateway, request: web.Request) -> web.Response:
    """Make a token that opens this door alone. A session in the request is checked and returned,
    but not kept: the client configures its session itself."""
    try:
        grant = gateway.access.admit(request, DOOR)
        content = await _content(request)
        after = content.get("expires_after") or {}
        seconds = after.get("seconds", _DEFAULT_S) if isinstance(after, dict) else None
        if isinstance(seconds, bool) or not isinstance(seconds, int):
            raise ApiError("seconds is a number", param="expires_after.seconds")
        config = Config()
        if (session := content.get("session")) is not None:
            config = protocol.changed(config, Client("session.update", {"session": session}, None))
        token, end = gateway.access.keyring.tokens.make(
            grant, datetime.now(UTC), seconds=seconds, doors={DOOR}, kinds=(),
            conversation=grant.conversation,
        )  # fmt: skip
    except Refused as error:
        return ApiError.refused(error).response()
    except UsageError as error:
        return ApiError(str(error), param="expires_after.seconds").response()
    except ApiError as error:
        return error.response()
    made = protocol.session(config, protocol.identifier("sess"), time.time(), created=True)
    answer = {"value": token, "expires_at": int(end.timestamp()), "session": made["session"]}
    return web.json_response(answer, headers={"Cache-Control": "no-store"})


async def _content(request: web.Request) -> dict[str, Any]:
    """Raises: ApiError."""
    if not request.can_read_body:
        return {}
    try:
        async with asyncio.timeout(_BODY_S):
            content = parsed(await request.read())
    except TimeoutError:
        raise ApiError(f"the body takes longer than {_BODY_S:.0f} s", status=408) from None
    except ValueError:
        raise ApiError("the body is not JSON") from None
    if not isinstance(content, dict):
        raise ApiError("the body is not an object")
    return content
