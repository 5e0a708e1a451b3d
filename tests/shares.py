"""`TEST_SHARES=12 pytest`: the tests in processes that are forked once all tests are collected.

pytest-xdist would have each of its processes import and collect all tests, which is a fourth of the
work of `make check`, and in a new clone a tenth of that of `make test`. It replaces a process that
dies, which ends the run here: no test may end the process that it runs in.
"""

from __future__ import annotations

import itertools
import os
import pickle
import select
import selectors
import shutil
import signal
import struct
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import pytest

_AT_ONCE = 16
"""So many tests, one after another, are taken at once: they may share fixtures."""
_PROCESSES_AT_ONCE = 6
"""The same for tests that start processes, which take longer. A slow test is taken alone."""
_BATCH, _LENGTH = struct.Struct("<HH"), struct.Struct("<I")
RUN = "TEST_RUN"
"""The variable with a name of the run, which all its processes have."""


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
    count = min(int(os.environ.get("TEST_SHARES", "0")), len(batches(session.items)))
    return count if count > 1 else 0


def batches(items: Sequence[pytest.Item]) -> list[tuple[int, int]]:
    """The first test of each batch and the one after its last, in the order in which they begin:
    slow tests, so that none is begun last and waited for; then from the end, where the tests are
    that wait longest."""
    slow: list[tuple[int, int]] = []
    others: list[tuple[int, int]] = []
    for size, group in itertools.groupby(range(len(items)), lambda n: _at_once(items[n])):
        numbers = list(group)
        found = slow if size == 1 else others
        found += [(n, min(n + size, numbers[-1] + 1)) for n in numbers[::size]]
    return slow + others[::-1]


def _at_once(item: pytest.Item) -> int:
    if item.get_closest_marker("slow"):
        return 1
    return _PROCESSES_AT_ONCE if item.get_closest_marker("process") else _AT_ONCE


@dataclass(slots=True)
class _Process:
    pid: int
    pipe: int
    ended: bool = False
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
    queue, give = os.pipe()
    os.set_blocking(give, False)
    os.write(give, b"".join(_BATCH.pack(*batch) for batch in batches(session.items)))
    os.close(give)
    stopped, stop = os.pipe()
    os.environ[RUN] = uuid.uuid4().hex
    folder = tempfile.mkdtemp(prefix="shares-")
    capture = config.pluginmanager.getplugin("capturemanager")
    capture.stop_global_capturing()  # each process needs its own files
    processes: list[_Process] = []
    for _ in range(count):
        pipe, reports = os.pipe()
        if (pid := os.fork()) == 0:
            os.close(stop)
            os.environ["PYTEST_DEBUG_TEMPROOT"] = folder
            capture.start_global_capturing()
            _run_share(session, _items(session, queue, stopped), reports)
        os.close(reports)
        processes.append(_Process(pid, pipe))
    capture.start_global_capturing()
    capture.suspend_global_capture()  # what this process prints is for the terminal
    try:
        _follow(session, processes)
    finally:
        os.close(stop)
        try:
            _wait(processes)
        finally:
            for process in processes:
                if not process.ended:
                    os.kill(process.pid, signal.SIGKILL)
                    os.waitpid(process.pid, 0)
                os.close(process.pipe)
            os.close(queue)
            os.close(stopped)
            if not session.testsfailed:
                shutil.rmtree(folder, ignore_errors=True)


def _wait(processes: Iterable[_Process]) -> None:
    """Wait until each has ended the test that it runs, and what that has started."""
    for process in processes:
        while os.read(process.pipe, 1 << 16):
            pass


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
                    process.ended = True
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
                    if session.shouldfail:
                        raise session.Failed(session.shouldfail)
                    if report.when == "teardown":
                        ended += 1
                        hook.pytest_runtest_logfinish(
                            nodeid=report.nodeid, location=report.location
                        )
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


def _run_share(session: pytest.Session, items: Iterator[pytest.Item], reports: int) -> NoReturn:
    status = 1
    plugins = session.config.pluginmanager
    try:
        plugins.unregister(name="terminalreporter")
        plugins.register(_Reporting(session.config, reports))
        for item, following in itertools.pairwise(itertools.chain(items, [None])):
            assert item is not None
            item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
        status = 0
    finally:
        try:
            plugins.getplugin("runner").pytest_sessionfinish(session=session)  # ends fixtures
        finally:
            os._exit(status)


def _items(session: pytest.Session, queue: int, stopped: int) -> Iterator[pytest.Item]:
    """The tests of one process, one after another, until there are no more or all have to stop."""
    while batch := os.read(queue, _BATCH.size):
        for item in session.items[slice(*_BATCH.unpack(batch))]:
            if select.select([stopped], [], [], 0)[0]:
                return
            yield item
