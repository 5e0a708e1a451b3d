"""The long run: `make soak`, or `python -m tests.faults.soak --help`.

First the times of recovery, on a machine that does nothing else; then storms of random faults, and
beside them an hour in which nobody speaks, and half an hour without network. Prints tables of what
was found; exit status 1 if a goal was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
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
from .invoice import Item, unseen_seconds
from .offline import Absence, offline
from .recovery import HEAD, Row, rows
from .silence import Quiet, growth, silence
from .storm import Outcome, Settings, Storm

CHAINS = (
    ("deepgram", "speechmatics", "deepgram-rest"),
    ("deepgram-flux", "speechmatics", "deepgram-rest"),
)
"""A storm for each: providers of its sessions, in any order."""
WORKERS = 4
LEAST_FAULTS = 1000
_FLAT = 0.1


def _say(line: str) -> None:
    print(f"{datetime.now():%H:%M:%S} {line}", file=sys.stderr, flush=True)


async def storm(settings: Settings, providers: tuple[str, ...]) -> Outcome:
    """One storm on an installation of its own."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        async with fleet(path, WORKERS, providers) as running:
            return await Storm(running, path, settings).run(_say)


async def storms(faults: int, seed: int) -> list[Outcome]:
    """One after another."""
    found = []
    for number, providers in enumerate(CHAINS):
        share = -(-faults // len(CHAINS))
        settings = Settings(share, seed + number, hands=3, long_cuts=True)
        found.append(await storm(settings, providers))
    return found


def storm_rows(outcomes: list[Outcome]) -> list[Row]:
    """What all storms came to."""
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
            faults.total() >= LEAST_FAULTS
            and not (total.lost or total.doubled or total.out_of_order), faults.total()),
        Row("largest error of a word's time", "≤ 20 ms", worst,
            total.worst_time_seconds <= WORST_TIME_SECONDS, total.words),
        Row("sessions with `sequence` 0, 1, 2 …, one closing event, an account that adds up", "all",
            f"{total.sessions - len(total.problems)}", not total.problems, total.sessions),
        Row("memory of a worker that lived through all of it, last tenth to second tenth",
            "± 10 %", ", ".join(f"{share:+.1%}" for share in memory),
            all(abs(share) <= _FLAT for share in memory), len(memory)),
        Row("its open files, when it holds nothing any more, to those of its start", "none more",
            ", ".join(f"{count:+d}" for count in files), max(files) <= 2, len(files)),
    ]  # fmt: skip


def bill_rows(outcomes: list[Outcome]) -> list[Row]:
    """What the emulators would bill, and what the ledgers say."""
    bill: dict[str, Item] = {}
    for outcome in outcomes:
        for name, item in outcome.bill.items():
            bill.setdefault(name, Item()).add(item)
    hidden = sum(unseen_seconds(outcome.faults) for outcome in outcomes)
    return [
        Row(f"{name}: audio heard by the emulator, and on the ledger",
            "apart ≤ 1 s a connection, 8 s a kill or break (fed 8 times as fast)", str(item),
            abs(item.apart_seconds) <= item.connections + hidden, item.connections)
        for name, item in bill.items()
    ]  # fmt: skip


def silence_rows(quiets: list[Quiet]) -> list[Row]:
    """What the hour of silence came to."""
    alarms = sum(len(quiet.alarms) for quiet in quiets)
    minutes = min(quiet.minutes for quiet in quiets)
    edges = [growth(quiet.edge_memory) for quiet in quiets]
    workers = [growth(quiet.worker_memory) for quiet in quiets]
    return [
        Row(f"false alarms in {minutes:g} minutes of silence: "
            + ", ".join(quiet.provider for quiet in quiets),
            "0", f"{alarms}", all(quiet.right for quiet in quiets), len(quiets)),
        Row("memory of an edge meanwhile, last tenth to second tenth", "± 10 %",
            f"{min(edges):+.1%} to {max(edges):+.1%}", max(map(abs, edges)) <= _FLAT, len(edges)),
        Row("memory of a worker meanwhile", "± 10 %", f"{min(workers):+.1%} to {max(workers):+.1%}",
            max(map(abs, workers)) <= _FLAT, len(workers)),
    ]  # fmt: skip


def absence_rows(absences: list[Absence]) -> list[Row]:
    """What the half hour without network came to."""
    found = []
    for absence in absences:
        a = absence.audit
        found.append(
            Row(f"an edge without network for {absence.minutes:g} minutes, default limits, sound "
                f"kept in {'its spool' if absence.kept == 'spool' else 'memory'}: words lost",
                "0", f"{a.lost} of {a.words}; memory {absence.memory_bytes / 1e6:+.1f} MB",
                a.clean, a.words)
        )  # fmt: skip
    return found


def fault_rows(outcomes: list[Outcome]) -> list[str]:
    """How often each fault was committed, as a Markdown table."""
    faults = Counter[str]()
    for outcome in outcomes:
        faults += outcome.faults
    lines = ["| fault | times |", "| --- | --- |"]
    return lines + [f"| {name} | {count} |" for name, count in sorted(faults.items())]


def where() -> str:
    """What it ran on."""

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
    parser.add_argument("--faults", type=int, default=1000, help="in all (default 1000)")
    parser.add_argument("--minutes", type=float, default=60, help="of silence (default 60)")
    parser.add_argument("--offline", type=float, default=31, help="minutes (default 31)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--scale", type=float, default=1, help="of the recovery times; 0: none")
    return parser.parse_args()


async def main() -> int:
    """Run all of it; the exit status."""
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
            failures += [f"{a.kept}: {a.audit}\n{a.told}" for a in absences if not a.audit.clean]
    except AssertionError as error:
        # What has been measured until then is worth having.
        failures.append(f"given up: {error}")
    for failure in failures:
        _say(failure)
    print(f"{where()}; seed {arguments.seed}, {(time.monotonic() - started) / 60:.0f} minutes\n")
    print("\n".join([HEAD, *(row.line() for row in found)]))
    if outcomes:
        print("\n".join(["", *fault_rows(outcomes)]))
    return 1 if failures or not all(row.met for row in found) else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
