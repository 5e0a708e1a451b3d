"""Fixtures that all tests share: a nats-server process and connections to it. Hooks that keep apart
the tests that start processes, and that stretch each test's time limit with the machine's load."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_timeout import timeout_sigalrm  # type: ignore[import-untyped]

from natterjack.broker.connection import Broker, connected
from natterjack.broker.streams import ensure
from natterjack.settings import BrokerSettings, StreamSettings
from tests import forking, searching
from tests.limited import LimitedServer
from tests.nats_server import NatsServer
from tests.shares import pytest_runtestloop as pytest_runtestloop  # a hook
from tests.waiting import Countdown

# ---- tests that start processes ------------------------------------------------------------------


@pytest.fixture(scope="session")
def processes() -> None:
    """Permission to start processes, for fixtures. A test that starts one by itself has the mark
    `process`, which tests that use this fixture get without asking."""


@pytest.fixture(scope="session")
def engine() -> None:
    """For fixtures that run the embedded engine. Tests that use this fixture have the mark
    `engine`: they start no process, but compute for a minute."""


@pytest.fixture(scope="session", autouse=True)
def fork_server() -> Iterator[None]:
    """The process that forks programs ends with the tests."""
    yield
    forking.end_server()


_MARKS = {"processes": "process", "engine": "engine"}
"""Fixtures, and the marks of the tests that use them."""
_SLOW_SECONDS = 300
"""The time limit of slow tests: each waits several times, for up to a minute."""
_STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system"}
_unmarked: pytest.Item | None = None
"""The test that runs now, if it may start no process."""


def _refuse_processes(event: str, _arguments: object) -> None:
    if _unmarked is not None and event in _STARTS:
        raise AssertionError(f"{_unmarked.nodeid} starts a process without the mark `process`")


sys.addaudithook(_refuse_processes)

# Programs to which a test gives no broker must not find one that happens to run on this machine.
os.environ["NATS_URL"] = "nats://127.0.0.1:1"
searching.by_default()

# A shell that starts the tests in the background has them ignore Ctrl-C, and `nohup` the end of the
# terminal, and so would the programs that the tests start and end with them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Exempt all that is imported and collected from garbage collection, since it stays until the
    end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import a module whose tests all have a mark that `-m` leaves out. Its imports, such
    as the clients of providers, take longer than many tests."""
    expression = config.option.markexpr
    left_out = "|".join(mark for mark in _MARKS.values() if f"not {mark}" in expression)
    if not left_out or " or " in expression or collection_path.suffix != ".py":
        return None
    marked = re.search(
        rf"^pytestmark = .*\bmark\.(?:{left_out})\b", collection_path.read_text(), re.M
    )
    return True if marked else None


@pytest.hookimpl(tryfirst=True)  # marks are set before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for fixture in _MARKS.keys() & getattr(item, "fixturenames", ()):
            item.add_marker(_MARKS[fixture])
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_SLOW_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Allow processes to marked tests only. Collect what a failed test leaves open, so that its
    warnings do not fail a later test."""
    global _unmarked
    _unmarked = None if item.get_closest_marker("process") else item
    forking.enabled = forking.AVAILABLE and item.get_closest_marker("interpreter") is None
    failed_before = item.session.testsfailed
    try:
        result = yield
    finally:
        _unmarked = None
    if item.session.testsfailed > failed_before:
        for name in ("last_type", "last_value", "last_traceback"):  # keep its frames alive
            vars(sys).pop(name, None)
        hook, sys.unraisablehook = sys.unraisablehook, sys.__unraisablehook__
        try:
            gc.collect()
        finally:
            sys.unraisablehook = hook
    return result


# ---- time limits ---------------------------------------------------------------------------------

_ALARM_SECONDS = 5.0


@pytest.hookimpl
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool | None:
    """The limit of pytest-timeout, as a Countdown."""
    if settings.method != "signal":
        return None
    countdown = Countdown(settings.timeout, _ALARM_SECONDS)

    def look(*_: object) -> None:
        __tracebackhide__ = True
        if countdown.expired():
            timeout_sigalrm(item, settings)

    def cancel() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    item.cancel_timeout = cancel  # type: ignore[attr-defined]  # pytest-timeout calls it
    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, _ALARM_SECONDS, _ALARM_SECONDS)
    return True


# ---- NATS ----------------------------------------------------------------------------------------


@pytest.fixture
def nats_server(tmp_path: Path, processes: None) -> Iterator[NatsServer]:
    """A nats-server of this test's own, which it may kill and start again."""
    server = NatsServer(tmp_path / "nats")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def limited_server(tmp_path: Path, processes: None) -> Iterator[LimitedServer]:
    """A nats-server whose max_payload is 64 KiB, and can be changed."""
    server = LimitedServer(tmp_path / "limited", 65_536)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def broker_settings(nats_server: NatsServer) -> BrokerSettings:
    return BrokerSettings(url=nats_server.url)


@pytest.fixture
async def broker(broker_settings: BrokerSettings) -> AsyncIterator[Broker]:
    """A connection, with no streams made yet."""
    async with connected(broker_settings, name="test", once=True) as broker:
        yield broker


@pytest.fixture
async def ready_broker(broker: Broker) -> Broker:
    """A connection to a broker on which the streams are made."""
    await ensure(broker, StreamSettings())
    return broker
