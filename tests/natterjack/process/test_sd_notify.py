"""Notifications for systemd on a real socket: from the function and from both programs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from natterjack.broker.connection import Broker
from natterjack.local.embedded import EmbeddedServer
from natterjack.process.sd_notify import notify_systemd
from tests.edge_capture.conftest import StartEdge, start_edge
from tests.waiting import bound, until, within
from tests.worker.programs import WorkerProcess

__all__ = ["start_edge"]


class Systemd:
    """systemd's end of the socket."""

    def __init__(self, address: str) -> None:
        self.environment = {"NOTIFY_SOCKET": address}
        self.messages: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def read(self) -> list[str]:
        """All messages so far."""
        while True:
            try:
                self.messages.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return self.messages

    async def receives(self, message: str, times: int = 1, timeout: float = 10) -> None:
        await until(lambda: self.read().count(message) >= times, f"{times} x {message}", timeout)

    def close(self) -> None:
        self._socket.close()


@contextmanager
def listening(address: str) -> Iterator[Systemd]:
    systemd = Systemd(address)
    try:
        yield systemd
    finally:
        systemd.close()


@pytest.fixture
def systemd() -> Iterator[Systemd]:
    # Not under tmp_path: the path of a socket can have only 107 characters.
    with (
        tempfile.TemporaryDirectory(prefix="notify") as directory,
        listening(str(Path(directory) / "socket")) as systemd,
    ):
        yield systemd


@asynccontextmanager
async def notifying(environment: dict[str, str], stopping: asyncio.Event | None = None) -> Any:
    task = asyncio.create_task(notify_systemd(stopping or asyncio.Event(), 42, environment))
    yield task
    task.cancel()
    await asyncio.wait([task])


async def test_without_systemd_nothing_is_sent() -> None:
    async with within(5):
        await notify_systemd(asyncio.Event(), 1, {"WATCHDOG_USEC": "1"})


async def test_without_a_watchdog_there_are_no_watchdog_signals(systemd: Systemd) -> None:
    stopping = asyncio.Event()
    async with notifying(systemd.environment, stopping) as task:
        await systemd.receives("READY=1")
        stopping.set()
        await asyncio.wait([task], timeout=bound(5))
        assert task.done()
    assert systemd.read() == ["READY=1", "STOPPING=1\nEXTEND_TIMEOUT_USEC=42000000"]


async def test_watchdog_signals_continue_while_the_program_stops(systemd: Systemd) -> None:
    stopping = asyncio.Event()
    async with notifying(systemd.environment | {"WATCHDOG_USEC": "20000"}, stopping):
        await systemd.receives("WATCHDOG=1", 3)
        stopping.set()
        await until(
            lambda: any("STOPPING" in message for message in systemd.read()[:-1]),
            "watchdog signals after it",
        )
    assert systemd.messages[0] == "READY=1"
    assert systemd.messages[-1] == "WATCHDOG=1"


async def test_a_hanging_loop_sends_no_watchdog_signal(systemd: Systemd) -> None:
    async with notifying(systemd.environment | {"WATCHDOG_USEC": "20000"}):
        await systemd.receives("WATCHDOG=1")
        before = len(systemd.read())
        time.sleep(0.3)  # blocks the event loop on purpose
        assert len(systemd.read()) == before
        await systemd.receives("WATCHDOG=1", before + 2)


@pytest.mark.parametrize(
    "watchdog",
    [
        {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
    ],
)
async def test_watchdog_settings_that_do_not_apply(
    systemd: Systemd, watchdog: dict[str, str]
) -> None:
    stopping = asyncio.Event()
    async with notifying(systemd.environment | watchdog, stopping) as task:
        await systemd.receives("READY=1")
        stopping.set()
        await asyncio.wait([task], timeout=bound(5))
        assert task.done()
    assert "WATCHDOG=1" not in systemd.read()


async def test_the_watchdog_pid_of_this_process(systemd: Systemd) -> None:
    ours = {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}
    async with notifying(systemd.environment | ours):
        await systemd.receives("WATCHDOG=1", 2)


async def test_a_socket_in_the_abstract_name_space() -> None:
    with listening(f"@natterjack-test-{os.getpid()}") as systemd:
        async with notifying(systemd.environment):
            await systemd.receives("READY=1")


def _fill(systemd: Systemd) -> int:
    """Fill the buffer of the socket and return the number of messages sent."""
    sent = 0
    while True:
        before = sent
        # Each sender has a limit too. The socket is full when a new sender cannot send anything.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as other:
            other.connect(systemd.environment["NOTIFY_SOCKET"])
            with contextlib.suppress(BlockingIOError):
                while True:
                    other.send(b"other")
                    sent += 1
        if sent == before:
            return sent


async def test_a_full_socket_is_retried(systemd: Systemd) -> None:
    sent = _fill(systemd)
    async with notifying(systemd.environment):
        await asyncio.sleep(0)  # the first attempt has found no room
        assert systemd.read() == ["other"] * sent
        await systemd.receives("READY=1")


async def test_a_missing_socket_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with within(5):
        await notify_systemd(asyncio.Event(), 1, {"NOTIFY_SOCKET": str(tmp_path / "none")})
    assert "NOTIFY_SOCKET" in caplog.text


def _stopping_seconds(systemd: Systemd) -> float:
    (found,) = [
        m for message in systemd.read() if (m := re.match(r"STOPPING=1\n.+=(\d+)$", message))
    ]
    return int(found[1]) / 1e6


async def test_the_worker_notifies_systemd(systemd: Systemd, nats_server: EmbeddedServer) -> None:
    worker = WorkerProcess(
        nats_server.url,
        "ws://127.0.0.1:9",
        **systemd.environment,
        WATCHDOG_USEC="200000",
        WORKER_DRAIN_SECONDS="7",
        WORKER_HANDOVER_SECONDS="60",
    )
    try:
        await worker.launch()
        await systemd.receives("READY=1", timeout=60)
        await until(lambda: worker.find("worker ready"), "the worker logs that it is ready")
        assert (await worker.get("/readyz"))[0] == 200
        await systemd.receives("WATCHDOG=1", 3)
        worker.signal(signal.SIGTERM)
        assert await worker.wait() == 0
    finally:
        await worker.stop()
    assert _stopping_seconds(systemd) > 7 + 60
    assert systemd.messages[0] == "READY=1"


async def test_a_worker_that_waits_for_nats_is_not_ready_yet(
    systemd: Systemd, nats_server: EmbeddedServer
) -> None:
    nats_server.stop()
    worker = WorkerProcess(nats_server.url, "ws://127.0.0.1:9", **systemd.environment)
    try:
        await worker.launch()
        await until(lambda: worker.find("next attempt"), "the worker waits for NATS", 60)
        assert systemd.read() == []
        nats_server.start()
        await systemd.receives("READY=1", timeout=30)
    finally:
        await worker.stop()


async def test_the_edge_notifies_systemd(
    systemd: Systemd, start_edge: StartEdge, ready_broker: Broker
) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as audio, open(writing, "wb") as microphone:
        edge = start_edge(
            "stdin", "--sample-rate", 16000,
            stdin=audio,
            environment=systemd.environment
            | {"WATCHDOG_USEC": "200000", "EDGE_FINISH_SECONDS": "3"},
        )  # fmt: skip
        microphone.write(bytes(32_000))
        microphone.flush()
        await systemd.receives("READY=1", timeout=60)
        await systemd.receives("WATCHDOG=1", 3)
        edge.process.send_signal(signal.SIGTERM)
        assert await edge.exit_code() == 0
    assert _stopping_seconds(systemd) > 3
