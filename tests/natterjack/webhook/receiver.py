"""An HTTP server that receives webhooks, verifies each with the library of Standard Webhooks, and
answers as a test says."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Self

from aiohttp import web
from standardwebhooks import Webhook

from tests.ports import free_port

SECRET = base64.b64encode(bytes(range(32))).decode()


class Received(NamedTuple):
    """A webhook whose signature is valid."""

    id: str
    event: dict[str, Any]
    headers: dict[str, str]
    peer: object
    """The other end of the connection."""


Answer = Callable[[Received], Awaitable[web.StreamResponse]]


async def accept(_: Received) -> web.StreamResponse:
    return web.Response(status=204)


def always(status: int, **headers: str) -> Answer:
    """An answer with a status, and headers whose names are written with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def answer(_: Received) -> web.StreamResponse:
        return web.Response(status=status, headers=named)

    return answer


class Receiver:
    """A server on loopback that can be stopped and started again at its port."""

    def __init__(self, answer: Answer = accept, tls: ssl.SSLContext | None = None) -> None:
        self.port = free_port()
        self.answer = answer
        self.secrets = [SECRET]
        self.received: list[Received] = []
        self.accepted: list[Received] = []
        """Those that were answered with success."""
        self.busy = self.busiest = 0
        """Requests that are being answered now, and at most."""
        self._tls = tls
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/hook?token=in-the-url"

    @property
    def ids(self) -> list[str]:
        """IDs of what was accepted, in order, without repetitions."""
        return list(dict.fromkeys(one.id for one in self.accepted))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._receive)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(
            self._runner, "127.0.0.1", self.port, ssl_context=self._tls, reuse_address=True
        ).start()

    async def stop(self) -> None:
        """End the server and its connections, as if its process were killed."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        assert request.method == "POST"
        body, headers = await request.read(), {k.lower(): v for k, v in request.headers.items()}
        for secret in self.secrets:  # each receiver has one; any of them must be able to verify
            Webhook(secret).verify(body, headers)
        assert request.transport is not None
        peer = request.transport.get_extra_info("peername")
        one = Received(headers["webhook-id"], json.loads(body), headers, peer)
        self.received.append(one)
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        try:
            response = await self.answer(one)
        finally:
            self.busy -= 1
        if 200 <= response.status < 300:
            self.accepted.append(one)
        return response
