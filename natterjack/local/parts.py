"""The parts of a local stack: processes that never outlive the command that wants them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from natterjack.errors import NatterjackError, UsageError

from . import keeper

_START_TIMEOUT_S = 60
_LOOK_S = 0.05
_TAIL_LINES = 5


class PartFailed(NatterjackError):
    """A part of the stack ended or did not start; the message ends with its last log lines."""


class Part:
    """One process of the stack. What it writes to standard error is its log."""

    def __init__(self, name: str, log_path: Path, parts: Parts) -> None:
        self.name = name
        self.log_path = log_path
        self.pid = 0
        log_path.unlink(missing_ok=True)  # an earlier run's
        self._parts = parts
        self._status: int | None = None
        self._ended = asyncio.Event()

    @property
    def running(self) -> bool:
        return not self._ended.is_set()

    def end(self, status: int | None) -> None:
        """Record the end, with None for a status that nobody knows."""
        self._status = status
        self._ended.set()

    async def wait(self) -> int:
        """Wait for the end and return the exit status, negative after a signal.

        Raises: PartFailed if the keeper has ended.
        """
        await self._ended.wait()
        if self._status is None:
            raise PartFailed(
                "the keeper, which runs the parts of the stack, ended, and so did they"
            )
        return self._status

    async def logged(self, message: str) -> dict[str, Any]:
        """Wait for a log line with this message and return its fields.

        Raises: PartFailed if the part ends or 60 s pass first; UsageError if it ends with the exit
        status for wrong usage.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_TIMEOUT_S):
                while True:
                    running = self.running
                    for entry in self._entries():
                        if entry.get("message") == message:
                            return entry
                    if not running:
                        break
                    await asyncio.sleep(_LOOK_S)
        if self.running:
            raise PartFailed(f"{self.name} is not ready after {_START_TIMEOUT_S} s: {self.tail()}")
        raise await self.failure()

    async def failure(self) -> PartFailed | UsageError:
        """Wait for the end, and describe it as an error."""
        status = await self.wait()
        if status == 2:
            return UsageError(self.error())
        return PartFailed(f"{self.end_text}: {self.tail()}")

    @property
    def end_text(self) -> str:
        """How it ended, in words."""
        assert self._status is not None
        return f"{self.name} (process {self.pid}) {_end_text(self._status)}"

    def _lines(self) -> list[str]:
        try:
            return self.log_path.read_text(errors="replace").splitlines()
        except OSError:
            return []

    def _entries(self) -> list[dict[str, Any]]:
        return [entry for line in self._lines() if (entry := _entry(line)) is not None]

    def tail(self) -> str:
        """The last messages of the log, in one line."""
        shown = []
        for line in self._lines()[-_TAIL_LINES:]:
            entry = _entry(line)
            shown.append(line.strip() if entry is None else str(entry["message"]))
        return " | ".join(shown) or f"{self.name} wrote no log"

    def doing(self) -> str:
        """The last message of the log; empty if there is none yet."""
        return next((str(e["message"]) for e in reversed(self._entries())), "")

    def error(self) -> str:
        """Return the reason of the part's failure, in one line.

        It is the part's last error. If there is none, it is the last line, unless that is a log
        entry, since programs print their usage errors as plain text. Otherwise it is the last
        messages.
        """
        if errors := self.messages("error"):
            return errors[-1]
        last = next(iter(self._lines()[-1:]), "")
        return last.strip() if last.strip() and _entry(last) is None else self.tail()

    def messages(self, level: str) -> list[str]:
        """The messages of a level in the log."""
        return [str(entry["message"]) for entry in self._entries() if entry.get("level") == level]

    def signal(self, number: int) -> None:
        """Send a signal if the part is still running."""
        self._parts.send({"signal": self.name, "number": number})


def _entry(line: str) -> dict[str, Any] | None:
    """A line of a JSON log, or None for other text."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and "message" in entry else None


def _end_text(status: int) -> str:
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


class Parts:
    """Starts parts through the keeper, a process that ends them if this process is killed.

    Use it as an async context manager; at the end, no part is left.
    """

    def __init__(self, log_path: Path, *, inherited: Sequence[int] = ()) -> None:
        """`log_path` is where errors of the keeper itself go; it keeps `inherited` descriptors."""
        self._log_path = log_path
        self._inherited = inherited
        self._process: subprocess.Popen[bytes] | None = None
        self._parts: dict[str, Part] = {}
        self._answers: dict[str, asyncio.Future[int]] = {}
        self._gone = asyncio.Event()

    async def __aenter__(self) -> Parts:
        self._process = self._start_keeper()
        # A thread, since Windows has no event loop that can watch a pipe and handle signals.
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, args=(loop,), daemon=True).start()
        return self

    def _start_keeper(self) -> subprocess.Popen[bytes]:
        with self._log_path.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", keeper.__file__],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                # Ctrl-C on the terminal, or its end, must reach only this process.
                start_new_session=True, pass_fds=self._inherited,
            )  # fmt: skip

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed
            for line in self._process.stdout:
                loop.call_soon_threadsafe(self._receive, json.loads(line))
            loop.call_soon_threadsafe(self._keeper_ended)

    def _receive(self, message: dict[str, Any]) -> None:
        if "ended" in message:
            self._parts[message["ended"]].end(message["status"])
        elif "started" in message:
            self._answer(message["started"], pid=message["pid"])
        elif "failed" in message:
            self._answer(message["failed"], error=message["error"])

    def _answer(self, name: str, *, pid: int = 0, error: str = "") -> None:
        self._parts[name].pid = pid
        if error:
            self._parts[name].end(None)
        answer = self._answers.pop(name)
        if answer.cancelled():
            return
        if error:
            answer.set_exception(PartFailed(f"{name} cannot be started: {error}"))
        else:
            answer.set_result(pid)

    def _keeper_ended(self) -> None:
        for name in list(self._answers):
            self._answer(name, error="the keeper, which runs the parts, ended")
        for part in self._parts.values():
            if part.running:
                # Linux has killed it; elsewhere nobody else would.
                with contextlib.suppress(ProcessLookupError, PermissionError, AttributeError):
                    os.killpg(part.pid, signal.SIGKILL)
                part.end(None)
        self._gone.set()

    def send(self, request: dict[str, Any]) -> None:
        """Send a request to the keeper, if it is running."""
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()

    async def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        log_path: Path,
        rank: int = 0,
        source: int | None = None,
    ) -> Part:
        """Start a part. Parts of a higher rank are ended before the others. `source` is an
        inherited descriptor for its standard input, to be used once.

        Raises: PartFailed if that is not possible.
        """
        part = self._parts[name] = Part(name, log_path, self)
        answer = self._answers[name] = asyncio.get_running_loop().create_future()
        self.send(
            {
                "start": name,
                "command": [str(word) for word in command],
                "environment": dict(environment),
                "log": str(log_path),
                "rank": rank,
                "input": source,
            }
        )
        await answer
        return part

    def remove_at_end(self, directory: Path | None) -> None:
        """Remove a directory after the parts have ended, even if this process is killed."""
        self.send({"temporary": None if directory is None else str(directory)})

    def stop(self, seconds: float) -> None:
        """End all parts, highest rank first; those of each rank are killed after `seconds`.

        Of several calls, the shortest time counts.
        """
        self.send({"stop": seconds})
        assert self._process is not None
        if sys.platform != "win32":
            self._process.send_signal(signal.SIGCONT)  # a keeper that is stopped would not end

    async def end(self, seconds: float) -> None:
        """End all parts like `stop`, and wait until they have ended. Idempotent."""
        assert self._process is not None
        self.stop(seconds)
        await self._gone.wait()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()

    async def __aexit__(self, *_: object) -> None:
        await self.end(_STOP_TIMEOUT_S)


_STOP_TIMEOUT_S = 20
