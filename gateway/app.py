"""The HTTP application of the gateway: its doors, probes and metrics."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from natterjack.telemetry.http_port import HttpPort, alive, readiness, scrape

from . import pages
from .api import routes as api
from .doors.deepgram_flux import door as deepgram_flux
from .doors.deepgram_listen import door as deepgram_listen
from .doors.managed import door as managed
from .doors.openai import door as openai
from .doors.speechmatics import door as speechmatics
from .doors.twilio import door as twilio
from .gateway import Gateway as Gateway

_MAX_LINE_BYTES = 64 * 1024
"""The longest request line: 500 terms may be in the query of a door."""
_MAX_FIELD_BYTES = 16 * 1024

ROUTES: tuple[Callable[[web.Application, Gateway], None], ...] = (
    deepgram_listen.add_routes,
    deepgram_flux.add_routes,
    openai.add_routes,
    speechmatics.add_routes,
    managed.add_routes,
    twilio.add_routes,
    api.add_routes,
    pages.add_routes,
)
"""The function `add_routes` of each door, of the interface for programs, and of the pages."""


def application(gateway: Gateway) -> web.Application:
    """Make the application."""

    async def readyz(request: web.Request) -> web.Response:
        return readiness(gateway.problem)

    async def metrics(request: web.Request) -> web.Response:
        return scrape(gateway.metrics.registry)

    app = web.Application(
        client_max_size=gateway.settings.max_message_bytes, middlewares=[_well_formed]
    )
    app.add_routes(
        [
            # A restart because of the broker would cure nothing and close every connection.
            web.get("/startupz", alive),
            web.get("/livez", alive),
            web.get("/healthz", alive),
            web.get("/readyz", readyz),
            web.get("/metrics", metrics),
        ]
    )
    gateway.access.origins.add_to(app)
    for add_routes in ROUTES:
        add_routes(app, gateway)
    return app


@web.middleware
async def _well_formed(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Refuse what no client sends, on which code behind would fail: headers that are not text, and
    bodies that are not HTTP."""
    key = request.headers.get(hdrs.SEC_WEBSOCKET_KEY, "")
    if not key.isascii() or not all(map(_is_text, request.headers.values())):
        raise web.HTTPBadRequest(text="a header is not valid text\n")
    try:
        return await handler(request)
    except web.RequestPayloadError:
        raise web.HTTPBadRequest(text="the body is not valid HTTP\n") from None


def _is_text(value: str) -> bool:
    """Whether a header is UTF-8. aiohttp keeps other bytes as halves of surrogate pairs."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_ours(record: logging.LogRecord) -> bool:
    """Drop what aiohttp logs, with a traceback, about requests that are not valid HTTP."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | web.RequestPayloadError)


async def serve(gateway: Gateway) -> HttpPort:
    """Listen. Raises UsageError if the port is in use, or may not be open to other machines, or if
    the file with Twilio's auth token cannot be read."""
    settings = gateway.settings
    gateway.access.settings.check_exposure(settings.http_host)
    settings.twilio_secret()
    logging.getLogger("aiohttp.server").addFilter(_is_ours)
    port = HttpPort(settings.http_host, settings.http_port, "GATEWAY_HTTP_PORT")
    await port.serve(
        application(gateway), max_line_size=_MAX_LINE_BYTES, max_field_size=_MAX_FIELD_BYTES
    )
    return port
