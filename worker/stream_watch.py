"""Watches that the broker has all streams and the consumers of the queues.

Without it, a worker could not tell a missing stream from an hour without sessions: nothing arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from natterjack.broker.connection import Broker
from natterjack.broker.streams import CONSUMER, ensure, queues, stream_configs
from natterjack.errors import StoreTooSmall
from natterjack.settings import StreamSettings
from natterjack.telemetry.log import fields

from .metrics import Metrics

log = logging.getLogger(__name__)

_INTERVAL_SECONDS = 15.0
_CURE = "run `natterjack streams apply` as a user that may create streams"


async def ensure_streams(
    broker: Broker, settings: StreamSettings
) -> tuple[JetStreamContext, StreamSettings]:
    """Create or check the streams of the settings' kinds; return JetStream, and the settings with
    the kinds that a worker can claim.

    Voice sessions that nobody has asked for (WORKER_KINDS is not set) are left out if the store has
    no room for them: transcription must not fail for their sake.
    Raises: as `natterjack.broker.streams.ensure`.
    """
    if "kinds" in settings.model_fields_set or "speak" not in settings.kinds:
        return await ensure(broker, settings), settings
    without = settings.model_copy(update={"kinds": ("transcribe",)})
    js = await ensure(broker, without)
    try:
        await ensure(broker, settings)
    except StoreTooSmall as error:
        log.warning("no voice sessions (WORKER_KINDS=transcribe): %s", error)
        return js, without
    return js, settings


class StreamWatch:
    """Checks every 15 seconds which streams the broker lacks."""

    def __init__(
        self,
        settings: StreamSettings,
        metrics: Metrics,
        interval_seconds: float = _INTERVAL_SECONDS,
    ) -> None:
        self._interval = interval_seconds
        self._create = settings.create_streams
        self._metrics = metrics
        self._problems: dict[str, str] = {}
        """Descriptions of problems, by the name of the stream or consumer."""
        self.expect(settings)

    def expect(self, settings: StreamSettings) -> None:
        """Watch the streams of the settings' kinds."""
        self._streams = [config.name or "" for config in stream_configs(settings)]
        self._queues = queues(settings)
        for name in self._streams:
            self._metrics.stream_missing.labels(name).set(0)

    @property
    def problem(self) -> str | None:
        """A problem with its remedy, or None. Streams come before the consumer of one."""
        names = [*self._streams, *self._problems]
        return next((self._problems[name] for name in names if name in self._problems), None)

    async def run(self, broker: Broker, js: JetStreamContext, restore: asyncio.Event) -> None:
        """Look until cancelled. If streams may be created, set `restore` for what is missing twice
        in a row: `natterjack streams apply` may just be recreating it."""
        while True:
            await asyncio.sleep(self._interval * random.uniform(0.9, 1.1))  # noqa: S311 - spread
            if not broker.connected:
                continue
            before = set(self._problems)
            await self.look(js)
            if self._create and before & set(self._problems):
                restore.set()

    async def look(self, js: JetStreamContext) -> None:
        """Ask for each stream and consumer once. What the broker does not answer stays as it was,
        and does not keep the others from being found missing."""
        await asyncio.gather(
            *(self._look_at(js, name) for name in self._streams),
            *(self._look_at_consumer(js, queue) for queue in self._queues),
        )

    async def _look_at(self, js: JetStreamContext, name: str) -> None:
        """Ask for a stream; if it has a limit, export how much of it is used."""
        info = None
        try:
            info = await js.stream_info(name)
        except NotFoundError:
            pass
        except (NatsError, TimeoutError) as error:
            log.debug("stream not checked: %r", error, extra=fields(stream=name))
            return
        self._metrics.stream_missing.labels(name).set(info is None)
        self._report(name, f"stream {name} is missing" if info is None else None)
        limit = 0 if info is None else info.config.max_bytes or 0
        if info is not None and limit > 0:
            self._metrics.stream_used.labels(name).set(info.state.bytes / limit)
        else:
            with contextlib.suppress(KeyError):  # it had no limit before either
                self._metrics.stream_used.remove(name)

    async def _look_at_consumer(self, js: JetStreamContext, queue: str) -> None:
        try:
            problem = await self._consumer_problem(js, queue)
        except (NatsError, TimeoutError) as error:
            log.debug("consumer not checked: %r", error, extra=fields(stream=queue))
            return
        self._report(_consumer_name(queue), problem)
        missing = any(_consumer_name(queue) in self._problems for queue in self._queues)
        self._metrics.queue_consumer_missing.set(missing)

    async def _consumer_problem(self, js: JetStreamContext, queue: str) -> str | None:
        try:
            info = await js.consumer_info(queue, CONSUMER)
        except NotFoundError:
            return f"consumer {CONSUMER} of {queue} is missing"
        return f"consumer {CONSUMER} of {queue} is paused" if info.paused else None

    def _report(self, name: str, problem: str | None) -> None:
        """Remember a problem, or that there is none; log changes."""
        if problem is not None:
            problem = f"{problem}: {_CURE}"
            if self._problems.get(name) != problem:
                log.error("%s", problem)
            self._problems[name] = problem
        elif self._problems.pop(name, None) is not None:
            log.info("found again", extra=fields(name=name))


def _consumer_name(queue: str) -> str:
    return f"{queue} > {CONSUMER}"
