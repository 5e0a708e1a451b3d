"""Starting the parts of a local stack, and ending them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from natterjack.errors import UsageError
from natterjack.local import program
from natterjack.local import stack as stacks
from natterjack.local.parts import Part, PartFailed, Parts
from natterjack.local.ports import HOST
from natterjack.local.stack import (
    Stack,
    edge_environment,
    part_environment,
    worker_environment,
)
from tests.edge_capture.test_full_disk import Disk, disk
from tests.freezing import freeze
from tests.ports import free_port
from tests.waiting import settle, soon, until

__all__ = ["disk"]  # a fixture

pytestmark = pytest.mark.process

STUBBORN = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: None)
print('{"message": "ready"}', file=sys.stderr, flush=True)
time.sleep(600)
"""


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with Parts(tmp_path / "keeper.log") as parts:
        yield parts
    assert (tmp_path / "keeper.log").read_text() == ""


StartPart = Callable[..., object]


async def start(parts: Parts, folder: Path, name: str, *command: str, rank: int = 0) -> Part:
    return await parts.start(
        name, command, environment=os.environ | {"NATS_URL": "nats://127.0.0.1:9"},
        log_path=folder / f"{name}.log", rank=rank,
    )  # fmt: skip


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# ---- the port of the broker ----------------------------------------------------------------------


async def test_a_connection_that_has_the_port_is_waited_for(tmp_path: Path) -> None:
    with socket.socket() as bound:
        bound.bind((HOST, port := free_port()))
        async with asyncio.TaskGroup() as tasks:
            entering = tasks.create_task(_entered(Stack("up", tmp_path, port=port)))
            await settle()  # it has looked once
            assert not entering.done()
            bound.close()
    assert entering.result()


async def test_a_connection_that_keeps_the_port_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks, "_PORT_S", 0.3)
    with socket.socket() as bound:
        bound.bind((HOST, port := free_port()))
        words = f"port {port} of {HOST} is taken by a connection of another program. Stop it, or"
        with pytest.raises(UsageError, match=re.escape(words)):
            await _entered(Stack("up", tmp_path, port=port))


async def _entered(stack: Stack) -> bool:
    async with stack:
        return True


# ---- a part that ends ----------------------------------------------------------------------------


async def test_wrong_usage_of_a_part_is_a_usage_error(parts: Parts, tmp_path: Path) -> None:
    part = await start(parts, tmp_path, "edge", *program.command("natterjack-edge"), "file")
    with pytest.raises(UsageError, match="natterjack-edge file: error"):
        await part.logged("ready")
    assert "natterjack-edge file: error" in (tmp_path / "edge.log").read_text()


@pytest.mark.parametrize("content", [b"", None], ids=["empty", "missing"])
async def test_a_file_that_is_not_a_recording_is_a_usage_error(
    content: bytes | None, parts: Parts, tmp_path: Path
) -> None:
    path = tmp_path / "x.wav"
    if content is not None:
        path.write_bytes(content)
    command = (*program.command("natterjack-edge"), "file", str(path))
    part = await start(parts, tmp_path, "edge", *command)
    with pytest.raises(UsageError, match=re.escape(str(path))):
        await part.logged("ready")
    log = (tmp_path / "edge.log").read_text()
    assert log.count("\n") == 1
    assert "Traceback" not in log


async def test_a_part_that_ends_too_early_has_failed(parts: Parts, tmp_path: Path) -> None:
    command = (*program.command("natterjack-worker"), "--help")
    part = await start(parts, tmp_path, "worker", *command)
    with pytest.raises(PartFailed, match="ended with exit status 0: worker wrote no log"):
        await part.logged("worker ready")


async def test_a_part_that_is_killed_has_failed(parts: Parts, tmp_path: Path) -> None:
    part = await start(parts, tmp_path, "sleep", "sleep", "600")
    part.signal(signal.SIGKILL)
    assert await soon(part.wait(), 30) == -signal.SIGKILL
    assert str(await part.failure()) == (
        f"sleep (process {part.pid}) was killed by SIGKILL: sleep wrote no log"
    )


async def test_a_part_that_cannot_be_started(parts: Parts, tmp_path: Path) -> None:
    with pytest.raises(PartFailed, match=r"robot cannot be started: .*No such file"):
        await start(parts, tmp_path, "robot", str(tmp_path / "robot"))


async def test_a_log_is_of_this_run(parts: Parts, tmp_path: Path) -> None:
    (tmp_path / "part.log").write_text('{"message": "ready"}\n')
    part = await start(parts, tmp_path, "part", sys.executable, "-c", "print('no')")
    with pytest.raises(PartFailed):
        await part.logged("ready")


# ---- the end of all parts ------------------------------------------------------------------------


async def test_parts_of_a_higher_rank_end_first(tmp_path: Path) -> None:
    tell = (
        "import signal, sys, time\n"
        "def end(*_): print(time.monotonic(), file=sys.stderr); sys.exit()\n"
        'signal.signal(15, end); print(\'{"message": "ready"}\', file=sys.stderr, flush=True)\n'
        "time.sleep(600)"
    )
    async with Parts(tmp_path / "keeper.log") as parts:
        for name, rank in (("broker", 0), ("worker", 1), ("edge", 2), ("worker2", 1)):
            part = await start(parts, tmp_path, name, sys.executable, "-c", tell, rank=rank)
            await part.logged("ready")
    ends = [
        float((tmp_path / f"{name}.log").read_text().split()[-1])
        for name in ("edge", "worker", "worker2", "broker")
    ]
    assert ends[0] < min(ends[1:3])
    assert max(ends[1:3]) < ends[3]


async def test_a_part_that_does_not_end_is_killed(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "keeper.log")
    await parts.__aenter__()
    part = await start(parts, tmp_path, "part", sys.executable, "-c", STUBBORN)
    await part.logged("ready")
    await soon(parts.end(0.2), 30)
    assert await part.wait() == -signal.SIGKILL


async def test_a_stopped_part_ends(tmp_path: Path) -> None:
    async with Parts(tmp_path / "keeper.log") as parts:
        part = await start(parts, tmp_path, "part", "sleep", "600")
        part.signal(signal.SIGSTOP)
    assert await part.wait() == -signal.SIGTERM


async def test_a_stopped_keeper_ends_its_parts(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "keeper.log")
    await parts.__aenter__()
    part = await start(parts, tmp_path, "part", "sleep", "600")
    keeper = int(Path(f"/proc/{part.pid}/stat").read_text().rpartition(")")[2].split()[1])
    freeze(keeper)
    try:
        await soon(parts.end(20), 30)
    except BaseException:
        os.kill(keeper, signal.SIGKILL)
        raise
    assert await part.wait() == -signal.SIGTERM


async def test_killing_all_parts_does_not_wait(tmp_path: Path) -> None:
    async with Parts(tmp_path / "keeper.log") as parts:
        part = await start(parts, tmp_path, "part", sys.executable, "-c", STUBBORN)
        await part.logged("ready")
        parts.stop(0)
    assert await part.wait() == -signal.SIGKILL


async def test_what_a_killed_part_has_started_is_killed_too(tmp_path: Path) -> None:
    shell = "trap '' TERM; sleep 600 & echo $! >&2; wait; wait"
    async with Parts(tmp_path / "keeper.log") as parts:
        part = await start(parts, tmp_path, "part", "sh", "-c", shell)
        await until(lambda: (tmp_path / "part.log").read_text(), "it has started a process")
        parts.stop(0)
    assert await part.wait() == -signal.SIGKILL
    child = int((tmp_path / "part.log").read_text())
    await until(lambda: not exists(child) or _zombie(child), "its child is gone")


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


async def test_the_keeper_removes_the_directory_it_was_given(tmp_path: Path) -> None:
    directory = tmp_path / "temporary"
    (directory / "nats").mkdir(parents=True)
    async with Parts(tmp_path / "keeper.log") as parts:
        parts.remove_at_end(directory)
    assert not directory.exists()
    directory.mkdir()
    async with Parts(tmp_path / "keeper.log") as parts:
        parts.remove_at_end(directory)
        parts.remove_at_end(None)
    assert directory.exists()


async def test_nothing_is_left_of_a_temporary_directory_that_cannot_be_used(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(disk.path))
    disk.fill()
    with pytest.raises(UsageError, match="No space left on device; choose another directory"):
        await Stack("up", None).__aenter__()
    assert [path.name for path in disk.path.iterdir()] == ["ballast"]


ORPHAN = """
import asyncio, os, pathlib, sys
from natterjack.local.parts import Parts

async def main():
    folder = pathlib.Path(sys.argv[1])
    parts = Parts(folder / "keeper.log")
    await parts.__aenter__()
    part = await parts.start(
        "part", [sys.executable, "-c", sys.argv[2]], environment=os.environ,
        log_path=folder / "part.log",
    )
    await part.logged("ready")
    print(part.pid, flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


async def test_an_orphan_that_does_not_end_is_killed_within_seconds(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ORPHAN, str(tmp_path), STUBBORN],
        stdout=subprocess.PIPE, check=False,
    )  # fmt: skip
    pid, since = int(done.stdout), time.monotonic()
    assert done.returncode == -signal.SIGKILL
    await until(lambda: not exists(pid), "the part is gone", 10)
    assert time.monotonic() - since > 1, "it had no time to end by itself"


# ---- what the parts get --------------------------------------------------------------------------


def test_the_environment_of_parts() -> None:
    """Connection settings are for another broker, and so is the audio in a spool."""
    given = {"HOME": "/root", "NATS_CREDS": "prod.creds", "EDGE_SPOOL": "/var", "WORKER_X": "1"}
    assert part_environment(given) == {"HOME": "/root", "WORKER_X": "1"}


def test_several_edges_of_one_machine_do_not_report_under_its_name() -> None:
    given = {"HOME": "/root", "EDGE_PRESENCE_SECONDS": "7"}
    assert edge_environment(given, reports=False) == {**given, "EDGE_PRESENCE_SECONDS": "0"}
    assert edge_environment(given, reports=True) == given


def test_workers_of_a_stack_have_the_embedded_voice_unless_the_user_sets_another() -> None:
    given = {"HOME": "/root"}
    assert worker_environment(given) == {**given, "WORKER_VOICE": "hibari"}
    given = {"WORKER_VOICE": "deepgram-aura"}
    assert worker_environment(given) == given


async def test_messages_are_read_from_json_lines(parts: Parts, tmp_path: Path) -> None:
    lines = ["no JSON", "[1]", json.dumps({"message": "ready", "http": "x"}), "end"]
    part = await start(
        parts, tmp_path, "part", "sh", "-c", f"cat >&2 <<E\n{chr(10).join(lines)}\nE"
    )
    assert (await part.logged("ready"))["http"] == "x"
    await part.wait()
    assert part.tail() == "no JSON | [1] | ready | end"


async def test_what_a_program_says_about_a_mistake_is_its_error(
    parts: Parts, tmp_path: Path
) -> None:
    log = json.dumps({"message": "looking for a session"})
    script = f"echo '{log}' >&2; echo 'program: --rate is no number' >&2; exit 2"
    part = await start(parts, tmp_path, "part", "sh", "-c", script)
    assert str(await part.failure()) == "program: --rate is no number"
    assert part.error() == "program: --rate is no number"
