"""The long run: `make soak`, or `python -m tests.faults.soak --help`."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from .fleet import fleet
from .storm import Outcome, Settings, Storm

CHAINS = (
    ("deepgram", "speechmatics", "deepgram-rest"),
    ("deepgram-flux", "speechmatics", "deepgram-rest"),
)
"""A storm for each: providers of its sessions, in any order."""


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


async def storm(settings: Settings, providers: tuple[str, ...], workers: int) -> Outcome:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        async with fleet(path, workers, providers) as running:
            return await Storm(running, path, settings).run(_say)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--faults", type=int, default=1000, help="in all (default 1000)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--workers", type=int, default=4)
    return parser.parse_args()


async def main() -> int:
    arguments = _arguments()
    _say(f"seed {arguments.seed}")
    for number, providers in enumerate(CHAINS):
        settings = Settings(arguments.faults // len(CHAINS), arguments.seed + number)
        outcome = await storm(settings, providers, arguments.workers)
        for failure in outcome.failures:
            print(failure)
        print(outcome.audit.__dict__ | {"problems": len(outcome.audit.problems)})
        print(dict(outcome.faults))
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
