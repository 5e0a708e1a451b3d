"""The package for Debian, installed into a copy of this machine that exists only in memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..shares import RUN
from ..waiting import bound
from .containers import STORE, alone
from .names import ROOT

_LAYER = """
set -e
mount -t tmpfs -o size=1G tmpfs "$0"
mkdir "$0/upper" "$0/work" "$0/root"
mount -t overlay -o lowerdir=/,upperdir="$0/upper",workdir="$0/work" overlay "$0/root"
cd "$0/root"
rm -rf var/lib/natterjack-edge etc/natterjack opt/natterjack
mount -t proc proc proc
"""
_IDLE = """
mount --bind /dev dev
echo ready
exec sleep infinity
"""
# The copy has no device of this machine but /dev/null and the like, no network, and only its own
# control groups; kernel settings are read-only. A process of systemd mounts credentials of units in
# /run.
_BOOT = """
mount -t tmpfs tmpfs dev
mkdir dev/pts dev/shm
for name in null zero full random urandom tty; do
    touch "dev/$name"
    mount --bind "/dev/$name" "dev/$name"
done
mount -t devpts devpts dev/pts
mount -t tmpfs tmpfs dev/shm
mount --bind proc/sys proc/sys
mount -o remount,ro,bind proc/sys
mount -t sysfs -o ro sysfs sys
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup2 sys/fs/cgroup
else
    mount -t tmpfs tmpfs sys/fs/cgroup
    mkdir sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
fi
mount -t tmpfs tmpfs run
mount --make-shared run
mount -t tmpfs tmpfs tmp
echo ready
exec chroot . /usr/bin/env -i container=natterjack PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=basic.target --log-target=null
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
        # With the setuptools of the tests: pip would install another one first. For pip, 0 in that
        # variable means not to isolate.
        env={
            **os.environ, "PIP": f"{sys.executable} -m pip", "COMPRESS": "none",
            "PIP_NO_BUILD_ISOLATION": "0",
        },
        capture_output=True, text=True, check=False, timeout=bound(300),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


class Machine:
    """This machine with an empty layer over its files: what is changed there is nowhere else."""

    def __init__(self, folder: Path, *, booted: bool = False) -> None:
        """If `booted`, systemd is its first process, and there is no network.

        Needs root, as `mount` does. Without, the test is skipped, or fails in CI.
        """
        self._root = folder / "root"
        own = ("--cgroup", "--net", "--uts", "--ipc") if booted else ()
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--pid", *own, "--fork", "--kill-child", "--propagation",
             "private", "sh", "-c", _LAYER + (_BOOT if booted else _IDLE), folder],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        if self._holder.stdout.readline() != "ready\n":
            unusable(f"no layer over the files of this machine: {self._holder.stderr.read()}")
        (children,) = Path(f"/proc/{self._holder.pid}/task").glob("*/children")
        self._inside = children.read_text().split()[0]
        self.files = Path(f"/proc/{self._inside}/root")
        if not booted:
            self.files /= self._root.relative_to("/")
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


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built once for all processes of a test run."""
    folder = tmp_path_factory.getbasetemp()
    if RUN in os.environ:
        folder = folder.parent
    STORE.mkdir(parents=True, exist_ok=True)
    with alone("deb"):
        found = list((folder / "deb").glob("*.deb"))
        return found[0] if found else build(folder / "deb")


@pytest.fixture
def booted(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path, booted=True)
    try:
        yield machine
    finally:
        machine.end()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    try:
        yield machine
    finally:
        machine.end()
