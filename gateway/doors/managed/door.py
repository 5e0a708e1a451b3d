"""The handler of `/ws/transcribe`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from functools import partial
from uuid import uuid4

from aiohttp import WSMsgType, web

from natterjack.errors import UsageError
from natterjack.events import Event, StatusEvent
from natterjack.telemetry.log import fields

from ...access import Grant, Refused
from ...audio.errors import DecoderUnavailable, UndecodableAudio
from ...errors import Draining
from ...gateway import Gateway
from ...session import Opening
from ..backend import options_for
from ..client import ClientStream, Close, turn_away
from .stream import (
    MAX_FRAME_BYTES,
    REFUSALS,
    Auth,
    BadMessage,
    End,
    Finalize,
    ManagedStream,
    close_code,
    error_message,
    first_message,
    later_message,
)

log = logging.getLogger(__name__)

_DOOR = "managed"
_AUTH_SECONDS = 10.0
"""6: the client waits 15 s for the answer to its first frame, connecting included."""
_MAX_MESSAGE_BYTES = 4 * MAX_FRAME_BYTES
"""A frame up to this size is answered with an error before the connection is closed."""
_METER_SECONDS = 1.0
_NO_BUDGET_SECONDS = 10.0
"""How soon a budget that is set during a session is noticed."""
_NO_AUDIO_SECONDS = 60.0
_NO_ROOM_SECONDS = 8.0


class _Failed(Exception):
    """The connection ends with an error, before it has a session."""

    def __init__(self, code: str, message: str, reason: str = "request") -> None:
        """`reason` is the label of the metric."""
        super().__init__(message)
        self.code, self.reason = code, reason


def add_routes(app: web.Application, gateway: Gateway) -> None:
    """Add the door."""

    async def transcribe(request: web.Request) -> web.StreamResponse:
        # 6: any upgrade is accepted, because a client shows nothing but an `error` message.
        socket = web.WebSocketResponse(
            autoping=False, compress=False, max_msg_size=_MAX_MESSAGE_BYTES
        )
        await socket.prepare(request)
        with gateway.connection(_DOOR):
            close: Close | None
            try:
                close = await _serve(gateway, request, socket)
            except _Failed as failed:
                gateway.metrics.refused.labels(_DOOR, failed.reason).inc()
                close = await _tell(socket, failed.code, str(failed))
            except Exception:  # a task boundary: the client is to learn of it, too
                log.exception("client failed")
                close = await _tell(socket, "internal", "an internal error")
            if close is not None:
                await turn_away(gateway, request, socket, close)
        return socket

    app.router.add_get("/ws/transcribe", transcribe)


async def _tell(socket: web.WebSocketResponse, code: str, message: str) -> Close:
    """Send an error. Returns how to close the connection after it."""
    with contextlib.suppress(ConnectionError, RuntimeError):
        await socket.send_str(error_message(code, message))
    return Close(close_code(code), code)


async def _serve(
    gateway: Gateway, request: web.Request, socket: web.WebSocketResponse
) -> Close | None:
    """Serve a client until its connection is to be closed, or is lost. Raises _Failed."""
    try:
        with gateway.access.waiting(request):
            auth = await _first(socket)
        if auth is None:
            return None
        grant = gateway.access.admit_secret(request, _DOOR, auth.token.get_secret_value())
        with gateway.access.connection(grant):
            if gateway.sessions is None:
                raise _Failed("upstream_unavailable", gateway.problem or "no NATS", "draining")
            providers = grant.provider or gateway.settings.providers
            opening = _opening(grant, auth, providers)
            session = await gateway.sessions.open(grant, opening)
            try:
                gateway.metrics.accepted.labels(_DOOR).inc()
                client = ManagedClient(gateway, _DOOR, socket, request, session)
                client.speak(ManagedStream(session.id), grant)
                await client.tell(lambda: [client.stream.ready()])
                return await client.run()
            finally:
                # 5: a client has no message for the end of its audio; the rest of it is
                # transcribed and stored, although nobody reads it here.
                await gateway.sessions.close(session)
    except Refused as refused:
        raise _Failed(REFUSALS[refused.reason], str(refused), refused.reason.value) from None
    except BadMessage as error:
        raise _Failed(error.code, str(error)) from None
    except UsageError as error:
        raise _Failed("bad_request", str(error)) from None
    except Draining as error:
        raise _Failed("upstream_unavailable", str(error), "draining") from None


async def _first(socket: web.WebSocketResponse) -> Auth | None:
    """The first message, or None if the client is gone. Raises BadMessage."""
    try:
        async with asyncio.timeout(_AUTH_SECONDS):
            while True:
                message = await socket.receive()
                if message.type is WSMsgType.PING:
                    await socket.pong(message.data)
                elif message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    return first_message(message.data)
                elif message.type is not WSMsgType.PONG:
                    return None
    except TimeoutError:
        raise BadMessage(f"no auth within {_AUTH_SECONDS:g} seconds") from None
    except ConnectionError:
        return None


def _opening(grant: Grant, auth: Auth, providers: Sequence[str]) -> Opening:
    config = auth.config
    model = None if grant.model else config.model or None
    shared = grant.conversation is not None or any("*" not in p for p in grant.conversations)
    return Opening(
        # Several clients may share a conversation: each is a speaker of its own.
        speaker=f"speaker-{uuid4().hex[:6]}" if shared else "speaker",
        language=config.language or None,
        # 3.1: a client names a model of Deepgram, by default nova-2.
        options=options_for(
            providers, grant.options, {"deepgram": {"model": model}} if model else {}
        ),
        labels={"door": _DOOR},
        interim_results=config.interim_results,
    )


class ManagedClient(ClientStream):
    """One client and its session."""

    idle_seconds = _NO_AUDIO_SECONDS

    def speak(self, stream: ManagedStream, grant: Grant) -> None:
        """Set what the client is told, and whose credits it uses."""
        self.stream = stream
        self._tenant = grant.tenant

    async def run(self) -> Close | None:
        async with asyncio.TaskGroup() as tasks:
            metering = tasks.create_task(self._meter(), name=f"meter {self.session.key}")
            try:
                return await super().run()
            finally:
                metering.cancel()

    async def _meter(self) -> None:
        assert self.gateway.credits is not None
        while True:
            remaining = (await self.gateway.credits.balance(self._tenant)).remaining_seconds
            await self.tell(partial(self.stream.balance, remaining))
            await asyncio.sleep(_NO_BUDGET_SECONDS if remaining is None else _METER_SECONDS)

    async def text(self, message: str) -> None:
        try:
            match later_message(message):
                case Finalize():
                    self.force()
                case End():
                    await self.end_audio()
        except BadMessage as error:
            await self._fail(error.code, str(error))

    async def audio(self, data: bytes) -> None:
        if self.session.ending:
            return
        try:
            audio = self.stream.audio(data)
        except BadMessage as error:
            await self._fail(error.code, str(error))
            return
        self.session.feed(audio)
        if not self.session.has_room:
            await self._wait_for_room()

    async def _wait_for_room(self) -> None:
        """Wait until the broker has stored more of the audio, or end the recording: a client whose
        pings are not answered in 10 s hangs up, and its user would not learn why (1, 5)."""
        try:
            async with asyncio.timeout(_NO_ROOM_SECONDS):
                await self.session.send(b"")
        except TimeoutError:
            await self._fail("upstream_unavailable", "no more audio can be stored now")

    def messages(self, event: Event) -> list[str]:
        return self.stream.receive(event)

    def forced(self, complete: bool) -> list[str]:
        return []

    def paused(self) -> bool:
        return not self.stream.speaking

    async def over(self, closing: StatusEvent) -> None:
        if self.leaving:
            await self._leave()
        elif self.session.ending and closing.state == "closed":
            await self.finish(lambda: [self.stream.end()], Close(1000))
        else:
            await self._fail(*self.stream.closing(closing))

    async def unfinished(self) -> None:
        if self.leaving:
            await self._leave()
        else:
            await self._fail("upstream_unavailable", "the rest of the transcript takes too long")

    async def undecodable(self, error: UndecodableAudio | DecoderUnavailable) -> None:
        await self._fail("bad_request", str(error))

    async def idle(self) -> None:
        await self._fail("session_limit", f"nothing was sent for {self.idle_seconds:.0f} seconds")

    async def _leave(self) -> None:
        # 6: the server's shutdown.
        await self.finish(lambda: [self.stream.end()], Close(1001, "connect again"))

    async def _fail(self, code: str, message: str) -> None:
        log.info(
            "client disconnected: %s", message,
            extra=fields(session=str(self.session.key), code=code),
        )  # fmt: skip
        last = [error_message(code, message), self.stream.end()]
        await self.finish(lambda: last, Close(close_code(code), code))
