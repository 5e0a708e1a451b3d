"""How the outgoing side answers: JSON, and errors as JSON with a status that fits."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import hdrs, web
from pydantic_core import to_json

from gateway.access import Grant, Reason, Refused, secret_of
from gateway.gateway import Gateway
from natterjack.errors import BrokerError, InvalidKey, UsageError
from natterjack.subjects import check_token

from .feeds import TooManyViewers

log = logging.getLogger(__name__)

DOOR = "api"
_RETRY_S = "2"

Handler = Callable[..., Awaitable[web.StreamResponse]]


class NotFound(Exception):
    """There is nothing under this name, as far as the client may know."""


def answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """`content` as JSON. No cache keeps it."""
    return web.Response(
        body=to_json(content), status=status, content_type="application/json",
        headers={hdrs.CACHE_CONTROL: "no-store", **(headers or {})},
    )  # fmt: skip


def _problem(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return answer({"error": message}, status, headers)


def answering(handler: Handler) -> Handler:
    """A handler whose errors are answered as `{"error": ...}`."""

    @functools.wraps(handler)
    async def answered(*arguments: Any) -> web.StreamResponse:
        try:
            return await handler(*arguments)
        except NotFound as error:
            return _problem(404, str(error))
        except Refused as refused:
            headers: dict[str, str] = {}
            if refused.status == 401:
                headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
            if refused.retry_after is not None:
                headers[hdrs.RETRY_AFTER] = str(round(refused.retry_after))
            return _problem(refused.status, str(refused), headers)
        except UsageError as error:
            return _problem(400, str(error))
        except TooManyViewers:
            text = "this gateway has as many viewers as it may have: GATEWAY_MAX_VIEWERS"
            return _problem(503, text, {hdrs.RETRY_AFTER: _RETRY_S})
        except (BrokerError, TimeoutError) as error:
            log.warning("a request of the API failed: %s", error)
            text = "the broker does not answer now; try again"
            return _problem(503, text, {hdrs.RETRY_AFTER: _RETRY_S})

    return answered


def admit(gateway: Gateway, request: web.Request) -> Grant:
    """Return the grant of the client. Raises: Refused.

    A secret in the URL must be a token, not a key, since URLs end up in logs and in histories.
    """
    grant = gateway.access.admit(request, DOOR)
    in_query = hdrs.AUTHORIZATION not in request.headers and "token" in request.query
    if in_query and not grant.token and secret_of(request, DOOR):
        raise Refused(
            Reason.WRONG, "a key does not belong in a URL: send it in the header `Authorization`, "
            "or get a token for it from POST /api/tokens",
        )  # fmt: skip
    return grant


def conversation_of(request: web.Request, grant: Grant) -> str:
    """The conversation in the path. Raises: NotFound if the client may not know of it."""
    name = request.match_info["conversation"]
    try:
        check_token("conversation", name)
    except InvalidKey as error:
        raise NotFound(str(error)) from None
    if not grant.may_use(name):
        raise NotFound(f"there is no conversation {name}")
    return name
