"""Fixtures of the edge's tests: the program, a broker of the test's own, and a microphone."""

from __future__ import annotations

import itertools
import logging
import os
import select
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from ctypes.util import find_library
from pathlib import Path
from typing import NamedTuple

import pytest

from edge_capture.__main__ import main
from natterjack.local.embedded import EmbeddedServer
from tests.edge_capture.program import Edge
from tests.freezing import freeze
from tests.loops import pytest_asyncio_loop_factories as pytest_asyncio_loop_factories
from tests.waiting import until

StartEdge = Callable[..., Edge]


@pytest.fixture
def start_edge(tmp_path: Path, nats_server: EmbeddedServer) -> Iterator[StartEdge]:
    """Start the program as a process: `start_edge("file", path, environment={...}, stdin=...)`."""
    started: list[Edge] = []
    counter = itertools.count()

    def start(
        *arguments: object,
        environment: dict[str, str] | None = None,
        stdin: object = None,
        stdout: object = None,
    ) -> Edge:
        edge = Edge(
            tmp_path / f"edge{next(counter)}",
            tuple(map(str, arguments)),
            {"NATS_URL": nats_server.url, **(environment or {})},
            subprocess.DEVNULL if stdin is None else stdin,  # type: ignore[arg-type]
            stdout=stdout,  # type: ignore[arg-type]
        )
        started.append(edge)
        return edge

    yield start
    for edge in started:
        edge.end()


class Ended(NamedTuple):
    """A run of the program in this process."""

    code: int
    stdout: str
    stderr: str


RunEdge = Callable[..., Ended]


@pytest.fixture
def run_edge(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[RunEdge]:
    """Run the program in this process: `run_edge("file", path, environment={...})`.

    For runs that end before they publish: it asserts that the program does not connect to NATS.
    """
    for name in list(os.environ):
        if name.startswith(("EDGE_", "NATS_")):
            monkeypatch.delenv(name)
    root, nats, loop = (logging.getLogger(name) for name in ("", "nats", "asyncio"))
    before = (root.handlers[:], root.level, nats.level, loop.filters[:])
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("NATS_URL", f"nats://127.0.0.1:{server.getsockname()[1]}")

        def run(*arguments: object, environment: dict[str, str] | None = None) -> Ended:
            for name, value in (environment or {}).items():
                monkeypatch.setenv(name, value)
            try:
                code = main([str(argument) for argument in arguments])
            except SystemExit as ended:  # by argparse
                code = int(ended.code or 0)
            assert not select.select([server], [], [], 0)[0], "it connected to NATS"
            return Ended(code, *capsys.readouterr())

        yield run
    root.handlers[:], root.level, nats.level, loop.filters[:] = before


_ALSA = """
pcm_type.pulse { lib "libasound_module_pcm_pulse.so" }
ctl_type.pulse { lib "libasound_module_ctl_pulse.so" }
pcm.pulse { type pulse hint { show on description "PulseAudio" } }
ctl.pulse { type pulse }
pcm.!default { type pulse hint { show on description "Default" } }
ctl.!default { type pulse }
"""


class SoundServer:
    """A PulseAudio server of one test. Its microphone records what its loudspeaker plays."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        (directory / "asound.conf").write_text(_ALSA)
        self.environment = {
            "XDG_RUNTIME_DIR": str(directory),
            "PULSE_RUNTIME_PATH": str(directory / "pulse"),
            "HOME": str(directory),
            "ALSA_CONFIG_PATH": str(directory / "asound.conf"),
        }
        self._everything = os.environ | self.environment
        self._process: subprocess.Popen[bytes] | None = None
        self._players: list[subprocess.Popen[bytes]] = []
        self._replaced: list[subprocess.Popen[bytes]] = []

    async def start(self) -> None:
        """Start the server. After `kill`, this is as if the microphone were plugged in again."""
        with (self._directory / "pulseaudio.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1",
                    "-L", "module-native-protocol-unix",
                    "-L", "module-null-sink sink_name=virt rate=48000 norewinds=1",
                    "-L", "module-remap-source master=virt.monitor source_name=mic",
                ],
                env=self._everything, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        await until(
            lambda: self._control("set-default-source", "mic"), "pulseaudio has a microphone", 20
        )

    async def replace(self) -> None:
        """Freeze the server, and start another one in its place. Clients of the frozen one stay
        connected to it."""
        assert self._process is not None
        freeze(self._process.pid)
        self._replaced.append(self._process)
        shutil.rmtree(self._directory / "pulse")  # its socket, and the file with its process ID
        await self.start()

    def _control(self, *arguments: str) -> bool:
        ended = subprocess.run(
            ["pactl", *arguments], env=self._everything, capture_output=True, check=False
        )
        return ended.returncode == 0

    def plug_in(self, name: str, monitor: str = "virt.monitor") -> None:
        """Add a microphone that records what a loudspeaker plays, also one that is not there."""
        sink = monitor.removesuffix(".monitor")
        if sink != "virt":
            assert self._control("load-module", "module-null-sink", f"sink_name={sink}")
        assert self._control(
            "load-module", "module-remap-source", f"master={monitor}", f"source_name={name}"
        )

    def unplug(self, name: str) -> None:
        """Remove a microphone that was plugged in."""
        listed = subprocess.check_output(
            ["pactl", "list", "short", "modules"], env=self._everything, text=True
        )
        (number,) = [
            line.split("\t")[0] for line in listed.splitlines() if f"source_name={name}" in line
        ]
        assert self._control("unload-module", number)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def play(self, path: Path) -> None:
        """Start to play an audio file."""
        self._players.append(
            subprocess.Popen(["paplay", "-d", "virt", str(path)], env=self._everything)
        )

    async def record(self, path: Path) -> None:
        """Start to record what is audible: raw 16-bit audio of one channel, 48000 Hz."""
        with path.open("wb") as file:
            self._players.append(
                subprocess.Popen(
                    [
                        "parec", "-d", "virt.monitor", "--rate=48000", "--channels=1",
                        "--format=s16le", "--latency-msec=20",
                    ],
                    env=self._everything, stdout=file,
                )
            )  # fmt: skip
        await until(lambda: path.stat().st_size, "it is recorded", 20)

    def kill(self) -> None:
        """Kill the server, as if the microphone were unplugged. Idempotent."""
        for process in [*self._players, *self._replaced, *filter(None, [self._process])]:
            process.kill()
            process.wait()


def _missing_packages() -> str | None:
    missing = [
        name for name in ("pulseaudio", "pactl", "paplay", "parec") if shutil.which(name) is None
    ]
    missing += [name for name in ("portaudio",) if find_library(name) is None]
    if not list(Path("/usr/lib").glob("*/alsa-lib/libasound_module_pcm_pulse.so")):
        missing.append("libasound2-plugins")
    return f"{', '.join(missing)} missing; `make system-packages` helps" if missing else None


@pytest.fixture
def sound_packages(processes: None) -> None:
    """If packages of the sound server are missing, tests are skipped, or fail in CI."""
    if (missing := _missing_packages()) is not None:
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)


@pytest.fixture
async def sound_server(sound_packages: None) -> AsyncIterator[SoundServer]:
    """A running SoundServer."""
    # Not under tmp_path: a socket's path has room for 107 characters.
    with tempfile.TemporaryDirectory(prefix="pulse") as directory:
        server = SoundServer(Path(directory))
        try:
            await server.start()
            yield server
        finally:
            server.kill()
