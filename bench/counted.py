"""A program that counts its calls of Python functions: `python -m bench.counted FILE MODULE`.

The counts depend neither on the machine nor on its load, so a test can limit them. Counting starts
at SIGUSR1; at SIGUSR2 the program writes the counts to FILE as JSON: calls of Python functions by
file. MODULE has the program's `main`.
"""

from __future__ import annotations

import collections
import importlib
import json
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

_calls: collections.Counter[str] = collections.Counter()


def _count(frame: FrameType, event: str, _argument: Any) -> None:
    if event == "call":
        _calls[frame.f_code.co_filename] += 1


def main() -> None:
    path = Path(sys.argv.pop(1))
    work = importlib.import_module(sys.argv.pop(1)).main

    def begin(_number: int, _frame: FrameType | None) -> None:
        sys.setprofile(_count)

    def write(_number: int, _frame: FrameType | None) -> None:
        sys.setprofile(None)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(_calls))
        partial.rename(path)

    assert threading.current_thread() is threading.main_thread()
    signal.signal(signal.SIGUSR1, begin)
    signal.signal(signal.SIGUSR2, write)
    work()


if __name__ == "__main__":
    main()
