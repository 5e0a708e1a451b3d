"""Starting the parts of a local stack."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from natterjack.errors import UsageError
from natterjack.local.stack import Part, PartFailed, program_command
from tests.waiting import bound


@pytest.fixture
def shadowing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with modules of the user's own that are named like ours."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("worker", "natterjack", "edge_capture", "asyncio", "json"):
        (folder / f"{name}.py").write_text("raise SystemExit('the user\\'s own module was run')\n")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.process
@pytest.mark.parametrize("script", ["natterjack-worker", "natterjack-edge"])
def test_a_program_runs_from_a_folder_with_modules_of_its_name(
    shadowing: Path, script: str
) -> None:
    done = subprocess.run(
        [*program_command(script), "--help"],
        capture_output=True, text=True, check=False, timeout=bound(60),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"usage: {script}" in done.stdout


@pytest.mark.process
def test_the_current_folder_is_not_on_the_path_and_pythonpath_is(
    shadowing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "checkout" / "worker"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "start.py").write_text(
        "import json, sys\ndef main(): print(json.dumps([__file__, *sys.path]))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    command = program_command("natterjack-worker")
    assert command[0] == sys.executable
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=bound(60))
    module, *path = json.loads(printed.stdout)
    assert module == str(package / "start.py")
    assert "" not in path
    assert str(shadowing) not in path


def test_a_program_that_is_not_installed() -> None:
    with pytest.raises(UsageError, match="natterjack-robot is not installed"):
        program_command("natterjack-robot")


@pytest.mark.process
async def test_wrong_usage_of_a_part_is_a_usage_error(tmp_path: Path) -> None:
    part = Part("edge 1", "natterjack-edge", ["file"], tmp_path / "edge.log")
    await part.start({})
    with pytest.raises(UsageError, match="natterjack-edge file: error"):
        await part.logged("ready")
    await part.stop()
    assert "natterjack-edge file: error" in (tmp_path / "edge.log").read_text()


@pytest.mark.process
@pytest.mark.parametrize("content", [b"", None], ids=["empty", "missing"])
async def test_a_file_that_is_not_a_recording_is_a_usage_error(
    content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "x.wav"
    if content is not None:
        path.write_bytes(content)
    part = Part("edge 1", "natterjack-edge", ["file", str(path)], tmp_path / "edge.log")
    await part.start({"NATS_URL": "nats://127.0.0.1:9"})
    with pytest.raises(UsageError, match=re.escape(str(path))):
        await part.logged("ready")
    await part.stop()
    log = (tmp_path / "edge.log").read_text()
    assert log.count("\n") == 1
    assert "Traceback" not in log


@pytest.mark.process
async def test_a_part_that_ends_too_early_has_failed(tmp_path: Path) -> None:
    part = Part("worker 1", "natterjack-worker", ["--help"], tmp_path / "worker.log")
    await part.start({})
    with pytest.raises(PartFailed, match="worker 1 wrote no log"):
        await part.logged("worker ready")
    await part.stop()
