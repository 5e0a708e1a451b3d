"""Modules of a user's own with the names of ours, in the current folder and on PYTHONPATH.

None of them is run in place of ours, however a program is started.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import soundfile

from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.local import program
from tests.edge_capture.program import tone
from tests.waiting import bound

from .endings import Run

pytestmark = [pytest.mark.process, pytest.mark.interpreter]

ROOT = Path(program.__file__).parents[2]
OURS = ("worker", "edge_capture", "gateway")
EVERYTHING = (*OURS, "natterjack", "nats", "numpy", "pydantic", "asyncio", "json")
SCRIPTS = ("natterjack", "natterjack-worker", "natterjack-edge", "natterjack-gateway")
HOSTILE = "raise SystemExit('a module of the user was run: ' + __file__)\n"


def folder_with(directory: Path, names: tuple[str, ...]) -> Path:
    folder = directory / "mine"
    folder.mkdir()
    for name in names:
        (folder / f"{name}.py").write_text(HOSTILE)
    return folder


# ---- programs that a user starts -----------------------------------------------------------------


@pytest.mark.parametrize("safe_path", ["", "1"], ids=["", "PYTHONSAFEPATH"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_installed_scripts(script: str, safe_path: str, tmp_path: Path) -> None:
    path = Path(sysconfig.get_path("scripts")) / script
    done = subprocess.run(
        [path, "--version"], cwd=folder_with(tmp_path, EVERYTHING),
        env=os.environ | {"PYTHONSAFEPATH": safe_path},
        capture_output=True, text=True, check=False, timeout=bound(60),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("module", ["natterjack", *OURS])
@pytest.mark.parametrize("how", ["-P", "PYTHONSAFEPATH"])
def test_modules_without_the_current_folder(module: str, how: str, tmp_path: Path) -> None:
    """`python -m worker` alone runs the user's module: that is what -m is for."""
    flags, variables = ([how], {}) if how == "-P" else ([], {how: "1"})
    done = subprocess.run(
        [sys.executable, *flags, "-m", module, "--version"],
        cwd=folder_with(tmp_path, EVERYTHING), env=os.environ | variables,
        capture_output=True, text=True, check=False, timeout=bound(60),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# ---- parts of a stack ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCRIPTS[1:])
@pytest.mark.parametrize("path", [".", "", "{folder}", None], ids=str)
def test_parts(name: str, path: str | None, tmp_path: Path) -> None:
    names = EVERYTHING if path is None else (*OURS, "natterjack")
    folder = folder_with(tmp_path, names)
    entries = [] if path is None else [path.format(folder=folder)]
    entries += filter(None, [os.environ.get("PYTHONPATH")])
    done = subprocess.run(
        [*program.command(name), "--help"], cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(entries)},
        capture_output=True, text=True, check=False, timeout=bound(60),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"usage: {name}" in done.stdout


def test_parts_are_those_beside_this_package(tmp_path: Path) -> None:
    """Other packages, such as a plugin, are still found by PYTHONPATH."""
    (tmp_path / "my_plugin.py").write_text("x = 1\n")
    show = (
        "import json, sys, my_plugin, worker, natterjack\n"
        "print(json.dumps([my_plugin.__file__, worker.__file__, natterjack.__file__, sys.path]))"
    )
    folder = folder_with(tmp_path, OURS)
    code = (
        f"import sys; sys.path.remove(''); from runpy import run_path\n"
        f"loaded = run_path({program.__file__!r})\n"
        f"loaded['load']('natterjack'); loaded['load']('worker')\n{show}"
    )
    path = os.pathsep.join([str(tmp_path), str(folder)])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=os.environ | {"PYTHONPATH": path},
        capture_output=True, text=True, check=True, timeout=bound(60),
    )  # fmt: skip
    plugin, worker, natterjack, paths = json.loads(done.stdout)
    assert plugin == str(tmp_path / "my_plugin.py")
    assert worker == str(ROOT / "worker" / "__init__.py")
    assert natterjack == str(ROOT / "natterjack" / "__init__.py")
    assert str(ROOT) not in paths


@pytest.fixture
async def runs() -> AsyncIterator[list[Run]]:
    runs: list[Run] = []
    yield runs
    for run in runs:
        await run.clean_up()


@pytest.mark.parametrize("path", [None, ".", "{folder}"], ids=str)
async def test_a_demo(
    path: str | None, tmp_path: Path, emulator: DeepgramEmulator, runs: list[Run]
) -> None:
    soundfile.write(tmp_path / "second.wav", tone(440, 1, 8000), 8000)
    folder = folder_with(tmp_path, EVERYTHING if path is None else OURS)
    entries = [] if path is None else [path.format(folder=folder)]
    environment = {
        "DEEPGRAM_URL": emulator.url,
        "PYTHONPATH": os.pathsep.join([*entries, str(ROOT), os.environ.get("PYTHONPATH", "/")]),
    }
    arguments = ("demo", "../second.wav", "--provider", "deepgram")
    runs.append(Run(tmp_path, "natterjack", *arguments, cwd=folder, environment=environment))
    assert await runs[0].ended() == 0, runs[0].text
    assert "a module of the user" not in runs[0].text
    assert "session      closed: end of audio" in runs[0].text
