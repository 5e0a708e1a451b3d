"""What systemd is told, on a real socket: by the function, and by both programs."""

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
    """The end of the socket that systemd reads."""

    def __init__(self, address: str) -> None:
        self.environment = {"NOTIFY_SOCKET": address}
        self.told: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def read(self) -> list[str]:
        """All that was told so far."""
        while True:
            try:
                self.told.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return self.told

    async def hears(self, message: str, times: int = 1, timeout: float = 10) -> None:
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
    # Not under tmp_path: a socket's path has room for 107 characters.
    with (
        tempfile.TemporaryDirectory(prefix="notify") as directory,
        listening(str(Path(directory) / "socket")) as systemd,
    ):
        yield systemd


@asynccontextmanager
async def telling(environment: dict[str, str], stopping: asyncio.Event | None = None) -> Any:
    task = asyncio.create_task(notify_systemd(stopping or asyncio.Event(), 42, environment))
    yield task
    task.cancel()
    await asyncio.wait([task])


async def test_whoever_was_not_started_by_systemd_tells_nothing() -> None:
    async with within(5):
        await notify_systemd(asyncio.Event(), 1, {"WATCHDOG_USEC": "1"})


async def test_without_a_watchdog_there_are_no_signs_of_life(systemd: Systemd) -> None:
    stopping = asyncio.Event()
    async with telling(systemd.environment, stopping) as task:
        await systemd.hears("READY=1")
        stopping.set()
        await asyncio.wait([task], timeout=bound(5))
        assert task.done()
    assert systemd.read() == ["READY=1", "STOPPING=1\nEXTEND_TIMEOUT_USEC=42000000"]


async def test_signs_of_life_go_on_while_it_stops(systemd: Systemd) -> None:
    stopping = asyncio.Event()
    async with telling(systemd.environment | {"WATCHDOG_USEC": "20000"}, stopping):
        await systemd.hears("WATCHDOG=1", 3)
        stopping.set()
        await until(
            lambda: any("STOPPING" in told for told in systemd.read()[:-1]),
            "signs of life after it",
        )
    assert systemd.told[0] == "READY=1"
    assert systemd.told[-1] == "WATCHDOG=1"


async def test_a_loop_that_hangs_gives_no_sign_of_life(systemd: Systemd) -> None:
    async with telling(systemd.environment | {"WATCHDOG_USEC": "20000"}):
        await systemd.hears("WATCHDOG=1")
        before = len(systemd.read())
        time.sleep(0.3)  # the loop hangs: this is not a wait for something
        assert len(systemd.read()) == before
        await systemd.hears("WATCHDOG=1", before + 2)


@pytest.mark.parametrize(
    "watchdog",
    [
        {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
    ],
)
async def test_no_signs_of_life_that_are_not_for_us_to_give(
    systemd: Systemd, watchdog: dict[str, str]
) -> None:
    stopping = asyncio.Event()
    async with telling(systemd.environment | watchdog, stopping) as task:
        await systemd.hears("READY=1")
        stopping.set()
        await asyncio.wait([task], timeout=bound(5))
        assert task.done()
    assert "WATCHDOG=1" not in systemd.read()


async def test_our_own_watchdog_pid(systemd: Systemd) -> None:
    ours = {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}
    async with telling(systemd.environment | ours):
        await systemd.hears("WATCHDOG=1", 2)


async def test_a_socket_in_the_abstract_name_space() -> None:
    with listening(f"@natterjack-test-{os.getpid()}") as systemd:
        async with telling(systemd.environment):
            await systemd.hears("READY=1")


def _fill(systemd: Systemd) -> int:
    """Leave no room in its socket; how many messages that took."""
    sent = 0
    while True:
        before = sent
        # A sender has a limit of its own: it is the socket's when a new sender has no room at all.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as other:
            other.connect(systemd.environment["NOTIFY_SOCKET"])
            with contextlib.suppress(BlockingIOError):
                while True:
                    other.send(b"somebody else")
                    sent += 1
        if sent == before:
            return sent


async def test_a_systemd_that_is_slow_to_read_is_told_all_the_same(systemd: Systemd) -> None:
    sent = _fill(systemd)
    async with telling(systemd.environment):
        await asyncio.sleep(0)  # it has tried once, and there was no room
        assert systemd.read() == ["somebody else"] * sent
        await systemd.hears("READY=1")


async def test_a_socket_that_is_not_there_is_said_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with within(5):
        await notify_systemd(asyncio.Event(), 1, {"NOTIFY_SOCKET": str(tmp_path / "none")})
    assert "NOTIFY_SOCKET" in caplog.text


def _stopping_seconds(systemd: Systemd) -> float:
    (found,) = [m for told in systemd.read() if (m := re.match(r"STOPPING=1\n.+=(\d+)$", told))]
    return int(found[1]) / 1e6


async def test_the_worker_tells_systemd(systemd: Systemd, nats_server: EmbeddedServer) -> None:
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
        await systemd.hears("READY=1", timeout=60)
        await until(lambda: worker.find("worker ready"), "it says so in its log too")
        assert (await worker.get("/readyz"))[0] == 200
        await systemd.hears("WATCHDOG=1", 3)
        worker.signal(signal.SIGTERM)
        assert await worker.wait() == 0
    finally:
        await worker.stop()
    assert _stopping_seconds(systemd) > 7 + 60
    assert systemd.told[0] == "READY=1"


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
        await systemd.hears("READY=1", timeout=30)
    finally:
        await worker.stop()


async def test_the_edge_tells_systemd(
    systemd: Systemd, start_edge: StartEdge, ready_broker: Broker
) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as sound, open(writing, "wb") as microphone:
        edge = start_edge(
            "stdin", "--sample-rate", 16000,
            stdin=sound,
            environment=systemd.environment
            | {"WATCHDOG_USEC": "200000", "EDGE_FINISH_SECONDS": "3"},
        )  # fmt: skip
        microphone.write(bytes(32_000))
        microphone.flush()
        await systemd.hears("READY=1", timeout=60)
        await systemd.hears("WATCHDOG=1", 3)
        edge.process.send_signal(signal.SIGTERM)
        assert await edge.exit_code() == 0
    assert _stopping_seconds(systemd) > 3
