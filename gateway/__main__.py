"""The `natterjack-gateway` command: serves clients of other protocols."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from importlib.metadata import version

from natterjack.broker.connection import Broker, connect
from natterjack.errors import BrokerError, UsageError
from natterjack.process.run import run_loop
from natterjack.process.sd_notify import notify_systemd
from natterjack.process.signals import receiving, stop_signals
from natterjack.process.start import flush_streams
from natterjack.process.variables import report_unknown
from natterjack.settings import MODELS, BrokerSettings, LogSettings, add_flags, load
from natterjack.telemetry import log as logs
from natterjack.telemetry import tracing

from .access import AccessSettings, Credits
from .app import Gateway, serve
from .session import Sessions
from .settings import GatewaySettings

log = logging.getLogger("gateway")

_GC_THRESHOLDS = 20_000, 20, 50
_END_SECONDS = 15.0
"""How long the process may run after `drain_seconds` have passed."""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="natterjack-gateway",
        description="Serves clients that speak the protocols of speech services instead of NATS: "
        "their audio becomes sessions, and they receive the transcripts. SIGTERM or Ctrl-C drains "
        "the gateway: each client receives its next final, and then connects again elsewhere. A "
        "second Ctrl-C ends it at once.",
        epilog="Exit status: 0 after a drain, 2 if a setting is wrong or NATS cannot be used, 130 "
        "after a second Ctrl-C.",
    )
    parser.add_argument("--version", action="version", version=version("natterjack"))
    parser.add_argument(
        "--once",
        action="store_true",
        help="do not wait for NATS: exit with status 2 if it cannot be reached",
    )
    add_flags(parser, GatewaySettings)
    add_flags(parser, AccessSettings)
    add_flags(parser, BrokerSettings, "nats-")
    add_flags(parser, LogSettings)
    return parser


async def _serve(flags: argparse.Namespace) -> None:
    stopping = asyncio.Event()

    def stop(number: int) -> None:
        if stopping.is_set() and number == signal.SIGINT:
            logging.shutdown()
            os._exit(128 + number)
        stopping.set()

    with receiving(stop_signals(), stop):
        await _serve_until(stopping, flags)


async def _serve_until(stopping: asyncio.Event, flags: argparse.Namespace) -> None:
    settings, broker_settings = load(GatewaySettings, flags), load(BrokerSettings, flags)
    report_unknown({GatewaySettings, AccessSettings, *MODELS})
    gateway = Gateway(settings, load(AccessSettings, flags))
    port = await serve(gateway)
    try:
        log.info("waiting for NATS", extra=logs.fields(http=port.address))
        connecting = asyncio.ensure_future(
            connect(
                broker_settings,
                name=f"natterjack-gateway {settings.name}",
                once=flags.once,
                attempts=gateway.attempts,
            )
        )
        stopped = asyncio.ensure_future(stopping.wait())
        await asyncio.wait({connecting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not connecting.done():
            connecting.cancel()
            return
        await _run(gateway, connecting.result(), stopping, port.address)
    finally:
        await port.stop()
        await gateway.decoders.close()
    log.info("gateway ended")


async def _run(gateway: Gateway, broker: Broker, stopping: asyncio.Event, address: str) -> None:
    broker.client.batch_writes = True
    gateway.broker = broker
    stop_seconds = gateway.settings.drain_seconds + _END_SECONDS
    # Everything allocated so far is permanent, so the garbage collector can skip it; and it runs
    # less often than by default.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    try:
        gateway.credits = Credits(broker)
        await gateway.credits.start()
        served = Sessions(broker, gateway.settings, gateway.metrics, gateway.credits)
        async with served.running() as sessions:
            gateway.sessions = sessions
            log.info("gateway ready", extra=logs.fields(http=address))
            async with asyncio.TaskGroup() as tasks:
                systemd = tasks.create_task(notify_systemd(stopping, stop_seconds))
                await stopping.wait()
                log.info("draining", extra=logs.fields(connections=gateway.connections))
                _end_process_after(stop_seconds)
                await gateway.drain()
                await sessions.stored()
                systemd.cancel()
    finally:
        await broker.close()


def _end_process_after(seconds: float) -> None:
    """End the process after `seconds` even if something hangs."""

    def end() -> None:
        log.error("shutdown hangs, ending the process")
        logging.shutdown()
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def main() -> None:
    """Entry point of `natterjack-gateway`."""
    flags = parser().parse_args()
    try:
        logs.configure(load(LogSettings, flags))
        with tracing.started("natterjack-gateway"):
            run_loop(_serve(flags))
    except (UsageError, BrokerError) as error:
        print(f"natterjack-gateway: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    try:
        main()
    finally:
        flush_streams()
