"""Every fault of an edge with a microphone: `python -m tests.faults.edge_table [ROW ...]`.

Each row has a sound server, an edge that records tone words from it, a broker, a worker and an
emulated provider of its own, all real processes. The edge is `natterjack-edge mic` or, with
`--program run`, an agent with a configuration file. `captured` is the time by the boot clock from
the start of the recording, as the sound server tells it, until the edge handles the signal that
ends it, as its log tells, and what it captured from then until the next line of its log, which a
busy machine makes late; `once` are the words that an independent recorder heard and the transcript
has once. A row is met if captured = transcribed + named gaps, to 0.2 s, and no word is
lost outside of a gap or doubled.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime

from pydantic import TypeAdapter

from ..soak import environment
from . import rows
from .balance import HEAD, Result
from .program import PROGRAMS, Program

_PRIORITY = -10
"""Priority of the instruments, so that a busy machine delays the edge and not its measurement."""
_RESULT = TypeAdapter(Result)


def _say(line: str) -> None:
    print(f"{datetime.now():%H:%M:%S} {line}", file=sys.stderr, flush=True)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


# ---- all rows ------------------------------------------------------------------------------------


async def _apart(name: str, minutes: float, program: Program) -> Result:
    """Run a row in a process of its own."""
    _say(f"{name} begins")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.edge_table", name, "--json"),
        *("--minutes", str(minutes), "--program", program),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        out, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    try:
        return _RESULT.validate_json(out)
    except ValueError:
        problem = f"the row did not end: {errors.decode()[-3000:]}"
        return Result(name, rows.rows(minutes)[name].title, problems=[problem])


async def _all(names: Sequence[str], minutes: float, jobs: int, program: Program) -> list[Result]:
    """Run rows at the same time, and then those that need the machine to themselves."""
    known, free = rows.rows(minutes), asyncio.Semaphore(jobs)
    found: dict[str, Result] = {}

    async def one(name: str) -> None:
        async with free:
            found[name] = result = await _apart(name, minutes, program)
        print(_line(result.cells()), *result.details(), "", sep="\n", flush=True)

    # The longest first: the others fit beside them.
    together = sorted((n for n in names if not known[n].alone), key=lambda n: -known[n].minutes)
    await asyncio.gather(*map(one, together))
    for name in names:
        if known[name].alone:
            await one(name)
    return [found[name] for name in names]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.edge_table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = list(rows.rows())
    parser.add_argument("rows", nargs="*", metavar="ROW", choices=[[], *names], help=str(names))
    parser.add_argument(
        "--minutes",
        type=float,
        default=rows.DEFAULT_MINUTES,
        help="how long the broker is away (default: %(default)g)",
    )
    parser.add_argument(
        "--program", choices=PROGRAMS, default="mic", help="the edge of all rows (default mic)"
    )
    parser.add_argument("--jobs", type=int, default=4, help="rows at a time (default 4)")
    parser.add_argument(
        "--json", action="store_true", help="run one row in this process, and print its result"
    )
    return parser.parse_args()


def main() -> int:
    """Run the rows and return the exit status: 1 if one is not met."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leaves nothing behind
    if arguments.json:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)
        (name,) = arguments.rows
        result = asyncio.run(rows.measure(name, arguments.minutes, program=arguments.program))
        print(_RESULT.dump_json(result).decode())
        return 0
    names = arguments.rows or list(rows.rows())
    results = asyncio.run(_all(names, arguments.minutes, arguments.jobs, arguments.program))
    print(
        f"{environment()}; natterjack-edge {arguments.program}",
        "",
        _line(HEAD),
        _line(["---"] * len(HEAD)),
        sep="\n",
    )
    print(*(_line(result.cells()) for result in results), sep="\n")
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
