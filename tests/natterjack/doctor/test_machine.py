"""Checks of the machine, each with what it looks for broken."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from natterjack.doctor import machine
from natterjack.doctor.finding import Finding, examined
from natterjack.errors import UsageError
from natterjack.process.variables import names_of_all_programs
from tests.waiting import bound

pytestmark = pytest.mark.process


async def test_python_and_packages_of_these_tests() -> None:
    assert (await machine.python()).state == "ok"
    own, extras = await machine.packages()
    assert (own.state, extras.state) == ("ok", "ok")
    assert "worker" in extras.found.partition("not installed")[0]


async def test_packages_that_are_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    real = machine._version

    def version(package: str) -> str | None:
        return {"aiohttp": None, "soxr": "0.1"}.get(package, real(package))

    monkeypatch.setattr(machine, "_version", version)
    _, extras = await machine.packages()
    assert extras.state == "failed"
    assert "soxr 0.1" in extras.found
    assert "pip install --upgrade" in extras.cure
    monkeypatch.setattr(
        machine, "_version", lambda package: real(package) if package in _BASE else None
    )
    own, extras = await machine.packages()
    assert (own.state, extras.state) == ("ok", "warning")
    assert "installed: none" in extras.found
    monkeypatch.setattr(
        machine, "_version", lambda package: None if package == "pydantic" else real(package)
    )
    own, _ = await machine.packages()
    assert own.state == "failed"
    assert "pydantic" in own.found


_BASE = {"natterjack", "nats-py", "pydantic", "pydantic-settings"}


def program(folder: Path, text: str) -> None:
    path = folder / "ffmpeg"
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


async def test_ffmpeg(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = await machine.ffmpeg()
    assert (found.state, "PyAV" in found.found) == ("ok", True)
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    found = await machine.ffmpeg()
    assert found.state == "warning"
    assert "install ffmpeg" in found.cure
    program(folder, "#!/bin/sh\necho 'ffmpeg version 7.1 Copyright (c) them'\n")
    found = await machine.ffmpeg()
    assert (found.state, "ffmpeg version 7.1" in found.found) == ("ok", True)
    program(folder, "#!/bin/sh\necho 'libx264.so.1 is missing' >&2; exit 127\n")
    found = await machine.ffmpeg()
    assert (found.state, "libx264.so.1 is missing" in found.found) == ("failed", True)
    program(folder, "#!/no/such/shell\n")
    assert (await machine.ffmpeg()).state == "failed"


async def test_an_ffmpeg_that_hangs_is_ended(folder: Path) -> None:
    mark = folder / "pid"
    program(folder, f"#!/bin/sh\necho $$ > {mark}\nexec /bin/sleep 1000\n")
    [found] = await examined(("ffmpeg", machine.ffmpeg), bound(2))
    assert found.state == "failed"
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


async def test_sound_without_devices_or_without_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = await machine.sound()
    assert found.state in ("ok", "warning")
    assert ("microphone" in found.found) or ("loudspeaker" in found.found)
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    assert (await machine.sound()).state == "skipped"


async def test_ports_that_are_free_taken_and_wrong() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environment = {"WORKER_HTTP_PORT": str(port), "GATEWAY_HTTP_PORT": "http"}
        found = {finding.check: finding for finding in await machine.ports(environment)}
    worker, gateway = found["port of a worker"], found["port of the gateway"]
    assert f"{port} is used by another program" in worker.found
    assert "WORKER_HTTP_PORT" in worker.cure
    assert (gateway.state, gateway.found) == ("failed", "GATEWAY_HTTP_PORT=http")
    free = await machine.ports({"WORKER_HTTP_PORT": str(port), "GATEWAY_HTTP_PORT": "0"})
    assert [finding.found for finding in free[1:]] == [f"{port} is free", "any free one"]


async def test_disk_and_a_spool_that_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "spool"
    file.write_text("")

    async def spool(path: Path) -> Finding:
        return (await machine.disk({"EDGE_SPOOL": str(path)}))[1]

    assert (await spool(tmp_path / "not" / "yet")).state in ("ok", "warning")
    assert (await spool(file)).state == "failed"
    assert (await spool(file / "below")).state == "failed"


async def test_an_error_of_ours_is_one_line() -> None:
    async def check() -> Finding:
        raise UsageError("first\nsecond")

    [found] = await examined(("x", check), 1)
    assert found.found == "first second"


async def test_variables_of_any_program_that_are_misspelled() -> None:
    names, _ = names_of_all_programs()
    assert (await machine.variables(dict.fromkeys(names, "x"))).state == "ok"
    assert (await machine.variables({"PATH": "/bin", "NATS_OTHER_PROGRAM": "x"})).state == "ok"
    given = {
        "EDGE_TENNANT": "EDGE_TENANT", "WORKER_PROVIDR": "WORKER_PROVIDER",
        "GATEWAY_HTTP_PROT": "GATEWAY_HTTP_PORT", "NATS_URI": "NATS_URL",
    }  # fmt: skip
    found = await machine.variables(dict.fromkeys(given, "x"))
    assert found.state == "warning"
    for name, meant in given.items():
        assert f"{name} is not a setting and has no effect; did you mean {meant}?" in found.found
    found = await machine.variables({f"EDGE_ZZZZ{n}": "x" for n in range(12)})
    assert found.found.endswith("; and 2 more")
