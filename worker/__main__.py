"""The `natterjack-worker` command: claims sessions from the queues, and transcribes or speaks."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import re
import secrets
import signal
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import version

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.kv import KeyValue

from natterjack.broker import streams
from natterjack.broker.connection import connect
from natterjack.broker.login.attempts import Attempts
from natterjack.broker.stored import StreamStore
from natterjack.errors import (
    BrokerError,
    BrokerUnreachable,
    NotAllowed,
    StreamMissing,
    UsageError,
)
from natterjack.process.run import end_tasks, run_loop
from natterjack.process.sd_notify import notify_systemd
from natterjack.process.signals import receiving, stop_signals
from natterjack.process.start import flush_streams
from natterjack.process.variables import report_unknown
from natterjack.settings import (
    MODELS,
    BrokerSettings,
    Kind,
    LogSettings,
    StreamSettings,
    add_flags,
    load,
)
from natterjack.telemetry import log as logs
from natterjack.telemetry import tracing
from worker.capacity.governor import Governor
from worker.capacity.slots import Slots
from worker.metering.budgets import Budgets
from worker.metering.prices import parse_prices
from worker.metering.report import Report
from worker.metering.tally import Tally
from worker.providers.balances import poll
from worker.providers.loading import Providers, Voices
from worker.services import Services

from .claim import Claimer
from .edge_watch import EdgeWatch
from .health import Health
from .metrics import Metrics
from .settings import WorkerSettings
from .stream_watch import StreamWatch, ensure_streams

log = logging.getLogger("worker")

_GC_THRESHOLDS = 20_000, 20, 50
_MISSING_RETRY_S = 5.0
_END_SECONDS = 15.0
"""How long the process may run after `drain_seconds` and `handover_seconds` have passed. The time
limits of everything that it does then add up to less."""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="natterjack-worker",
        description="Claims sessions from the queues on NATS, holds one speech-provider stream for "
        "each, and publishes the transcripts, or the speech of voice sessions. SIGTERM or Ctrl-C "
        "drains the worker: its sessions move to other workers and no word is lost. A second "
        "Ctrl-C ends it at once. Providers "
        "have settings of their own: see `natterjack plugins`.",
        epilog="Exit status: 0 after a complete drain, 1 if it was cut short, 2 if a setting "
        "is wrong or NATS cannot be used, 130 after a second Ctrl-C.",
    )
    parser.add_argument("--version", action="version", version=version("natterjack"))
    parser.add_argument(
        "--once",
        action="store_true",
        help="do not wait for NATS: exit with status 2 if it cannot be reached",
    )
    add_flags(parser, WorkerSettings)
    add_flags(parser, BrokerSettings, "nats-")
    add_flags(parser, StreamSettings)
    add_flags(parser, LogSettings)
    return parser


async def _work(flags: argparse.Namespace) -> None:
    stopping = asyncio.Event()

    def stop(number: int) -> None:
        if stopping.is_set() and number == signal.SIGINT:
            logging.shutdown()
            os._exit(128 + number)  # the leases run out by themselves
        stopping.set()

    with receiving(stop_signals(), stop):
        await _work_until(stopping, flags)


async def _work_until(stopping: asyncio.Event, flags: argparse.Namespace) -> None:
    settings = load(WorkerSettings, flags)
    broker_settings, stream_settings = load(BrokerSettings, flags), load(StreamSettings, flags)
    providers, voices = Providers(settings), Voices(settings)
    report_unknown(
        {WorkerSettings, *MODELS},
        providers.unknown_variables([*settings.providers, *settings.voices]),
    )
    # Reports an unknown provider or a missing key now, not in a session.
    if "transcribe" in stream_settings.kinds:
        for name in settings.providers:
            providers.get(name)
    if "speak" in stream_settings.kinds:
        for name in settings.voices:
            voices.get(name)
        if not settings.voices and "kinds" in stream_settings.model_fields_set:
            log.warning(
                "WORKER_VOICE is not set: of voice sessions, only those are spoken whose request "
                "names a voice"
            )
    metrics = Metrics(settings.max_sessions, settings.metrics_tenants, settings.final_goal_seconds)
    watch = StreamWatch(stream_settings, metrics)
    attempts = Attempts(on_failure=lambda reason: metrics.connect_failures.labels(reason).inc())
    health = Health(settings, metrics, watch, attempts)
    try:
        await health.start()
        log.info("waiting for NATS", extra=logs.fields(http=health.address))
        starting = asyncio.ensure_future(
            _start(
                settings,
                broker_settings,
                stream_settings,
                providers,
                voices,
                metrics,
                watch,
                attempts,
                once=flags.once,
            )
        )
        stopped = asyncio.ensure_future(stopping.wait())
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            stopped.cancel()
            return
        services, stream_settings = starting.result()
        try:
            await _run(services, stream_settings, stopping, health, watch)
        finally:
            stopped.cancel()
            await services.broker.close()
    finally:
        await health.stop()
        await providers.close()
        await voices.close()


async def _start(
    settings: WorkerSettings,
    broker_settings: BrokerSettings,
    stream_settings: StreamSettings,
    providers: Providers,
    voices: Voices,
    metrics: Metrics,
    watch: StreamWatch,
    attempts: Attempts,
    *,
    once: bool,
) -> tuple[Services, StreamSettings]:
    """Return also the settings with the kinds that this worker claims."""
    prices = parse_prices(settings.prices)
    broker = await connect(
        broker_settings, name=f"natterjack-worker {settings.name}", once=once, attempts=attempts
    )
    broker.client.batch_writes = True
    try:
        while True:
            try:
                async with broker.raising_refusals():
                    js, stream_settings = await ensure_streams(broker, stream_settings)
                    kinds = stream_settings.kinds
                    checkpoints = await _bucket(js, kinds, "transcribe", streams.CHECKPOINTS_BUCKET)
                    voice_checkpoints = await _bucket(
                        js, kinds, "speak", streams.VOICE_CHECKPOINTS_BUCKET
                    )
                    queue = streams.QUEUES[kinds[0]]
                    consumer = await js.consumer_info(queue, streams.CONSUMER)
                break
            except NotAllowed as refusal:
                raise _with_remedy(refusal) from None
            except (BrokerUnreachable, StreamMissing, NatsError, TimeoutError) as error:
                if once:
                    raise
                log.warning("%s; trying again", error)
                metrics.nats_connected.set(broker.connected)
                if isinstance(error, StreamMissing):
                    await watch.look(broker.client.jetstream())
                    await asyncio.sleep(_MISSING_RETRY_S)
                else:
                    await asyncio.sleep(1)
        watch.expect(stream_settings)
        await watch.look(js)
        store, texts, speech, roster = (
            StreamStore(broker, name)
            for name in (
                streams.AUDIO, streams.TEXT, streams.SPEECH, f"KV_{streams.WORKERS_BUCKET}",
            )
        )  # fmt: skip
        for one in (store, texts, speech, roster):
            await one.start()
    except BaseException:  # cancelled too
        await broker.close()
        raise
    lease_seconds = consumer.config.ack_wait or stream_settings.lease_seconds
    instance = _instance(settings.name)
    tally = Tally(instance)
    budgets = Budgets(broker, js, tally, metrics, settings.warning_fractions)
    report = Report(broker, js, roster, instance, settings, metrics, tally)
    report.queues = streams.queues(stream_settings)

    def refused(name: str, cause: str, seconds: float) -> None:
        (voices if voices.known(name) else providers).refused_elsewhere(name, cause, seconds)

    governor = Governor(broker, js, metrics, settings.account_of, instance, on_refusal=refused)
    services = Services(
        broker, js, store, checkpoints, providers, settings, metrics, tally, report, budgets,
        prices, governor, Slots(settings.max_sessions), asyncio.Event(), lease_seconds,
        voices, voice_checkpoints, texts, speech,
    )  # fmt: skip
    return services, stream_settings


async def _bucket(
    js: JetStreamContext, kinds: Sequence[Kind], kind: Kind, name: str
) -> KeyValue | None:
    """The bucket of checkpoints of one kind of session; None if this worker claims none."""
    return await js.key_value(name) if kind in kinds else None


def _instance(name: str) -> str:
    """A unique name of this process for bucket keys: the worker's name and a random suffix."""
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', name)[:80]}-{secrets.token_hex(4)}"


async def _run(
    services: Services,
    stream_settings: StreamSettings,
    stopping: asyncio.Event,
    health: Health,
    watch: StreamWatch,
) -> None:
    settings = services.settings
    claimer = Claimer(services, stream_settings.kinds)
    health.serve(services, claimer)
    # Everything allocated so far is permanent, so the garbage collector can skip it; and it runs
    # less often than by default.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    log.info(
        "worker ready",
        extra=logs.fields(
            worker=settings.name,
            provider=settings.provider,
            slots=settings.max_sessions,
            http=health.address,
        ),
    )
    drain_seconds = settings.drain_seconds + settings.handover_seconds
    stop_seconds = drain_seconds + _END_SECONDS
    try:
        async with asyncio.TaskGroup() as tasks:
            claiming = tasks.create_task(claimer.run(), name="claim")
            stopped = tasks.create_task(stopping.wait(), name="stop")
            side_tasks = [
                tasks.create_task(work)
                for work in (
                    services.report.run(claimer.records, lambda: health.draining),
                    services.budgets.run(lambda: claimer.sessions),
                    services.governor.run(),
                    poll(services.providers, services.metrics),
                    poll(services.voices, services.metrics),
                    services.providers.watch(),
                    services.voices.watch(),
                    _restore_streams(services, stream_settings),
                    watch.run(services.broker, services.js, services.restore),
                    EdgeWatch(services.metrics, settings.edges_seconds, settings.metrics_edges).run(
                        services.broker
                    ),
                    notify_systemd(stopping, stop_seconds),
                )
            ]
            await asyncio.wait({claiming, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not claiming.done():
                health.draining = True
                services.metrics.draining.set(1)
                log.info("draining", extra=logs.fields(sessions=len(claimer.sessions)))
                _end_process_after(stop_seconds)
                claimer.drain()
                await _wait_for_drain(claiming, drain_seconds)
            await services.report.sign_off()
            await end_tasks([stopped, *side_tasks])
    finally:
        await health.stop()
    log.info("worker ended")


def _with_remedy(refusal: NotAllowed) -> NotAllowed:
    """The same error, with a remedy if the worker tried to create a stream or a bucket."""
    if ".CREATE." not in refusal.subject:
        return refusal
    remedy = (
        "set NATTERJACK_CREATE_STREAMS=false, and run `natterjack streams apply` as a user of the "
        "role operator"
    )
    return NotAllowed(refusal.subject, publishes=refusal.publishes, remedy=remedy)


async def _restore_streams(services: Services, settings: StreamSettings) -> None:
    """Create missing streams and buckets after each reconnect, and whenever `restore` is set."""
    broker = services.broker
    broker.on_reconnect.add(services.restore.set)
    while True:
        await services.restore.wait()
        services.restore.clear()
        try:
            await streams.ensure(broker, settings)
        except (BrokerError, NatsError, TimeoutError) as error:
            log.warning("streams cannot be checked yet, retrying: %s", error)
            await asyncio.sleep(1)
            await broker.wait_connected()
            services.restore.set()


def _end_process_after(seconds: float) -> None:
    """End the process after `seconds` even if something hangs: its leases run out by themselves."""
    loop = asyncio.get_running_loop()

    def end() -> None:
        hanging = [repr(task) for task in asyncio.all_tasks(loop)]
        log.error("shutdown hangs, ending the process", extra=logs.fields(tasks=hanging))
        logging.shutdown()
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


async def _wait_for_drain(claiming: asyncio.Task[None], seconds: float) -> None:
    """Wait for the drain. Leases that are not given back run out by themselves."""
    await asyncio.wait({claiming}, timeout=seconds)
    if not claiming.done():
        log.warning("drain took too long, the remaining leases will run out")
        await end_tasks([claiming])


def main() -> None:
    """Entry point of `natterjack-worker`."""
    flags = parser().parse_args()
    try:
        logs.configure(load(LogSettings, flags))
        with tracing.started("natterjack-worker"):
            run_loop(_work(flags))
    except (UsageError, BrokerError) as error:
        print(f"natterjack-worker: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    try:
        main()
    finally:
        flush_streams()
