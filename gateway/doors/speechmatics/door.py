"""`/v2`, `/v2/<language>` and `/v2/agent`: clients of Speechmatics' realtime APIs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from aiohttp import WSMsgType, hdrs, web

from natterjack.errors import UsageError
from natterjack.events import Event, StatusEvent

from ...access import Grant, Reason, Refused, credentials_of
from ...audio.errors import DecoderUnavailable, UndecodableAudio
from ...errors import Draining
from ...gateway import Gateway
from ...session import ClientSession, Opening
from ..backend import options_for, plain_language
from ..client import HEARTBEAT_S, ClientStream, Close, text_of, turn_away
from ..intake import Wire
from ..refusals import label
from . import protocol
from .agent import Agent
from .errors import Fatal
from .protocol import Dialect, Message, Start
from .realtime import Realtime

_DOOR = "speechmatics"
_START_S = 60.0
"""How long a client may wait before its StartRecognition."""
_IDLE_S = 3600.0
"""Speechmatics docs, "Limits"."""
_LEAVING = "this server is about to end; connect again"
_OVERRIDES = frozenset((
    "additional_vocab", "audio_filtering_config", "conversation_config", "diarization", "domain",
    "enable_entities", "max_delay", "max_delay_mode", "model", "operating_point", "output_locale",
    "punctuation_overrides", "speaker_diarization_config", "transcript_filtering_config",
))  # fmt: skip
"""Fields of `transcription_config` that are options of the provider `speechmatics`."""
_AGENT_OVERRIDES = frozenset((
    "additional_vocab", "diarization", "domain", "emit_sentences", "model", "output_locale",
    "speaker_diarization_config", "transcript_filtering_config",
))  # fmt: skip


class Endpoint(NamedTuple):
    """One of the two APIs: its messages, its errors, and its provider."""

    label: str
    """Value of the label `door` of metrics."""
    dialect: Callable[[Start], Dialect]
    """Makes the object that turns a session's events into messages."""
    codes: bool
    """Whether an Error has the close code in it."""
    kinds: Mapping[str, str]
    """Types of errors that the API does not have, and what it has instead."""
    provider: str
    """The provider whose API it is."""
    overrides: frozenset[str]
    """Fields of `transcription_config` that are options of this provider."""

    def error(self, fatal: Fatal) -> Fatal:
        """The error as this API has it."""
        kind = self.kinds.get(fatal.kind, fatal.kind)
        return Fatal(kind, fatal.reason)


REALTIME = Endpoint(
    "speechmatics", Realtime, True, {"start_recognition_timeout": "protocol_error"},
    "speechmatics", _OVERRIDES,
)  # fmt: skip
AGENT = Endpoint(
    "speechmatics-agent", Agent, False,
    # job_error: clients try again later, as after quota_exceeded of the other API.
    {"quota_exceeded": "job_error", "timelimit_exceeded": "not_allowed",
     "idle_timeout": "job_error", "unknown_error": "job_error"},
    "speechmatics-agent", _AGENT_OVERRIDES,
)  # fmt: skip


def add_routes(app: web.Application, gateway: Gateway) -> None:
    """Add the doors."""

    async def realtime(request: web.Request) -> web.StreamResponse:
        return await _connect(gateway, request, REALTIME)

    async def agent(request: web.Request) -> web.StreamResponse:
        return await _connect(gateway, request, AGENT)

    for path in ("/v2", "/v2/", r"/v2/{language:[a-z]{2,3}(?:[_-][A-Za-z]{2,4})?}"):
        app.router.add_get(path, realtime)
    for path in ("/v2/agent", "/v2/agent/"):
        app.router.add_get(path, agent)


async def _connect(
    gateway: Gateway, request: web.Request, endpoint: Endpoint
) -> web.StreamResponse:
    """Admit a client. A key in the header is refused with an HTTP status; a browser would not show
    that, so one in the query is refused in band."""
    grant: Grant | None = None
    fatal: Fatal | None = None
    try:
        grant = gateway.access.admit(request, _DOOR)
    except Refused as error:
        gateway.metrics.refused.labels(endpoint.label, label(error.reason)).inc()
        if hdrs.AUTHORIZATION in request.headers or "jwt" not in request.query:
            return web.Response(status=error.status, text=f"{error}\n")
        fatal = _fatal(error)
    if gateway.sessions is None or gateway.draining.is_set():
        gateway.metrics.refused.labels(endpoint.label, "draining").inc()
        return web.Response(status=503, text=f"{Draining()}\n", headers={"Retry-After": "1"})
    subprotocol = credentials_of(request, _DOOR).subprotocol
    socket = web.WebSocketResponse(
        autoping=False,
        heartbeat=HEARTBEAT_S,
        compress=False,
        max_msg_size=gateway.settings.max_message_bytes,
        protocols=(subprotocol,) if subprotocol else (),
    )
    await socket.prepare(request)
    close: Close | None = None
    try:
        if fatal is not None or grant is None:
            raise fatal or Fatal("not_authorised", "no key")
        with gateway.access.connection(grant), gateway.connection(endpoint.label):
            gateway.metrics.accepted.labels(endpoint.label).inc()
            close = await _serve(gateway, socket, request, grant, endpoint)
    except Refused as error:
        gateway.metrics.refused.labels(endpoint.label, label(error.reason)).inc()
        close = await _say(socket, endpoint, _fatal(error), gateway)
    except Fatal as error:
        close = await _say(socket, endpoint, error, gateway)
    if close is not None:
        await turn_away(gateway, request, socket, close)
    return socket


async def _say(
    socket: web.WebSocketResponse, endpoint: Endpoint, fatal: Fatal, gateway: Gateway
) -> Close | None:
    """Send an error before there is a session. Return how to close the connection."""
    messages, close = _last_words(endpoint, fatal)
    try:
        async with asyncio.timeout(gateway.settings.slow_client_seconds):
            for message in messages:
                await socket.send_str(text_of(message))
    except (ConnectionError, RuntimeError, TimeoutError):
        return None
    return close


def _last_words(endpoint: Endpoint, fatal: Fatal) -> tuple[list[Message], Close]:
    """The messages of a session that fails, and how its connection is closed. Clients wait for
    EndOfTranscript without a limit, so it comes after an Error, too."""
    error = endpoint.error(fatal)
    messages = [error.message(coded=endpoint.codes), protocol.END_OF_TRANSCRIPT]
    return messages, Close(error.close_code, error.kind)


def _fatal(error: Refused) -> Fatal:
    match error.reason:
        case Reason.FULL | Reason.RATE:
            return Fatal("quota_exceeded", str(error))
        case Reason.BUDGET:
            return Fatal("timelimit_exceeded", str(error))
        case Reason.DOOR | Reason.CONVERSATION | Reason.ORIGIN:
            return Fatal("not_allowed", str(error))
    return Fatal("not_authorised", str(error))


async def _serve(
    gateway: Gateway, socket: web.WebSocketResponse, request: web.Request, grant: Grant,
    endpoint: Endpoint,
) -> Close | None:  # fmt: skip
    """Serve a client. Raises: Fatal, Refused, before there is a session."""
    content = await _first(socket)
    if content is None or gateway.sessions is None:
        return None
    config = protocol.start(content)
    path_language = request.match_info.get("language")
    if path_language not in (None, config.language):
        raise Fatal("invalid_language", f"the path has {path_language}, not {config.language}")
    providers = grant.provider or gateway.settings.providers
    opening, wire = _opening(grant, request, endpoint, config, content, providers)
    try:
        session = await gateway.sessions.open(grant, opening)
    except UsageError as error:
        raise Fatal("invalid_config", str(error)) from None
    except Draining:
        raise Fatal("job_error", _LEAVING) from None
    try:
        client = SpeechmaticsClient(gateway, endpoint.label, socket, request, session, wire)
        client.speak(endpoint, endpoint.dialect(config))
        # The broker keeps the audio until a worker is free, so nobody has to wait for one.
        await client.tell(lambda: map(text_of, _greeting(session, config)))
        return await client.run()
    finally:
        await gateway.sessions.close(session)


def _greeting(session: ClientSession, config: Start) -> list[Message]:
    greeting = [
        protocol.quality(config.audio),
        protocol.recognition_started(session.id, config.language),
    ]
    if config.translations:
        languages = ", ".join(config.translations)
        reason = f"no translation into {languages}"
        greeting.append(protocol.warning("unsupported_translation_pair", reason))
    return greeting


async def _first(socket: web.WebSocketResponse) -> Mapping[str, Any] | None:
    """The client's StartRecognition; None if the client is gone. Raises: Fatal."""
    try:
        async with asyncio.timeout(_START_S):
            while True:
                message = await socket.receive()
                match message.type:
                    case WSMsgType.TEXT:
                        kind, content = protocol.decode(message.data)
                        if kind == "StartRecognition":
                            return content
                        raise Fatal("protocol_error", f"{kind} before StartRecognition")
                    case WSMsgType.BINARY:
                        raise Fatal("protocol_error", "AddAudio before StartRecognition")
                    case WSMsgType.PING:
                        await socket.pong(message.data)
                    case WSMsgType.PONG:
                        pass
                    case _:
                        return None
    except ConnectionError:
        return None
    except TimeoutError:
        what = f"no StartRecognition within {_START_S:.0f} s"
        raise Fatal("start_recognition_timeout", what) from None


def _opening(
    grant: Grant, request: web.Request, endpoint: Endpoint, config: Start,
    content: Mapping[str, Any], providers: Sequence[str],
) -> tuple[Opening, Wire]:  # fmt: skip
    wire = Wire.of(config.audio.encoding, config.audio.sample_rate)
    given = content["transcription_config"]
    wishes: dict[str, Mapping[str, Any]] = {
        name: {"diarization": "speaker"} if config.speakers else {}
        for name in ("speechmatics", "speechmatics-agent")
    }
    wishes["deepgram"] = {"diarize": True} if config.speakers else {}
    wishes[endpoint.provider] = {
        name: value
        for name, value in given.items()
        if name in endpoint.overrides and value is not None
    }
    opening = Opening(
        conversation=request.query.get("conversation"),
        speaker=request.query.get("speaker") or "speaker",
        encoding=wire.encoding,
        sample_rate=wire.sample_rate,
        language=plain_language(config.language),
        keyterms=config.vocabulary,
        options=options_for(providers, grant.options, wishes),
        labels={"door": endpoint.label},
    )
    return opening, wire


class SpeechmaticsClient(ClientStream):
    """One client and its session."""

    idle_seconds = _IDLE_S
    pings_count = False

    def speak(self, endpoint: Endpoint, dialect: Dialect) -> None:
        """Set the codec."""
        self._endpoint = endpoint
        self._dialect = dialect
        self._frames = 0
        self._speakers_at_end = False

    async def text(self, message: str) -> None:
        try:
            kind, content = protocol.decode(message)
            await self._control(kind, content)
        except Fatal as fatal:
            await self._fail(fatal)

    async def _control(self, kind: str, content: Mapping[str, Any]) -> None:
        """Raises: Fatal."""
        match kind:
            case "StartRecognition":
                raise Fatal("protocol_error", "StartRecognition a second time")
            case "EndOfStream":
                await self.end_audio()
            case "ForceEndOfUtterance" if not self.session.ending:
                await self._force_end(protocol.forced_at(content))
            case "SetRecognitionConfig":
                self._dialect.config = protocol.changed(self._dialect.config, content)
            case "GetSpeakers":
                if content.get("final") is True:
                    self._speakers_at_end = True
                else:
                    await self.tell(lambda: [text_of(protocol.no_speakers())])

    async def _force_end(self, timestamp: float | None) -> None:
        wanted, messages = self._dialect.force(timestamp)
        await self.tell(lambda: map(text_of, messages))
        if wanted:
            self.force()

    async def audio(self, data: bytes) -> None:
        if self.session.ending:
            reason = "audio after EndOfStream is ignored"
            await self.tell(lambda: [text_of(protocol.warning("add_audio_after_eos", reason))])
            return
        await self.intake.take(data)
        self._frames += 1
        await self.tell(lambda: [protocol.audio_added(self._frames)])

    def messages(self, event: Event) -> list[str]:
        return list(map(text_of, self._dialect.receive(event)))

    def forced(self, complete: bool) -> list[str]:
        return list(map(text_of, self._dialect.forced(complete)))

    def paused(self) -> bool:
        return not self._dialect.open

    async def over(self, closing: StatusEvent) -> None:
        if self.leaving:
            await self._fail(Fatal("job_error", _LEAVING))
        elif self.session.ending and closing.state == "closed":
            last = [protocol.no_speakers()] if self._speakers_at_end else []
            last.append(protocol.END_OF_TRANSCRIPT)
            await self.finish(lambda: map(text_of, last), Close(1000))
        elif closing.reason == "budget":
            detail = f"budget: {closing.detail or 'used up'}"
            await self._fail(Fatal("timelimit_exceeded", detail))
        elif closing.reason == "idle":
            await self._fail(Fatal("idle_timeout", "no audio for too long"))
        else:
            why = closing.detail or closing.reason or closing.state
            await self._fail(Fatal("job_error", f"the session has ended: {why}"))

    async def unfinished(self) -> None:
        what = "the rest of the transcript is not available in time"
        await self._fail(Fatal("job_error", _LEAVING if self.leaving else what))

    async def undecodable(self, error: UndecodableAudio | DecoderUnavailable) -> None:
        kind = "invalid_audio_type" if isinstance(error, UndecodableAudio) else "job_error"
        await self._fail(Fatal(kind, str(error)))

    async def idle(self) -> None:
        what = f"no audio for {self.idle_seconds / 60:.0f} minutes"
        await self._fail(Fatal("idle_timeout", what))

    async def _fail(self, fatal: Fatal) -> None:
        messages, close = _last_words(self._endpoint, fatal)
        await self.finish(lambda: map(text_of, messages), close)
