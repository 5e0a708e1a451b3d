"""Routes of the doors for clients of OpenAI."""

from __future__ import annotations

from aiohttp import web

from ...gateway import Gateway
from . import realtime


def add_routes(app: web.Application, gateway: Gateway) -> None:
    """Add the doors."""

    async def connect(request: web.Request) -> web.StreamResponse:
        return await realtime.connect(gateway, request)

    app.router.add_get("/v1/realtime", connect)
