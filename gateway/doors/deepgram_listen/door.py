"""`/v1/listen`: clients of Deepgram's Nova models."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import NamedTuple
from uuid import uuid4

from aiohttp import hdrs, web

from natterjack.control import ControlRequest
from natterjack.decoding import UnknownEvent
from natterjack.errors import BrokerError, UsageError
from natterjack.events import Event, StatusEvent
from natterjack.telemetry.log import fields

from ...access import Grant, Refused, credentials_of
from ...audio.errors import DecoderUnavailable, UndecodableAudio
from ...errors import Draining
from ...gateway import Gateway
from ...session import Channels, ClientSession, Opening
from ..backend import options_for, plain_language
from ..client import HEARTBEAT_S, ClientStream, Close
from ..intake import Intake, Wire
from ..refusals import label, refusal, refused
from . import protocol
from .messages import ClientMessage, Unparsable, decode, settings_of
from .protocol import ListenStream
from .query import BadQuery, Query, parse

log = logging.getLogger(__name__)

_DOOR = "deepgram"
_LABEL = "deepgram-listen"
_SESSION_ID = "x-deepgram-session-id"
_MAX_ID = 200
_HOLD_S = 0.03
"""How long a final waits for the end of its turn, which a worker publishes right after it."""
_LONG_S = 3600.0
_MAX_FINALIZES = 100
"""Requests that wait; further ones get no answer of their own."""
_LEFT = Close(1012, "this server has ended; connect again")
_MAX_SAID = 1000


def add_routes(app: web.Application, gateway: Gateway) -> None:
    """Add the door."""
    unfulfilled = _Unfulfilled()

    async def listen(request: web.Request) -> web.StreamResponse:
        try:
            grant = gateway.access.admit(request, _DOOR)
            query = parse({name: request.query.getall(name) for name in request.query})
            if not web.WebSocketResponse().can_prepare(request):
                raise UsageError("this is not a WebSocket request; recordings are not taken here")
            with gateway.access.connection(grant), gateway.connection(_LABEL):
                unfulfilled.say(grant, query, _providers(gateway, grant))
                return await _serve(gateway, request, grant, query)
        except Refused as error:
            gateway.metrics.refused.labels(_LABEL, label(error.reason)).inc()
            return refused(error)
        except BadQuery as error:
            gateway.metrics.refused.labels(_LABEL, "request").inc()
            return refusal(error.status, str(error), code=error.code)
        except UsageError as error:
            gateway.metrics.refused.labels(_LABEL, "request").inc()
            return refusal(400, str(error))
        except Draining as error:
            gateway.metrics.refused.labels(_LABEL, "draining").inc()
            return refusal(503, str(error), 1.0)

    app.router.add_get("/v1/listen", listen)


async def _serve(
    gateway: Gateway, request: web.Request, grant: Grant, query: Query
) -> web.StreamResponse:
    if gateway.sessions is None:
        raise Draining
    providers = _providers(gateway, grant)
    wire = Wire.of(query.encoding, query.sample_rate, query.channels, apart=query.multichannel)
    sessions: list[ClientSession] = []
    try:
        for opening in _openings(request, grant, query, wire, providers):
            sessions.append(await gateway.sessions.open(grant, opening))
        subprotocol = credentials_of(request, _DOOR).subprotocol
        socket = web.WebSocketResponse(
            autoping=False,
            heartbeat=HEARTBEAT_S,
            compress=False,
            max_msg_size=gateway.settings.max_message_bytes,
            protocols=(subprotocol,) if subprotocol else (),
        )
        request_id = str(uuid4())
        stream = ListenStream(
            query, request_id, ",".join(providers) or "natterjack", version("natterjack")
        )
        client = ListenClient(gateway, request, socket, Channels(sessions), wire, stream)
        socket.headers["dg-request-id"] = request_id
        await socket.prepare(request)
        gateway.metrics.accepted.labels(_LABEL).inc()
        close = await client.run()
        await client.channels.stop()
        await client.close(close)
        return socket
    finally:
        for session in sessions:
            await gateway.sessions.leave(session)


def _providers(gateway: Gateway, grant: Grant) -> Sequence[str]:
    return grant.provider or gateway.settings.providers


def _openings(
    request: web.Request, grant: Grant, query: Query, wire: Wire, providers: Sequence[str]
) -> list[Opening]:
    """The sessions of a client: one, or one for each channel."""
    conversation = query.conversation
    if query.streams > 1 and conversation is None:
        conversation = grant.conversation_for()
    deepgram = "deepgram" in providers
    tags = {"tag": ",".join(query.tags)[:_MAX_ID]} if query.tags else {}
    common = Opening(
        conversation=conversation,
        encoding=wire.encoding,
        sample_rate=wire.sample_rate,
        channels=1 if query.streams > 1 else wire.channels,
        language=plain_language(query.language),
        keyterms=query.keyterms if deepgram else (*query.keyterms, *query.keywords),
        options=options_for(providers, grant.options, {"deepgram": query.options}),
        labels={**query.extra, **tags, "door": _LABEL},
        rejoin=None if wire.decoded else _client_id(request),
    )
    if query.streams == 1:
        return [replace(common, speaker=query.speaker or "speaker")]
    name = query.speaker or "channel"
    return [replace(common, speaker=f"{name[:50]}-{n}") for n in range(query.streams)]


def _client_id(request: web.Request) -> str | None:
    """The ID that an SDK repeats when it connects again; browsers have it in the subprotocols."""
    found = request.headers.get(_SESSION_ID)
    if found is None:
        offered = [
            word.strip()
            for value in request.headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, [])
            for word in value.split(",")
        ]
        if _SESSION_ID in offered[:-1]:
            found = offered[offered.index(_SESSION_ID) + 1]
    return found if found and len(found) <= _MAX_ID else None


class _Unfulfilled:
    """Says in the log, once for each key, what its clients ask for and nobody obeys."""

    def __init__(self) -> None:
        self._said: set[tuple[str, str]] = set()

    def say(self, grant: Grant, query: Query, providers: Sequence[str]) -> None:
        if "deepgram" in providers:
            return
        new = [name for name in query.unfulfilled if (grant.key_id, name) not in self._said]
        if not new or len(self._said) > _MAX_SAID:
            return
        self._said.update((grant.key_id, name) for name in new)
        log.info(
            "a client asks for what its backend does not offer; it is ignored",
            extra=fields(key=grant.key_id, parameters=",".join(new)),
        )


class _Finalize(NamedTuple):
    """A Finalize that is not answered yet."""

    channel: int | None
    position: float
    """Seconds of audio that had come before it."""


class ListenClient(ClientStream):
    """One client and its sessions."""

    pings_count = False

    def __init__(
        self, gateway: Gateway, request: web.Request, socket: web.WebSocketResponse,
        channels: Channels, wire: Wire, stream: ListenStream,
    ) -> None:  # fmt: skip
        """Raises: UndecodableAudio."""
        super().__init__(gateway, _LABEL, socket, request, channels.first, wire)
        self.idle_seconds = gateway.settings.silence_seconds
        self.channels = channels
        self.stream = stream
        self.intake = Intake(channels, wire, gateway.decoders)
        self._created = datetime.now(UTC)
        self._digest = hashlib.sha256()
        self._heard = False
        self._finalizes: asyncio.Queue[_Finalize] = asyncio.Queue(_MAX_FINALIZES)
        self._finalizing = False

    # ---- from the client --------------------------------------------------------------------

    async def audio(self, data: bytes) -> None:
        if self.session.ending:
            return
        if not data:  # "Close Stream": older clients end with an empty message
            await self.end_audio()
            return
        self._heard = True
        self._digest.update(data)
        await self.intake.take(data)
        if self.stream.counts_silence:
            await self.tell(partial(self.stream.progress, self.channels.received_seconds))

    async def text(self, message: str) -> None:
        if self._heard:  # "Keep Alive": the first audio must come within the time limit
            self._life_at = time.monotonic()
        try:
            command = decode(message)
            match command.kind:
                case "CloseStream":
                    await self.end_audio()
                case "Finalize" if not self.session.ending:
                    self._finalize(command)
                case "Configure":
                    await self._configure(command, settings_of(command))
        except Unparsable as error:
            answer = protocol.schema_error(message, str(error))
            await self.tell(lambda: [answer])

    def _finalize(self, command: ClientMessage) -> None:
        self._finalizing = True
        with contextlib.suppress(asyncio.QueueFull):
            self._finalizes.put_nowait(_Finalize(command.channel, self.channels.received_seconds))

    async def _configure(self, command: ClientMessage, settings: dict[str, object]) -> None:
        problem: str | None = None
        try:
            for session in self.channels.sessions:
                reply = await session.control(
                    ControlRequest(command="configure", settings=settings)
                )
                problem = problem or reply.error
        except BrokerError as error:
            problem = str(error)
        await self.tell(lambda: [self.stream.configured(command, problem)])

    async def end_session(self) -> None:
        await self.channels.end()

    # ---- to the client ----------------------------------------------------------------------

    async def _events(self) -> None:
        while True:
            waits = self.stream.waits
            timeout = _HOLD_S if waits and not self._finalizing else _LONG_S
            found = await self.channels.next(timeout, handled=not waits)
            if found is not None and not isinstance(found.event, UnknownEvent):
                await self.tell(partial(self._messages, found.channel, found.event))
            elif found is None and self.stream.waits and not self._finalizing:
                await self.tell(self.stream.release)
            if found is not None and self.paused():
                self._pause.set()
            ended = self.channels.failed or (self.channels.first if self.channels.over else None)
            if ended is not None and ended.closing is not None:
                await self.over(ended.closing)
                return

    def _messages(self, channel: int, event: Event) -> list[str]:
        return self.stream.receive(channel, event, keep=self._finalizing)

    async def _force(self) -> None:
        while True:
            wanted = await self._finalizes.get()
            complete = await self.channels.finalize(wanted.channel)
            self._finalizing = not self._finalizes.empty()
            await self.tell(
                partial(self.stream.finalized, wanted.channel, wanted.position, complete=complete)
            )

    async def over(self, closing: StatusEvent) -> None:
        received, failed = self.channels.received_seconds, self.channels.failed
        if failed is not None and not self.leaving:
            why = closing.detail or closing.reason or closing.state
            await self.finish(
                lambda: [*self.stream.ended(received, complete=False), protocol.failure(why)],
                Close(1011, f"the session has ended: {why}"),
            )
        elif self.leaving:
            await self.finish(lambda: self.stream.ended(received, complete=True), _LEFT)
        else:
            await self.finish(lambda: self._summary(received), Close(1000))

    def _summary(self, received: float) -> list[str]:
        digest = self._digest.hexdigest()
        return [
            *self.stream.ended(received, complete=True),
            self.stream.metadata(received, digest, self._created),
        ]

    async def unfinished(self) -> None:
        received = self.channels.received_seconds
        close = _LEFT if self.leaving else Close(1011, protocol.NO_ANSWER)
        await self.finish(lambda: self.stream.ended(received, complete=False), close)

    async def undecodable(self, error: UndecodableAudio | DecoderUnavailable) -> None:
        if isinstance(error, UndecodableAudio):
            close = Close(1008, f"{protocol.UNDECODABLE}: {error}")
        else:
            close = Close(1011, str(error))
        await self.finish(lambda: [], close)

    async def idle(self) -> None:
        await self.finish(self.stream.release, Close(1011, protocol.NO_DATA))

    def messages(self, event: Event) -> list[str]:
        return self._messages(0, event)

    def forced(self, complete: bool) -> list[str]:
        return self.stream.finalized(None, self.channels.received_seconds, complete=complete)

    def paused(self) -> bool:
        return self.stream.quiet

    def released(self) -> list[str]:
        return list(self.stream.release())
