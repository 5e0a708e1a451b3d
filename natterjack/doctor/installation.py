"""Checks of the broker, of what runs on it, and of the gateway on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from natterjack.broker import changes
from natterjack.broker.connection import Broker, without_credentials
from natterjack.broker.refusals import translated
from natterjack.broker.stored import StoreUnavailable, StreamStore
from natterjack.broker.streams import WORKERS_BUCKET
from natterjack.errors import BrokerError, BrokerUnreachable
from natterjack.fleet.roster import read_pages
from natterjack.settings import BrokerSettings, StreamSettings, load

from . import rights
from .finding import Finding, failed, ok, one_line, skipped, warning

_REPLY_S = 3.0
_SILENT_S = 5.0
"""Age of a worker's record from which on the worker is gone."""
_CLOCK_S = 1.0
_MIB = 1024**2


class Installation:
    """The checks that use one connection to the broker."""

    def __init__(self, broker: Broker, settings: BrokerSettings) -> None:
        self._broker = broker
        self._settings = settings

    async def server(self) -> Finding:
        """The connection itself."""
        client = self._broker.client
        url = client.connected_url
        begin = time.monotonic()
        await client.flush()
        trip_ms = (time.monotonic() - begin) * 1000
        version = client.connected_server_version
        number = f"{version.major}.{version.minor}.{version.patch}"
        where = without_credentials(url.netloc if url is not None else self._settings.url)
        return ok("broker", f"nats-server {number} at {where}, round trip {trip_ms:.1f} ms")

    async def jetstream(self) -> Finding:
        """JetStream, its store and how full that is."""
        cure = "start nats-server with -js, or enable JetStream for this account"
        try:
            answer = await self.ask("$JS.API.INFO")
        except BrokerUnreachable:
            return failed("jetstream", "is not enabled on this server or account", cure)
        if error := answer.get("error"):
            return failed("jetstream", one_line(error.get("description")), cure)
        limit, used = answer["limits"]["max_storage"], answer["storage"]
        text = f"{answer['streams']} streams, {used / _MIB:.0f} MiB stored"
        if limit <= 0:
            return ok("jetstream", f"{text}, no limit of the account")
        text += f" of {limit / _MIB:.0f} MiB"
        if used > 0.9 * limit:
            cure = "raise the account's limit, or lower the ages and sizes of the streams"
            return warning("jetstream", text, cure)
        return ok("jetstream", text)

    async def streams(self) -> Finding:
        """Streams, consumers and buckets, compared with the settings."""
        settings = load(StreamSettings)
        async with self._broker.raising_refusals():
            planned = await changes.plan(self._broker, settings)
        pending = [change for change in planned if change.action != "same"]
        if not pending:
            return ok("streams", f"{len(planned)} streams and consumers are as the settings say")
        parts = []
        for change in pending:
            what = "; ".join(map(str, change.differences)) or change.action
            parts.append(f"{change.name}: {'missing' if change.action == 'make' else what}")
        cure = (
            f"natterjack streams apply --dry-run --stream-replicas {settings.stream_replicas}, "
            "then the same without --dry-run; or set the stream settings that the workers have"
        )
        if all(change.action == "make" for change in planned):
            cure = "start a worker, which creates them, or run natterjack streams apply"
            return warning("streams", "none of natterjack's streams exist yet", cure)
        return failed("streams", one_line(", ".join(parts)), cure)

    async def rights(self) -> Finding:
        """Find the permissions of this user."""
        try:
            answer = await self.ask("$SYS.REQ.USER.INFO")
        except BrokerError:
            why = "this user may not ask what it may do"
            return skipped("rights", why, "`natterjack users list` shows it to who made the users")
        data = answer.get("data", {})
        user, account = data.get("user") or "nobody", data.get("account", "?")
        text = f"user {one_line(user, 60)}, account {account}: "
        text += rights.sentence(data.get("permissions"))
        if all(how == "none" for how in rights.judged(data.get("permissions")).values()):
            cure = "use a user that `natterjack users add` has made"
            return failed("rights", text, cure)
        return ok("rights", text)

    async def workers(self) -> Finding:
        """The workers that report."""
        cure = "start natterjack-worker, or `natterjack up` on one machine"
        store = StreamStore(self._broker, f"KV_{WORKERS_BUCKET}")
        try:
            async with self._broker.raising_refusals():
                await store.start()
                pages = await read_pages(store)
        except StoreUnavailable:
            return warning("workers", "none has ever started", cure)
        now = datetime.now(UTC)
        live = [p for p in pages if (now - p.at).total_seconds() < _SILENT_S]
        first = [page for page in live if page.page == 0]
        if not first:
            return warning("workers", "none reports", cure)
        sessions = sum(len(page.sessions) for page in live)
        draining = sum(page.draining for page in first)
        text = f"{len(first)} with {sessions} session{'s' if sessions != 1 else ''}"
        text += f", {draining} of them draining" if draining else ""
        return ok("workers", text)

    async def clock(self) -> Finding:
        """This machine's clock, compared with the broker's."""
        names = (await self.ask("$JS.API.STREAM.NAMES")).get("streams") or []
        if not names:
            return skipped("clock", "the broker tells its time only with a stream, and has none")
        before = time.time()
        begin = time.monotonic()
        answer = await self.ask(f"$JS.API.STREAM.INFO.{names[0]}")
        trip = time.monotonic() - begin
        if "ts" not in answer:
            return skipped("clock", "the broker does not tell its time")
        server = datetime.fromisoformat(answer["ts"][:26].rstrip("Z") + "+00:00")
        return judged_clock(before + trip / 2 - server.timestamp(), trip)

    async def ask(self, subject: str) -> dict[str, Any]:
        """Ask the server. Raises: NotAllowed, BrokerUnreachable."""
        with translated():
            async with self._broker.raising_refusals():
                reply = await self._broker.client.request(subject, b"", timeout=_REPLY_S)
        answer: dict[str, Any] = json.loads(reply.data)
        return answer


def judged_clock(offset_seconds: float, trip_seconds: float) -> Finding:
    """Judge an offset that was measured in a round trip of that length. Pure."""
    side = "ahead of" if offset_seconds > 0 else "behind"
    text = f"{abs(offset_seconds) * 1000:.0f} ms {side} the broker's"
    text += f" (to {trip_seconds * 500:.0f} ms)"
    if abs(offset_seconds) > _CLOCK_S + trip_seconds:
        cure = "synchronize the clocks (NTP): latencies and times of words are wrong by that"
        return warning("clock", text, cure)
    return ok("clock", text)


def unreachable(error: BrokerError, settings: BrokerSettings) -> Finding:
    """The finding for a broker to which there is no connection."""
    where = without_credentials(settings.url)
    cure = "start a broker (`natterjack up`), or set NATS_URL to the address of yours"
    if "authoriz" in str(error).lower() or "authent" in str(error).lower():
        cure = "set NATS_CREDS, NATS_NKEY, or NATS_USER and NATS_PASSWORD to those of a user"
    return failed("broker", one_line(error) if where in str(error) else f"{where}: {error}", cure)


async def gateway(environment: Mapping[str, str]) -> Finding:
    """The gateway on this machine, if there is one."""
    host = environment.get("GATEWAY_HTTP_HOST", "127.0.0.1")
    port = environment.get("GATEWAY_HTTP_PORT", "8080")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not bound
    if not port.isdecimal() or not 0 < int(port) < 65536:
        return skipped("gateway", f"GATEWAY_HTTP_PORT={one_line(port, 20)} names no port")

    def asked() -> tuple[int, str]:
        connection = http.client.HTTPConnection(host, int(port), timeout=_REPLY_S)
        with contextlib.closing(connection):
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            return answer.status, answer.read(1000).decode(errors="replace")

    try:
        status, text = await asyncio.to_thread(asked)
    except ConnectionRefusedError:
        return skipped("gateway", f"none listens on {host}:{port}")
    except (OSError, http.client.HTTPException) as error:
        return warning("gateway", f"{host}:{port} does not answer as one: {one_line(error)}", "")
    if status == 404:
        return skipped("gateway", f"another program listens on {host}:{port}")
    if status != 200:
        cure = "look at its log; it is ready once it has a connection to the broker"
        return failed("gateway", f"{host}:{port} is not ready: {one_line(text, 100)}", cure)
    return ok("gateway", f"ready at http://{host}:{port}/")
