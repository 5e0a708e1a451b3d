"""The vendors' JavaScript clients, as programs in Node."""

from __future__ import annotations

import asyncio
import fcntl
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.clients.npm import program
from tests.waiting import bound, within

FOLDER = Path(__file__).parent
_INSTALL = ("ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund",
            "--loglevel=error")  # fmt: skip


def install() -> None:
    """Install the packages of the lock file, unless they are there."""
    npm = program("npm")
    lock = FOLDER / "package-lock.json"
    installed = FOLDER / "node_modules" / ".package-lock.json"
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # tests run in several processes
        if installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime:
            return
        print("installing what tests/gateway/node needs (13 MB, once) ...", file=sys.stderr)
        done = subprocess.run(
            [npm, *_INSTALL], cwd=FOLDER, check=False, text=True, timeout=bound(300),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        installed.touch()


class NodeClient:
    """A script of this folder, which prints a JSON object a line."""

    def __init__(self, script: str, *arguments: str) -> None:
        install()
        self._command = [program("node"), str(FOLDER / script), *arguments]
        self.lines: list[dict[str, Any]] = []
        self.errors = ""
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it; its lines are read from then on."""
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, limit=16 * 1024 * 1024,
        )  # fmt: skip
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.lines.append(json.loads(line))

    async def ended(self, seconds: float = 60) -> int:
        """Wait for its end and return its status. A program that takes longer is killed."""
        assert self._process is not None
        assert self._reading is not None
        assert self._process.stderr is not None
        try:
            async with within(seconds):
                await self._reading
                self.errors = (await self._process.stderr.read()).decode()
                return await self._process.wait()
        finally:
            self.kill()

    def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
