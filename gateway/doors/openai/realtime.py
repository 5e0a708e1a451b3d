"""`/v1/realtime`: realtime transcription sessions."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable

from aiohttp import WSMsgType, hdrs, web

from natterjack.errors import UsageError
from natterjack.events import Event, StatusEvent

from ...access import Grant, Refused, credentials_of
from ...audio.errors import DecoderUnavailable, UndecodableAudio
from ...errors import Draining, SessionEnded
from ...gateway import Gateway
from ...session import Opening
from ..backend import options_for, plain_language
from ..client import HEARTBEAT_S, ClientStream, Close, text_of, turn_away
from ..refusals import label
from . import protocol
from .errors import LEAVING, QUOTA, SERVER, ApiError
from .items import Items
from .protocol import Client, Config, Message

DOOR = "openai"
_LABEL = "openai-realtime"
_IDLE_S = 3600.0
"""The longest session of OpenAI."""
_LARGE = 1 << 20
"""From this size on, a message is decoded in a thread."""
_UPDATES = ("session.update", "transcription_session.update")
_POLICY = 1008


async def connect(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """Serve a client. One that sends its key in a header is refused with an HTTP status; a browser
    would not show that, so it is refused in band."""
    grant: Grant | None = None
    problem: ApiError | None = None
    try:
        grant = gateway.access.admit(request, DOOR)
    except Refused as error:
        gateway.metrics.refused.labels(_LABEL, label(error.reason)).inc()
        problem = ApiError.refused(error)
    subprotocol = credentials_of(request, DOOR).subprotocol
    if problem is not None and (hdrs.AUTHORIZATION in request.headers or not subprotocol):
        return problem.response()
    if gateway.sessions is None or gateway.draining.is_set():
        gateway.metrics.refused.labels(_LABEL, "draining").inc()
        return ApiError.leaving().response()
    socket = web.WebSocketResponse(
        autoping=False,
        heartbeat=HEARTBEAT_S,
        compress=False,
        max_msg_size=protocol.MAX_MESSAGE_BYTES,
        protocols=(subprotocol,) if subprotocol else (),
    )
    close: Close | None = None
    try:
        if problem is not None or grant is None:
            await socket.prepare(request)
            raise problem or ApiError("no key")
        with gateway.access.connection(grant), gateway.connection(_LABEL):
            await socket.prepare(request)
            gateway.metrics.accepted.labels(_LABEL).inc()
            close = await _serve(gateway, socket, request, grant)
    except Refused as error:
        gateway.metrics.refused.labels(_LABEL, label(error.reason)).inc()
        if not socket.prepared:
            return ApiError.refused(error).response()
        close = await _say(gateway, socket, ApiError.refused(error))
    except ApiError as error:
        close = await _say(gateway, socket, error)
    if close is not None:
        await turn_away(gateway, request, socket, close)
    return socket


async def _say(gateway: Gateway, socket: web.WebSocketResponse, problem: ApiError) -> Close | None:
    try:
        async with asyncio.timeout(gateway.settings.slow_client_seconds):
            await socket.send_str(text_of(protocol.error(problem)))
    except (ConnectionError, RuntimeError, TimeoutError):
        return None
    return Close(_POLICY, problem.code or problem.kind)


async def _serve(
    gateway: Gateway, socket: web.WebSocketResponse, request: web.Request, grant: Grant
) -> Close | None:
    """Configure a session until audio comes, and transcribe it. Raises: ApiError, Refused."""
    beta = "realtime=v1" in request.headers.get("OpenAI-Beta", "").replace(" ", "")
    waiting = _Waiting(gateway, socket, Config(beta=beta))
    leaving = asyncio.ensure_future(gateway.draining.wait())
    reading = asyncio.ensure_future(waiting.first())
    try:
        await asyncio.wait({leaving, reading}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            return Close(1001, LEAVING)
        first = reading.result()
    finally:
        reading.cancel()
        leaving.cancel()
    if first is None or gateway.sessions is None:
        return None
    try:
        session = await gateway.sessions.open(grant, _opening(gateway, grant, waiting.config))
    except UsageError as error:
        raise ApiError(str(error), code="invalid_value") from None
    except Draining:
        return Close(1001, LEAVING)
    try:
        client = RealtimeClient(gateway, _LABEL, socket, request, session)
        client.speak(waiting.config, waiting.session_id)
        await client.take(first)
        return await client.run()
    finally:
        await gateway.sessions.close(session)


def _opening(gateway: Gateway, grant: Grant, config: Config) -> Opening:
    providers = grant.provider or gateway.settings.providers
    wishes = {}
    if config.silence_ms is not None:
        wishes["deepgram"] = {"endpointing": config.silence_ms}
    return Opening(
        encoding=config.format.encoding,
        sample_rate=config.format.sample_rate,
        language=plain_language(config.language),
        keyterms=config.keywords,
        options=options_for(providers, grant.options, wishes),
    )


async def _decode(text: str) -> Client:
    if len(text) < _LARGE:
        return protocol.decode(text)
    return await asyncio.to_thread(protocol.decode, text)


async def _audio(client: Client) -> bytes:
    if len(str(client.content.get("audio"))) < _LARGE:
        return protocol.audio(client.content)
    return await asyncio.to_thread(protocol.audio, client.content)


class _Waiting:
    """A client before its first audio. The session is opened with what it has configured."""

    def __init__(self, gateway: Gateway, socket: web.WebSocketResponse, config: Config) -> None:
        self.config = config
        self.session_id = protocol.identifier("sess")
        self._limit = gateway.settings.slow_client_seconds
        self._socket = socket

    async def first(self) -> Client | None:
        """Wait for the first message with audio; None if the client is gone, or too late."""
        try:
            await self._tell(
                protocol.session(self.config, self.session_id, time.time(), created=True)
            )
            async with asyncio.timeout(_IDLE_S):
                while True:
                    message = await self._socket.receive()
                    match message.type:
                        case WSMsgType.TEXT:
                            if (client := await self._take(message.data)) is not None:
                                return client
                        case WSMsgType.BINARY:
                            await self._tell(protocol.error(_no_binary()))
                        case WSMsgType.PING:
                            await self._socket.pong(message.data)
                        case WSMsgType.PONG:
                            pass
                        case _:
                            return None
        except (ConnectionError, RuntimeError, TimeoutError):
            return None

    async def _take(self, text: str) -> Client | None:
        client: Client | None = None
        try:
            client = await _decode(text)
            if client.kind in _UPDATES:
                self.config = protocol.changed(self.config, client)
                await self._tell(
                    protocol.session(self.config, self.session_id, time.time(), created=False)
                )
            elif client.kind == "input_audio_buffer.append":
                if await _audio(client):
                    return client
            elif client.kind == "input_audio_buffer.clear":
                await self._tell(protocol.event("input_audio_buffer.cleared"))
            elif client.kind == "input_audio_buffer.commit":
                raise _empty()
            else:
                raise _unknown(client)
        except ApiError as problem:
            await self._tell(protocol.error(problem, client.event_id if client else None))
        return None

    async def _tell(self, message: Message) -> None:
        async with asyncio.timeout(self._limit):
            await self._socket.send_str(text_of(message))


class RealtimeClient(ClientStream):
    """A client that sends audio."""

    idle_seconds = _IDLE_S

    def speak(self, config: Config, session_id: str) -> None:
        """Take over what the client has configured."""
        self._config = config
        self._session_id = session_id
        self._items = Items(beta=config.beta)
        self._items.detects = config.turn_detection is not None

    @property
    def _at(self) -> float:
        return self.session.received_seconds

    async def text(self, message: str) -> None:
        client: Client | None = None
        try:
            client = await _decode(message)
            await self.take(client)
        except ApiError as error:
            problem, event_id = error, client.event_id if client else None
            await self._say(lambda: [protocol.error(problem, event_id)])

    async def take(self, client: Client) -> None:
        """Do what a message asks for. Raises: ApiError."""
        match client.kind:
            case "input_audio_buffer.append":
                audio = await _audio(client)
                with contextlib.suppress(SessionEnded):  # `over` says why
                    await self.session.send(audio)
            case "input_audio_buffer.commit":
                if not self._items.uncommitted(self._at):
                    raise _empty()
                await self._say(lambda: self._items.commit(self._at))
                self.force()
            case "input_audio_buffer.clear":
                await self._say(lambda: self._items.clear(self._at))
            case kind if kind in _UPDATES:
                await self._update(client)
            case _:
                raise _unknown(client)

    async def _update(self, client: Client) -> None:
        config = protocol.changed(self._config, client)
        if config.format != self._config.format:
            raise ApiError(
                "the format of the audio cannot change after audio was sent",
                code="invalid_value", param="session.audio.input.format",
            )  # fmt: skip
        self._config = config
        self._items.detects = config.turn_detection is not None
        now = time.time()
        await self._say(lambda: [protocol.session(config, self._session_id, now, created=False)])

    async def audio(self, data: bytes) -> None:
        await self._say(lambda: [protocol.error(_no_binary())])

    def messages(self, event: Event) -> list[str]:
        return list(map(text_of, self._items.receive(event, self._at)))

    def forced(self, complete: bool) -> list[str]:
        return list(map(text_of, self._items.finalized(complete)))

    def paused(self) -> bool:
        return self._items.quiet

    async def over(self, closing: StatusEvent) -> None:
        if self.leaving:
            await self.finish(list, Close(1001, LEAVING))
        elif closing.reason == "budget":
            what = f"the budget is used up: {closing.detail or closing.reason}"
            await self._fail(ApiError(what, kind=QUOTA, code="insufficient_quota"))
        else:
            why = closing.detail or closing.reason or closing.state
            await self._fail(ApiError(f"the session has ended: {why}", kind=SERVER), 1011)

    async def unfinished(self) -> None:
        if self.leaving:
            await self.finish(list, Close(1001, LEAVING))
        else:
            await self._fail(ApiError("the transcript takes too long", kind=SERVER), 1011)

    async def undecodable(self, error: UndecodableAudio | DecoderUnavailable) -> None:
        await self._fail(ApiError(str(error), code="invalid_value"))

    async def idle(self) -> None:
        what = "the session has had nothing for an hour"
        await self._fail(ApiError(what, code="session_expired"))

    async def _fail(self, problem: ApiError, code: int = _POLICY) -> None:
        def last() -> Iterable[str]:
            messages = [*self._items.failed(str(problem)), protocol.error(problem)]
            return map(text_of, messages)

        await self.finish(last, Close(code, problem.code or problem.kind))

    async def _say(self, make: Callable[[], Iterable[Message]]) -> None:
        await self.tell(lambda: map(text_of, make()))


def _empty() -> ApiError:
    return ApiError(
        "there is no audio to commit: none was sent since the last commit",
        code="input_audio_buffer_commit_empty",
    )


def _no_binary() -> ApiError:
    return ApiError(
        "audio comes in base64, in input_audio_buffer.append; binary messages are not read",
        code="invalid_event",
    )


def _unknown(client: Client) -> ApiError:
    return ApiError(
        f"{client.kind[:100]!r} is no message of a transcription session",
        code="invalid_value", param="type",
    )  # fmt: skip
