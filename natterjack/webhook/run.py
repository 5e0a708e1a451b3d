"""The process of `natterjack webhook`: its connections, its HTTP port and its end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from contextlib import AbstractAsyncContextManager

from natterjack.broker.connection import Broker, connect
from natterjack.broker.login.attempts import Attempts
from natterjack.consume.durable import Deliveries, durable
from natterjack.process.run import end_tasks
from natterjack.process.signals import receiving, stop_signals
from natterjack.settings import BrokerSettings
from natterjack.subjects import transcript_filter
from natterjack.telemetry.http_port import HttpPort
from natterjack.telemetry.log import fields

from .dispatch import MARGIN_S, Dispatcher, stored_kinds
from .metrics import WebhookMetrics
from .sender import Sender
from .settings import WebhookSettings, public_url

log = logging.getLogger(__name__)

_LOOK_S = 5.0
"""How often the gauges are brought up to date."""


async def run(settings: WebhookSettings, broker_settings: BrokerSettings) -> int:
    """Send events until SIGTERM or Ctrl-C. Returns the exit status.

    Raises: UsageError, BrokerError.
    """
    transcript_filter(settings.tenant, settings.conversation, settings.speaker)  # before connecting
    stopping = asyncio.Event()

    def stop(number: int) -> None:
        if stopping.is_set() and number == signal.SIGINT:
            logging.shutdown()
            os._exit(128 + number)  # what is being sent now is sent again
        stopping.set()

    with receiving(stop_signals(), stop):
        async with Sender(settings) as sender:
            webhook = _Webhook(settings, sender)
            async with webhook.serving():
                await webhook.run(broker_settings, stopping)
    return 0


class _Webhook:
    """The parts of the process, and whether it is ready."""

    def __init__(self, settings: WebhookSettings, sender: Sender) -> None:
        self._settings = settings
        self._metrics = WebhookMetrics(settings.name)
        self._metrics.ready.set_function(lambda: self._problem() is None)
        self._dispatcher = Dispatcher(sender, self._metrics, settings.kinds, settings.parallel)
        self._attempts = Attempts()
        self._broker: Broker | None = None
        self._http = HttpPort(settings.http_host, settings.http_port, "WEBHOOK_HTTP_PORT")

    def serving(self) -> AbstractAsyncContextManager[None]:
        """Answer probes and Prometheus in the block."""
        return self._http.probed(self._problem, self._metrics.registry)

    def _problem(self) -> str | None:
        """Why nothing is sent, or None."""
        if self._dispatcher.gone.is_set():
            return "the receiver has answered 410 Gone"
        if self._broker is not None and self._broker.connected:
            return None
        return f"no NATS: {self._attempts.trouble}" if self._attempts.trouble else "no NATS"

    async def run(self, broker_settings: BrokerSettings, stopping: asyncio.Event) -> None:
        """Send events until `stopping` is set."""
        settings = self._settings
        log.info("waiting for NATS", extra=fields(http=self._http.address))
        connecting = asyncio.create_task(
            connect(broker_settings, name="natterjack-webhook", attempts=self._attempts)
        )
        stopped = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait({connecting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done():
                return
            self._broker = broker = connecting.result()
        finally:
            await end_tasks([connecting, stopped])
        watching: list[asyncio.Task[None]] = []
        try:
            async with durable(
                settings.name,
                tenant=settings.tenant,
                conversation=settings.conversation,
                speaker=settings.speaker,
                kinds=stored_kinds(settings.kinds),
                start="start" if settings.from_start else None,
                ack_wait=settings.timeout_seconds + MARGIN_S,
                max_in_flight=settings.parallel,
                broker=broker,
            ) as deliveries:
                log.info(
                    "sending events",
                    extra=fields(
                        url=public_url(settings.target),
                        name=settings.name,
                        kinds=",".join(settings.kinds),
                    ),
                )
                watching.append(
                    asyncio.create_task(self._watch(deliveries), name="watch the backlog")
                )
                await self._dispatcher.run(deliveries, stopping)
            await stopping.wait()  # the receiver is gone: a new process would only ask it again
        finally:
            await end_tasks(watching)
            await broker.close()
        log.info("webhook ended")

    async def _watch(self, deliveries: Deliveries) -> None:
        """Bring the gauges of the backlog up to date, without end."""
        while True:
            self._metrics.waiting.set(deliveries.pending)
            oldest = self._dispatcher.oldest()
            self._metrics.oldest.set(0.0 if oldest is None else max(0.0, time.time() - oldest))
            await asyncio.sleep(_LOOK_S)
