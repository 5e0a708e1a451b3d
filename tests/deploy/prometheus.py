"""Prometheus' checker promtool and a server process."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from ..waiting import bound, until


def program(name: str) -> str:
    """Find `prometheus` or `promtool`; if it is missing, skip the test, or fail it in CI."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if found is None:
        missing = f"{name} is missing; install it with `make system-packages`"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found


_SHORT_LIVED = {"GOGC": "800"}
"""With a lazy garbage collector, promtool takes a third less CPU time for the cases of a file."""


def promtool(*arguments: str | Path, text: str = "") -> str:
    """Run promtool and return its output.

    Raises: AssertionError with the output if promtool finds a problem.
    """
    done = subprocess.run(
        [program("promtool"), *map(str, arguments)],
        input=text, capture_output=True, text=True, check=False, timeout=bound(60),
        env=os.environ | _SHORT_LIVED,
    )  # fmt: skip
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


class Prometheus:
    """A server on a free loopback port that scrapes and evaluates once a second."""

    def __init__(self, directory: Path, targets: list[str], rule_files: tuple[Path, ...]) -> None:
        self._program = program("prometheus")
        self._directory = directory
        self._said: list[str] = []
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self.url = ""
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(path) for path in rule_files],
            "scrape_configs": [
                {"job_name": "natterjack", "static_configs": [{"targets": targets}]}
            ],
        }
        directory.mkdir()
        self._config = directory / "prometheus.yml"
        self._config.write_text(yaml.safe_dump(config))

    async def __aenter__(self) -> Prometheus:
        self._process = await asyncio.create_subprocess_exec(
            self._program,
            f"--config.file={self._config}",
            f"--storage.tsdb.path={self._directory / 'data'}",
            "--web.listen-address=127.0.0.1:0",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self._reading = asyncio.create_task(self._read())
        await until(lambda: self.url or self._reading.done(), "prometheus listens", 30)
        assert self.url, self._said
        await until(lambda: any("ready to receive" in line for line in self._said), "ready", 30)
        return self

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            text = line.decode()
            self._said.append(text)
            if found := re.search(r'"Listening on" address=(\S+)', text):
                self.url = f"http://{found[1]}"

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._reading is not None
        self._process.kill()
        await self._process.wait()
        await self._reading

    async def ask(self, path: str, **parameters: str) -> Any:
        """Return the `data` of a response.

        Raises: AssertionError with the server's error.
        """
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{self.url}/api/v1/{path}", params=parameters) as response,
        ):
            answer = await response.json()
        assert answer["status"] == "success", f"{answer.get('error')}: {parameters}"
        return answer["data"]

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the current series of an expression."""
        found: list[dict[str, Any]] = (await self.ask("query", query=expression))["result"]
        return found

    async def query_range(self, expression: str, start: float, end: float) -> list[dict[str, Any]]:
        """Return the series between two times (seconds since the epoch), with a step of 1 s."""
        data = await self.ask(
            "query_range", query=expression, start=str(start), end=str(end), step="1"
        )
        found: list[dict[str, Any]] = data["result"]
        return found
