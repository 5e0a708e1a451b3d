"""The types that clients/js makes of asyncapi.json are those of recorded messages."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ..compatibility.messages import described
from ..waiting import bound
from .npm import ASYNCAPI, CLIENT, build, program

pytestmark = pytest.mark.process
_OPTIONS = ("--noEmit", "--strict", "--module", "nodenext", "--target", "es2022", "--types", "")


def check(folder: Path, body: str) -> str:
    """Compile `body`, which may use the types; return what the compiler complains about."""
    path = folder / "recorded.mts"
    path.write_text(f'import type * as wire from "{CLIENT}/dist/wire.js";\n{body}')
    tsc = CLIENT / "node_modules" / "typescript" / "bin" / "tsc"
    done = subprocess.run(
        [program("node"), tsc, *_OPTIONS, path],
        capture_output=True, text=True, check=False, timeout=bound(60),
    )  # fmt: skip
    return done.stdout + done.stderr


def test_recorded_messages_have_the_generated_types(tmp_path: Path) -> None:
    build()
    schemas = json.loads(ASYNCAPI.read_text())["components"]["schemas"]
    found = [(name, message) for name, message in described() if name in schemas]
    assert {name for name, _ in found} >= {"FinalEvent", "TurnEvent", "StatusEvent", "UsageEvent"}
    lines = [
        f"export const m{number}: wire.{name} = {message.payload.decode()};"
        for number, (name, message) in enumerate(found)
    ]
    assert check(tmp_path, "\n".join(lines)) == ""


def test_the_kind_of_an_event_tells_its_type(tmp_path: Path) -> None:
    build()
    use = (
        "export const text = (e: wire.TranscriptEvent): string | undefined =>\n"
        '  e.type === "final" ? e.text : e.type === "status" ? e.worker : undefined;\n'
    )
    assert check(tmp_path, use) == ""
    assert "does not exist" in check(tmp_path, use.replace("e.worker", "e.text"))
