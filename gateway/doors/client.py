"""The WebSocket of a client and its session: what the doors for streams share.

A door derives from ClientStream, and says what each message means and what each event becomes.
Everything that is sent goes through `tell`, so that messages stay in the order in which they were
made, and a client that reads nothing is disconnected instead of filling the memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

from aiohttp import WSMsgType, web

from natterjack.decoding import UnknownEvent
from natterjack.events import Event, FinalEvent, StatusEvent, TurnEvent
from natterjack.process.run import abort
from natterjack.telemetry.log import fields

from ..access import Refused
from ..audio.errors import DecoderUnavailable, UndecodableAudio
from ..errors import SessionEnded
from ..gateway import Gateway
from ..session import ClientSession
from .intake import PLAIN, Intake, Wire

log = logging.getLogger(__name__)

HEARTBEAT_S = 60.0
"""How often a client is pinged; it must answer within half of that."""
_CLOSE_S = 5.0
_MAX_REASON_BYTES = 123
"""RFC 6455, section 5.5: a close frame has 125 bytes at most."""


class Close(NamedTuple):
    """How a connection is closed; without a code, the close frame has no status."""

    code: int | None = 1000
    reason: str = ""


LEAVING = Close(1012, "this server is about to end; connect again")
"""Clients connect again after this code; those that repeat an ID go on with their sessions."""
_REST_S = 3.0
"""How long a client that is sent away may take to answer."""


def text_of(message: dict[str, Any]) -> str:
    """A message as the text of a frame."""
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))


async def close_socket(socket: web.WebSocketResponse, close: Close) -> None:
    """Close a socket and wait shortly for the client's answer. Raises nothing of the connection."""
    with contextlib.suppress(ConnectionError, RuntimeError, TimeoutError):
        if close.code is None:
            await socket.send_frame(b"", WSMsgType.CLOSE)
            async with asyncio.timeout(_CLOSE_S):
                while (await socket.receive()).type not in (
                    WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING, WSMsgType.ERROR,
                ):  # fmt: skip
                    pass
        else:
            reason = close.reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore")
            await socket.close(code=close.code, message=reason.encode())


async def turn_away(
    gateway: Gateway, request: web.Request, socket: web.WebSocketResponse, close: Close
) -> None:
    """Close a socket that counts for no key, or no longer: its client may take its time to answer
    only as long as there is room."""
    try:
        with gateway.access.waiting(request):
            await close_socket(socket, close)
    except Refused:
        if request.transport is not None:
            request.transport.close()


class ClientStream(ABC):
    """One client's socket and session, until either ends."""

    idle_seconds = 60.0
    """How long the client may send nothing that counts before `idle` is called."""
    pings_count = True
    """Whether the client's pings and texts count as life, or audio alone does."""

    def __init__(
        self, gateway: Gateway, door: str, socket: web.WebSocketResponse,
        request: web.Request, session: ClientSession, wire: Wire = PLAIN,
    ) -> None:  # fmt: skip
        """`wire` says how the client's audio is to be read. Raises: UndecodableAudio."""
        self.gateway = gateway
        self.door = door
        self.session = session
        self.intake = Intake(session, wire, gateway.decoders)
        self._socket = socket
        self._transport = request.transport
        self._order = asyncio.Lock()
        self._close: asyncio.Future[Close | None] = asyncio.get_running_loop().create_future()
        """How to close the connection; None if it is lost, or the client has closed it."""
        self._life_at = time.monotonic()
        self._busy = False
        """Whether the client's last message is still being taken."""
        self._forces: asyncio.Queue[None] = asyncio.Queue()
        self._pause = asyncio.Event()
        self._ended = asyncio.Event()
        self.leaving = False
        """Whether the gateway ends, and the session with it."""

    # ---- what a door says -------------------------------------------------------------------

    @abstractmethod
    async def text(self, message: str) -> None:
        """Do what a text of the client asks for."""

    @abstractmethod
    async def audio(self, data: bytes) -> None:
        """Take audio. While it waits, nothing is read from the client."""

    @abstractmethod
    def messages(self, event: Event) -> list[str]:
        """The messages for an event."""

    @abstractmethod
    def forced(self, complete: bool) -> list[str]:
        """The messages once audio was finalized for `force`; not `complete`: as far as possible."""

    @abstractmethod
    def paused(self) -> bool:
        """Whether no speech is open, so that the connection can be closed without harm."""

    def released(self) -> list[str]:
        """The messages that are left for a client that goes on with its session elsewhere."""
        return []

    @abstractmethod
    async def over(self, closing: StatusEvent) -> None:
        """Say the last words, and `finish`, after the last event of the session."""

    @abstractmethod
    async def unfinished(self) -> None:
        """Say that the rest of the transcript takes too long, and `finish`."""

    @abstractmethod
    async def undecodable(self, error: UndecodableAudio | DecoderUnavailable) -> None:
        """Say why the client's audio cannot be decoded, and `finish`."""

    @abstractmethod
    async def idle(self) -> None:
        """Say that nothing has come for too long, and `finish`."""

    # ---- what a door uses -------------------------------------------------------------------

    async def tell(self, make: Callable[[], Iterable[str]]) -> None:
        """Send the messages that `make` returns, before any that are made later."""
        async with self._order:
            if not self._close.done():
                await self._send(make())

    async def finish(self, make: Callable[[], Iterable[str]], close: Close) -> None:
        """Send the last messages, and close the connection."""
        async with self._order:
            if not self._close.done():
                await self._send(make())
                self._resolve(close)

    async def end_audio(self) -> None:
        """Say that the client sends no more audio; the rest of the transcript follows."""
        if self.session.ending:
            return
        try:
            await self.intake.finish()
        except (UndecodableAudio, DecoderUnavailable) as error:
            await self.undecodable(error)
            return
        except SessionEnded:
            pass  # `_events` says why
        await self.end_session()
        self._ended.set()

    async def end_session(self) -> None:
        """Say to the session that no more audio follows."""
        await self.session.end()

    def force(self) -> None:
        """Make all audio so far final, after which `forced` is called."""
        self._forces.put_nowait(None)

    async def run(self) -> Close | None:
        """Serve the client until the connection is to be closed, or is lost."""
        async with asyncio.TaskGroup() as tasks:
            side = [
                tasks.create_task(job(), name=f"{job.__name__} {self.session.key}")
                for job in (
                    self._read, self._events, self._force, self._watch, self._limit, self._drain
                )
            ]  # fmt: skip
            try:
                return await self._close
            finally:
                for task in side:
                    task.cancel()
                await self.intake.close()

    async def close(self, close: Close | None) -> None:
        """Close the connection as `run` says. If the client goes on elsewhere, what it sends until
        it answers is part of its session."""
        if close is not LEAVING:
            if close is not None:
                await close_socket(self._socket, close)
            return
        with contextlib.suppress(TimeoutError, ConnectionError, RuntimeError, SessionEnded):
            async with asyncio.timeout(_REST_S):
                payload = struct.pack("!H", close.code or 1000) + close.reason.encode()
                await self._socket.send_frame(payload, WSMsgType.CLOSE)
                while True:
                    message = await self._socket.receive()
                    if message.type is WSMsgType.BINARY:
                        await self.intake.take(message.data)
                    elif message.type not in (WSMsgType.TEXT, WSMsgType.PING, WSMsgType.PONG):
                        return

    # ---- tasks ------------------------------------------------------------------------------

    async def _read(self) -> None:
        while not self._close.done():
            message = await self._socket.receive()
            match message.type:
                case WSMsgType.BINARY:
                    self._busy = True
                    try:
                        await self.audio(message.data)
                    except SessionEnded:
                        log.debug("audio after the end of the session")  # `_events` says why
                    except (UndecodableAudio, DecoderUnavailable) as error:
                        await self.undecodable(error)
                    self._busy, self._life_at = False, time.monotonic()
                case WSMsgType.TEXT:
                    self._lives()
                    await self.text(message.data)
                case WSMsgType.PING:
                    self._lives()
                    with contextlib.suppress(ConnectionError):
                        await self._socket.pong(message.data)
                case WSMsgType.PONG:
                    pass
                case _:
                    self._resolve(None)

    def _lives(self) -> None:
        if self.pings_count:
            self._life_at = time.monotonic()

    async def _events(self) -> None:
        session = self.session
        async for event in session:
            if isinstance(event, UnknownEvent):
                continue
            await self.tell(partial(self.messages, event))
            if isinstance(event, FinalEvent | TurnEvent) and self.paused():
                self._pause.set()
        if session.closing is not None:
            await self.over(session.closing)

    async def _force(self) -> None:
        while True:
            await self._forces.get()
            complete = await self.session.finalize()
            await self.tell(partial(self.forced, complete))

    async def _watch(self) -> None:
        while True:
            left = self._life_at + self.idle_seconds - time.monotonic()
            if self._busy:  # the client has to wait for the broker
                left = self.idle_seconds
            if left <= 0:
                if not self.session.ending:
                    await self.idle()
                return
            await asyncio.sleep(left)

    async def _limit(self) -> None:
        await self._ended.wait()
        await asyncio.sleep(self.gateway.settings.finish_seconds)
        await self.unfinished()

    async def _drain(self) -> None:
        """When the gateway ends: wait for a pause in speech, then send the client away. One that
        repeats an ID comes back and goes on with its session; that of another one is finished
        first."""
        await self.gateway.draining.wait()
        comes_back = self.session.repeats and not self.session.ending
        self.leaving = not (self.session.ending or comes_back)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.gateway.drain_until - time.monotonic()):
                if not self.paused():
                    self._pause.clear()
                    await self._pause.wait()
                if not comes_back:
                    await self.end_session()
                    await asyncio.shield(self._close)
        if comes_back:
            await self.finish(self.released, LEAVING)
        elif not self._close.done():
            await self.unfinished()

    # ---- parts ------------------------------------------------------------------------------

    async def _send(self, messages: Iterable[str]) -> None:
        limit = self.gateway.settings.slow_client_seconds
        try:
            for message in messages:
                async with asyncio.timeout(limit):
                    await self._socket.send_str(message)
        except TimeoutError:
            self.gateway.metrics.slow.labels(self.door).inc()
            log.warning(
                "client disconnected: it has read nothing for %g s", limit,
                extra=fields(session=str(self.session.key), door=self.door),
            )  # fmt: skip
            if self._transport is not None:
                abort(self._transport)
            self._resolve(None)
        except (ConnectionError, RuntimeError):  # closed meanwhile
            self._resolve(None)

    def _resolve(self, close: Close | None) -> None:
        if not self._close.done():
            self._close.set_result(close)
