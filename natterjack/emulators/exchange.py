"""Emulators of HTTP interfaces: requests with a body, and their faults.

The handshake switches of `faults.Faults` apply before a request's body is read. `connections`
counts requests whose body was read, and `latency_seconds` delays their answers.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import Any, ClassVar, Final, NamedTuple, cast

from aiohttp import web
from pydantic import Field

from .faults import GARBAGE, ConnectionLog, Faults
from .server import Emulator
from .session import Refusal, Session

_MAX_BODY_BYTES: Final = 64 * 1024 * 1024

_BODIES: Final[dict[str, bytes]] = {
    "empty": b"",
    "truncated": b'{"metadata": {"request_id": "',
    "html": b"<html><body>It works!</body></html>",
    **{
        name: content.encode() if isinstance(content, str) else content
        for name, content in GARBAGE.items()
        if name in ("not_json", "array", "scalar", "binary")
    },
}
"""Bodies that are invalid in every interface's 200 responses; each emulator adds its own."""


class HttpFaults(Faults):
    """Switches of an emulator whose provider answers HTTP requests."""

    drop_mid_response: bool = Field(
        False, description="abort the TCP connection within the response body"
    )
    never_answers: bool = Field(False, description="read the request and never answer")
    error_status: int | None = Field(
        None, description="read the request, then answer with this HTTP status"
    )


class Answer(NamedTuple):
    """The answer to a request."""

    content: dict[str, Any]
    headers: dict[str, str]


class Exchange:
    """A request in progress."""

    def __init__(self, request: web.Request, entry: ConnectionLog) -> None:
        self.ticket = False
        self._request = request
        self._entry = entry

    @property
    def gone(self) -> bool:
        """Whether the client has disconnected."""
        transport = self._request.transport
        return transport is None or transport.is_closing()

    def drop(self, fault: str) -> None:
        """Abort the TCP connection."""
        self._entry.fault = fault
        self._entry.end("dropped")
        if self._request.transport is not None:
            self._request.transport.abort()

    def switch(self, faults: Faults) -> None:
        """Ignore changed switches; each one is read when it applies."""


class HttpEmulator(Emulator):
    """A server that answers `POST` on `path`, with one log entry per request."""

    faults_model: ClassVar[type[Faults]] = HttpFaults

    @property
    def url(self) -> str:
        return super().url.replace("ws://", "http://")

    @abstractmethod
    def answer(self, request: web.Request, body: bytes, entry: ConnectionLog) -> Answer:
        """Answer a request and record the words in `entry`. Raises Refusal."""

    def bodies(self) -> dict[str, bytes]:
        """Return invalid response bodies by name."""
        return _BODIES

    def admit(self, request: web.Request) -> Session:
        raise Refusal(400, "no WebSocket here")

    def route(self, router: web.UrlDispatcher) -> None:
        router.add_post(self.path, self._exchange)

    async def _exchange(self, request: web.Request) -> web.StreamResponse:
        query = {name: request.query.getall(name) for name in request.query}
        entry = ConnectionLog(len(self.log), request.path, query)
        self.log.append(entry)
        exchange = Exchange(request, entry)
        self._live.add(exchange)
        try:
            await self._handshake_faults(request, entry)
            body = await request.clone(client_max_size=_MAX_BODY_BYTES).read()
            response = await self._respond(request, body, exchange, entry)
        except Refusal as refusal:
            entry.end(f"refused {refusal.status}")
            return refusal.response()
        except ConnectionResetError:
            return web.Response(status=400)  # the client has disconnected
        finally:
            self._live.discard(exchange)
            entry.end("lost")
        return response

    async def _respond(
        self, request: web.Request, body: bytes, exchange: Exchange, entry: ConnectionLog
    ) -> web.StreamResponse:
        answer = self.answer(request, body, entry)
        faults = cast(HttpFaults, self.faults)
        if faults.never_answers and self.hits(exchange):
            entry.fault = "never_answers"
            while cast(HttpFaults, self.faults).never_answers and not exchange.gone:  # noqa: ASYNC110 - a switch
                await asyncio.sleep(0.02)
        await asyncio.sleep(faults.latency_seconds)
        if faults.error_status is not None and self.hits(exchange):
            entry.fault = "error_status"
            raise self.refusal(faults.error_status)
        if faults.garbage and self.hits(exchange):
            entry.fault = "garbage"
            entry.end("garbage")
            return self._nonsense(faults.garbage)
        whole = web.json_response(answer.content, headers=answer.headers)
        if faults.drop_mid_response and self.hits(exchange):
            return await self._half(request, whole, exchange)
        entry.end("answered 200")
        return whole

    def _nonsense(self, wanted: tuple[str, ...]) -> web.Response:
        """Answer with the requested kinds of nonsense in turn."""
        kinds = self.bodies()
        names = list(kinds) if "all" in wanted else list(wanted)
        sent = sum(entry.closed == "garbage" for entry in self.log) - 1
        return web.Response(body=kinds[names[sent % len(names)]], content_type="application/json")

    async def _half(
        self, request: web.Request, whole: web.Response, exchange: Exchange
    ) -> web.StreamResponse:
        """Send half of an answer and abort the connection."""
        content = whole.body
        assert isinstance(content, bytes)
        half = web.StreamResponse(headers={"Content-Length": str(len(content))})
        await half.prepare(request)
        await half.write(content[: len(content) // 2])
        exchange.drop("drop_mid_response")
        return half
