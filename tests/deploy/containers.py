"""Containers without a registry.

The images use a base that is built from Debian packages, and a store of the project's own,
`.cache/containers`, which keeps the base and the layers for later runs.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest

from ..gateway.process import GatewayProcess
from ..ports import free_port
from ..shares import RUN
from ..waiting import bound
from ..worker.programs import WorkerProcess
from .names import ROOT

TOOLS = ("buildah", "podman", "runc", "mmdebstrap")
BASE = "python:3.11-slim-bookworm"
"""The base that deploy/Dockerfile names, built here from Debian's Python."""
IMAGES = {p: f"natterjack-{p}:{version('natterjack')}" for p in ("worker", "edge", "gateway")}
WORKER_IMAGE, EDGE_IMAGE, GATEWAY_IMAGE = IMAGES.values()

STORE = ROOT / ".cache" / "containers"
_NAME = f"natterjack-test-{os.stat(ROOT).st_ino}"
_BUILD_SECONDS = 600

_CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
"""
_STORAGE_CONF = """\
[storage]
driver = "overlay"
graphroot = "{store}/storage"
runroot = "/run/{name}"
"""

_numbers = itertools.count()


class Podman:
    """Run podman and buildah on the project's store."""

    def __init__(self) -> None:
        STORE.mkdir(parents=True, exist_ok=True)
        files = {
            "CONTAINERS_CONF": _CONTAINERS_CONF,
            "CONTAINERS_STORAGE_CONF": _STORAGE_CONF.format(store=STORE, name=_NAME),
            "CONTAINERS_REGISTRIES_CONF": "unqualified-search-registries = []\n",
        }
        self.environment = dict(os.environ)
        for variable, text in files.items():
            path = STORE / f"{variable.lower()}.toml"
            path.write_text(text)
            self.environment[variable] = str(path)

    def run(
        self, *command: str | Path, check: bool = True, seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command.

        Raises: AssertionError with its output if it fails and `check` is true.
        """
        done = subprocess.run(
            list(map(str, command)), env=self.environment, capture_output=True, text=True,
            check=False, stdin=subprocess.DEVNULL, timeout=bound(seconds),
        )  # fmt: skip
        if check:
            output = f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
            assert done.returncode == 0, f"{command[0]} ended with {done.returncode}: {output}"
        return done

    def has_image(self, name: str) -> bool:
        return self.run("podman", "image", "exists", name, check=False).returncode == 0

    def build(self, *arguments: str | Path) -> None:
        """Build an image in Docker's format, because the OCI format has no health checks."""
        self.run(
            "buildah", "bud", "--isolation", "chroot", "--network", "host", "--pull-never",
            "--layers", "--format", "docker", *arguments, seconds=_BUILD_SECONDS,
        )  # fmt: skip


@cache
def podman() -> Podman:
    """Skip the test if the tools are missing or cannot run."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} missing; `make system-packages` as root helps")
    if os.geteuid() != 0:
        pytest.skip("containers are made by root here")
    found = Podman()
    done = found.run("podman", "info", check=False)
    if done.returncode != 0:
        pytest.skip(f"podman cannot run here: {done.stderr.strip()[-500:]}")
    return found


def unique_name() -> str:
    """Return a new name for a container or a pod."""
    return f"{_NAME}-{os.getpid()}-{next(_numbers)}"


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Lock out other test processes, so that none prunes what another one builds."""
    with (STORE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


_BASE_COMMAND = (
    "mmdebstrap", "--quiet", "--variant=apt", "--include=python3-venv,usr-is-merged",
    # Without it, usrmerge is installed, and all of Perl.
    "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
    # As in Debian's own images, for the `apt-get update` of the Dockerfile.
    '--aptopt=Acquire::Languages "none"',
    '--customize-hook=ln -s python3 "$1/usr/bin/python"',
    # The base trusts the CAs of this machine, for package downloads.
    '--customize-hook=cp /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/"',
    # A package for stand-ins that is not installed in the base.
    """--customize-hook=chroot "$1" sh -c 'cd /opt && apt-get download -qq busybox'""",
    '--customize-hook=rm -r "$1"/usr/share/doc/* "$1"/usr/share/man/* "$1"/usr/share/locale/*',
    "bookworm",
)  # fmt: skip


def _make_base(containers: Podman) -> None:
    """Make the base unless the store has one of the same command."""
    made = STORE / "base"
    command = "\n".join(_BASE_COMMAND)
    if made.exists() and made.read_text() == command and containers.has_image(BASE):
        return
    archive = STORE / "base.tar"
    try:
        containers.run(*_BASE_COMMAND, archive, seconds=_BUILD_SECONDS)
        containers.run("podman", "import", archive, BASE, seconds=_BUILD_SECONDS)
        made.write_text(command)
    finally:
        archive.unlink(missing_ok=True)


@cache
def images() -> Podman:
    """Return podman with all images, which are built once per test run, for all processes."""
    containers = podman()
    built = STORE / "built"
    run = os.environ.get(RUN) or uuid.uuid4().hex
    with alone("images"):
        if not built.exists() or built.read_text() != run:
            _make_base(containers)
            recipe = ("-f", ROOT / "deploy" / "Dockerfile", ROOT)
            for program, image in IMAGES.items():
                containers.build("--target", program, "-t", image, *recipe)
            # Younger layers are left for the next run.
            prune = ("podman", "image", "prune", "--force", "--filter", "until=24h")
            containers.run(*prune, check=False)
            built.write_text(run)
    return containers


CONFINED = ("--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp", "--cap-drop=ALL",
            "--security-opt=no-new-privileges", "--timeout=600")  # fmt: skip
"""Restrictions as in compose.yaml; a timeout ends containers that outlive their test."""


class WorkerContainer(WorkerProcess):
    """A container of the worker's image on the host's network, with the broker and the provider.

    `podman run` stays in the foreground, forwards signals, and exits with the worker's status.
    """

    def __init__(
        self, containers: Podman, nats_url: str, provider_url: str, **settings: str
    ) -> None:
        settings = {"WORKER_HTTP_PORT": str(free_port())} | settings
        super().__init__(nats_url, provider_url, **settings)
        self.name = unique_name()
        self._containers = containers
        ours = ("NATS_", "NATTERJACK_", "WORKER_", "DEEPGRAM_")
        self._settings = {k: v for k, v in self._environment.items() if k.startswith(ours)}

    async def launch(self) -> None:
        self._process = subprocess.Popen(
            ["podman", "run", "--rm", "--name", self.name, "--network=host", *CONFINED,
            *(f"--env={name}" for name in self._settings), WORKER_IMAGE],
            env=self._containers.environment | self._settings, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._reading = asyncio.create_task(self._read())

    @property
    def stray_lines(self) -> list[str]:
        return [line for line in super().stray_lines if not line.startswith('time="')]  # of podman

    async def stop(self) -> None:
        if self.running:
            self._containers.run("podman", "rm", "--force", "--time=0", self.name, check=False)
            await self.wait()


class GatewayContainer(GatewayProcess):
    """A container of the gateway's image on the host's network, with a folder of files."""

    def __init__(self, containers: Podman, nats_url: str, folder: Path, **settings: str) -> None:
        super().__init__(nats_url, **settings)
        self.name = unique_name()
        self._containers, self._folder = containers, folder
        ours = ("NATS_", "NATTERJACK_", "GATEWAY_")
        self._settings = {k: v for k, v in self._environment.items() if k.startswith(ours)}

    async def launch(self) -> None:
        # The health check of the image asks its usual port.
        check = f"python -IS /opt/natterjack/healthcheck.py /healthz {self.port}"
        self._process = subprocess.Popen(
            ["podman", "run", "--rm", "--name", self.name, "--network=host", *CONFINED,
            f"--volume={self._folder}:/clients:ro", f"--health-cmd={check}",
            *(f"--env={name}" for name in self._settings), GATEWAY_IMAGE],
            env=self._containers.environment | self._settings, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._reading = asyncio.create_task(self._read())

    @property
    def stray_lines(self) -> list[str]:
        return [line for line in super().stray_lines if not line.startswith('time="')]  # of podman

    async def stop(self) -> None:
        if self.running:
            self._containers.run("podman", "rm", "--force", "--time=0", self.name, check=False)
            await self.wait()
