"""What systemd is told by a service of `Type=notify`: ready, still alive, stopping.

One datagram for each, to the socket that the environment names; sd_notify(3) has the protocol.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger(__name__)

_TRY_AGAIN_SECONDS = 0.1


async def tell_systemd(
    stopping: asyncio.Event, stop_seconds: float, environment: Mapping[str, str] = os.environ
) -> None:
    """Tell systemd that the process is ready, and from then on that it is alive, until cancelled.

    Run it beside the work: its signs of life come from the event loop, twice as often as the unit's
    `WatchdogSec=` wants them. A loop that hangs gives none, and systemd starts the program again.
    Once `stopping` is set systemd is told so, and that the end may take `stop_seconds`, however
    short the unit's `TimeoutStopSec=` is. Returns at once if systemd did not start this process.
    """
    path = environment.get("NOTIFY_SOCKET")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as systemd:
        try:
            systemd.connect("\0" + path[1:] if path.startswith("@") else path)
        except OSError as error:
            log.warning("NOTIFY_SOCKET cannot be used, systemd is told nothing: %s", error)
            return
        await _tell(systemd, "READY=1")
        interval = _watchdog_interval(environment)
        while not stopping.is_set():
            if interval is not None:
                await _tell(systemd, "WATCHDOG=1")
            try:
                async with asyncio.timeout(interval):
                    await stopping.wait()
            except TimeoutError:
                continue
        await _tell(systemd, f"STOPPING=1\nEXTEND_TIMEOUT_USEC={round(stop_seconds * 1e6)}")
        while interval is not None:
            await asyncio.sleep(interval)
            await _tell(systemd, "WATCHDOG=1")


def _watchdog_interval(environment: Mapping[str, str]) -> float | None:
    """Seconds between signs of life of this process; None if none are wanted."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None  # wanted of another process
    microseconds = environment.get("WATCHDOG_USEC", "")
    return int(microseconds) / 2e6 if microseconds.isdecimal() and int(microseconds) else None


async def _tell(systemd: socket.socket, message: str) -> None:
    while True:
        try:
            systemd.send(message.encode())
        except BlockingIOError:  # it has not read yet what it was told before
            await asyncio.sleep(_TRY_AGAIN_SECONDS)
        except OSError as error:
            log.warning("systemd cannot be told %s: %s", message.partition("\n")[0], error)
            return
        else:
            return
