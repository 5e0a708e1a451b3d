"""The rows of the table: what happens to the edge of each, while it speaks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .balance import Result
from .program import Options, Program
from .rig import Rig

BEFORE_SECONDS, AFTER_SECONDS = 8.0, 10.0
_SHORT_OF_TIME = 15
"""Processes that want each core while the machine is overloaded."""
_NICE = 10
"""Priority of the edge meanwhile: it gets a tenth of what each of the others gets."""
_CATCH_UP_RATE = 8
DISK = "disk"
"""The directory of a row's small file system."""

_OVERLOADED_SECONDS = 90
_BUSY = f"""
import time
end = time.monotonic() + {2 * _OVERLOADED_SECONDS}  # even if nobody kills this process
while time.monotonic() < end: pass
"""

Happening = Callable[[Rig], Awaitable[None]]


@dataclass(frozen=True)
class Row:
    """A row: what its edge is told, and what happens to it."""

    title: str
    happens: Happening
    options: Options = field(default_factory=Options)
    worker: dict[str, str] = field(default_factory=dict)
    alone: bool = False
    """Whether no other row may run at the same time."""
    minutes: float = 1.0

    @property
    def needs_disk(self) -> bool:
        """Whether the edge uses a disk that can be filled."""
        return (self.options.spool or "").startswith(f"{DISK}/")


async def nothing(rig: Rig) -> None:
    await asyncio.sleep(AFTER_SECONDS)


# ---- the microphone ------------------------------------------------------------------------------


async def microphone_killed(rig: Rig) -> None:
    rig.sound.kill()
    await asyncio.sleep(6)  # the length of the fault
    await rig.sound.start()
    await _microphone_is_back(rig)


async def microphone_unloaded(rig: Rig) -> None:
    rig.sound.unload()
    await asyncio.sleep(8)  # the length of the fault
    rig.sound.load()
    await _microphone_is_back(rig)


async def microphone_switched(rig: Rig) -> None:
    rig.sound.load("virt2", "mic2")
    rig.player.sink = "virt2"
    await rig.player.stop()
    rig.player.go_on()


async def microphone_zeroed(rig: Rig) -> None:
    rig.sound.pactl("set-source-mute", "mic", "1")
    await asyncio.sleep(15)  # the length of the fault
    rig.sound.pactl("set-source-mute", "mic", "0")


async def both_lost(rig: Rig) -> None:
    rig.server.kill()
    rig.sound.kill()
    await asyncio.sleep(8)  # both are away for this long
    await rig.sound.start()
    try:
        await _microphone_is_back(rig)
        await asyncio.sleep(8)  # audio that is captured while the broker is away
    finally:
        rig.server.start()
    await rig.delivered(60)


async def _microphone_is_back(rig: Rig) -> None:
    await rig.agrees(
        lambda: "the microphone is back" in rig.edge.stderr, "the edge has its microphone", 60
    )


# ---- the machine ---------------------------------------------------------------------------------


def agent_stopped(seconds: float) -> Happening:
    async def happens(rig: Rig) -> None:
        async with rig.stopped_agent():
            await asyncio.sleep(seconds)

    return happens


async def clock_set_back(rig: Rig) -> None:
    rig.set_clock(-3600)
    await asyncio.sleep(AFTER_SECONDS)


async def suspended(rig: Rig) -> None:
    rig.suspend(150)


async def overloaded(rig: Rig) -> None:
    rig.give_way(_NICE)
    count = _SHORT_OF_TIME * (os.cpu_count() or 1)
    busy = [
        subprocess.Popen(
            [sys.executable, "-c", _BUSY],
            preexec_fn=lambda: os.setpriority(os.PRIO_PROCESS, 0, 0),
        )
        for _ in range(count)
    ]
    try:
        await asyncio.sleep(_OVERLOADED_SECONDS)
        rig.notes.append(
            f"the edge at nice {_NICE}, {count} busy processes, load {os.getloadavg()[0]:.0f}"
        )
    finally:
        for process in busy:
            process.kill()
            process.wait()


async def disk_full(rig: Rig) -> None:
    disk = rig.directory / DISK
    filler = disk / "filler"
    rig.server.kill()
    await asyncio.sleep(3)  # audio that the spool holds before its disk is full
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    rig.notes.append(f"the disk had {_free(disk)} bytes left")
    await asyncio.sleep(12)  # the length of the fault
    filler.unlink()
    await asyncio.sleep(12)  # audio that the spool takes again, with the broker away
    rig.server.start()
    await rig.delivered(120)


def _free(disk: Path) -> int:
    state = os.statvfs(disk)
    return state.f_bavail * state.f_frsize


# ---- the broker, the worker, the provider --------------------------------------------------------


def broker_away(minutes: float) -> Happening:
    async def happens(rig: Rig) -> None:
        await asyncio.sleep(20)  # audio before the outage
        rig.server.kill()
        await asyncio.sleep(minutes * 60)
        rig.server.start()
        await rig.delivered(600)

    return happens


async def provider_away(rig: Rig) -> None:
    await rig.emulator.set(handshake_status=503)
    await rig.emulator.drop()
    await asyncio.sleep(60)  # the length of the fault
    await rig.emulator.clear()
    await asyncio.sleep(20)  # audio after the fault


async def max_seconds(rig: Rig) -> None:
    await asyncio.sleep(40)  # longer than several sessions of this length


async def budget(rig: Rig) -> None:
    await rig.budget(20)
    await asyncio.sleep(50)  # longer than the budget lasts
    await rig.budget(100_000)
    await asyncio.sleep(30)  # audio after the budget is raised


async def two_agents(rig: Rig) -> None:
    second = rig.start_edge()
    try:
        await rig.refused(second)
    except AssertionError as error:
        rig.problems.append(str(error))
    finally:
        second.end()
    code, line = second.process.wait(), (second.stderr.splitlines() or [""])[-1]
    rig.notes.append(f"second agent: exit code {code}, {line!r}, output {second.stdout!r}")
    if code == 0 and rig.program == "mic":
        rig.problems.append("the second agent ended without an error")


DEFAULT_MINUTES = 14.0


def rows(minutes: float = DEFAULT_MINUTES) -> dict[str, Row]:
    """All rows by name; the broker is away for so many minutes."""
    away = f"broker away for {minutes:g} minutes"
    return {
        "nothing": Row("nothing", nothing),
        "microphone-killed": Row("sound server killed, 6 s", microphone_killed),
        "microphone-switched": Row("another default microphone", microphone_switched),
        "microphone-unloaded": Row("microphone unloaded, 8 s", microphone_unloaded),
        "microphone-zeroed": Row("microphone muted, 15 s", microphone_zeroed),
        "agent-stopped-20": Row("agent stopped for 20 s", agent_stopped(20)),
        "agent-stopped-60": Row("agent stopped for 60 s", agent_stopped(60)),
        "suspended": Row("machine suspended for 150 s (stand-in clock)", suspended),
        "clock-set-back": Row("clock set back by an hour (stand-in clock)", clock_set_back),
        "overloaded": Row(
            f"machine overloaded for {_OVERLOADED_SECONDS} s", overloaded, alone=True
        ),
        "broker-away-memory": Row(
            away, broker_away(minutes), Options(catch_up_rate=_CATCH_UP_RATE), minutes=minutes
        ),
        "broker-away-spool": Row(
            f"{away}, with spool", broker_away(minutes),
            Options(spool="spool", catch_up_rate=_CATCH_UP_RATE), minutes=minutes,
        ),
        "provider-away": Row(
            "provider away for 60 s, worker waits for 20 s", provider_away,
            worker={"WORKER_RECOVERY_SECONDS": "20", "WORKER_BREAKER_MAX_SECONDS": "5"},
        ),
        "max-seconds": Row("`max_seconds` 15, 60 s of audio", max_seconds, Options(max_seconds=15)),
        "budget": Row("budget used up after 20 s, raised 30 s later", budget),
        "two-agents": Row("second agent on the key", two_agents),
        "disk-full": Row(
            "broker away for 27 s, disk of the spool full for 12 s of them", disk_full,
            Options(spool=f"{DISK}/spool"),
        ),
        "both-lost": Row("microphone away for 8 s and broker for 16 s", both_lost),
    }  # fmt: skip


# ---- a run ---------------------------------------------------------------------------------------


async def measure(
    name: str,
    minutes: float = DEFAULT_MINUTES,
    before: float = BEFORE_SECONDS,
    after: float = AFTER_SECONDS,
    program: Program = "mic",
) -> Result:
    """Run a row with an edge that is `program`. The microphone speaks for `before` and `after`
    seconds around what happens."""
    row = rows(minutes)[name]
    result = Result(name, row.title)
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge")))
        if row.needs_disk:
            stack.enter_context(_small_disk(directory / DISK))
        rig = Rig(directory, row.options, row.worker, program)
        async with rig.running():
            await asyncio.sleep(before)
            try:
                await row.happens(rig)
            except AssertionError as error:
                rig.problems.append(str(error))
            await asyncio.sleep(after)
            await rig.finish(result)
        result.words = rig.words()
    return result


@contextlib.contextmanager
def _small_disk(path: Path) -> Iterator[None]:
    """A file system of its own. Raises CalledProcessError unless this user may mount one."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)
