"""The base of all emulators: server, fault switches, log and control endpoint.

An emulator consists of an Emulator and a Session. The session is the provider's side of one
connection, without sockets or clocks. The server moves messages, keeps time and applies faults.

    async with DeepgramEmulator() as emulator:
        ...                                       # a client of emulator.url
        await emulator.set(drop_mid_word=3, connections=1)
        assert emulator.log[0].closed == "dropped"

HTTP control requests work on the emulator's own port and on `control_url`, which stays open while
connections are refused: `GET`, `POST` and `DELETE /_emulator/faults`, `GET /_emulator/log`,
`GET /_emulator/affected`, `POST /_emulator/drop`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from abc import ABC, abstractmethod
from collections import Counter
from types import TracebackType
from typing import Any, ClassVar, Self

from aiohttp import web
from pydantic import ValidationError

from .connection import Connection, Live
from .faults import ConnectionLog, Faults
from .session import Refusal, Session

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
_RECEIVE_BUFFER_BYTES = 16 * 1024
"""Small, so that a client soon notices backpressure."""


class Emulator(ABC):
    """A loopback server. Use it as an async context manager or call start and stop."""

    name: ClassVar[str]
    path: ClassVar[str]
    faults_model: ClassVar[type[Faults]] = Faults

    def __init__(
        self,
        *,
        port: int = 0,
        control_port: int = 0,
        api_key: str | None = None,
        receive_timeout_seconds: float = 10.0,
        **faults: Any,
    ) -> None:
        """Without `api_key`, well-formed credentials are valid. `faults` are initial switches."""
        self.port = port
        self.control_port = control_port
        self.api_key = api_key
        self.receive_timeout_seconds = receive_timeout_seconds
        self.log: list[ConnectionLog] = []
        self._initial = self.faults_model(**faults)
        self.faults = self._initial
        self._handshakes = self.faults.handshakes
        self._tickets = self.faults.connections
        self._live: set[Live] = set()
        self._runner: web.AppRunner | None = None
        self._servers: dict[str, asyncio.Server] = {}
        self._reserved: socket.socket | None = None

    @property
    def url(self) -> str:
        """Base address for clients."""
        return f"ws://{HOST}:{self.port}"

    @property
    def control_url(self) -> str:
        """Base address of the control endpoint, which no fault closes."""
        return f"http://{HOST}:{self.control_port}"

    @abstractmethod
    def admit(self, request: web.Request) -> Session:
        """Return the session for an upgrade request. Raises Refusal."""

    def refusal(self, status: int) -> Refusal:
        """Return an injected HTTP error in the provider's form."""
        return Refusal(status, f"HTTP {status}")

    def route(self, router: web.UrlDispatcher) -> None:
        """Add the provider's routes."""
        router.add_get(self.path, self._serve)

    async def start(self) -> None:
        app = web.Application()
        self.route(app.router)
        app.router.add_get("/_emulator/log", self._get_log)
        app.router.add_get("/_emulator/affected", self._get_affected)
        app.router.add_get("/_emulator/faults", self._get_faults)
        app.router.add_post("/_emulator/faults", self._post_faults)
        app.router.add_delete("/_emulator/faults", self._delete_faults)
        app.router.add_post("/_emulator/drop", self._post_drop)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        self.control_port = await self._listen("control", _bound(self.control_port))
        self.port = await self._listen("main", _bound(self.port))
        if self.faults.refuse:
            await self._refuse(True)

    async def stop(self) -> None:
        self.drop("stopped")
        for server in self._servers.values():
            server.close()
        if self._reserved is not None:
            self._reserved.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def set(self, **changes: Any) -> None:
        """Set switches; others keep their values. Raises pydantic.ValidationError."""
        faults = self.faults_model(**{**self.faults.model_dump(), **changes})
        if "handshakes" in changes:
            self._handshakes = faults.handshakes
        if "connections" in changes:
            self._tickets = faults.connections
            for connection in self._live:
                connection.ticket = False
        await self._apply(faults)

    async def clear(self) -> None:
        """Reset all switches to their initial values."""
        self._handshakes, self._tickets = self._initial.handshakes, self._initial.connections
        await self._apply(self._initial)

    def drop(self, fault: str = "drop") -> int:
        """Abort every open connection and return their number."""
        live = list(self._live)
        for connection in live:
            connection.drop(fault)
        return len(live)

    @property
    def open_connections(self) -> int:
        return len(self._live)

    @property
    def words(self) -> list[str]:
        """All words received, in the order of connections."""
        return [word.word for entry in self.log for word in entry.words]

    def hits(self, connection: Live) -> bool:
        """Whether faults affect this connection. Call it only when a fault is due: it counts."""
        if connection.ticket:
            return True
        if self._tickets is not None:
            if self._tickets <= 0:
                return False
            self._tickets -= 1
        connection.ticket = True
        return True

    async def _apply(self, faults: Faults) -> None:
        refused, self.faults = self.faults.refuse, faults
        for connection in self._live:
            connection.switch(faults)
        if refused != faults.refuse and self._runner is not None:
            await self._refuse(faults.refuse)

    async def _refuse(self, refuse: bool) -> None:
        if refuse:
            self._servers.pop("main").close()
            # A bound socket that does not listen reserves the port and refuses connections.
            self._reserved = _bound(self.port)
        elif self._reserved is not None:
            reserved, self._reserved = self._reserved, None
            await self._listen("main", reserved)

    async def _listen(self, name: str, listener: socket.socket) -> int:
        """Serve on a bound socket, and return its port."""
        assert self._runner is not None
        assert self._runner.server is not None
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        loop = asyncio.get_running_loop()
        self._servers[name] = await loop.create_server(self._runner.server, sock=listener)
        return int(listener.getsockname()[1])

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        query = {name: request.query.getall(name) for name in request.query}
        entry = ConnectionLog(len(self.log), request.path, query)
        self.log.append(entry)
        try:
            await self._handshake_faults(request, entry)
            session = self.admit(request)
        except Refusal as refusal:
            entry.end(f"refused {refusal.status}")
            log.info("connection %d to %s: refused with %d", entry.id, entry.path, refusal.status)
            return refusal.response()
        entry.request_id, entry.words = session.request_id, session.words
        protocols = (session.subprotocol,) if session.subprotocol else ()
        socket = web.WebSocketResponse(
            timeout=1, compress=False, protocols=protocols, autoping=False
        )
        socket.headers.update(session.headers)
        try:
            await socket.prepare(request)
        except ConnectionResetError:
            entry.end("lost")
            return web.Response(status=400)  # the client has disconnected
        connection = Connection(self, session, socket, request, entry)
        self._live.add(connection)
        log.info("connection %d to %s: opened", entry.id, entry.path)
        try:
            await connection.run()
        finally:
            self._live.discard(connection)
            entry.end("lost")
            log.info(
                "connection %d: %.1f s of audio, %d words, closed: %s",
                *(entry.id, entry.audio_seconds, len(entry.words), entry.closed),
            )
        return socket

    async def _handshake_faults(self, request: web.Request, entry: ConnectionLog) -> None:
        faults = self.faults
        if not (faults.handshake_status or faults.handshake_delay_seconds or faults.handshake_drop):
            return
        if self._handshakes is not None:
            if self._handshakes <= 0:
                return
            self._handshakes -= 1
        entry.fault = "handshake"
        await asyncio.sleep(faults.handshake_delay_seconds)
        if faults.handshake_drop and request.transport is not None:
            entry.end("dropped")
            request.transport.abort()
            raise Refusal(503, "dropped")
        if faults.handshake_status:
            raise self.refusal(faults.handshake_status)

    async def _get_log(self, request: web.Request) -> web.Response:
        return web.json_response({"connections": [entry.as_json() for entry in self.log]})

    async def _get_affected(self, request: web.Request) -> web.Response:
        faults = Counter(entry.fault for entry in self.log if entry.fault)
        return web.json_response({"faults": faults, "open": self.open_connections})

    async def _get_faults(self, request: web.Request) -> web.Response:
        return web.json_response(self.faults.model_dump())

    async def _post_faults(self, request: web.Request) -> web.Response:
        try:
            await self.set(**await request.json())
        except (ValidationError, ValueError, TypeError) as error:
            return web.Response(status=400, text=str(error))
        return web.json_response(self.faults.model_dump())

    async def _delete_faults(self, request: web.Request) -> web.Response:
        await self.clear()
        return web.json_response(self.faults.model_dump())

    async def _post_drop(self, request: web.Request) -> web.Response:
        return web.json_response({"dropped": self.drop()})


def _bound(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
