"""The package for Debian, installed into a copy of this machine that exists only in memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..waiting import bound
from .names import ROOT

_MOUNT = """
set -e
mount -t tmpfs -o size=1G tmpfs "$0"
mkdir "$0/upper" "$0/work" "$0/root"
mount -t overlay -o lowerdir=/,upperdir="$0/upper",workdir="$0/work" overlay "$0/root"
mount --bind /dev "$0/root/dev"
mount -t proc proc "$0/root/proc"
echo ready
exec sleep infinity
"""


def unusable(reason: str) -> None:
    """Skip the test, or fail it in CI."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def build(folder: Path) -> Path:
    """Build the package, which takes about 15 s, and return its path."""
    for tool in ("dpkg-deb", "/usr/bin/python3"):
        if shutil.which(tool) is None:
            unusable(f"{tool} is missing")
    done = subprocess.run(
        ["sh", ROOT / "deploy" / "deb" / "build.sh", folder],
        env={**os.environ, "PIP": f"{sys.executable} -m pip", "COMPRESS": "none"},
        capture_output=True, text=True, check=False, timeout=bound(300),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


class Machine:
    """This machine with an empty layer over its files: what is changed there is nowhere else."""

    def __init__(self, folder: Path) -> None:
        """Needs root, as `mount` does. Without, the test is skipped, or fails in CI."""
        self._root = folder / "root"
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private",
             "sh", "-c", _MOUNT, folder],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        if self._holder.stdout.readline() != "ready\n":
            unusable(f"no layer over the files of this machine: {self._holder.stderr.read()}")
        (children,) = Path(f"/proc/{self._holder.pid}/task").glob("*/children")
        self._inside = children.read_text().split()[0]
        self.files = Path(f"/proc/{self._inside}/root{self._root}")
        """Its root, as seen from outside."""

    def run(
        self, *command: str, check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there, as root."""
        done = subprocess.run(
            ["nsenter", "--mount", "--pid", f"--target={self._inside}", "chroot", self._root,
             *command],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8",
                 **environment},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            check=False, timeout=bound(120),
        )  # fmt: skip
        assert done.returncode == 0 or not check, done.stdout
        return done

    def found(self) -> set[str]:
        """The files there that have to do with natterjack, without those of this checkout."""
        places = ["/etc", "/opt", "/usr", "/var/lib", "/home", "/root/.config"]
        done = self.run("find", *places, "-xdev", "-path", "*natterjack*", check=False)
        return {line for line in done.stdout.splitlines() if line.startswith("/")}

    def end(self) -> None:
        self._holder.kill()
        self._holder.wait()
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        self._holder.stdout.close()
        self._holder.stderr.close()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("package"))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    try:
        yield machine
    finally:
        machine.end()
