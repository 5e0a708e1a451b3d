"""The long run: `make soak`, or `python -m tests.faults.soak --help`.

It measures recovery times first, on an otherwise idle machine. Then it runs storms of random faults
together with an hour of silence and half an hour without network, and last a storm on each voice
while text is spoken. It prints tables of the results and exits with status 1 if a goal is missed.
The voice storms alone: `--scale 0 --faults 0 --minutes 0 --offline 0 --voice 300 --agent 0`. The
storm on an agent with four sources needs a sound server, and is left out where there is none.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from natterjack.local.embedded import find_binary

from .audit import WORST_TIME_SECONDS, Audit
from .fleet import fleet
from .invoice import Item, uncertain_seconds
from .offline import Absence, offline
from .recovery import HEAD, Row, rows
from .silence import Quiet, growth, silence
from .storm import Outcome, Settings, Storm
from .voice.account import CALM_WORDS, DISTURBED_WORDS
from .voice.storm import VOICES, VoiceStorm, voice_fleet
from .voice.storm import Outcome as VoiceOutcome
from .voice.storm import Settings as VoiceSettings

CHAINS = (
    ("deepgram", "speechmatics", "deepgram-rest"),
    ("deepgram-flux", "speechmatics-agent", "deepgram-rest"),
)
"""The providers of each storm. Sessions use them in any order."""
WORKERS = 4
MIN_FAULTS = 1000
_MAX_GROWTH = 0.1


def _say(line: str) -> None:
    print(f"{datetime.now():%H:%M:%S} {line}", file=sys.stderr, flush=True)


async def storm(settings: Settings, providers: tuple[str, ...]) -> Outcome:
    """Run one storm on its own installation."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        async with fleet(path, WORKERS, providers) as running:
            return await Storm(running, path, settings).run(_say)


async def storms(faults: int, seed: int) -> list[Outcome]:
    """Run one storm for each chain, one after another."""
    found = []
    for number, providers in enumerate(CHAINS):
        share = -(-faults // len(CHAINS))
        settings = Settings(share, seed + number, parallel_faults=3, long_cuts=True)
        found.append(await storm(settings, providers))
    return found


async def voice_storms(faults: int, seed: int) -> VoiceOutcome:
    """Run one storm for each voice, one after another."""
    found = VoiceOutcome()
    for number, voice in enumerate(VOICES):
        share = -(-faults // len(VOICES))
        settings = VoiceSettings(share, seed + number, parallel_faults=5, max_pause_seconds=3)
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory)
            async with voice_fleet(path, WORKERS, voice) as running:
                found.add(await VoiceStorm(running, path, settings).run(_say))
    return found


def voice_rows(outcome: VoiceOutcome) -> list[Row]:
    """Summarize the storms on voices."""
    a, faults = outcome.account, outcome.faults.total()
    return [
        Row(f"speech under random faults; {a.words} words said in {a.sessions} sessions, "
            f"{a.heard} heard",
            "0 lost, heard twice, out of order",
            f"{faults} faults: {a.lost} lost, {a.doubled} heard twice, {a.out_of_order} out of "
            "order", not (a.lost or a.doubled or a.out_of_order), faults),
        Row("utterances that were interrupted: words whose report, that they were heard or not, is "
            "wrong beyond its bound", "0", f"{a.misreported}", not a.misreported,
            a.interrupted),
        Row("… reported as exact", "all exact", "all", True, a.exact),
        Row("… estimated, while worker and player reach each other: words off",
            f"≤ {CALM_WORDS}", a.spread(a.calm_estimates),
            max(map(abs, a.calm_estimates), default=0) <= CALM_WORDS, len(a.calm_estimates)),
        Row("… estimated, all", f"≤ {DISTURBED_WORDS}", a.spread(a.estimates),
            max(map(abs, a.estimates), default=0) <= DISTURBED_WORDS, len(a.estimates)),
        Row("voice sessions with `sequence` 0, 1, 2 …, one end of each utterance, one closing "
            "event", "all", f"{len(a.problems)} problems", not a.problems, a.sessions),
    ]  # fmt: skip


def storm_rows(outcomes: list[Outcome]) -> list[Row]:
    """Summarize all storms."""
    total, faults = Audit(), Counter[str]()
    for outcome in outcomes:
        total.add(outcome.audit)
        faults += outcome.faults
    lost = f"{total.lost} lost, {total.doubled} doubled, {total.out_of_order} out of order"
    worst = f"{total.worst_time_seconds * 1000:.1f} ms"
    memory = [growth(outcome.worker_memory) for outcome in outcomes]
    files = [outcome.files_left for outcome in outcomes]
    return [
        Row(f"random faults; {total.words} words in {total.sessions} sessions",
            "0 lost, doubled, out of order in ≥ 1,000 faults",
            f"{faults.total()} faults: {lost}",
            faults.total() >= MIN_FAULTS
            and not (total.lost or total.doubled or total.out_of_order), faults.total()),
        Row("largest error of a word's time", "≤ 20 ms", worst,
            total.worst_time_seconds <= WORST_TIME_SECONDS, total.words),
        Row("sessions with `sequence` 0, 1, 2 …, one closing event, an account that adds up", "all",
            f"{total.sessions - len(total.problems)}", not total.problems, total.sessions),
        Row("memory of a worker that ran throughout, last tenth compared with second tenth",
            "± 10 %", ", ".join(f"{share:+.1%}" for share in memory),
            all(abs(share) <= _MAX_GROWTH for share in memory), len(memory)),
        Row("its open files without sessions, compared with its start", "no increase",
            ", ".join(f"{count:+d}" for count in files), max(files) <= 2, len(files)),
    ]  # fmt: skip


def bill_rows(outcomes: list[Outcome]) -> list[Row]:
    """Compare the emulators' bills with the ledgers."""
    bill: dict[str, Item] = {}
    for outcome in outcomes:
        for name, item in outcome.bill.items():
            bill.setdefault(name, Item()).add(item)
    uncertain = sum(uncertain_seconds(outcome.faults) for outcome in outcomes)
    return [
        Row(f"{name}: audio received by the emulator, compared with the ledger",
            "difference ≤ 1 s per connection, 8 s per kill or break (at 8 times real time)",
            str(item),
            abs(item.difference_seconds) <= item.connections + uncertain, item.connections)
        for name, item in bill.items()
    ]  # fmt: skip


def silence_rows(quiets: list[Quiet]) -> list[Row]:
    """Summarize the hour of silence."""
    alarms = sum(len(quiet.alarms) for quiet in quiets)
    minutes = min(quiet.minutes for quiet in quiets)
    edges = [growth(quiet.edge_memory) for quiet in quiets]
    workers = [growth(quiet.worker_memory) for quiet in quiets]
    return [
        Row(f"false alarms in {minutes:g} minutes of silence: "
            + ", ".join(quiet.provider for quiet in quiets),
            "0", f"{alarms}", all(quiet.passed for quiet in quiets), len(quiets)),
        Row("memory of an edge meanwhile, last tenth compared with second tenth", "± 10 %",
            f"{min(edges):+.1%} to {max(edges):+.1%}", max(map(abs, edges)) <= _MAX_GROWTH,
            len(edges)),
        Row("memory of a worker meanwhile", "± 10 %", f"{min(workers):+.1%} to {max(workers):+.1%}",
            max(map(abs, workers)) <= _MAX_GROWTH, len(workers)),
    ]  # fmt: skip


def absence_rows(absences: list[Absence]) -> list[Row]:
    """Summarize the half hour without network."""
    found = []
    for absence in absences:
        a = absence.audit
        found.append(
            Row(f"an edge without network for {absence.minutes:g} minutes, default limits, audio "
                f"in {'its spool' if absence.buffer == 'spool' else 'memory'}: words lost",
                "0", f"{a.lost} of {a.words}; memory {absence.memory_bytes / 1e6:+.1f} MB",
                a.clean, a.words)
        )  # fmt: skip
    return found


def fault_rows(faults: Counter[str]) -> list[str]:
    """Count the injected faults in a Markdown table."""
    lines = ["| fault | times |", "| --- | --- |"]
    return lines + [f"| {name} | {count} |" for name, count in sorted(faults.items())]


def environment() -> str:
    """Describe the machine and the versions."""

    def first_line(*command: str | Path) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return (done.stdout.splitlines() or ["?"])[0]

    server = first_line(find_binary(), "--version")
    commit = first_line("git", "describe", "--always", "--dirty")
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit}, {os.cpu_count()} cores of "
        f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, {server}"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--faults", type=int, default=1000, help="number of faults (default 1000)")
    parser.add_argument("--minutes", type=float, default=60, help="minutes of silence (default 60)")
    parser.add_argument(
        "--offline", type=float, default=31, help="minutes without network (default 31)"
    )
    parser.add_argument(
        "--voice", type=int, default=300, help="number of faults while text is spoken (default 300)"
    )
    parser.add_argument(
        "--agent", type=int, default=200, help="number of faults of an agent (default 200)"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument(
        "--scale", type=float, default=1, help="factor for the recovery measurements; 0 skips them"
    )
    return parser.parse_args()


async def main() -> int:
    """Run everything and return the exit status."""
    arguments, started = _arguments(), time.monotonic()
    _say(f"seed {arguments.seed}")
    found: list[Row] = []
    if arguments.scale:
        found += await rows(arguments.scale, _say)
    quiet = asyncio.create_task(silence(arguments.minutes, _say)) if arguments.minutes else None
    absent = asyncio.create_task(offline(arguments.offline, _say)) if arguments.offline else None
    outcomes = await storms(arguments.faults, arguments.seed) if arguments.faults else []
    if outcomes:
        found += storm_rows(outcomes) + bill_rows(outcomes)
    failures = [failure for outcome in outcomes for failure in outcome.failures]
    try:
        if quiet is not None:
            found += silence_rows(await quiet)
        if absent is not None:
            absences = await absent
            found += absence_rows(absences)
            failures += [
                f"{a.buffer}: {a.audit}\n{a.details}" for a in absences if not a.audit.clean
            ]
    except AssertionError as error:
        # Keep the results measured so far.
        failures.append(f"given up: {error}")
    faults = sum((outcome.faults for outcome in outcomes), Counter[str]())
    if arguments.voice:
        spoken = await voice_storms(arguments.voice, arguments.seed)
        found += voice_rows(spoken)
        failures += [failure.partition("\n")[0] for failure in spoken.failures]  # printed before
        faults += spoken.faults
    if arguments.agent and shutil.which("pulseaudio"):
        # Imported here: it takes this module's tables.
        from .agent.storm import storm as agent_storm

        agent = await agent_storm(arguments.agent, arguments.seed, _say)
        print(*agent.lines(), "", sep="\n")
        if not agent.clean:
            failures.append("the storm on an agent: see its table")
    for failure in failures:
        _say(failure)
    print(
        f"{environment()}; seed {arguments.seed}, {(time.monotonic() - started) / 60:.0f} minutes\n"
    )
    print("\n".join([HEAD, *(row.line() for row in found)]))
    if faults:
        print("\n".join(["", *fault_rows(faults)]))
    return 1 if failures or not all(row.met for row in found) else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
