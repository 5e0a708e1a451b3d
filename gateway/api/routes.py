"""The routes of the outgoing side.

GET  /api/me                                       what the client may do
GET  /api/conversations                            the conversations of its tenant
GET  /api/conversations/<c>/transcript.<format>    json, txt, srt, vtt or md
GET  /api/conversations/<c>/events                 server-sent events
GET  /api/fleet                                    workers, and the last hour
GET  /api/edges                                    the edges of its tenant
POST /api/tokens                                   a token for a browser
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any

from aiohttp import hdrs, web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import natterjack
from gateway.access import Grant, Reason, Refused
from gateway.gateway import Gateway
from natterjack.broker.connection import Broker
from natterjack.errors import BrokerUnreachable, UsageError, first_problem
from natterjack.fleet.sessions import Fleet
from natterjack.process.run import abort, end_tasks
from natterjack.subjects import TRANSCRIPT_KINDS
from natterjack.transcripts.files import FORMATS, encode, file_name

from .answers import DOOR, NotFound, admit, answer, answering, conversation_of
from .directory import Directory
from .edges import EdgeDirectory, check_whole_tenant
from .feed import FellBehind
from .feeds import Feeds
from .sse import kinds_of, note, retry, start_of

log = logging.getLogger(__name__)

_TYPES = {
    "json": "application/json", "txt": "text/plain", "srt": "application/x-subrip",
    "vtt": "text/vtt", "md": "text/markdown",
}  # fmt: skip
_MAX_TRANSCRIPTS = 4
"""Transcripts that are made at the same time: each reads all events of its conversation."""
_TRANSCRIPT_S = 30.0
_RETRY_MS = 1000
_MAX_LIMIT, _LIMIT = 1000, 100
_MAX_BODY = 16 * 1024
_BODY_S = 10.0
_TOKEN_SECONDS = 3600


class TokenRequest(BaseModel):
    """The body of POST /api/tokens."""

    model_config = ConfigDict(extra="forbid")

    conversation: str | None = None
    """The only conversation that the token is for; by default, those of the key."""
    kinds: Annotated[list[str] | None, Field(max_length=16)] = None
    """The kinds of event that it reads; by default, those of the key."""
    doors: Annotated[list[str], Field(min_length=1, max_length=16)] = [DOOR]
    """The doors that it opens; by default, it only reads."""
    seconds: Annotated[float | None, Field(ge=1)] = None
    """How long it is valid; by default, for an hour, or for as long as the gateway allows."""


class Api:
    """The handlers of the outgoing side."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._access = gateway.access
        self._parts: tuple[Broker, Feeds, Directory] | None = None
        self._edges: EdgeDirectory | None = None
        self._transcripts = asyncio.Semaphore(_MAX_TRANSCRIPTS)

    @property
    def _connected(self) -> tuple[Broker, Feeds, Directory]:
        """The broker and the parts that read it. Raises: BrokerUnreachable if none was reached
        yet."""
        broker = self._gateway.broker
        if broker is None:
            raise BrokerUnreachable("no NATS yet")
        if self._parts is None:
            most = self._gateway.settings.max_viewers
            self._parts = broker, Feeds(broker, most), Directory(broker)
        return self._parts

    async def running(self, app: web.Application) -> AsyncIterator[None]:
        """End what was started with the application, and viewers with a drain."""
        draining = asyncio.create_task(self._drain(), name="drain viewers")
        yield
        await end_tasks([draining])
        await self._close()

    async def _drain(self) -> None:
        await self._gateway.draining.wait()
        await self._close()

    async def _close(self) -> None:
        if self._parts is not None:
            _, feeds, directory = self._parts
            await feeds.close()
            await directory.close()

    def add_routes(self, app: web.Application) -> None:
        names = "|".join(FORMATS)
        root = "/api/conversations"
        app.add_routes(
            [
                web.get("/api/me", self.me),
                web.get(root, self.conversations),
                web.get(root + "/{conversation}/transcript.{format:" + names + "}",
                        self.transcript),
                web.get(root + "/{conversation}/events", self.events),
                web.get("/api/fleet", self.fleet),
                web.get("/api/edges", self.edges),
                web.post("/api/tokens", self.tokens),
            ]
        )  # fmt: skip

    # ---- what the client may do ------------------------------------------------------------------

    @answering
    async def me(self, request: web.Request) -> web.Response:
        grant = admit(self._gateway, request)
        return answer(
            {
                "tenant": grant.tenant,
                "doors": sorted(grant.doors),
                "kinds": sorted(grant.kinds),
                "conversation": grant.conversation,
                "expires_at": grant.expires_at,
                "keys": not self._access.keyring.open,
            }
        )

    @answering
    async def tokens(self, request: web.Request) -> web.Response:
        grant = admit(self._gateway, request)
        if self._access.keyring.open:
            raise UsageError("this gateway has no keys, so nobody needs a token")
        if (request.content_length or 0) > _MAX_BODY:
            raise UsageError(f"the body has more than {_MAX_BODY} bytes")
        try:
            async with asyncio.timeout(_BODY_S):
                body = await request.read()
            wanted = TokenRequest.model_validate_json(body or b"{}")
        except TimeoutError:
            raise UsageError(f"the body takes longer than {_BODY_S:.0f} s") from None
        except ValidationError as error:
            raise UsageError(first_problem(error)) from None
        most = self._access.settings.token_max_seconds
        token, end = self._access.keyring.tokens.make(
            grant,
            datetime.now(UTC),
            seconds=wanted.seconds or min(_TOKEN_SECONDS, most),
            doors=wanted.doors,
            kinds=grant.kinds if wanted.kinds is None else wanted.kinds,
            conversation=wanted.conversation,
        )
        return answer({"token": token, "expires_at": end}, 201)

    # ---- conversations ---------------------------------------------------------------------------

    @answering
    async def conversations(self, request: web.Request) -> web.Response:
        grant = admit(self._gateway, request)
        limit = _whole(request, "limit", _LIMIT, _MAX_LIMIT)
        _, _, directory = self._connected
        found, notes = await directory.conversations(grant.tenant, _MAX_LIMIT)
        mine = [each for each in found if grant.may_use(each.conversation)][:limit]
        if not _reads(grant, "final"):
            mine = [each.model_copy(deep=True) for each in mine]
            for each in mine:
                each.last_words = None
                for session in each.sessions:
                    session.last_words = None
        return answer({"tenant": grant.tenant, "conversations": mine, "notes": notes})

    @answering
    async def transcript(self, request: web.Request) -> web.Response:
        grant = admit(self._gateway, request)
        conversation = conversation_of(request, grant)
        if not _reads(grant, "final"):
            raise Refused(Reason.CONVERSATION, f"key {grant.key_id} reads no final")
        broker, _, _ = self._connected
        async with asyncio.timeout(_TRANSCRIPT_S), self._transcripts:
            found = await natterjack.transcript(grant.tenant, conversation, broker=broker)
        if not found.sessions:
            raise NotFound(f"there is no conversation {conversation}")
        form = request.match_info["format"]
        text = await asyncio.to_thread(encode, found, form)
        name = f"{file_name(conversation)}.{form}"
        return web.Response(
            text=text, content_type=_TYPES[form], charset="utf-8",
            headers={
                hdrs.CONTENT_DISPOSITION: f'attachment; filename="{name}"',
                hdrs.CACHE_CONTROL: "no-store",
            },
        )  # fmt: skip

    @answering
    async def events(self, request: web.Request) -> web.StreamResponse:
        grant = admit(self._gateway, request)
        conversation = conversation_of(request, grant)
        start = start_of(request.headers, request.query, datetime.now(UTC))
        kinds = kinds_of(request.query, grant.kinds & set(TRANSCRIPT_KINDS))
        _, feeds, _ = self._connected
        with (
            self._gateway.connection(DOOR),
            feeds.viewing(grant.tenant, conversation, start) as feed,
        ):
            response = web.StreamResponse(
                headers={
                    hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8",
                    hdrs.CACHE_CONTROL: "no-store",
                    "X-Accel-Buffering": "no",  # nginx would keep events back
                }
            )
            await response.prepare(request)
            with contextlib.suppress(ConnectionError, FellBehind):
                try:
                    async with asyncio.timeout(_left(grant)):
                        await self._write(request, response, retry(_RETRY_MS))
                        async with contextlib.aclosing(feed.view(start, kinds)) as view:
                            async for batch in view:
                                await self._write(request, response, batch)
                except TimeoutError:
                    await self._write(request, response, note("expired"))
            return response

    async def _write(self, request: web.Request, response: web.StreamResponse, data: bytes) -> None:
        """Raises: ConnectionError, after the connection was cut if the viewer takes nothing."""
        try:
            async with asyncio.timeout(self._gateway.settings.slow_client_seconds):
                await response.write(data)
        except TimeoutError:
            self._gateway.metrics.slow.labels(DOOR).inc()
            log.info("a viewer takes nothing and was disconnected")
            if request.transport is not None:
                abort(request.transport)
            raise ConnectionResetError("the viewer is too slow") from None

    # ---- the fleet -------------------------------------------------------------------------------

    @answering
    async def fleet(self, request: web.Request) -> web.Response:
        grant = admit(self._gateway, request)
        _, feeds, directory = self._connected
        found = await directory.overview(grant.tenant)
        return answer(
            {
                "workers": _workers(found.fleet, everything=self._access.keyring.open),
                "minutes": found.minutes,
                "sessions_since": found.sessions_since,
                "latency_since": found.latency_since,
                "notes": found.fleet.notes,
                "viewers": feeds.viewers,
            }
        )

    @answering
    async def edges(self, request: web.Request) -> web.Response:
        grant = admit(self._gateway, request)
        check_whole_tenant(grant)
        broker, _, _ = self._connected
        self._edges = self._edges or EdgeDirectory(broker)
        found = await self._edges.of(grant.tenant)
        return answer({"tenant": grant.tenant, "edges": found.edges, "notes": found.notes})


def add_routes(app: web.Application, gateway: Gateway) -> None:
    """Add the routes of the outgoing side."""
    api = Api(gateway)
    api.add_routes(app)
    app.cleanup_ctx.append(api.running)


def _workers(fleet: Fleet, *, everything: bool) -> list[dict[str, Any]]:
    """The workers. A client with a key learns only of those that hold sessions of its tenant, and
    not how much others use them."""
    mine: dict[str, int] = {}
    for row in fleet.rows:
        if row.instance is not None:
            mine[row.instance] = mine.get(row.instance, 0) + 1
    shown = []
    for worker in sorted(fleet.workers):
        if everything:
            shown.append({**worker._asdict(), "sessions": mine.get(worker.instance, 0)})
        elif worker.instance in mine:
            shown.append(
                {
                    "name": worker.name, "instance": worker.instance,
                    "draining": worker.draining, "gone": worker.gone,
                    "sessions": mine[worker.instance],
                }
            )  # fmt: skip
    return shown


def _left(grant: Grant) -> float | None:
    """Seconds until a grant ends."""
    if grant.expires_at is None:
        return None
    return max(0.0, (grant.expires_at - datetime.now(UTC)).total_seconds())


def _reads(grant: Grant, kind: str) -> bool:
    return kind in grant.kinds


def _whole(request: web.Request, name: str, default: int, most: int) -> int:
    """A whole number in the query. Raises: UsageError."""
    text = request.query.get(name, str(default))
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= most:
        raise UsageError(f"{name}: give a whole number from 1 to {most}")
    return int(text)
