"""Starting each program: Ctrl-C at any moment, closed streams, missing and misplaced modules."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import pytest

from natterjack.process.start import requires_extra
from tests.waiting import bound

PROGRAMS = {
    "natterjack": "natterjack.cli.start",
    "natterjack-worker": "worker.start",
    "natterjack-edge": "edge_capture.start",
    "natterjack-gateway": "gateway.start",
}
_RUN = "import sys; from {module} import main; sys.exit(main())"
_INTERRUPT = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {moment!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
"""
"""Presses Ctrl-C when a module is about to be imported."""
_INTERRUPT_LATE = """
import atexit, os, signal
atexit.register(os.kill, os.getpid(), signal.SIGINT)
"""


def run(
    program: str, *arguments: str, before: str = "", shell: str = "", **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program in a new interpreter. `before` runs first; `shell` redirects its streams."""
    code = before + _RUN.format(module=PROGRAMS[program])
    command = [sys.executable, "-c", code, *arguments]
    if shell:
        command = ["sh", "-c", f'exec "$@" {shell}', "sh", *command]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=bound(60), **options
    )


def test_these_are_all_programs() -> None:
    scripts = entry_points(group="console_scripts")
    assert {each.name for each in scripts if each.dist and each.dist.name == "natterjack"} == set(
        PROGRAMS
    )


# ---- Ctrl-C --------------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize(
    ("program", "moment"),
    [
        *(("natterjack", name) for name in ("asyncio", "pydantic", "nats", "natterjack.settings")),
        ("natterjack-worker", "nats"),
        ("natterjack-edge", "nats"),
        ("natterjack-gateway", "nats"),
    ],
)
def test_ctrl_c_during_imports(program: str, moment: str) -> None:
    done = run(program, "--version", before=_INTERRUPT.format(moment=moment))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.process
@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("natterjack", ("plugins",)),
        ("natterjack-worker", ("--once",)),
        ("natterjack-edge", ("file", "x")),
    ],
)
def test_ctrl_c_while_the_program_ends(program: str, arguments: tuple[str, ...]) -> None:
    done = run(program, *arguments, before=_INTERRUPT_LATE)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert "KeyboardInterrupt" not in done.stderr


@pytest.mark.process
def test_a_program_that_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    ignore = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    done = run("natterjack", "--version", before=ignore + _INTERRUPT.format(moment="nats"))
    assert (done.returncode, done.stderr) == (0, "")


# ---- streams -------------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize(
    ("program", "shell"),
    [
        *(("natterjack", shell) for shell in ("<&-", ">&-", "2>&-")),
        *((program, "<&- >&- 2>&-") for program in PROGRAMS),
    ],
)
def test_closed_streams(program: str, shell: str) -> None:
    done = run(program, "--version", shell=shell)
    assert done.returncode == 0
    assert done.stdout in ("", version("natterjack") + "\n")
    assert done.stderr == ""


@pytest.mark.process
def test_nobody_reads_the_output() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _RUN.format(module=PROGRAMS["natterjack"]), "plugins"],
            stdout=writing, stderr=subprocess.PIPE, check=False, timeout=bound(60),
        )  # fmt: skip
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.process
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_has_a_version(program: str) -> None:
    done = run(program, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, version("natterjack") + "\n", "")


# ---- modules -------------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize(
    ("program", "module", "package"),
    [
        ("natterjack", "nats", "natterjack"),
        ("natterjack-edge", "numpy", "natterjack[edge]"),
        ("natterjack-gateway", "aiohttp", "natterjack[gateway]"),
        ("natterjack-worker", "aiohttp", "natterjack[worker]"),
    ],
)
def test_a_program_without_its_packages_names_them(program: str, module: str, package: str) -> None:
    done = run(program, before=f"import sys; sys.modules[{module!r}] = None\n")
    assert done.returncode == 2
    assert done.stderr == f"{program}: the module {module} is missing: pip install '{package}'\n"


@pytest.mark.process
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("name", ["nats", "pydantic", "pydantic_settings"])
@pytest.mark.parametrize("pythonpath", [".", ""])
def test_a_users_module_in_place_of_a_package_is_named(
    program: str, name: str, pythonpath: str, tmp_path: Path
) -> None:
    """An empty entry of PYTHONPATH, as in `PYTHONPATH=:x`, is the current folder."""
    file = tmp_path / f"{name}.py"
    file.write_text("x = 1\n")
    path = os.pathsep.join([pythonpath, os.environ.get("PYTHONPATH", "")])
    done = run(
        program, "--version", before="import sys; sys.path.remove('')\n",
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        f"{program}: {file} is imported in place of the package {name}: rename it, or "
        "remove its folder from PYTHONPATH\n"
    )


def test_a_missing_module_of_an_extra_ends_the_program(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended, requires_extra("natterjack-edge", "edge"):
        raise ModuleNotFoundError("No module", name="rich.table")
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "natterjack-edge: the module rich is missing: pip install 'natterjack[edge]'\n"
    )


@pytest.mark.parametrize("name", ["worker.nothing", "natterjack", "edge_capture.x", None])
def test_a_missing_module_of_ours_is_an_error(name: str | None) -> None:
    with pytest.raises(ModuleNotFoundError), requires_extra("natterjack-edge", "edge"):
        raise ModuleNotFoundError("No module", name=name)


def test_an_installed_package_that_fails_is_an_error() -> None:
    with pytest.raises(ImportError), requires_extra("natterjack-edge", "edge"):
        raise ImportError("libsndfile is missing", name="pytest")
