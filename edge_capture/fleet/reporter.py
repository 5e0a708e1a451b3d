"""Tells the center about this edge, and carries out its requests.

Every few seconds the state of the edge is written into the bucket `stt_edges`, as one message
without an acknowledgement. Once a minute the message is acknowledged and read back: the time at
which the server stored it shows how far the clock of this machine is off.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, NamedTuple

from nats.errors import Error as NatsError
from nats.js.errors import NoStreamResponseError

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.errors import NotAllowed
from natterjack.fleet.edges import (
    STOPPED,
    EdgePresence,
    EdgeReply,
    EdgeRequest,
    parse_presence,
    parse_request,
    presence_subject,
)
from natterjack.process.run import end_tasks
from natterjack.subjects import edge_subject

from ..delivery.link import Connected, Link
from ..delivery.lull import lull_of
from ..errors import SteeringError
from ..hold.exchange import NOT_A_REPLY, machine_name
from ..settings import FleetSettings
from .clock import offset_seconds
from .last_error import LastError
from .steering import Steered

log = logging.getLogger(__name__)

_LEAST_INTERVAL_S = 1.0
"""Changes of state are written no more often than that."""
_MEASURE_S = 60.0
"""How often the clock is compared with the server's."""
_ROUND_TRIP_S = 3.0
_READS, _REPLICA_S = 4, 0.5
"""How often, and after how long each, the entry is read until it is the one just written: the
nearest replica answers, and learns from the next heartbeat of its leader, 1 s, what is stored."""
_MAX_REQUESTS = 16
"""Requests that may wait for their turn."""


class _Asked(NamedTuple):
    request: EdgeRequest
    reply: str


class Reporter:
    """Reports one edge process for as long as it runs."""

    def __init__(self, steered: Steered, settings: FleetSettings) -> None:
        self._steered = steered
        self._interval = settings.presence_seconds
        self._subject = presence_subject(steered.tenant, steered.agent)
        self._read_subject = f"$JS.API.DIRECT.GET.KV_{streams.EDGES_BUCKET}.{self._subject}"
        self._requests_subject = edge_subject(steered.tenant, steered.agent)
        self._instance = secrets.token_hex(6)
        self._started_at = datetime.now(UTC)
        self._offset: float | None = None
        self._errors = LastError()
        self._may_write = True
        self._may_measure = True
        self._refusal_told = False
        self._written = False
        self._told: set[str] = set()
        """Problems that are in the log already."""
        self._goes_on: asyncio.Task[Any] | None = None
        """Once it is done, another call of `run` goes on."""
        self._asked: asyncio.Queue[_Asked] = asyncio.Queue(_MAX_REQUESTS)

    async def run(self, link: Link, *, goes_on: asyncio.Task[Any] | None = None) -> None:
        """Report and answer, on one connection after another, until cancelled. The last report says
        that the edge has stopped, unless `goes_on` has a result with which another call follows."""
        self._goes_on = goes_on
        if not self._interval:
            return
        with self._errors.listening():
            while True:
                await self._serve(await link.opened())

    async def _serve(self, connected: Connected) -> None:
        """Report and answer until the connection is closed permanently."""
        broker = connected.broker
        broker.on_refusal.add(self._refused)
        broker.on_reconnect.add(self._reconnected)
        try:
            subscription = await broker.client.listen(
                self._requests_subject,
                lambda _subject, reply, _headers, data: self._received(broker, reply, data),
            )
            try:
                async with asyncio.TaskGroup() as tasks:
                    work = [
                        tasks.create_task(self._report(broker), name="presence"),
                        tasks.create_task(self._answer(broker), name="edge requests"),
                    ]
                    await connected.closed.wait()
                    await end_tasks(work)
            finally:
                with contextlib.suppress(NatsError):
                    if not self._to_be_continued:
                        self._post(broker, STOPPED)
                    await subscription.end()
        finally:
            broker.on_refusal.discard(self._refused)
            broker.on_reconnect.discard(self._reconnected)

    @property
    def _to_be_continued(self) -> bool:
        task = self._goes_on
        if task is None or not task.done() or task.cancelled():
            return False
        return task.exception() is None and task.result() is not None

    # ---- presence ----------------------------------------------------------------------------

    def presence(self, state: str | None = None) -> EdgePresence:
        """Return what this edge says about itself now."""
        found = self._steered.presence()
        # Not model_copy, which lets through what cannot be encoded, such as a path in an error.
        return EdgePresence(
            **{
                **dict(found),
                "instance": self._instance,
                "version": version("natterjack"),
                "host": machine_name(),
                "started_at": self._started_at,
                "seen_at": datetime.now(UTC),
                "interval_seconds": self._interval,
                "clock_offset_seconds": self._offset,
                "last_error": found.last_error or self._errors.text,
                **({} if state is None else {"state": state}),
            }
        )

    def _post(self, broker: Broker, state: str | None = None) -> None:
        """Write the presence, if there is a connection. It is not acknowledged: the next one
        replaces it."""
        if not self._may_write or not broker.connected:
            return
        with contextlib.suppress(NatsError):
            broker.client.post(self._subject, self.presence(state).encode())

    async def _report(self, broker: Broker) -> None:
        loop = asyncio.get_running_loop()
        changed, measure_at = self._steered.changed, loop.time()
        while True:
            changed.clear()
            if loop.time() >= measure_at and self._may_write and broker.connected:
                measure_at = loop.time() + _MEASURE_S
                with lull_of(broker.client).awake():
                    await self._measure(broker)
            else:
                self._post(broker)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await changed.wait()
                    await asyncio.sleep(_LEAST_INTERVAL_S)

    async def _measure(self, broker: Broker) -> None:
        """Write the presence, and compare the clock with the time at which the server stored it."""
        self._check_name(await self._stored(broker))
        before = time.time()
        try:
            async with broker.within_connection():
                stored = await broker.acks.publish(
                    self._subject, self.presence().encode(), {}, _ROUND_TRIP_S
                )
                sequence = await stored
        except NoStreamResponseError:
            self._tell(
                f"this edge is not shown to the center: there is no bucket {streams.EDGES_BUCKET}; "
                "`natterjack streams apply` of this release makes it"
            )
            return
        except (NatsError, TimeoutError):
            return
        after = time.time()
        self._written = True
        found = await self._stored(broker)
        for _ in range(_READS - 1):
            if found is None or found.sequence >= sequence:
                break
            await asyncio.sleep(_REPLICA_S)
            found = await self._stored(broker)
        if found is not None and found.sequence == sequence:
            measured = offset_seconds(before, after, found.stored_at)
            self._offset = measured if measured is not None else self._offset

    async def _stored(self, broker: Broker) -> _Stored | None:
        """Return the entry of this edge as the server has it, or None."""
        if not self._may_measure:
            return None
        try:
            async with broker.within_connection():
                message = await broker.client.request(self._read_subject, b"", _ROUND_TRIP_S)
        except (NatsError, TimeoutError):
            return None
        headers = message.headers or {}
        try:
            return _Stored(
                int(headers["Nats-Sequence"]),
                headers["Nats-Time-Stamp"],
                parse_presence(self._subject, message.data),
            )
        except (KeyError, ValueError):
            return None  # there is none yet

    def _check_name(self, found: _Stored | None) -> None:
        """Say if another process writes under the name of this edge."""
        other = found.presence if found is not None else None
        if other is None or not self._written or other.instance == self._instance:
            return
        self._tell(
            f"another process reports as the edge {self._steered.agent} of the tenant "
            f"{self._steered.tenant}, on {other.host or 'another machine'}: only one of them is "
            "shown at a time; give each a name of its own with EDGE_AGENT"
        )

    # ---- requests ----------------------------------------------------------------------------

    def _received(self, broker: Broker, reply: bytes, data: bytes) -> None:
        # The server lets this edge publish to any reply subject that somebody else names.
        if not self._may_reply_to(reply):
            return
        request = parse_request(data)
        if request is None:
            refusal = "the request is not one that this release of natterjack-edge knows"
        else:
            try:
                self._asked.put_nowait(_Asked(request, reply.decode()))
                return
            except asyncio.QueueFull:
                refusal = "this edge has too many requests to carry out; try again later"
        self._reply(broker, reply.decode(), EdgeReply(ok=False, detail=refusal))

    def _may_reply_to(self, subject: bytes) -> bool:
        """Whether a reply is sent to `subject`. The one of a center in another account is below the
        subject of the requests, where nothing is stored and no program acts on a message."""
        if not subject.isascii():
            return False
        own = subject.startswith(f"{self._requests_subject}.".encode())
        return own or bool(subject and not subject.startswith(NOT_A_REPLY))

    async def _answer(self, broker: Broker) -> None:
        while True:
            asked = await self._asked.get()
            self._reply(broker, asked.reply, await self._carry_out(asked.request))

    async def _carry_out(self, request: EdgeRequest) -> EdgeReply:
        detail, ok = "", True
        if request.op != "status":
            log.info(
                "request from the center: %s%s",
                request.op,
                f" {request.source}" if request.source else "",
            )
            try:
                detail = await self._steered.act(request.op, request.source)
            except SteeringError as error:
                ok, detail = False, str(error)
            except Exception as error:  # a task boundary: the edge goes on, and whoever asked knows
                log.exception("a request from the center failed")
                ok, detail = False, f"the request failed: {type(error).__name__}"
        return EdgeReply(ok=ok, detail=detail, presence=self.presence())

    def _reply(self, broker: Broker, subject: str, reply: EdgeReply) -> None:
        with contextlib.suppress(NatsError):
            broker.client.post(subject, reply.encode())

    # ---- permissions -------------------------------------------------------------------------

    def _reconnected(self) -> None:
        self._may_write = self._may_measure = True
        self._steered.changed.set()

    def _refused(self, refusal: NotAllowed) -> bool:
        """Handle a missing permission, which users made by earlier releases lack. Returns whether
        it is one for this."""
        if refusal.subject == self._subject:
            self._may_write = False
        elif refusal.subject == self._read_subject:
            self._may_measure = False
        elif refusal.subject != self._requests_subject:
            return False
        if not self._refusal_told:
            self._refusal_told = True
            log.info(
                "%s, so the center can neither see nor steer this edge, which captures as before: "
                "set EDGE_AGENT to the name that `natterjack users list` shows for its user, or "
                "run `natterjack users config --dir users` and reload NATS",
                refusal,
            )
        return True

    def _tell(self, problem: str) -> None:
        if problem not in self._told:
            self._told.add(problem)
            log.warning("%s", problem)


class _Stored(NamedTuple):
    """The entry of an edge as the server has it."""

    sequence: int
    stored_at: str
    presence: EdgePresence | None
