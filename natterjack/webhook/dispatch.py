"""Sends the events of a durable consumer: several at once, each of another session.

Only what the receiver has accepted is acknowledged. All else comes again, also after this process
or the broker has died, with the same ID.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable

from natterjack.consume.durable import Deliveries, Delivery
from natterjack.decoding import AnyEvent, UnknownEvent
from natterjack.errors import NatterjackError, StreamMissing, ungrouped
from natterjack.events import InterimEvent
from natterjack.telemetry.log import fields

from .judgment import Answer
from .metrics import WebhookMetrics
from .retries import LONGEST_S, MAX_ATTEMPTS, delay
from .sender import Sender
from .settings import WebhookKind
from .signature import usable_id

log = logging.getLogger(__name__)

MARGIN_S = 30.0
"""How long an event may be under way beyond the time limit of its request."""
_THROTTLE_S = 5.0
"""How long nothing is sent after the receiver asks for fewer requests, unless it says how long."""


class Dispatcher:
    """Decides which events are sent, and what becomes of each."""

    def __init__(
        self,
        sender: Sender,
        metrics: WebhookMetrics,
        kinds: tuple[WebhookKind, ...],
        parallel: int,
        *,
        chance: Callable[[], float] = random.random,
        scale: float = 1.0,
    ) -> None:
        """Sends at most `parallel` events at once. All pauses are multiplied by `scale`."""
        self._sender = sender
        self._metrics = metrics
        self._kinds = kinds
        self._slots = asyncio.Semaphore(parallel)
        self._chance, self._scale = chance, scale
        self._resume_at = 0.0
        """On the monotonic clock: nothing is sent before."""
        self._failing = False
        self._waiting: dict[str, tuple[float, float]] = {}
        """When each event that was tried, and is not done, was published; and until when it must be
        tried again, on the monotonic clock, unless another process has it now."""
        self.gone = asyncio.Event()
        """Set when the receiver has answered that it wants no more."""

    async def run(self, deliveries: Deliveries, stopping: asyncio.Event) -> None:
        """Send events until `stopping` or `gone` is set; then await the answers that are due.

        Raises: what the deliveries raise.
        """
        with ungrouped(NatterjackError):
            async with asyncio.TaskGroup() as tasks:
                taking = tasks.create_task(self._take(deliveries, tasks), name="take events")
                ends = [tasks.create_task(one.wait()) for one in (stopping, self.gone)]
                await asyncio.wait({taking, *ends}, return_when=asyncio.FIRST_COMPLETED)
                for task in (taking, *ends):
                    task.cancel()

    async def _take(self, deliveries: Deliveries, tasks: asyncio.TaskGroup) -> None:
        """Take an event whenever there is a slot for it, so that none waits here for a slot."""
        while True:
            await self._slots.acquire()
            while (pause := self._resume_at - time.monotonic()) > 0:  # noqa: ASYNC110 - a time
                await asyncio.sleep(pause)
            if self.gone.is_set():
                return
            delivery = await anext(deliveries)
            if self.gone.is_set():
                await delivery.retry()
                return
            tasks.create_task(self._handle(delivery), name="send event")

    async def _handle(self, delivery: Delivery) -> None:
        try:
            if not wanted(delivery.event, self._kinds):
                await delivery.ack()
            elif usable_id(delivery.event.id or ""):
                await self._send(delivery, delivery.event.id or "")
            else:
                await self._give_up(delivery, "its ID cannot be signed")
        finally:
            self._slots.release()

    async def _send(self, delivery: Delivery, event_id: str) -> None:
        event, metrics = delivery.event, self._metrics
        published_at = event.published_at.timestamp()
        self._waiting[event_id] = (published_at, math.inf)
        with metrics.seconds.time():
            answer = await self._sender.send(event_id, event.source)
        self._notice(answer)
        if answer.outcome == "delivered":
            await delivery.ack()
            metrics.sent.inc()
            self._waiting.pop(event_id, None)
            return
        assert answer.cause is not None
        metrics.failed[answer.cause].inc()
        seconds = self._scale * delay(delivery.attempt, self._chance(), answer.retry_after)
        if answer.outcome == "gone":
            self.gone.set()
            seconds = 0.0  # the next process asks at once
        elif delivery.attempt >= MAX_ATTEMPTS:
            await self._give_up(delivery, f"{answer.reason}, {delivery.attempt} times")
            return
        if answer.outcome == "throttled":
            pause = (answer.retry_after or _THROTTLE_S) * self._scale
            self._resume_at = max(self._resume_at, time.monotonic() + pause)
        self._waiting[event_id] = (published_at, time.monotonic() + seconds + MARGIN_S)
        await delivery.retry(seconds)

    async def _give_up(self, delivery: Delivery, reason: str) -> None:
        event_id = delivery.event.id
        try:
            await delivery.reject(reason)
        except StreamMissing as error:
            log.error("an event cannot become a dead letter: %s", error)
            await delivery.retry(LONGEST_S * self._scale)
            return
        self._metrics.dead_letters.inc()
        self._waiting.pop(event_id or "", None)
        log.error(
            "event given up: it is a dead letter now", extra=fields(event=event_id, reason=reason)
        )

    def _notice(self, answer: Answer) -> None:
        """Log when the receiver begins to fail, and when it is well again."""
        failing = answer.outcome != "delivered"
        if answer.outcome == "gone":
            log.error("%s; nothing is sent until this process is started again", answer.reason)
        elif failing and not self._failing:
            log.warning("the receiver fails, trying again: %s", answer.reason)
        elif self._failing and not failing:
            log.info("the receiver accepts events again")
        self._failing = failing

    def oldest(self) -> float | None:
        """When the oldest event that was tried here, and is not done, was published: in seconds
        since the epoch."""
        if not self.gone.is_set():
            now = time.monotonic()
            for event_id, (_, until) in list(self._waiting.items()):
                if until < now and self._resume_at < now:
                    del self._waiting[event_id]  # another process has its session now
        return min((published_at for published_at, _ in self._waiting.values()), default=None)


def wanted(event: AnyEvent, kinds: tuple[WebhookKind, ...]) -> bool:
    """Whether an event is one of `kinds`."""
    if isinstance(event, InterimEvent):
        return False
    kind = event.kind if isinstance(event, UnknownEvent) else event.type
    return kind in kinds or ("closing" in kinds and event.closing)


def stored_kinds(kinds: tuple[WebhookKind, ...]) -> tuple[str, ...]:
    """The kinds of event that the broker is asked for."""
    return tuple(dict.fromkeys("status" if kind == "closing" else kind for kind in kinds))
