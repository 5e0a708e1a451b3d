"""Runs the connection tests with the oldest and the newest nats-py and aiohttp that pyproject.toml
allows: the packages whose internal parts the connections use. Then runs what an earlier Python of
this minor version has broken, if the machine has one, such as Debian's own.

`python -m tests.ranges`. With `--skip-installed`, leaves out the releases that `make unit` tests.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import sysconfig
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


PYTHON_TESTS = (
    "tests/test_exception_groups.py",
    "tests/faults/test_rotation.py",
    "tests/natterjack/cli/test_commands.py",
    "tests/natterjack/cli/test_export.py",
    "tests/natterjack/cli/test_say.py",
    "tests/natterjack/webhook/test_program.py",
    "tests/deploy/test_broker_roles.py",
)
"""Tests of what an earlier Python has broken: errors of task groups, and connections with TLS."""


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
            what = f"{name} {found}"
            if not passed(what, TESTS[name], folder):
                failed.append(what)
    earlier = earlier_python()
    if earlier is None:
        print("no earlier release of this Python is installed in /usr: it is not tried")
    else:
        release, program = earlier
        what = f"Python {release}"
        # The packages of this environment are those of any release of the minor version.
        packages = Path(sysconfig.get_path("purelib"))
        if not passed(what, PYTHON_TESTS, packages, program):
            failed.append(what)
    if failed:
        print(f"failed with {' and '.join(failed)}")
    return 1 if failed else 0


def earlier_python() -> tuple[str, str] | None:
    """Return an earlier release of this minor version of Python in /usr, and its program."""
    program = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    if not os.access(program, os.X_OK):
        return None
    found = subprocess.run(
        [program, "-c", "import platform; print(platform.python_version())"],
        stdout=subprocess.PIPE, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    return (found, program) if Version(found) < Version(platform.python_version()) else None


def passed(what: str, tests: tuple[str, ...], folder: Path, program: str = sys.executable) -> bool:
    """Run tests, with the packages in `folder` ahead of others, and print the result: as a whole,
    since other tests may run beside these."""
    path = os.pathsep.join(filter(None, (str(folder), str(ROOT), os.environ.get("PYTHONPATH"))))
    scripts = os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"]))
    command = (program, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    environment = {**os.environ, "TEST_SHARES": "6", "PYTHONPATH": path, "PATH": scripts}
    print(f"tests with {what} begin", flush=True)
    run = subprocess.run(
        command, cwd=ROOT, env=environment, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    shown = run.stdout if run.returncode else run.stdout.splitlines()[-1].strip("= ")
    print(f"tests with {what}: {shown}", flush=True)
    return run.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
