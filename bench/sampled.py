"""A worker that samples its own stack by CPU time: `python -m bench.sampled FILE`.

SIGPROF arrives once per millisecond of CPU time, so that time of other processes does not count, as
it would with an external sampler. Sampling starts at SIGUSR1; at SIGUSR2 the worker writes the
counts to FILE, one line `function;function;... count` per stack, with the outermost function first.
"""

from __future__ import annotations

import collections
import signal
import sys
from pathlib import Path
from types import FrameType

_INTERVAL_S = 0.001
_PATH_PARTS = 4
"""Parts of a file's path in the name of a function, enough for the longest mark in bench.stages."""

_stacks: collections.Counter[str] = collections.Counter()


def _name(frame: FrameType) -> str:
    code = frame.f_code
    return f"{'/'.join(code.co_filename.split('/')[-_PATH_PARTS:])}:{code.co_qualname}"


def _sample(_number: int, frame: FrameType | None) -> None:
    names = []
    while frame is not None:
        names.append(_name(frame))
        frame = frame.f_back
    _stacks[";".join(reversed(names))] += 1


def main() -> None:
    path = Path(sys.argv.pop(1))
    from worker.__main__ import main as work

    def begin(_number: int, _frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_PROF, _INTERVAL_S, _INTERVAL_S)

    def write(_number: int, _frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        text = "".join(f"{stack} {count}\n" for stack, count in _stacks.items())
        partial = path.with_suffix(".partial")
        partial.write_text(text)
        partial.rename(path)

    signal.signal(signal.SIGPROF, _sample)
    signal.signal(signal.SIGUSR1, begin)
    signal.signal(signal.SIGUSR2, write)
    work()


if __name__ == "__main__":
    main()
