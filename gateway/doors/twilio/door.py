"""The handler of `/twilio`."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack

from aiohttp import WSMsgType, web

from natterjack.errors import UsageError
from natterjack.subjects import SessionKey
from natterjack.telemetry.log import fields

from ...access import Grant, Refused
from ...errors import Draining
from ...gateway import Gateway
from ...session import ClientSession, Opening
from ..client import Close, turn_away
from .call import Call
from .protocol import (
    ENCODING,
    SAMPLE_RATE,
    BadMessage,
    Connected,
    Start,
    decode,
    is_signed,
    signed_urls,
)

log = logging.getLogger(__name__)

_DOOR = "twilio"
_START_SECONDS = 10.0
_MAX_MESSAGE_BYTES = 1024 * 1024
"""2: a message has 20 ms of audio, and Twilio promises no limit."""
_SPEAKERS = {"inbound": "caller", "outbound": "agent"}
"""The speaker of each track, unless a parameter of the TwiML with the track's name says another."""


def add_routes(app: web.Application, gateway: Gateway) -> None:
    """Add the door. The key is a parameter of the TwiML, or the last part of the path."""

    async def call(request: web.Request) -> web.StreamResponse:
        secret = request.match_info.get("secret")
        try:
            _check_signature(gateway, request)
            grant = None
            if secret or gateway.access.keyring.open:
                grant = gateway.access.admit_secret(request, _DOOR, secret)
        except Refused as refused:
            gateway.metrics.refused.labels(_DOOR, refused.reason.value).inc()
            return web.Response(status=refused.status, text=f"{refused}\n")
        except BadMessage as error:
            gateway.metrics.refused.labels(_DOOR, "wrong").inc()
            log.warning("call refused: %s", error)
            return web.Response(status=403, text="X-Twilio-Signature is not valid\n")
        except UsageError as error:
            log.error("calls cannot be checked: %s", error)
            return web.Response(status=503, text="calls cannot be checked\n")
        socket = web.WebSocketResponse(
            autoping=False, compress=False, max_msg_size=_MAX_MESSAGE_BYTES
        )
        await socket.prepare(request)
        with gateway.connection(_DOOR):
            close = await _answer(gateway, request, socket, grant)
            if close is not None:
                await turn_away(gateway, request, socket, close)
        return socket

    app.router.add_get("/twilio", call)
    app.router.add_get("/twilio/{secret}", call)


def _check_signature(gateway: Gateway, request: web.Request) -> None:
    """Raise BadMessage if calls are signed, and this one is not."""
    auth_token = gateway.settings.twilio_secret()
    if auth_token is None:
        return
    urls = signed_urls(request.host, request.path, gateway.settings.twilio_url)
    if not is_signed(auth_token, request.headers.get("X-Twilio-Signature", ""), urls):
        raise BadMessage(
            "X-Twilio-Signature is not that of this URL: GATEWAY_TWILIO_URL must be the URL in the "
            "TwiML, and GATEWAY_TWILIO_AUTH_TOKEN that of the account"
        )


async def _answer(
    gateway: Gateway, request: web.Request, socket: web.WebSocketResponse, grant: Grant | None
) -> Close | None:
    """Serve a call, and return how to close its connection; None if it is lost."""
    reason = "request"
    try:
        return await _serve(gateway, request, socket, grant)
    except Refused as refused:
        reason, error = refused.reason.value, str(refused)
    except (BadMessage, UsageError) as problem:
        error = str(problem)
    except Draining as problem:
        reason, error = "draining", str(problem)
    gateway.metrics.refused.labels(_DOOR, reason).inc()
    log.warning("call refused: %s", error, extra=fields(reason=reason))
    return Close(1008, error)


async def _serve(
    gateway: Gateway, request: web.Request, socket: web.WebSocketResponse, grant: Grant | None
) -> Close | None:
    """Raises Refused, BadMessage, UsageError, Draining."""
    with gateway.access.waiting(request):
        started = await _started(socket)
    if started is None:
        return None
    start, sequence = started
    if grant is None:
        grant = gateway.access.admit_secret(request, _DOOR, start.parameters.get("token"))
    if gateway.sessions is None:
        raise Draining
    conversation = grant.conversation_for(start.parameters.get("conversation"), start.call_sid)
    speaker = start.parameters.get("voice")
    voice = SessionKey.checked(grant.tenant, conversation, speaker) if speaker else None
    async with AsyncExitStack() as stack:
        stack.enter_context(gateway.access.connection(grant))
        sessions: dict[str, ClientSession] = {}
        for track in start.tracks:
            if track not in _SPEAKERS or track in sessions:
                log.warning("track %s is ignored", track)
                continue
            session = await gateway.sessions.open(grant, _opening(start, track, conversation))
            stack.push_async_callback(gateway.sessions.close, session)
            sessions[track] = session
        gateway.metrics.accepted.labels(_DOOR).inc()
        return await Call(gateway, socket, start, sessions, sequence).run(voice)


def _opening(start: Start, track: str, conversation: str) -> Opening:
    return Opening(
        conversation=conversation,
        speaker=start.parameters.get(track) or _SPEAKERS[track],
        encoding="mulaw",
        sample_rate=SAMPLE_RATE,
        language=start.parameters.get("language") or None,
        labels={
            "door": _DOOR, "call_sid": start.call_sid, "stream_sid": start.stream_sid,
            "account_sid": start.account_sid, "track": track,
        },
        interim_results=False,
    )  # fmt: skip


async def _started(socket: web.WebSocketResponse) -> tuple[Start, int | None] | None:
    """The message `start` and its number; None if the connection is lost. Raises BadMessage."""
    try:
        async with asyncio.timeout(_START_SECONDS):
            while True:
                received = await socket.receive()
                if received.type is WSMsgType.PING:
                    await socket.pong(received.data)
                    continue
                if received.type is WSMsgType.BINARY:
                    raise BadMessage("a binary message; Twilio sends texts only")
                if received.type is not WSMsgType.TEXT:
                    return None
                message, sequence = decode(received.data)
                if isinstance(message, Start):
                    _check_format(message)
                    return message, sequence
                if not isinstance(message, Connected):
                    raise BadMessage("the first messages must be connected and start")
    except TimeoutError:
        raise BadMessage(f"no start within {_START_SECONDS:g} s") from None
    except ConnectionError:
        return None


def _check_format(start: Start) -> None:
    given = (start.encoding, start.sample_rate, start.channels)
    if given != (ENCODING, SAMPLE_RATE, 1):
        raise BadMessage(f"the audio must be {ENCODING} at {SAMPLE_RATE} Hz, not {given}")
