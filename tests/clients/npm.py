"""Runs npm in clients/js, whose packages it installs by the lock file if they are not there.

`python -m tests.clients.npm run lint` is what `make lint` does.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..waiting import bound

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "clients" / "js"
MADE = ("wire.ts", "document.ts")
"""Sources that the build makes of files in docs/reference."""
ASYNCAPI = ROOT / "docs" / "reference" / "asyncapi.json"
_MISSING = "npm is missing; install it with `make system-packages`"
_INSTALL = ("ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund",
            "--loglevel=error")  # fmt: skip


def program(name: str) -> str:
    """Find `node` or `npm`; if it is missing, skip the test, or fail it in CI."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(_MISSING)
        pytest.skip(_MISSING)
    return found


def install() -> None:
    """Install the packages of the lock file, unless they are there."""
    npm = program("npm")
    lock, installed = CLIENT / "package-lock.json", CLIENT / "node_modules" / ".package-lock.json"
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # tests run in several processes
        if installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime:
            return
        print("installing what clients/js needs (110 MB, once) ...", file=sys.stderr)
        _run([npm, *_INSTALL], timeout=600)
        installed.touch()


def build() -> None:
    """Build clients/js/dist, unless nothing that it is made of has changed."""
    install()
    made = CLIENT / "dist" / "index.js"
    sources = [
        *ASYNCAPI.parent.glob("*.json"),
        *CLIENT.glob("*.json"),
        *CLIENT.glob("scripts/*"),
        *CLIENT.glob("src/*"),
    ]
    with (CLIENT / "package.json").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        newest = max(path.stat().st_mtime for path in sources if path.name not in MADE)
        if not made.exists() or made.stat().st_mtime <= newest:
            _run([program("npm"), "run", "--silent", "build"], timeout=60)
            made.touch()


def _run(command: list[str], timeout: float) -> None:
    done = subprocess.run(
        command, cwd=CLIENT, check=False, text=True, timeout=bound(timeout),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}"


def main(arguments: list[str]) -> int:
    """Run npm with `arguments`. Without npm, say that nothing is checked; fail in CI."""
    if shutil.which("npm") is None:
        print(f"lint: asyncapi.json and clients/js are not checked: {_MISSING}", file=sys.stderr)
        return 1 if os.environ.get("CI") else 0
    try:
        install()
    except AssertionError as error:
        print(error, file=sys.stderr)
        return 1
    return subprocess.run(["npm", "--silent", *arguments], cwd=CLIENT, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
