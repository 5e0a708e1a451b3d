"""The process of `natterjack registrar`: its connection, its subscriptions, its HTTP port and its
end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from contextlib import AbstractAsyncContextManager

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from natterjack.broker.connection import Broker, connect
from natterjack.broker.login.attempts import Attempts
from natterjack.errors import NotAllowed, UsageError
from natterjack.process.run import end_tasks
from natterjack.process.signals import receiving, stop_signals
from natterjack.settings import BrokerSettings
from natterjack.subjects import ENROLL_PREFIX, RENEW_PREFIX
from natterjack.telemetry.http_port import HttpPort
from natterjack.telemetry.log import fields

from .metrics import RegistrarMetrics
from .registrar import Registrar
from .settings import RegistrarSettings

log = logging.getLogger(__name__)

_QUEUE = "registrars"
_LOOK_S = 1.0


async def run(settings: RegistrarSettings, broker_settings: BrokerSettings) -> int:
    """Answer requests until SIGTERM or Ctrl-C. Returns the exit status.

    Raises: UsageError, BrokerError.
    """
    settings.signing_key()  # before connecting
    stopping = asyncio.Event()

    def stop(number: int) -> None:
        if stopping.is_set() and number == signal.SIGINT:
            logging.shutdown()
            os._exit(128 + number)  # whoever asked asks again
        stopping.set()

    process = _Process(settings)
    with receiving(stop_signals(), stop):
        async with process.http():
            serving = asyncio.create_task(process.serve(broker_settings))
            stopped = asyncio.create_task(stopping.wait())
            try:
                await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if serving.done():
                    serving.result()
            finally:
                await end_tasks([serving, stopped])
    return 0


class _Process:
    """The parts of the process, and whether it is ready."""

    def __init__(self, settings: RegistrarSettings) -> None:
        self._settings = settings
        self._metrics = RegistrarMetrics()
        self._metrics.ready.set_function(lambda: self._problem() is None)
        self._attempts = Attempts()
        self._broker: Broker | None = None
        self._http = HttpPort(settings.http_host, settings.http_port, "REGISTRAR_HTTP_PORT")

    def http(self) -> AbstractAsyncContextManager[None]:
        """Answer probes and Prometheus in the block."""
        return self._http.probed(self._problem, self._metrics.registry)

    def _problem(self) -> str | None:
        """Why no request is answered, or None."""
        if self._broker is None or not self._broker.connected:
            trouble = self._attempts.trouble
            return f"no NATS: {trouble}" if trouble else "no NATS"
        try:
            self._settings.signing_key()
        except UsageError as error:
            return str(error)
        return None

    async def serve(self, broker_settings: BrokerSettings) -> None:
        """Connect, and answer requests until cancelled."""
        log.info("waiting for NATS", extra=fields(http=self._http.address))
        while True:
            # nats-py closes a connection permanently on some errors, such as expired credentials.
            broker = await connect(
                broker_settings, name="natterjack-registrar", attempts=self._attempts
            )
            try:
                await self._answer(broker)
            finally:
                self._broker = None
                await broker.close()

    async def _answer(self, broker: Broker) -> None:
        registrar = Registrar(self._settings, broker, self._metrics.count)

        async def received(message: Msg) -> None:
            reply = await registrar.answer(message.subject, message.data)
            if message.reply:
                with contextlib.suppress(NatsError):  # whoever asked asks again
                    await message.respond(reply.model_dump_json(exclude_none=True).encode())

        refused: list[NotAllowed] = []

        def note(refusal: NotAllowed) -> None:
            refused.append(refusal)

        broker.on_refusal.add(note)
        try:
            for prefix in (ENROLL_PREFIX, RENEW_PREFIX):
                await broker.client.subscribe(f"{prefix}.*", queue=_QUEUE, cb=received)
            await broker.client.flush()  # the server sends its refusals before the answer to this
        finally:
            broker.on_refusal.discard(note)
        if refused:
            raise UsageError(
                f"{refused[0]}: set NATS_CREDS to the credentials of a user with the role "
                "registrar, which `natterjack users add registrar` makes"
            )
        self._broker = broker
        key = self._settings.signing_key()
        log.info("ready to enroll edges", extra=fields(signing_key=key.public))
        while not broker.client.is_closed:  # noqa: ASYNC110 - nats-py has no event for it
            await asyncio.sleep(_LOOK_S)
