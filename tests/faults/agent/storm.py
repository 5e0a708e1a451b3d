"""Random faults, one after another, on an agent with four sources:
`python -m tests.faults.agent.storm [--faults 200] [--seed N]`.

At the end, every word that was said at a source is in a transcript once, or in a gap that a
session's account or its positions name, or was said while the agent did not run. The radio is read
by a program that stands in for ffmpeg. The spool is on a small file system of its own, if this user
may mount one; without it, the disk is not filled.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from nats.errors import Error as NatsError

from ...waiting import until
from ..edge_table.sound import boot_time
from ..soak import environment, fault_rows
from .account import HEAD, Account
from .rig import MICROPHONES, SOURCES, AgentRig
from .voices import Voice

_DISK_BYTES = 24 << 20
_SETTLE_SECONDS = (1.0, 3.0)
Say = Callable[[str], None]


@dataclass
class Outcome:
    """The result of a storm, for the agent and its sources."""

    accounts: list[Account]
    faults: Counter[str]
    problems: list[str]
    memory: list[int] = field(default_factory=list)
    """The resident memory of each agent process at its start and at the end, in bytes."""
    log: list[str] = field(default_factory=list)
    """The log of all agents, one after another."""
    seconds: float = 0.0
    unread_seconds: float = 0.0
    """The longest time in which nobody read the pipe although its source was captured."""

    @property
    def clean(self) -> bool:
        return not self.problems and all(account.clean for account in self.accounts)

    def lines(self) -> Iterator[str]:
        """The tables."""
        yield f"| {' | '.join(HEAD)} |"
        yield f"| {' | '.join(['---'] * len(HEAD))} |"
        for account in self.accounts:
            yield f"| {' | '.join(account.cells())} |"
        yield ""
        yield from fault_rows(self.faults)
        yield ""
        first, last = self.memory[0] / 1e6, self.memory[-1] / 1e6
        yield (
            f"{self.seconds / 60:.0f} minutes; memory of the agent {first:.0f} MB at the start, "
            f"{last:.0f} MB at the end; {len(self.log)} log lines; nobody read the pipe for "
            f"{self.unread_seconds:.2f} s at most"
        )
        for account in self.accounts:
            yield from (f"{account.source}: {problem}" for problem in account.problems)
        yield from self.problems


class Storm:
    """Applies faults to a rig."""

    def __init__(
        self, rig: AgentRig, seed: int, *, disk: Path | None = None, pace: float = 1
    ) -> None:
        """`disk`: the file system of the spool, which may be filled. `pace`: what the duration of
        faults is divided by."""
        self._rig = rig
        self._random = random.Random(seed)
        self._disk = disk
        self._pace = pace
        self.without: Sequence[str] = ()
        self.faults: Counter[str] = Counter()
        self._times: list[tuple[float, str]] = []
        """When each fault began, by the boot clock."""
        self._known: dict[str, Callable[[], Awaitable[None]]] = {
            "agent killed": self._agent_killed,
            "agent restarted": self._agent_restarted,
            "sound server killed": self._sound_killed,
            "microphone unloaded": self._microphone_unloaded,
            "microphone muted in the mixer": self._microphone_zeroed,
            "broker killed": self._broker_killed,
            "agent cut off from the broker": self._cut,
            "connection stalled": self._stalled,
            "worker killed": self._worker_killed,
            "file changed, SIGHUP": self._reloaded,
            "machine suspended (stand-in clock)": self._suspended,
            "radio cut": self._radio_cut,
            "pipe closed by its writer": self._pipe_closed,
            "rotate": self._rotated,
            "mute, unmute": self._muted_for_a_while,
            "stop, start": self._stopped_for_a_while,
        }
        if disk is not None:
            self._known["disk full"] = self._disk_full

    @property
    def names(self) -> list[str]:
        return [name for name in self._known if name not in self.without]

    async def run(self, faults: int, say: Say) -> None:
        """Apply so many faults: each kind once, in random order, then any."""
        order = self._random.sample(self.names, len(self.names))[:faults]
        order += self._random.choices(self.names, k=faults - len(order))
        for number, name in enumerate(order, start=1):
            say(f"{number}/{faults} {name}")
            self._times.append((boot_time(), name))
            try:
                await self._known[name]()
            except AssertionError as error:
                self._rig.problems.append(f"fault {number}, {name}: {error}")
                if self._rig.edge.process.poll() is not None:
                    self._rig.start()
            self.faults[name] += 1
            await self._away(*_SETTLE_SECONDS)
            if self._rig.edge.process.poll() is not None:
                code = self._rig.edge.process.wait()
                end = self._rig.edge.stderr[-1500:]
                self._rig.problems.append(f"after {name}, the agent has ended with {code}: {end}")
                self._rig.start()

    def explain(self, account: Account) -> None:
        """Say of each lost word which fault came before it."""
        for word in account.words.missing:
            before = [(word.start - at, name) for at, name in self._times if at < word.end]
            after, name = before[-1] if before else (0.0, "any fault")
            said = datetime.fromtimestamp(time.time() - boot_time() + word.start)
            account.problems.append(
                f"{word.word!r}, said at {said:%H:%M:%S.%f}, is lost {after:.1f} s after: {name}"
            )

    def _between(self, least: float, most: float) -> float:
        return self._random.uniform(least, most)

    async def _away(self, least: float, most: float) -> None:
        await asyncio.sleep(self._between(least, most) / self._pace)

    # ---- the agent ---------------------------------------------------------------------------

    async def _agent_killed(self) -> None:
        begin = self._rig.now
        self._rig.edge.kill()
        await self._away(0.2, 6)
        await self._start_again(begin)

    async def _agent_restarted(self) -> None:
        begin = self._rig.now
        self._rig.edge.process.send_signal(signal.SIGTERM)
        await self._rig.edge.exit_code(60)
        await self._start_again(begin)

    async def _start_again(self, begin: float) -> None:
        self._rig.start()
        try:
            await self._rig.captures()
        finally:
            self._rig.away.append((begin, self._rig.now))

    async def _reloaded(self) -> None:
        self._rig.configure()
        self._rig.edge.process.send_signal(signal.SIGHUP)

    async def _rotated(self) -> None:
        await self._ask("rotate", self._random.choice([*SOURCES, None]))

    async def _muted_for_a_while(self) -> None:
        source = self._random.choice(SOURCES)
        await self._ask("mute", source)
        try:
            await self._away(1, 8)
        finally:
            await self._ask("unmute", source)

    async def _stopped_for_a_while(self) -> None:
        source, begin = self._random.choice(SOURCES), self._rig.now
        await self._ask("stop", source)
        try:
            await self._away(1, 6)
        finally:
            await self._ask("start", source)
            await self._rig.captured_again(source)
            self._rig.away.append((begin, self._rig.now))

    async def _ask(self, op: str, source: str | None) -> None:
        answer = ""

        async def answered() -> bool:
            nonlocal answer
            with contextlib.suppress(NatsError):  # it may be about to connect again
                answer = await self._rig.request(op, source)
            return bool(answer)

        await until(answered, f"the agent answers {op}", 60)
        assert '"ok":true' in answer.replace(" ", ""), f"{op} {source}: {answer[:300]}"

    async def _suspended(self) -> None:
        self._rig.suspend(self._between(20, 150))

    # ---- what it needs -----------------------------------------------------------------------

    async def _sound_killed(self) -> None:
        self._rig.sound.kill()
        await self._away(1, 8)
        await self._rig.start_sound()

    async def _microphone_unloaded(self) -> None:
        """Both go, as there is one module for all sinks."""
        self._rig.sound.unload()
        await self._away(1, 8)
        for each in MICROPHONES.values():
            self._rig.sound.load(*each)
        self._rig.sound.pactl("set-default-source", "mic")

    async def _microphone_zeroed(self) -> None:
        _, microphone = MICROPHONES[self._random.choice(list(MICROPHONES))]
        self._rig.sound.pactl("set-source-mute", microphone, "1")
        try:
            await self._away(1, 14)
        finally:
            self._rig.sound.pactl("set-source-mute", microphone, "0")

    async def _broker_killed(self) -> None:
        self._rig.server.kill()
        try:
            await self._away(0.5, 12)
        finally:
            self._rig.server.start()

    async def _cut(self) -> None:
        self._rig.line.cut()
        try:
            await self._away(0.5, 15)
        finally:
            self._rig.line.heal()

    async def _stalled(self) -> None:
        self._rig.line.stall()
        try:
            await self._away(1, 15)
        finally:
            self._rig.line.heal()

    async def _worker_killed(self) -> None:
        await self._rig.seat.kill()

    async def _radio_cut(self) -> None:
        if self._random.random() < 0.5:
            self._rig.station.cut()
            return
        await self._rig.station.close()
        try:
            await self._away(0.5, 6)
        finally:
            await self._rig.station.open()

    async def _pipe_closed(self) -> None:
        """Between two words: one that its writer cuts in two is understood in neither session."""
        voice = self._rig.voices["pipe"]
        assert isinstance(voice, Voice)
        await voice.between_words()
        self._rig.pipe.close()

    async def _disk_full(self) -> None:
        assert self._disk is not None
        filler = self._disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        try:
            await self._away(2, 10)
        finally:
            filler.unlink()


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[Path | None]:
    """A file system of its own; None if this user may not mount one."""
    path.mkdir()
    options = f"size={_DISK_BYTES}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], check=False, capture_output=True
    )
    if mounted.returncode:
        yield None
        return
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


async def storm(
    faults: int, seed: int, say: Say, without: Sequence[str] = (), pace: float = 1
) -> Outcome:
    """Run a storm on an installation of its own, `without` some kinds of fault."""
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agent")))
        disk = stack.enter_context(small_disk(directory / "disk"))
        rig = AgentRig(directory, disk and disk / "spool")
        async with rig.running():
            await asyncio.sleep(5 / pace)
            storm = Storm(rig, seed, disk=disk, pace=pace)
            storm.without = without
            await storm.run(faults, say)
            say("the agent is ended, and its sources are accounted for")
            accounts = await rig.finish()
            for account in accounts:
                storm.explain(account)
        lines = [line for edge in rig.edges for line in edge.stderr.splitlines()]
        return Outcome(
            accounts, storm.faults, rig.problems, rig.memory, lines, time.monotonic() - began,
            rig.unread_seconds,
        )  # fmt: skip


def _say(line: str) -> None:
    print(f"{datetime.now():%H:%M:%S} {line}", file=sys.stderr, flush=True)


def main() -> int:
    """Run a storm and return the exit status: 1 if a word is lost, or something else is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.agent.storm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--faults", type=int, default=200, help="number of faults (default 200)")
    parser.add_argument("--log", type=Path, help="file for the log of all agents")
    parser.add_argument("--pace", type=float, default=1, help="how much shorter faults are")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leaves nothing behind
    _say(f"seed {arguments.seed}")
    outcome = asyncio.run(storm(arguments.faults, arguments.seed, _say, pace=arguments.pace))
    print(f"{environment()}; seed {arguments.seed}\n")
    print(*outcome.lines(), sep="\n")
    if arguments.log:
        arguments.log.write_text("\n".join(outcome.log))
    return 0 if outcome.clean else 1


if __name__ == "__main__":
    sys.exit(main())
