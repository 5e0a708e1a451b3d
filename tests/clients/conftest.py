"""A server with least-privilege users, and programs in Node that connect to it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from ..deploy.secured import SecuredServer, make_installation
from ..waiting import until
from .npm import CLIENT, ROOT, build, program

EXAMPLES = ROOT / "examples"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def secured_home(tmp_path_factory: pytest.TempPathFactory, processes: None) -> Path:
    """The directory of a server that has users and streams; each test runs a copy."""
    home = tmp_path_factory.mktemp("broker") / "installation"
    await make_installation(home)
    return home


@pytest.fixture
def secured(secured_home: Path, tmp_path: Path) -> Iterator[SecuredServer]:
    """A server with streams, and users of every role."""
    home = tmp_path / "installation"
    shutil.copytree(secured_home, home)
    server = SecuredServer(home)
    server.start()
    yield server
    server.stop()


class Program:
    """A program in Node, as a process. Its output is in files."""

    def __init__(self, folder: Path, *command: str, **environment: str) -> None:
        self._out, self._errors = folder / "stdout", folder / "stderr"
        with self._out.open("w") as out, self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [program("node"), *command], cwd=CLIENT, stdin=subprocess.DEVNULL, stdout=out,
                stderr=errors, env={**os.environ, **environment},
            )  # fmt: skip

    @property
    def lines(self) -> list[str]:
        """The lines of its output that are complete."""
        return self._out.read_text().split("\n")[:-1]

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    @property
    def status(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._process.poll()

    async def wrote(self, lines: list[str], what: str) -> None:
        """Wait until it has written exactly these lines."""

        def written() -> bool:
            assert self.status in (None, 0), self.errors
            return self.lines == lines

        await until(written, what, 60)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def subscriber(secured: SecuredServer) -> Iterator[list[Program]]:
    """Programs of the test, which end before the server does."""
    build()
    started: list[Program] = []
    yield started
    for one in started:
        one.kill()


def example(folder: Path, name: str, *arguments: str, **environment: str) -> Program:
    """Start an example in a folder of its own, where the packages are installed."""
    packages = folder / "node_modules"
    (packages / "@natterjack").mkdir(parents=True)
    (packages / "@natterjack" / "client").symlink_to(CLIENT)
    (packages / "@nats-io").symlink_to(CLIENT / "node_modules" / "@nats-io")
    script = folder / name
    script.write_bytes((EXAMPLES / name).read_bytes())
    return Program(folder, str(script), *arguments, **environment)
