"""The worker's record in the roster, published once a second, and reading the records of others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import APIError

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.broker.stored import StoreUnavailable, StreamStore
from natterjack.fleet.roster import REPORT_SECONDS, SessionRecord, WorkerPage, read_pages
from natterjack.fleet.usage import DayUsage
from natterjack.telemetry.log import fields
from worker.metrics import Metrics
from worker.settings import WorkerSettings

from .tally import Tally

log = logging.getLogger(__name__)

_USAGE_SECONDS = 5.0
_QUEUE_SECONDS = 10.0
_READ_TIMEOUT_S = 1.0
_PAGE_BYTES = 400_000
_HEAD_BYTES = 1024
"""Room for the fields of a page beside its parts."""
_AT_ONCE = 10
_FRESH_S = 0.5
"""How long a record that was read is reused: every session that is taken over from a dead worker
needs the same one."""
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"


class Report:
    """Publishes this worker's record and reads those of other workers."""

    def __init__(
        self,
        broker: Broker,
        js: JetStreamContext,
        store: StreamStore,
        instance: str,
        settings: WorkerSettings,
        metrics: Metrics,
        tally: Tally,
    ) -> None:
        """`store` reads the bucket `stt_workers`."""
        self._broker = broker
        self._js = js
        self._store = store
        self.instance = instance
        self._settings = settings
        self._metrics = metrics
        self._tally = tally
        self.queues = [streams.SESSIONS]
        """The work queues whose depth is exported."""
        self._pages = 0
        self._unwritten_of_dead: dict[str, DayUsage] = {}
        """Usage that dead workers had not written yet, by key of the bucket."""
        self._read: dict[str, tuple[float, asyncio.Task[list[WorkerPage]]]] = {}
        started = datetime.now(UTC).isoformat()
        self._common_fields = {
            "instance": instance,
            "worker": settings.name,
            "started_at": started,
            "slots": settings.max_sessions,
        }

    # ---- publishing -------------------------------------------------------------------------

    async def run(self, records: Callable[[], Iterable[str]], draining: Callable[[], bool]) -> None:
        """Publish the record every second until cancelled.

        `records` brings the ledgers up to date and returns each session's part as JSON.
        """
        erased = streams.bucket_subject(streams.USAGE_BUCKET, streams.usage_erased("*"))
        await self._broker.client.subscribe(erased, cb=self._erased)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._write())
            while True:
                await asyncio.sleep(REPORT_SECONDS)
                parts: list[str] = []
                for part in records():  # also while the broker is away
                    parts.append(part)
                    if len(parts) % _AT_ONCE == 0:
                        await asyncio.sleep(0)  # audio must not wait for accounting
                if not self._broker.connected:
                    continue
                try:
                    await self._publish(parts, draining())
                except NatsError as error:
                    log.debug("record not published: %r", error)
                except Exception:  # a task boundary
                    # A fault in reporting must not end the sessions.
                    log.exception("the worker's record cannot be published")

    async def _erased(self, message: Msg) -> None:
        """An operator erased a tenant's usage, so usage not written yet must not be written
        either."""
        tenant = message.subject.split(".")[3]
        self._tally.forget(tenant)
        self._unwritten_of_dead = {
            k: usage for k, usage in self._unwritten_of_dead.items() if k.split(".")[1] != tenant
        }
        log.info("usage records erased", extra=fields(tenant=tenant))

    async def _write(self) -> None:
        """Write usage and read the queue's depth: work that waits for the broker's answers."""
        asked = 0.0
        while True:
            await asyncio.sleep(_USAGE_SECONDS)
            if not self._broker.connected:
                continue
            await self._tally.write(self._js)
            unwritten, self._unwritten_of_dead = self._unwritten_of_dead, {}
            for key, usage in unwritten.items():
                await self._write_for(key, usage)
            now = time.monotonic()
            if now - asked >= _QUEUE_SECONDS:
                asked = now
                with contextlib.suppress(NatsError, TimeoutError):
                    await self._count_queue()

    async def _publish(self, records: list[str], draining: bool) -> None:
        unwritten = self._tally.unwritten()
        usage = [f'"{k}":{d.model_dump_json(exclude_none=True)}' for k, d in unwritten.items()]
        limit = self._broker.client.max_payload - _HEAD_BYTES
        pages = _paged(records, usage, min(_PAGE_BYTES, limit))
        for page, (sessions, uses) in enumerate(pages):
            head = {
                **self._common_fields,
                "page": page,
                "pages": len(pages),
                "at": datetime.now(UTC).isoformat(),
                "draining": draining,
            }
            payload = (
                f'{json.dumps(head)[:-1]},"usage":{{{",".join(uses)}}},'
                f'"sessions":[{",".join(sessions)}]}}'
            )
            await self._broker.client.publish(self._subject(page), payload.encode())
        self._pages = max(len(pages), self._pages)

    def _subject(self, page: int) -> str:
        return streams.bucket_subject(streams.WORKERS_BUCKET, f"{self.instance}.{page}")

    async def _count_queue(self) -> None:
        waiting = leased = 0
        for queue in self.queues:
            info = await self._js.consumer_info(queue, streams.CONSUMER)
            waiting += info.num_pending or 0
            leased += info.num_ack_pending or 0
        self._metrics.queue.labels("waiting").set(waiting)
        self._metrics.queue.labels("leased").set(leased)

    async def sign_off(self) -> None:
        """Write the remaining usage and delete the record."""
        if not self._broker.connected:
            return
        await self._tally.write(self._js)
        with contextlib.suppress(NatsError):  # a record that stays expires by age
            for page in range(self._pages):
                await self._broker.client.publish(
                    self._subject(page), b"", headers={"KV-Operation": "DEL"}
                )

    # ---- reading other workers' records -----------------------------------------------------

    async def record_of(self, instance: str, holder: str, tenant: str) -> SessionRecord | None:
        """The last record of the session that `holder` held in process `instance`, or None.

        Usage that this process had not written for the tenant is written on its behalf later.
        """
        try:
            async with asyncio.timeout(_READ_TIMEOUT_S):
                pages = await self._pages_of(instance)
        except (StoreUnavailable, TimeoutError):
            return None
        for page in pages:
            for key, usage in page.usage.items():
                if key.split(".")[1:2] == [tenant]:
                    self._unwritten_of_dead[key] = usage
        sessions = (session for page in pages for session in page.sessions)
        return next((session for session in sessions if session.holder == holder), None)

    async def _pages_of(self, instance: str) -> list[WorkerPage]:
        now = time.monotonic()
        self._read = {k: v for k, v in self._read.items() if now - v[0] < _FRESH_S}
        if instance not in self._read:
            reading = asyncio.create_task(read_pages(self._store, instance), name="roster")
            reading.add_done_callback(_retrieve_error)
            self._read[instance] = now, reading
        return await asyncio.shield(self._read[instance][1])

    async def _write_for(self, key: str, usage: DayUsage) -> None:
        """Write a dead process's usage, unless the bucket has as much already."""
        subject = streams.bucket_subject(streams.USAGE_BUCKET, key)
        try:
            async with asyncio.timeout(_READ_TIMEOUT_S):
                stored = await self._js.get_last_msg(f"KV_{streams.USAGE_BUCKET}", subject)
            sequence = stored.seq or 0
            known = DayUsage.model_validate_json(stored.data or b"{}")
            older = known.sent_seconds < usage.sent_seconds or known.characters < usage.characters
            if not older:
                return
        except (APIError, ValueError):
            sequence = 0
        except (NatsError, TimeoutError):
            return
        payload = usage.model_dump_json(exclude_none=True).encode()
        try:
            await self._js.publish(
                subject, payload, timeout=_READ_TIMEOUT_S, headers={_EXPECTED: str(sequence)}
            )
        except (NatsError, TimeoutError):
            log.debug("usage of a dead worker not written: %s", key)


def _paged(sessions: list[str], usage: list[str], most: int) -> list[tuple[list[str], list[str]]]:
    """Split the parts into pages of at most `most` bytes. A larger part has a page of its own."""
    pages: list[tuple[list[str], list[str]]] = [([], [])]
    size = 0
    for kind, parts in enumerate((sessions, usage)):
        for part in parts:
            if size and size + len(part) > most:
                pages.append(([], []))
                size = 0
            pages[-1][kind].append(part)
            size += len(part) + 1
    return pages


def _retrieve_error(task: asyncio.Task[list[WorkerPage]]) -> None:
    """Retrieve a task's error, so that asyncio does not log it if no caller waits any longer."""
    if not task.cancelled():
        task.exception()
