"""The keeper: the process that starts the parts of a local stack, and ends them whatever happens.

A command such as `natterjack up` starts it with a pipe as standard input and sends one JSON object
a line. When the pipe closes, the command has ended: even if it was killed, or its terminal closed,
the keeper ends the parts, removes the temporary directory, and ends. If the keeper itself is
killed, Linux kills its parts; elsewhere the command does.

It runs alone, without the packages of the environment: `python -I -S keeper.py`.

From the command:
  {"start": NAME, "command": [...], "environment": {...}, "log": PATH, "rank": N, "input": N}
                                "input": an inherited descriptor for standard input, or null
  {"signal": NAME, "number": N}
  {"temporary": PATH or null}   the directory to remove at the end
  {"stop": SECONDS}             end all parts; those of each rank are killed after so long
To the command:
  {"started": NAME, "pid": N} or {"failed": NAME, "error": TEXT}
  {"ended": NAME, "status": N}  negative: the number of the signal that killed it
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

ORPHANED_SECONDS = 3.0
"""How long each rank of parts may take to end after the command has ended."""
_PR_SET_PDEATHSIG = 1


class Part:
    """A running process, in a session of its own, so that Ctrl-C does not reach it."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.name: str = request["start"]
        self.rank: int = request["rank"]
        source: int | None = request["input"]
        with open(request["log"], "ab") as log:
            self._process = subprocess.Popen(
                request["command"], env=request["environment"],
                stdin=subprocess.DEVNULL if source is None else source,
                stdout=subprocess.DEVNULL, stderr=log, start_new_session=True,
                preexec_fn=dying_with_parent(),
            )  # fmt: skip
        if source is not None:
            os.close(source)  # whoever writes to it notices when the part has ended
        self.pid = self._process.pid

    def wait(self) -> int:
        return self._process.wait()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """Send SIGKILL to the part and to the processes that it has started."""
        if not self.running:
            return
        if sys.platform == "win32":
            self._process.kill()
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


if sys.platform == "linux":
    _libc = ctypes.CDLL(None, use_errno=True)

    def die_with_parent(parent: int) -> None:
        """Have the kernel kill this process when the thread of its parent, the process `parent`,
        that has started it ends; for a new process.

        The keeper starts its parts in its main thread, which ends last.
        """
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before prctl
            os._exit(1)


def dying_with_parent() -> Callable[[], None] | None:
    """Return the function that a child of this process calls first, so that it dies with this
    process. Return None where that is not possible."""
    return partial(die_with_parent, os.getpid()) if sys.platform == "linux" else None


class Keeper:
    """Handles requests and the ends of parts one after another, in the main thread."""

    def __init__(self) -> None:
        self._events: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._parts: dict[str, Part] = {}
        self._temporary: str | None = None
        self._patience: float | None = None
        """Seconds for each rank to end; None while the stack is running."""

    def run(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            signal.signal(number, lambda *_: self._events.put({"stop": ORPHANED_SECONDS}))
        threading.Thread(target=self._read, daemon=True).start()
        while self._patience is None:
            self._handle(self._events.get())
        self._end_all()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _read(self) -> None:
        """Queue the requests, until the command ends."""
        with contextlib.suppress(OSError, ValueError):
            for line in sys.stdin.buffer:
                self._events.put(json.loads(line))
        self._events.put({"stop": ORPHANED_SECONDS})

    def _report(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the command has ended
            os.write(1, json.dumps(message).encode() + b"\n")

    def _handle(self, event: dict[str, Any]) -> None:
        if "start" in event and self._patience is None:
            self._start(event)
        elif "signal" in event:
            if event["signal"] in self._parts:
                self._parts[event["signal"]].signal(event["number"])
        elif "temporary" in event:
            self._temporary = event["temporary"]
        elif "stop" in event:  # the shortest time that was given counts
            before = event["stop"] if self._patience is None else self._patience
            self._patience = min(before, event["stop"])

    def _start(self, request: dict[str, Any]) -> None:
        try:
            part = Part(request)
        except (OSError, subprocess.SubprocessError) as error:
            self._report({"failed": request["start"], "error": str(error)})
            return
        self._parts[part.name] = part
        self._report({"started": part.name, "pid": part.pid})
        threading.Thread(target=self._watch, args=(part,), daemon=True).start()

    def _watch(self, part: Part) -> None:
        self._report({"ended": part.name, "status": part.wait()})
        self._events.put({})  # wakes the main thread

    def _end_all(self) -> None:
        """End the parts, those of the highest rank first."""
        assert self._patience is not None
        for rank in sorted({part.rank for part in self._parts.values()}, reverse=True):
            parts = [part for part in self._parts.values() if part.rank == rank]
            for part in parts if self._patience > 0 else ():
                part.signal(signal.SIGTERM)
                if sys.platform != "win32":
                    part.signal(signal.SIGCONT)  # one that is stopped would not end
            since = time.monotonic()
            while running := [part for part in parts if part.running]:
                left = since + self._patience - time.monotonic()
                if left <= 0:
                    for part in running:
                        part.kill()
                with contextlib.suppress(Empty):
                    self._handle(self._events.get(timeout=left if left > 0 else 1.0))


if __name__ == "__main__":
    Keeper().run()
    os._exit(0)  # a thread may still be reading standard input
