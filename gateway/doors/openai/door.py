"""Routes of the doors for clients of OpenAI."""

from __future__ import annotations

from aiohttp import web

from ...gateway import Gateway
from . import realtime, secrets, transcriptions


def add_routes(app: web.Application, gateway: Gateway) -> None:
    """Add the doors."""

    async def connect(request: web.Request) -> web.StreamResponse:
        return await realtime.connect(gateway, request)

    async def transcribe(request: web.Request) -> web.StreamResponse:
        return await transcriptions.transcribe(gateway, request)

    async def secret(request: web.Request) -> web.StreamResponse:
        return await secrets.create(gateway, request)

    app.router.add_get("/v1/realtime", connect)
    app.router.add_post("/v1/realtime/client_secrets", secret)
    app.router.add_post("/v1/audio/transcriptions", transcribe)
