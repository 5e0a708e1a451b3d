"""`TEST_SHARES=12 pytest`: the tests in processes that are forked once all tests are collected.

pytest-xdist has each of its processes import and collect all tests. For tests that start no process
that is a fourth of all work: `make check` uses this, and `make test` uses pytest-xdist, which
replaces a process that dies.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import selectors
import shutil
import signal
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import pytest

_BATCH = 16
"""So many tests, one after another, are taken at once: they may share fixtures."""
_NUMBER, _LENGTH = struct.Struct("<H"), struct.Struct("<I")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    if count := _wanted(session):
        _run(session, count)
        return True
    return None


def _wanted(session: pytest.Session) -> int:
    """The number of processes; 0 if the tests run in this one."""
    option = session.config.option
    if session.testsfailed or option.collectonly or getattr(option, "usepdb", False):
        return 0
    return min(int(os.environ.get("TEST_SHARES", "0")), len(session.items) // _BATCH)


@dataclass(slots=True)
class _Process:
    pid: int
    pipe: int
    received: bytearray = field(default_factory=bytearray)
    test: str = ""
    """The one that it runs, or ran last."""

    def reports(self) -> Iterator[Any]:
        """Remove and yield all that has arrived whole: reports of tests, names of those begun."""
        while len(self.received) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self.received)[0]
            if len(self.received) < end:
                return
            yield pickle.loads(self.received[_LENGTH.size : end])
            del self.received[:end]


def _run(session: pytest.Session, count: int) -> None:
    """Run the tests of the session in `count` processes. Raises as pytest's own loop does."""
    config = session.config
    batches, give = os.pipe()
    os.set_blocking(give, False)
    for number in reversed(range(-(-len(session.items) // _BATCH))):
        os.write(give, _NUMBER.pack(number))
    os.close(give)
    folder = tempfile.mkdtemp(prefix="shares-")
    capture = config.pluginmanager.getplugin("capturemanager")
    capture.stop_global_capturing()  # each process needs its own files
    processes: list[_Process] = []
    for _ in range(count):
        pipe, reports = os.pipe()
        if (pid := os.fork()) == 0:
            os.environ["PYTEST_DEBUG_TEMPROOT"] = folder
            capture.start_global_capturing()
            _run_share(session, batches, reports)
        os.close(reports)
        processes.append(_Process(pid, pipe))
    capture.start_global_capturing()
    try:
        _follow(session, processes)
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            os.close(process.pipe)
        os.close(batches)
        if not session.testsfailed:
            shutil.rmtree(folder, ignore_errors=True)


def _follow(session: pytest.Session, processes: list[_Process]) -> None:
    """Show what the processes report, until all have ended."""
    hook, ended = session.config.hook, 0
    with selectors.DefaultSelector() as selector:
        for process in processes:
            selector.register(process.pipe, selectors.EVENT_READ, process)
        while selector.get_map():
            for key, _ in selector.select():
                process = key.data
                data = os.read(process.pipe, 1 << 16)
                if not data:
                    selector.unregister(process.pipe)
                    status = os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])
                    if status:
                        pytest.exit(f"{process.test} ended its process with status {status}", 3)
                process.received += data
                for one in process.reports():
                    if isinstance(one, str):
                        process.test = one
                        continue
                    report: Any = hook.pytest_report_from_serializable(
                        config=session.config, data=one
                    )
                    hook.pytest_runtest_logreport(report=report)
                    if report.when == "teardown":
                        ended += 1
                        hook.pytest_runtest_logfinish(
                            nodeid=report.nodeid, location=report.location
                        )
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
    if ended != len(session.items):
        pytest.exit(f"{len(session.items) - ended} tests were not run", 3)


class _Reporting:
    """In place of the terminal: sends reports to the process that collected the tests."""

    def __init__(self, config: pytest.Config, pipe: int) -> None:
        self._config = config
        self._pipe = pipe

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._send(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        hook = self._config.hook
        self._send(hook.pytest_report_to_serializable(config=self._config, report=report))

    def _send(self, report: object) -> None:
        message = pickle.dumps(report)
        left = memoryview(_LENGTH.pack(len(message)) + message)
        while left:
            left = left[os.write(self._pipe, left) :]


def _run_share(session: pytest.Session, batches: int, reports: int) -> NoReturn:
    status = 1
    try:
        plugins = session.config.pluginmanager
        plugins.unregister(name="terminalreporter")
        plugins.register(_Reporting(session.config, reports))
        items = itertools.chain(_items(session, batches), [None])
        for item, following in itertools.pairwise(items):
            assert item is not None
            item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
        status = 0
    finally:
        os._exit(status)


def _items(session: pytest.Session, batches: int) -> Iterator[pytest.Item]:
    while number := os.read(batches, _NUMBER.size):
        first = _NUMBER.unpack(number)[0] * _BATCH
        yield from session.items[first : first + _BATCH]
