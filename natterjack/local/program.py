"""Runs a program as a part of a local stack: `python -P program.py natterjack-edge ...`.

The program is the one beside this file, whatever PYTHONPATH and the current folder hold: a user's
own `worker.py` is never run in its place.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

PACKAGES = {
    "natterjack-worker": ("worker",),
    "natterjack-edge": ("edge_capture",),
    "natterjack-gateway": ("gateway", "edge_capture", "worker"),
}
"""The package of each program, and those that it uses."""
_ROOT = Path(__file__).resolve().parents[2]


def command(program: str) -> list[str]:
    """The command line that starts `program`, to which its arguments are appended."""
    assert program in PACKAGES
    # -P keeps the current folder off the import path.
    return [sys.executable, "-P", __file__, program]


def load(package: str) -> None:
    """Import a package of ours from beside this file."""
    spec = PathFinder.find_spec(package, [str(_ROOT)])
    if spec is None or spec.loader is None:
        raise ImportError(f"{package} is missing in {_ROOT}")
    module = sys.modules[package] = module_from_spec(spec)
    spec.loader.exec_module(module)


def main() -> int:
    """Run the program that the command line names."""
    del sys.argv[0]
    packages = PACKAGES[sys.argv[0]]
    for package in ("natterjack", *packages):
        load(package)
    return int(import_module(f"{packages[0]}.start").main())


if __name__ == "__main__":
    sys.exit(main())
