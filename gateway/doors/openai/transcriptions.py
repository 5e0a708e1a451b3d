"""`POST /v1/audio/transcriptions`: a file is an ordinary session, fed as fast as it is taken."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import time
from collections.abc import AsyncIterator
from typing import Any, BinaryIO

from aiohttp import web

from natterjack.errors import UsageError
from natterjack.events import FinalEvent
from natterjack.process.run import end_tasks

from ...access import Grant, Refused
from ...audio.convert import Output
from ...audio.errors import DecoderUnavailable, UndecodableAudio
from ...errors import Draining, SessionEnded
from ...gateway import Gateway
from ...session import ClientSession, Opening
from ..backend import options_for, plain_language
from ..refusals import label
from . import form as forms
from . import formats
from .errors import QUOTA, SERVER, ApiError
from .form import Form
from .realtime import DOOR

_LABEL = "openai-files"
_RATE = 16_000
_BYTES_PER_SECOND = 2.0 * _RATE
_LOOK_S = 1.0
"""How often it is noticed that the client is gone."""
_ALIVE_S = 15.0
"""Pause after which a stream has a comment, so that proxies keep it open."""


async def transcribe(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """Transcribe a file."""
    try:
        grant = gateway.access.admit(request, DOOR)
        if gateway.sessions is None or gateway.draining.is_set():
            raise ApiError.leaving()
        with (
            gateway.access.connection(grant),
            gateway.connection(_LABEL),
            tempfile.TemporaryFile(prefix="natterjack-gateway-") as file,
        ):
            gateway.metrics.accepted.labels(_LABEL).inc()
            return await _transcribe(gateway, request, grant, file)
    except Refused as error:
        gateway.metrics.refused.labels(_LABEL, label(error.reason)).inc()
        return ApiError.refused(error).response()
    except ApiError as error:
        return error.response()


async def _transcribe(
    gateway: Gateway, request: web.Request, grant: Grant, file: BinaryIO
) -> web.StreamResponse:
    """Raises: ApiError, Refused, before the answer has begun."""
    form = await forms.read(request, file)
    response_format = form.response_format
    granularities = form.many("timestamp_granularities")
    audio = gateway.decoders.file(file, Output(_RATE))
    async with contextlib.aclosing(audio):  # type: ignore[type-var]
        try:
            first = await anext(audio, b"")
        except UndecodableAudio as error:
            raise ApiError(str(error), param="file", code="invalid_file_format") from None
        except DecoderUnavailable as error:
            raise ApiError(str(error), status=503, kind=SERVER) from None
        if not first:
            raise ApiError("the file has no audio", param="file", code="invalid_file_format")
        session = await _open(gateway, grant, form)
        work = _Work(gateway, request, session)
        feeding = asyncio.create_task(work.feed(first, audio), name=f"feed {session.key}")
        try:
            if form.stream:
                return await _stream(request, work, response_format)
            finals = [final async for final in work.finals() if final is not None]
            return _answer(finals, work.seconds, response_format, granularities)
        finally:
            await end_tasks([feeding])
            if not session.over:
                await session.abandon()
            await work.sessions.close(session)


async def _open(gateway: Gateway, grant: Grant, form: Form) -> ClientSession:
    if gateway.sessions is None:
        raise ApiError.leaving()
    providers = grant.provider or gateway.settings.providers
    wishes: dict[str, dict[str, Any]] = {}
    if form.response_format == "diarized_json":
        wishes = {"deepgram": {"diarize": True}, "speechmatics": {"diarization": "speaker"}}
    opening = Opening(
        language=plain_language(form.language),
        keyterms=tuple(form.many("keywords")),
        options=options_for(providers, grant.options, wishes),
        interim_results=False,
    )
    try:
        return await gateway.sessions.open(grant, opening)
    except UsageError as error:
        raise ApiError(str(error), code="invalid_value") from None
    except Draining:
        raise ApiError.leaving() from None


class _Work:
    """The transcription of one file."""

    def __init__(self, gateway: Gateway, request: web.Request, session: ClientSession) -> None:
        assert gateway.sessions is not None
        self.sessions = gateway.sessions
        self.seconds = 0.0
        """Audio of the file that was decoded."""
        self._gateway = gateway
        self._request = request
        self._session = session
        self._deadline = float("inf")
        self._problem: ApiError | None = None

    async def feed(self, first: bytes, audio: AsyncIterator[bytes]) -> None:
        """Send the audio."""
        session = self._session
        try:
            with contextlib.suppress(SessionEnded):  # `finals` says why
                await self._send(first)
                async for pcm in audio:
                    await self._send(pcm)
        except UndecodableAudio as error:  # a part of it is transcribed
            self._problem = ApiError(str(error), param="file", code="invalid_file_format")
        except DecoderUnavailable as error:
            self._problem = ApiError(str(error), status=503, kind=SERVER)
        await session.end()
        limit = self._gateway.settings.finish_seconds
        self._deadline = time.monotonic() + limit + self.seconds

    async def _send(self, pcm: bytes) -> None:
        self.seconds += len(pcm) / _BYTES_PER_SECOND
        await self._session.send(pcm)

    async def finals(self) -> AsyncIterator[FinalEvent | None]:
        """Yield finals, and None about once a second without one. Raises: ApiError."""
        session = self._session
        while not session.over:
            event = await session.next(_LOOK_S)
            if self._problem is not None:
                raise self._problem
            if self._request.transport is None or self._request.transport.is_closing():
                raise ApiError("the client is gone", status=499)
            if time.monotonic() > min(self._deadline, self._gateway.drain_until):
                if self._gateway.draining.is_set():
                    raise ApiError.leaving()
                raise ApiError("transcribing takes too long", status=504, kind=SERVER)
            if event is None or isinstance(event, FinalEvent):
                yield event
        closing = session.closing
        if closing is None or (closing.state == "closed" and session.ending):
            return
        if closing.reason == "budget":
            what = f"the budget is used up: {closing.detail or closing.reason}"
            raise ApiError(what, status=429, kind=QUOTA, code="insufficient_quota")
        why = closing.detail or closing.reason or closing.state
        raise ApiError(f"the file cannot be transcribed: {why}", status=502, kind=SERVER)


def _answer(
    finals: list[FinalEvent], seconds: float, form: str, granularities: list[str]
) -> web.Response:
    match form:
        case "text":
            return web.Response(text=f"{formats.text(finals)}\n")
        case "srt":
            return web.Response(
                text=formats.subtitles(finals, form), content_type="application/x-subrip"
            )
        case "vtt":
            return web.Response(text=formats.subtitles(finals, form), content_type="text/vtt")
        case "verbose_json":
            return web.json_response(formats.verbose(finals, seconds, granularities))
        case "diarized_json":
            return web.json_response(formats.diarized(finals, seconds))
    return web.json_response(formats.plain(finals, seconds))


async def _stream(request: web.Request, work: _Work, form: str) -> web.StreamResponse:
    """Send finals as they come, as server-sent events."""
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
    )
    await response.prepare(request)

    async def send(message: object) -> None:
        await response.write(f"data: {json.dumps(message, ensure_ascii=False)}\n\n".encode())

    finals: list[FinalEvent] = []
    speakers = formats.Speakers()
    sent, alive_at = "", time.monotonic()
    try:
        async for final in work.finals():
            if final is None:
                if time.monotonic() - alive_at > _ALIVE_S:
                    await response.write(b": transcribing\n\n")
                    alive_at = time.monotonic()
                continue
            finals.append(final)
            if form == "diarized_json":
                for segment in speakers.segments(final):
                    await send(segment)
            whole = formats.text(finals)
            if whole != sent:
                await send({"type": "transcript.text.delta", "delta": whole[len(sent) :]})
                sent = whole
        usage = formats.usage(work.seconds)
        await send({"type": "transcript.text.done", "text": sent, "usage": usage})
    except ApiError as error:
        with contextlib.suppress(ConnectionError):
            await send({"error": error.body})
    except ConnectionError:
        return response
    with contextlib.suppress(ConnectionError):
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
    return response
