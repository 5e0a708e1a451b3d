"""Runs the connection tests with the oldest and the newest nats-py that pyproject.toml allows.

`python -m tests.ranges`. With `--skip-installed`, leaves out the release that `make unit` tests.
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
TESTS = (
    "tests/natterjack/broker",
    "tests/natterjack/consume",
    "tests/natterjack/cli/test_sessions.py",
)


def requirement(name: str) -> Requirement:
    """Return one of the package's own requirements."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return next(r for r in map(Requirement, project["dependencies"]) if r.name == name)


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
    for wanted in ends("nats-py"):
        folder = installed(wanted)
        [metadata] = folder.glob("nats_py-*.dist-info")
        found = metadata.name.removeprefix("nats_py-").removesuffix(".dist-info")
        if "--skip-installed" in sys.argv and Version(found) == Version(version("nats-py")):
            continue
        print(f"connection tests with nats-py {found}", flush=True)
        path = os.pathsep.join(filter(None, (str(folder), str(ROOT), os.environ.get("PYTHONPATH"))))
        tests = (sys.executable, "-m", "pytest", "-q", "-n", "4", "-p", "no:cacheprovider", *TESTS)
        done = subprocess.run(tests, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, check=False)
        if done.returncode:
            failed.append(found)
    if failed:
        print(f"failed with nats-py {' and '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
