"""Runs the connection tests with the oldest and the newest nats-py and aiohttp that pyproject.toml
allows: the packages whose internal parts the connections use.

`python -m tests.ranges`. With `--skip-installed`, leaves out the releases that `make unit` tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
TESTS = {
    "nats-py": (
        "tests/natterjack/broker",
        "tests/natterjack/consume",
        "tests/natterjack/cli/test_sessions.py",
    ),
    "aiohttp": ("tests/natterjack/plugin", "tests/worker/providers/deepgram"),
}
"""Tests of each package."""


def requirement(name: str) -> Requirement:
    """Return one of the package's own requirements."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return next(r for group in groups for r in map(Requirement, group) if r.name == name)


def ends(name: str) -> tuple[str, str]:
    """Return what pip installs as the oldest and as the newest release of the range."""
    specifier = requirement(name).specifier
    [oldest] = [s.version for s in specifier if s.operator == ">="]
    return f"{name}=={oldest}", f"{name}{specifier}"


def installed(wanted: str) -> Path:
    """Return a folder with the package alone, which goes ahead of `.venv` on the path."""
    folder = ROOT / ".cache" / "ranges" / wanted
    if not folder.exists():
        partial = folder.with_name(f"{wanted} (partial)")
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        subprocess.run([*pip, "--no-deps", "--upgrade", "--target", partial, wanted], check=True)
        partial.rename(folder)
    return folder


def main() -> int:
    failed = []
    for name in TESTS:
        for wanted in ends(name):
            folder = installed(wanted)
            prefix = name.replace("-", "_") + "-"
            [metadata] = folder.glob(f"{prefix}*.dist-info")
            found = metadata.name.removeprefix(prefix).removesuffix(".dist-info")
            if "--skip-installed" in sys.argv and Version(found) == Version(version(name)):
                continue
            print(f"connection tests with {name} {found}", flush=True)
            if not passed(name, folder):
                failed.append(f"{name} {found}")
    if failed:
        print(f"failed with {' and '.join(failed)}")
    return 1 if failed else 0


def passed(name: str, folder: Path) -> bool:
    """Run the tests of a package, with the release in `folder`."""
    path = os.pathsep.join(filter(None, (str(folder), str(ROOT), os.environ.get("PYTHONPATH"))))
    options = ("-q", "-n", "4", "-p", "no:cacheprovider")
    tests = (sys.executable, "-m", "pytest", *options, *TESTS[name])
    done = subprocess.run(tests, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, check=False)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
