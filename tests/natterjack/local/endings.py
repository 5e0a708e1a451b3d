"""A command that a test starts, ends in some way, and looks behind: processes, files, exit status.

Every process that a command starts inherits a variable by which it is found, whoever its parent is.
The command itself is forked, as tests/forking.py says, and its parts are processes as for a user.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import natterjack
from tests import forking
from tests.waiting import until

_ROOT = Path(natterjack.__file__).parents[1]
_PROGRAMS = {
    "nats-server": "broker",
    "keeper.py": "keeper",
    "natterjack-worker": "worker",
    "worker": "worker",
    "natterjack-edge": "edge",
    "natterjack-gateway": "gateway",
    "edge_capture": "edge",
    "natterjack": "command",
}


class Run:
    """One run of a command, in a session of its own whose terminal is a pseudoterminal."""

    def __init__(
        self,
        folder: Path,
        module: str,
        *arguments: str,
        terminal: bool = True,
        cwd: Path | None = None,
        columns: int = 120,
        shell: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Without `terminal`, standard output and error are one pipe. Temporary files go to
        `folder`, and so does the current folder unless `cwd` says otherwise. `shell` redirects
        streams."""
        self.folder = folder / "tmp"
        self.folder.mkdir(parents=True)
        self.output = ""
        self._mark = f"ENDING={uuid.uuid4()}".encode()
        ours = ("NATS_", "EDGE_", "WORKER_", "DEEPGRAM_", "NATTERJACK_", "GATEWAY_")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        name, _, value = self._mark.decode().partition("=")
        variables = {
            **clean, "TMPDIR": str(self.folder), "TERM": "xterm", "DEEPGRAM_API_KEY": "any",
            "GATEWAY_HTTP_PORT": "0", **(environment or {}), name: value,
        }  # fmt: skip
        self._forked: str | None = None
        """Name of the forked program, whose variables the system does not show."""
        self._ours, theirs = pty.openpty() if terminal else os.pipe()
        if terminal:
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        os.set_blocking(self._ours, False)
        try:
            self.process = self._start(module, arguments, variables, cwd or folder, theirs, shell)
        finally:
            os.close(theirs)

    def _start(
        self, module: str, arguments: tuple[str, ...], variables: dict[str, str], cwd: Path,
        theirs: int, shell: str,
    ) -> forking.Process:  # fmt: skip
        terminal = os.isatty(theirs)
        stdin = theirs if terminal else subprocess.DEVNULL
        if not shell and forking.possible(variables):
            self._forked = _PROGRAMS[module]
            return forking.ForkedProcess(
                module, arguments, variables, str(cwd), stdin, theirs, theirs, session=True
            )
        if variables.get("PYTHONPATH") == os.environ.get("PYTHONPATH"):
            path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
            variables = {**variables, "PYTHONPATH": path}
        command = [sys.executable, "-P", "-m", module, *arguments]
        return subprocess.Popen(
            ["sh", "-c", f'exec "$@" {shell}', "sh", *command],
            env=variables,
            cwd=cwd, stdin=stdin, stdout=theirs, stderr=theirs, start_new_session=True,
            preexec_fn=(lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)) if terminal else None,
        )  # fmt: skip

    # ---- what it prints --------------------------------------------------------------------------

    def _read(self) -> None:
        # Reading fails with EAGAIN when there is nothing new, and with EIO when a terminal's last
        # process has ended.
        with contextlib.suppress(BlockingIOError):
            try:
                while self._ours >= 0 and (data := os.read(self._ours, 65_536)):
                    self.output += data.decode(errors="replace")
            except OSError as error:
                if error.errno != errno.EIO:
                    raise

    @property
    def text(self) -> str:
        """The output so far, without control sequences."""
        self._read()
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", self.output)

    async def says(self, words: str) -> None:
        """Wait until it has printed `words`."""
        try:
            await until(lambda: words in self.text or not self.running, f"it says {words!r}", 60)
            assert words in self.text
        except AssertionError:
            raise AssertionError(f"no {words!r} in: {self.text}") from None

    # ---- what a user does ------------------------------------------------------------------------

    def press(self, key: str) -> None:
        """Press Ctrl and a letter on the terminal."""
        os.write(self._ours, bytes([ord(key) & 31]))

    def close(self) -> None:
        """Close the terminal, or stop reading the pipe."""
        self._read()
        if self._ours >= 0:
            os.close(self._ours)
        self._ours = -1

    def kill(self, name: str) -> None:
        """Send SIGKILL to the first process of this name."""
        os.kill(self.processes()[name][0], signal.SIGKILL)

    # ---- what is left ----------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def processes(self) -> dict[str, list[int]]:
        """The processes of this run that exist, by name."""
        found: dict[str, list[int]] = {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdecimal():
                continue
            try:  # a zombie has no environment
                if self._mark in (folder / "environ").read_bytes().split(b"\0"):
                    words = (folder / "cmdline").read_bytes().decode().split("\0")
                    found.setdefault(_name(words), []).append(int(folder.name))
            except OSError:  # it has ended, or is another user's
                continue
        if self._forked is not None and self.running:
            found.setdefault(self._forked, []).append(self.process.pid)
        return {name: sorted(pids) for name, pids in found.items()}

    async def has(self, *names: str) -> None:
        """Wait until a process of each name exists."""
        await until(lambda: set(names) <= self.processes().keys(), f"processes {names}", 60)

    async def ended(self) -> int:
        """Wait until the command has ended; return its status, negative after a signal."""

        def ended() -> bool:
            self._read()  # a full terminal would keep it from ending
            return not self.running

        try:
            await until(ended, "the command has ended", 60)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.processes()}: {self.text}") from None
        return self.process.wait()

    async def alone(self) -> float:
        """Wait until nothing of the command is running; return how many seconds that took."""
        started = time.monotonic()
        try:
            await until(lambda: not self.processes(), "no process is left", 30)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.processes()}") from None
        return time.monotonic() - started

    def files(self) -> list[str]:
        """Return the names of the files in the folder for temporary files."""
        return sorted(path.name for path in self.folder.iterdir())

    async def clean_up(self) -> None:
        """Kill what is running. Idempotent."""
        while processes := self.processes():
            for pid in (pid for pids in processes.values() for pid in pids):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.poll()
            await asyncio.sleep(0.01)  # between two looks
        self.process.wait()
        self.close()


def _name(words: list[str]) -> str:
    """Return the name of the program that a command line runs, in one word."""
    names = [Path(word).name for word in words]
    for name in names[:6]:
        if name in _PROGRAMS:
            return _PROGRAMS[name]
    return names[0]
