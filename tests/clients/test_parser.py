"""clients/js/scripts/validate.mjs, which `make lint` runs, has the official parser's judgment."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from natterjack.description.asyncapi import document

from ..waiting import bound
from .npm import CLIENT, install, program

pytestmark = pytest.mark.process


def judge(path: Path, made: dict[str, Any]) -> tuple[int, str]:
    install()
    path.write_text(json.dumps(made))
    done = subprocess.run(
        [program("node"), CLIENT / "scripts" / "validate.mjs", path],
        capture_output=True, text=True, check=False, timeout=bound(60),
    )  # fmt: skip
    return done.returncode, done.stderr


def test_the_document_is_valid_and_faults_in_it_are_named(tmp_path: Path) -> None:
    path = tmp_path / "asyncapi.json"
    assert judge(path, document()) == (0, "")
    lost = document()
    del lost["components"]["schemas"]["FinalEvent"]
    wrong = document()
    wrong["operations"]["receiveFinal"]["action"] = "overhear"
    for made, place in ((lost, "FinalEvent"), (wrong, "operations.receiveFinal.action")):
        code, said = judge(path, made)
        assert code == 1
        assert place in said
