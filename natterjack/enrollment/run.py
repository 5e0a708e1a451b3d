"""The process of `natterjack registrar`: its connection, its subscriptions and its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from natterjack.broker.connection import Broker, connect
from natterjack.errors import NotAllowed, UsageError
from natterjack.process.run import end_tasks
from natterjack.process.signals import receiving, stop_signals
from natterjack.settings import BrokerSettings
from natterjack.subjects import ENROLL_PREFIX, RENEW_PREFIX
from natterjack.telemetry.log import fields

from .registrar import Registrar
from .settings import RegistrarSettings

log = logging.getLogger(__name__)

_QUEUE = "registrars"
_LOOK_S = 1.0


async def run(settings: RegistrarSettings, broker_settings: BrokerSettings) -> int:
    """Answer requests until SIGTERM or Ctrl-C. Returns the exit status.

    Raises: UsageError, BrokerError.
    """
    key = settings.signing_key()  # before connecting
    stopping = asyncio.Event()

    def stop(number: int) -> None:
        if stopping.is_set() and number == signal.SIGINT:
            logging.shutdown()
            os._exit(128 + number)  # whoever asked asks again
        stopping.set()

    with receiving(stop_signals(), stop):
        serving = asyncio.create_task(_serve(settings, broker_settings, key.public))
        stopped = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
        finally:
            await end_tasks([serving, stopped])
    return 0


async def _serve(settings: RegistrarSettings, broker_settings: BrokerSettings, key: str) -> None:
    """Connect, and answer requests until cancelled."""
    while True:
        # nats-py closes a connection permanently on some errors, such as expired credentials.
        broker = await connect(broker_settings, name="natterjack-registrar")
        try:
            await _answer(Registrar(settings, broker), broker, key)
        finally:
            await broker.close()


async def _answer(registrar: Registrar, broker: Broker, key: str) -> None:
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
            f"{refused[0]}: set NATS_CREDS to the credentials of a user with the role registrar, "
            "which `natterjack users add registrar` makes"
        )
    log.info("ready to enroll edges", extra=fields(signing_key=key))
    while not broker.client.is_closed:  # noqa: ASYNC110 - nats-py has no event for it
        await asyncio.sleep(_LOOK_S)
