"""Notifications for systemd services of `Type=notify`: ready, alive, stopping.

Each notification is one datagram to the socket in $NOTIFY_SOCKET. See sd_notify(3).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

_RETRY_SECONDS = 0.1
_STATUS_SECONDS = 5.0


async def notify_systemd(
    stopping: asyncio.Event,
    stop_seconds: float,
    environment: Mapping[str, str] = os.environ,
    status: Callable[[], str] | None = None,
) -> None:
    """Report readiness, then watchdog signals, to systemd until canceled.

    Run it beside the program's work. The watchdog signals come from the event loop, at half the
    interval of the unit's `WatchdogSec=`, so a hanging loop sends none and systemd restarts the
    program. When `stopping` is set, systemd is notified and the unit's stop timeout is extended to
    `stop_seconds`. `status` returns a line for `systemctl status`, which is sent when it is
    different, every few seconds. Returns at once if systemd did not start this process.
    """
    path = environment.get("NOTIFY_SOCKET")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as systemd:
        try:
            systemd.connect("\0" + path[1:] if path.startswith("@") else path)
        except OSError as error:
            log.warning("cannot connect to NOTIFY_SOCKET, systemd gets no notifications: %s", error)
            return
        await _send(systemd, "READY=1")
        interval = _watchdog_interval(environment)
        pause, shown = interval, ""
        if status is not None:
            pause = min(_STATUS_SECONDS, interval or _STATUS_SECONDS)
        while not stopping.is_set():
            if interval is not None:
                await _send(systemd, "WATCHDOG=1")
            if status is not None and (line := status()) != shown:
                shown = line
                await _send(systemd, f"STATUS={line}")
            try:
                async with asyncio.timeout(pause):
                    await stopping.wait()
            except TimeoutError:
                continue
        await _send(systemd, f"STOPPING=1\nEXTEND_TIMEOUT_USEC={round(stop_seconds * 1e6)}")
        while interval is not None:
            await asyncio.sleep(interval)
            await _send(systemd, "WATCHDOG=1")


def _watchdog_interval(environment: Mapping[str, str]) -> float | None:
    """Seconds between watchdog signals, or None if systemd expects none from this process."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = environment.get("WATCHDOG_USEC", "")
    return int(microseconds) / 2e6 if microseconds.isdecimal() and int(microseconds) else None


async def _send(systemd: socket.socket, message: str) -> None:
    while True:
        try:
            systemd.send(message.encode())
        except BlockingIOError:  # the socket's buffer is full: systemd is slow to read
            await asyncio.sleep(_RETRY_SECONDS)
        except OSError as error:
            log.warning("cannot send %s to systemd: %s", message.partition("\n")[0], error)
            return
        else:
            return
