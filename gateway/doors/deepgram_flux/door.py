"""`/v2/listen`: clients of Deepgram's Flux."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from natterjack.errors import UsageError
from natterjack.events import Event, StatusEvent

from ...access import Grant, Refused, credentials_of
from ...audio.errors import DecoderUnavailable, UndecodableAudio
from ...errors import Draining
from ...gateway import Gateway
from ...session import Opening
from ..backend import options_for
from ..client import HEARTBEAT_S, ClientStream, Close
from ..intake import Wire
from ..refusals import label, refusal, refused
from .protocol import FluxStream, decode
from .query import BadQuery, Query, Unparsable, parse

_DOOR = "deepgram"
_LABEL = "deepgram-flux"
_SESSION_ID = "x-deepgram-session-id"
_UNPARSABLE = "Text message received from client did not match any of the formats we expect."
_LEAVING = "This server is about to end; connect again."
_FATAL = Close(1011)
_IDLE_FACTOR = 6.0
"""The service waits for 60 s, six times as long as that of listen v1, and counts pings."""


def add_routes(app: web.Application, gateway: Gateway) -> None:
    """Add the door."""

    async def listen(request: web.Request) -> web.StreamResponse:
        try:
            grant = gateway.access.admit(request, _DOOR)
            query = parse({name: request.query.getall(name) for name in request.query})
            with gateway.access.connection(grant), gateway.connection(_LABEL):
                return await _serve(gateway, request, grant, query)
        except Refused as error:
            gateway.metrics.refused.labels(_LABEL, label(error.reason)).inc()
            return refused(error)
        except (BadQuery, UsageError) as error:
            gateway.metrics.refused.labels(_LABEL, "request").inc()
            return refusal(400, str(error))
        except Draining as error:
            gateway.metrics.refused.labels(_LABEL, "draining").inc()
            return refusal(503, str(error), 1.0)

    app.router.add_get("/v2/listen", listen)


async def _serve(
    gateway: Gateway, request: web.Request, grant: Grant, query: Query
) -> web.StreamResponse:
    if gateway.sessions is None:
        raise Draining
    opening, wire = _opening(grant, request, query, grant.provider or gateway.settings.providers)
    session = await gateway.sessions.open(grant, opening)
    try:
        subprotocol = credentials_of(request, _DOOR).subprotocol
        socket = web.WebSocketResponse(
            autoping=False,
            heartbeat=HEARTBEAT_S,
            compress=False,
            max_msg_size=gateway.settings.max_message_bytes,
            protocols=(subprotocol,) if subprotocol else (),
        )
        flux = FluxStream(query, session.id)
        socket.headers["dg-request-id"] = flux.request_id
        await socket.prepare(request)
        gateway.metrics.accepted.labels(_LABEL).inc()
        client = FluxClient(gateway, _LABEL, socket, request, session, wire)
        client.flux = flux
        client.idle_seconds = _IDLE_FACTOR * gateway.settings.silence_seconds
        await client.tell(lambda: [flux.connected()])
        await client.close(await client.run())
        return socket
    finally:
        await gateway.sessions.leave(session)


def _opening(
    grant: Grant, request: web.Request, query: Query, providers: Sequence[str]
) -> tuple[Opening, Wire]:
    wire = Wire.of(query.encoding, query.sample_rate)
    wishes: dict[str, Any] = {
        "model": query.model,
        "eot_threshold": query.eot_threshold,
        "eot_timeout_ms": query.eot_timeout_ms,
        "eager_eot_threshold": query.eager_eot_threshold,
        "language_hints": list(query.language_hints) or None,
        "numerals": query.numerals,
        "profanity_filter": query.profanity_filter,
        "redact": query.redact[0] if query.redact else None,
        "mip_opt_out": query.mip_opt_out or None,
    }
    flux = {name: value for name, value in wishes.items() if value is not None}
    nova = {"numerals": query.numerals or None, "profanity_filter": query.profanity_filter or None}
    tags = {"tag": ",".join(query.tags)[:200]} if query.tags else {}
    opening = Opening(
        conversation=request.query.get("conversation"),
        speaker=request.query.get("speaker") or "speaker",
        encoding=wire.encoding,
        sample_rate=wire.sample_rate,
        language=query.language,
        keyterms=query.keyterms,
        options=options_for(providers, grant.options, {
            "deepgram-flux": flux,
            "deepgram": {name: value for name, value in nova.items() if value is not None},
        }),
        labels={**tags, "door": _LABEL},
        rejoin=request.headers.get(_SESSION_ID),
    )  # fmt: skip
    return opening, wire


class FluxClient(ClientStream):
    """One client and its session."""

    flux: FluxStream
    """Its codec."""

    async def text(self, message: str) -> None:
        try:
            kind, content = decode(message)
            match kind:
                case "CloseStream":
                    await self.end_audio()
                case "ForceEndTurn" if not self.session.ending:
                    self.flux.force()
                    self.force()
                case "Configure":
                    await self.tell(lambda: self.flux.configure(content))
        except Unparsable:
            await self._fail("UNPARSABLE_CLIENT_MESSAGE", _UNPARSABLE)

    async def audio(self, data: bytes) -> None:
        if self.session.ending:
            return
        await self.intake.take(data)
        await self.tell(lambda: self.flux.audio(self.session.received_seconds))

    def messages(self, event: Event) -> list[str]:
        return self.flux.receive(event)

    def forced(self, complete: bool) -> list[str]:
        return self.flux.forced(complete)

    def paused(self) -> bool:
        return not self.flux.turn_open

    async def over(self, closing: StatusEvent) -> None:
        if self.leaving:
            await self._fail("INTERNAL_SERVER_ERROR", _LEAVING)
        elif self.session.ending and closing.state == "closed":
            # "Close Stream": the connection is closed without a status.
            received = self.session.received_seconds
            await self.finish(lambda: self.flux.end(received), Close(None))
        elif closing.reason == "budget":
            await self._fail("ASR_PAYMENT_REQUIRED", f"budget: {closing.detail or 'used up'}")
        else:
            why = closing.detail or closing.reason or closing.state
            await self._fail("INTERNAL_SERVER_ERROR", f"The session has ended: {why}")

    async def unfinished(self) -> None:
        what = "the rest of the transcript is not available in time"
        await self._fail("INTERNAL_SERVER_ERROR", _LEAVING if self.leaving else what)

    async def undecodable(self, error: UndecodableAudio | DecoderUnavailable) -> None:
        if isinstance(error, UndecodableAudio):
            await self.finish(lambda: (), Close(1008, f"DATA-0000: {error}"))
        else:
            await self._fail("INTERNAL_SERVER_ERROR", str(error))

    async def idle(self) -> None:
        what = f"No audio, message or ping for {self.idle_seconds:.0f} seconds."
        await self._fail("INACTIVE_CLIENT", what)

    async def _fail(self, code: str, description: str) -> None:
        await self.finish(lambda: [self.flux.error(code, description)], _FATAL)
